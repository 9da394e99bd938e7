"""Finds the other repositories that a model or a kernel needs or uses, from its small files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.repo import Repo, RepoType, is_repo_id
from mirror.sync import kernel_dependencies

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

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
    """Another repository that a model or a kernel needs; `why` names its role, such as `its base
    model`. It starts without a need that is not `required`, but slower or with fewer options."""

    repo: Repo
    why: str
    required: bool = True

    def __str__(self) -> str:
        if self.required:
            return f"also needs {self.repo} ({self.why}) to start"
        return f"also uses {self.repo} ({self.why})"


def needs(repo: Repo, files: Collection[str], read: Callable[[str], bytes]) -> list[Need]:
    """The repositories that the files of a model or a kernel name.

    `files` are the paths of the repository. `read` returns the bytes of a file, empty if the file
    is absent.
    """
    found: dict[str, Need] = {}
    for need in _find(repo, files, read):
        if need.repo.key != repo.key:
            found.setdefault(need.repo.key, need)
    return list(found.values())


def _find(repo: Repo, files: Collection[str], read: Callable[[str], bytes]) -> Iterator[Need]:
    def read_json(path: str) -> Any:
        return _parse_json(read(path))

    if repo.repo_type is RepoType.KERNEL:
        yield from _valid(RepoType.KERNEL, kernel_dependencies.of_builds(files, read_json))
    if repo.repo_type is RepoType.MODEL:
        for name in _FILES:
            yield from _valid(RepoType.MODEL, _named_repos(read_json(name)))
        kernels = (
            *kernel_dependencies.of_config(read_json("config.json")),
            *kernel_dependencies.of_code(files, read),
        )
        yield from _valid(RepoType.KERNEL, kernels, required=False)


def _valid(
    repo_type: RepoType, named: Iterable[tuple[str, str]], *, required: bool = True
) -> Iterator[Need]:
    for repo_id, why in named:
        if "/" in repo_id and is_repo_id(repo_id):
            yield Need(Repo(repo_type, repo_id), why, required)


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
