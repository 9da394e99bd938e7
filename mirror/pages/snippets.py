"""The commands that use a repository of this mirror, for each program."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from mirror.core.repo import RepoType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.core.source import Snapshot
    from mirror.derived.facts import Facts

_GGUF_TYPE = re.compile(r"[.-]((?:I?Q\d\w*|BF16|F16|F32|MXFP4\w*))(?:-\d+-of-\d+)?\.gguf$", re.I)
_VLLM_IMAGE = "vllm/vllm-openai"


@dataclass(frozen=True, slots=True)
class Snippet:
    """What to type for a program."""

    program: str
    text: str


@dataclass(frozen=True, slots=True)
class _Use:
    """A revision, as the clients name it, at the address of this mirror."""

    facts: Facts
    base_url: str
    revision: str

    @property
    def snapshot(self) -> Snapshot:
        return self.facts.snapshot

    @property
    def name(self) -> str:
        return self.snapshot.repo.repo_id

    @property
    def files(self) -> Sequence[str]:
        return list(self.snapshot.files)

    def pinned(self, flag: str) -> str:
        return "" if self.revision == "main" else f" {flag} {shlex.quote(self.revision)}"

    def exported(self, command: str) -> str:
        return f"export HF_ENDPOINT={shlex.quote(self.base_url)}\n{command}"


def snippets(
    facts: Facts, base_url: str, revision: str, models: Sequence[str], *, closed: bool
) -> list[Snippet]:
    """The snippets for a revision. `models` are the OpenLLM models that need the repository.

    `closed` says whether clients need the token of the mirror.
    """
    use = _Use(facts, base_url, revision)
    found = list(_model(use, models) if _is_model(use) else _other(use))
    found += [_hf(use), _curl(use)]
    if not closed:
        return found
    return [Snippet(one.program, f"export HF_TOKEN=…\n{one.text}") for one in found]


def _is_model(use: _Use) -> bool:
    return use.snapshot.repo.repo_type is RepoType.MODEL


def _model(use: _Use, models: Sequence[str]) -> Iterator[Snippet]:
    generates = "generation" in (use.facts.pipeline_tag or "") or "text-to-text" in (
        use.facts.pipeline_tag or ""
    )
    has_weights = any(path.endswith((".safetensors", ".bin")) for path in use.files)
    if generates and has_weights:
        serve = f"vllm serve {use.name}{use.pinned('--revision')}"
        yield Snippet("vLLM", use.exported(serve))
    for model in models:
        environment = f'eval "$(hubmirror openllm env {use.base_url} {model})"'
        yield Snippet("OpenLLM", f"{environment}\nopenllm repo update\nopenllm serve {model}")
    if use.facts.library_name == "transformers" and has_weights:
        yield Snippet("transformers", _transformers(use))
    if use.facts.library_name == "sentence-transformers":
        yield Snippet("sentence-transformers", _sentence_transformers(use))
    if types := _gguf_types(use.files):
        tag = f":{types[0]}"
        yield Snippet("llama.cpp", use.exported(f"llama-server -hf {use.name}{tag}"))
        host = urlsplit(use.base_url)
        insecure = "--insecure " if host.scheme == "http" else ""
        yield Snippet("Ollama", f"ollama pull {insecure}{use.base_url}/{use.name}{tag}")
    if generates and has_weights:
        yield Snippet(
            "Docker",
            f"docker run --gpus all -p 8000:8000 -e HF_ENDPOINT={shlex.quote(use.base_url)} \\\n"
            f"  {_VLLM_IMAGE} --model {use.name}{use.pinned('--revision')}",
        )


def _other(use: _Use) -> Iterator[Snippet]:
    if use.snapshot.repo.repo_type is RepoType.DATASET:
        revision = f", revision={use.revision!r}" if use.revision != "main" else ""
        text = f"from datasets import load_dataset\n\nds = load_dataset({use.name!r}{revision})"
        yield Snippet("datasets", _python(use, text))

    if use.snapshot.repo.repo_type is RepoType.KERNEL:
        revision = f", revision={use.revision!r}" if use.revision != "main" else ""
        text = f"from kernels import get_kernel\n\nkernel = get_kernel({use.name!r}{revision})"
        yield Snippet("kernels", _python(use, text))


def _transformers(use: _Use) -> str:
    auto = use.facts.transformers_info.get("auto_model", "AutoModel")
    revision = f", revision={use.revision!r}" if use.revision != "main" else ""
    return _python(
        use,
        f"from transformers import {auto}, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({use.name!r}{revision})\n"
        f"model = {auto}.from_pretrained({use.name!r}{revision})",
    )


def _sentence_transformers(use: _Use) -> str:
    return _python(
        use,
        "from sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({use.name!r})",
    )


def _python(use: _Use, text: str) -> str:
    return f'import os\n\nos.environ["HF_ENDPOINT"] = {use.base_url!r}\n\n{text}'


def _hf(use: _Use) -> Snippet:
    repo_type = use.snapshot.repo.repo_type
    typed = "" if repo_type is RepoType.MODEL else f" --repo-type {repo_type.value}"
    command = f"hf download {use.name}{typed}{use.pinned('--revision')}"
    return Snippet("hf", use.exported(command))


def _curl(use: _Use) -> Snippet:
    path = next((path for path in ("config.json", "README.md") if path in use.files), "")
    path = path or next(iter(use.files), "FILE")
    revision = quote(use.revision, safe="")
    url = f"{use.base_url}/{use.snapshot.repo}/resolve/{revision}/{quote(path)}"
    return Snippet("curl", f"curl -L -O {shlex.quote(url)}")


def _gguf_types(paths: Sequence[str]) -> list[str]:
    """The types of quantisation in the names of gguf files, that of most people first."""
    types = {match[1].upper() for path in paths if (match := _GGUF_TYPE.search(path))}
    return sorted(types, key=lambda one: (one != "Q4_K_M", one))
