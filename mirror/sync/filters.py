"""Include and exclude patterns, which select the wanted files of a repository."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.core.repo import PLURALS

if TYPE_CHECKING:
    from mirror.core.repo import Repo


@dataclass(frozen=True, slots=True)
class Filters:
    """Patterns like huggingface_hub's `allow_patterns` and `ignore_patterns`
    (`filter_repo_objects`): `*` also matches `/`, and `folder/` matches all files below `folder`.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __call__(self, path: str) -> bool:
        included = not self.include or any(matches(path, pattern) for pattern in self.include)
        return included and not any(matches(path, pattern) for pattern in self.exclude)


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern matches the path of a file."""
    return fnmatch.fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern)


def matches_repo(repo: Repo, pattern: str) -> bool:
    """Whether a pattern matches a repository: `datasets/org/*` a dataset, and `org/*` a repository
    of any type. Upper and lower case are equal, as in repo ids."""
    plural, slash, rest = pattern.lower().partition("/")
    if slash and plural in PLURALS:
        return repo.repo_type.plural == plural and matches(repo.repo_id.lower(), rest or "*")
    return matches(repo.repo_id.lower(), pattern.lower())
