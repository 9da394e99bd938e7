"""The repositories that a model needs to start."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirror.core.repo import Repo
from mirror.sync.dependencies import Need, needs
from tests import shapes

MODEL = Repo.parse("Org/Model")
OTHER = "Other/Thing-1.0"


def _needs(files: dict[str, Any], repo: Repo = MODEL) -> list[Need]:
    bodies = {name: json.dumps(body).encode() for name, body in files.items()}
    return needs(repo, bodies, lambda name: bodies.get(name, b""))


@pytest.mark.parametrize(
    ("name", "body", "why"),
    [
        ("config.json", {"auto_map": {"AutoModel": f"{OTHER}--modeling.Model"}}, "its code"),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": [f"{OTHER}--tokenization.Slow", None]}},
            "its code",
        ),
        (
            "preprocessor_config.json",
            {"auto_map": {"AutoProcessor": f"{OTHER}--processing.Processor"}},
            "its code",
        ),
        ("adapter_config.json", {"base_model_name_or_path": OTHER}, "its base model"),
        ("config.json", {"speculative_config": {"model": OTHER}}, "its draft model"),
        ("generation_config.json", {"assistant_model": OTHER}, "its draft model"),
        (
            "config.json",
            {"speculators_config": {"verifier": {"name_or_path": OTHER, "architectures": []}}},
            "the target model of this draft model",
        ),
        ("processor_config.json", {"tokenizer_name_or_path": OTHER}, "its tokenizer"),
        ("config.json", {"vision": [{"processor_name_or_path": OTHER}]}, "its processor"),
    ],
)
def test_a_repository_in_a_config_file_is_needed(name: str, body: dict[str, Any], why: str) -> None:
    assert _needs({name: body}) == [Need(Repo.parse(OTHER), why)]


@pytest.mark.parametrize(
    "body",
    [
        {"auto_map": {"AutoModel": "modeling_own.Model"}},
        {"auto_map": {"AutoModel": "org/MODEL--modeling.Model"}},
        {"auto_map": None},
        {"base_model_name_or_path": "/home/somebody/llama"},
        {"base_model_name_or_path": "./llama"},
        {"base_model_name_or_path": "../Org/Llama"},
        {"base_model_name_or_path": "gpt2"},
        {"base_model_name_or_path": None},
        {"base_model_name_or_path": ""},
        {"_name_or_path": OTHER},
        {"draft_model": {"name": OTHER}},
        {"speculative_config": {"model": None}},
        {"speculative_config": {"method": "mtp"}},
        {"speculative_config": []},
        ["base_model_name_or_path", OTHER],
        "text",
        7,
    ],
)
def test_other_values_are_not_needed(body: Any) -> None:
    assert _needs({"config.json": body}) == []


def test_the_origin_of_a_tokenizer_is_not_needed() -> None:
    """transformers wrote this key for years: a pull would fetch 140 GB without need."""
    body = {"name_or_path": "meta-llama/Llama-2-70b-hf", "tokenizer_class": "LlamaTokenizer"}
    assert _needs({"tokenizer_config.json": body}) == []


def test_each_repository_is_named_once() -> None:
    code = {"AutoConfig": f"{OTHER}--a.A", "AutoModel": f"{OTHER.lower()}--b.B"}
    files = {"config.json": {"auto_map": code}, "tokenizer_config.json": {"auto_map": code}}
    assert _needs(files) == [Need(Repo.parse(OTHER), "its code")]


@pytest.mark.parametrize("kind", ["datasets", "spaces"])
def test_only_models_have_needs(kind: str) -> None:
    body = {"base_model_name_or_path": OTHER}
    assert _needs({"adapter_config.json": body}, Repo.parse(f"{kind}/Org/Model")) == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"a":' * 900 + b"1"])
def test_a_damaged_file_names_nothing(body: bytes) -> None:
    assert needs(MODEL, [], lambda _: body) == []


def test_a_model_with_its_own_code_needs_no_repository() -> None:
    shape = shapes.kimi_k2_thinking()
    read = shape.small_files.get
    assert needs(shape.repo, shape.small_files, lambda name: read(name, b"")) == []


@pytest.mark.parametrize(
    ("config", "repo_ids"),
    [
        ({"quantization_config": {"quant_method": "mxfp4"}},
         ["kernels-community/gpt-oss-triton-kernels"]),
        ({"quantization_config": {"quant_method": "fp8"}},
         ["kernels-community/finegrained-fp8", "kernels-community/deep-gemm"]),
        ({"model_type": "rwkv"}, ["kernels-community/rwkv"]),
        ({"attn_implementation": "Org/flash@v2:attention"}, ["Org/flash"]),
        ({"attn_implementation": "flash_attention_2"}, []),
        ({"attn_implementation": ["Org/flash"]}, []),
        ({"quantization_config": {"quant_method": ["mxfp4"]}}, []),
        ({"quantization_config": "mxfp4"}, []),
    ],
)  # fmt: skip
def test_a_model_uses_the_kernels_that_transformers_loads_for_it(
    config: dict[str, Any], repo_ids: list[str]
) -> None:
    found = _needs({"config.json": config})
    assert [str(need.repo) for need in found] == [f"kernels/{repo_id}" for repo_id in repo_ids]
    assert not any(need.required for need in found)


@pytest.mark.parametrize(
    ("code", "repo_ids"),
    [
        (b"k = get_kernel('Org/relu', version=1)", ["Org/relu"]),
        (b'get_kernel(\n    repo_id="Org/relu",\n    version=1)', ["Org/relu"]),
        (b"LayerRepository(repo_id='Org/a', layer_name='X'); get_kernel('Org/b')",
         ["Org/a", "Org/b"]),
        (b"get_kernel(name)\nforget_kernel('Org/relu')", []),
        (b"get_kernel('" + b"a" * 10_000 + b"')", []),
        (b"get_kernel('\xff/x') get_kernel('not a repo') get_kernel('../x')", []),
    ],
)  # fmt: skip
def test_a_model_uses_the_kernels_that_its_code_names(code: bytes, repo_ids: list[str]) -> None:
    found = needs(MODEL, ["modeling.py"], lambda name: code if name == "modeling.py" else b"")
    assert [need.repo.repo_id for need in found] == repo_ids


def test_a_kernel_needs_the_kernels_that_its_builds_depend_on() -> None:
    depends = [{"repo-id": "Org/other", "version": 1}, {"repo-id": 7}, "Org/third", {}]
    files = {"build/torch-cpu/metadata.json": {"kernel-depends": depends}}
    why = "a kernel that it depends on"
    found = _needs(files, Repo.parse("kernels/Org/relu"))
    assert found == [Need(Repo.parse("kernels/Org/other"), why)]
    other = {"build/torch-cpu/metadata.json": {"kernel-depends": "Org/other"}}
    assert _needs(other, Repo.parse("kernels/Org/relu")) == []
