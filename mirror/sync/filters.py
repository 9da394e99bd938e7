"""Include and exclude patterns, which select the wanted files of a repository."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Filters:
    """Patterns like huggingface_hub's `allow_patterns` and `ignore_patterns`
    (`filter_repo_objects`): `*` also matches `/`, and `folder/` matches all files below `folder`.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __call__(self, path: str) -> bool:
        included = not self.include or any(_matches(path, pattern) for pattern in self.include)
        return included and not any(_matches(path, pattern) for pattern in self.exclude)


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern)
