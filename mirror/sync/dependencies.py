"""Finds the other repositories that a model needs to start, from its config files."""

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
_ROLES = {
    "base_model_name_or_path": "its base model",
    "draft_model": "its draft model",
    "assistant_model": "its draft model",
    "speculative_model": "its draft model",
    "processor_name_or_path": "its processor",
    "tokenizer_name_or_path": "its tokenizer",
    "image_processor_name_or_path": "its image processor",
}


# Nested tables for speculative decoding, as vLLM and speculators write them.
_TABLES = {
    "speculative_config": ("model", "its draft model"),
    "verifier": ("name_or_path", "the target model of this draft model"),
}


@dataclass(frozen=True, slots=True)
class Need:
    """Another repository that a model needs; `why` names its role, such as `its base model`."""

    repo: Repo
    why: str


def needs(repo: Repo, read: Callable[[str], bytes]) -> list[Need]:
    """The repositories that the config files of a model name.

    `read` returns the bytes of a file, empty if the file is absent.
    """
    if repo.repo_type is not RepoType.MODEL:
        return []
    found: dict[str, Need] = {}
    for name in _FILES:
        for repo_id, why in _named_repos(_parse_json(read(name))):
            if "/" not in repo_id or not is_repo_id(repo_id):
                continue
            named = Repo(RepoType.MODEL, repo_id)
            if named.key != repo.key:
                found.setdefault(named.key, Need(named, why))
    return list(found.values())


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}


def _named_repos(value: Any) -> Iterator[tuple[str, str]]:
    """Pairs of repo_id and role, from the keys that transformers and vLLM read. A value of
    `auto_map` is `org/name--file.Class` (transformers `get_class_from_dynamic_module`)."""
    if isinstance(value, list):
        for item in value:
            yield from _named_repos(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "auto_map":
                yield from ((repo_id, "its code") for repo_id in _code_repos(item))
            elif key in _TABLES and isinstance(item, dict):
                name, why = _TABLES[key]
                yield str(item.get(name)), why
                yield from _named_repos(item)
            elif key in _ROLES and isinstance(item, str):
                yield item, _ROLES[key]
            else:
                yield from _named_repos(item)


def _code_repos(value: Any) -> Iterator[str]:
    if isinstance(value, str) and "--" in value:
        yield value.partition("--")[0]
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _code_repos(item)
