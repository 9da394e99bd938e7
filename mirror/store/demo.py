"""Writes a tiny model with real file formats, so that a first download needs no network."""

from __future__ import annotations

import array
import hashlib
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from mirror import __version__
from mirror.core.commit import Commit
from mirror.core.record import Record
from mirror.core.repo import Repo, RepoType
from mirror.core.tree import RepoFile, git_id, lfs_file
from mirror.derived.state import write_atomically
from mirror.store.cache import Cache
from mirror.store.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

REPO = Repo(RepoType.MODEL, "hubmirror/demo")
_VOCABULARY = {
    word: index
    for index, word in enumerate(
        ["<unk>", "<s>", "</s>", "the", "a", "model", "mirror", "hub", "serves", "loads", ".", ","]
    )
}
_HIDDEN, _LAYERS = 16, 2
_CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# A demo model

Random weights of a very small Llama: it loads, and it says nothing of sense.
"""


def write_demo(hub: Path) -> Record:
    """Publish the demo model in the managed cache `hub`. The bytes are the same in each run."""
    bodies = _bodies()
    files = {path: _entry(path, body) for path, body in bodies.items()}
    Cache.of(hub).check_symlinks()
    blobs = hub / REPO.folder_name / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for path, body in bodies.items():
        write_atomically(blobs / files[path].etag, body)
    commit = Commit.of_folder(files)
    record = Record(
        repo=REPO,
        commit_hash=commit.commit_hash,
        commit=commit,
        files=files,
        refs=("refs/heads/main",),
        pulled_at=datetime.now(UTC),
        upstream=f"hubmirror {__version__} made it",
    )
    publish(hub, record)
    return record


def _entry(path: str, body: bytes) -> RepoFile:
    if path.endswith(".safetensors"):
        return lfs_file(path, len(body), hashlib.sha256(body).hexdigest())
    return RepoFile(path, len(body), git_id("blob", body))


def _bodies() -> dict[str, bytes]:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN, "num_hidden_layers": _LAYERS, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": len(_VOCABULARY), "max_position_embeddings": 64,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }  # fmt: skip
    tokenizer: dict[str, object] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {
            "type": "WordLevel", "unk_token": "<unk>",
            "vocab": _VOCABULARY,
        },
    }  # fmt: skip
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "model_max_length": 64,
    }  # fmt: skip
    return {
        "README.md": _CARD.encode(),
        "config.json": orjson.dumps(config, option=orjson.OPT_INDENT_2),
        "generation_config.json": orjson.dumps({"bos_token_id": 1, "eos_token_id": 2}),
        "model.safetensors": _weights(),
        "tokenizer.json": orjson.dumps(tokenizer),
        "tokenizer_config.json": orjson.dumps(tokenizer_config),
    }


def _weights() -> bytes:
    """A safetensors file: 8 bytes with the length of the header, a JSON header, the tensors."""
    draw = random.Random(0)  # noqa: S311  (not a secret)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = array.array("f")
    for name, shape in _tensors().items():
        start, count = 4 * len(data), shape[0] * (shape[1] if len(shape) > 1 else 1)
        data.extend(draw.gauss(0, 0.02) if len(shape) > 1 else 1.0 for _ in range(count))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, 4 * len(data)]}
    head = orjson.dumps(header)
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data.tobytes()


def _tensors() -> dict[str, list[int]]:
    hidden, inner = _HIDDEN, 2 * _HIDDEN
    shapes = {"model.embed_tokens.weight": [len(_VOCABULARY), hidden]}
    for layer in range(_LAYERS):
        start = f"model.layers.{layer}"
        shapes |= {
            f"{start}.{norm}.weight": [hidden]
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        shapes |= {f"{start}.self_attn.{name}_proj.weight": [hidden, hidden] for name in "qkvo"}
        shapes |= {f"{start}.mlp.{name}_proj.weight": [inner, hidden] for name in ("gate", "up")}
        shapes[f"{start}.mlp.down_proj.weight"] = [hidden, inner]
    return shapes | {"model.norm.weight": [hidden], "lm_head.weight": [len(_VOCABULARY), hidden]}
