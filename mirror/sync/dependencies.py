"""What else a model needs to start, as its own files name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.repo import Repo, RepoType, is_repo_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FILES = (
    "config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json",
    "adapter_config.json", "generation_config.json",
)  # fmt: skip
_NAMES = {
    "base_model_name_or_path": "its base model",
    "draft_model": "its draft model",
    "assistant_model": "its draft model",
    "speculative_model": "its draft model",
    "processor_name_or_path": "its processor",
    "tokenizer_name_or_path": "its tokenizer",
    "image_processor_name_or_path": "its image processor",
}


# Tables of speculative decoding, as vLLM and speculators write them.
_INNER = {
    "speculative_config": ("model", "its draft model"),
    "verifier": ("name_or_path", "the model that it drafts for"),
}


@dataclass(frozen=True, slots=True)
class Need:
    """Another repository, and why it is needed."""

    repo: Repo
    why: str


def needs(repo: Repo, read: Callable[[str], bytes]) -> list[Need]:
    """What the files of a model name; `read` gives a file's bytes, empty where it is absent."""
    if repo.repo_type is not RepoType.MODEL:
        return []
    found: dict[str, Need] = {}
    for name in _FILES:
        for repo_id, why in _named(_json(read(name))):
            if "/" not in repo_id or not is_repo_id(repo_id):
                continue
            named = Repo(RepoType.MODEL, repo_id)
            if named.key != repo.key:
                found.setdefault(named.key, Need(named, why))
    return list(found.values())


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """Repo ids, where transformers and vLLM look for them: `auto_map` holds `org/name--file.Class`
    (transformers `get_class_from_dynamic_module`)."""
    if isinstance(value, list):
        for one in value:
            yield from _named(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key == "auto_map":
                yield from ((repo_id, "its code") for repo_id in _code_repos(one))
            elif key in _INNER and isinstance(one, dict):
                name, why = _INNER[key]
                yield str(one.get(name)), why
                yield from _named(one)
            elif key in _NAMES and isinstance(one, str):
                yield one, _NAMES[key]
            else:
                yield from _named(one)


def _code_repos(value: Any) -> Iterator[str]:
    if isinstance(value, str) and "--" in value:
        yield value.partition("--")[0]
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _code_repos(one)
