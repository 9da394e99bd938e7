"""Which files of a repository are wanted."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Filters:
    """Patterns as huggingface_hub's `allow_patterns` and `ignore_patterns`
    (`filter_repo_objects`): `*` matches `/` too, and a pattern that ends in `/` means all below."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __call__(self, path: str) -> bool:
        wanted = not self.include or any(_matches(path, one) for one in self.include)
        return wanted and not any(_matches(path, one) for one in self.exclude)


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern)
