"""The rules of `[proxy]`: which repositories and files may come in from an upstream hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.config.file import DEFAULT_FILE, File
from mirror.core.errors import RefusedByRuleError
from mirror.core.units import human
from mirror.sync.filters import matches, matches_repo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mirror.core.repo import Repo
    from mirror.core.tree import RepoFile

_MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Rules:
    """What may come in. A list `deny_…` has precedence over `allow_…`, and an empty list allows
    all. `max_file_size` is in bytes; 0 is no limit. With `whole_only`, a revision with a refused
    file is refused. `file` is the name of the configuration file."""

    allow_repos: tuple[str, ...] = ()
    deny_repos: tuple[str, ...] = ()
    allow_types: tuple[str, ...] = ()
    deny_types: tuple[str, ...] = ()
    allow_files: tuple[str, ...] = ()
    deny_files: tuple[str, ...] = ()
    max_file_size: int = 0
    whole_only: bool = False
    file: str = DEFAULT_FILE.name

    @classmethod
    def of(cls, file: File | None) -> Rules:
        """The rules of a configuration file; without a file, everything may come in."""
        return cls(**file.rules, file=file.path.name) if file else cls()

    def check_repo(self, repo: Repo) -> None:
        """Raises RefusedByRuleError."""
        self._check(str(repo), "types", lambda repo_type: repo_type == repo.repo_type)
        self._check(str(repo), "repos", lambda pattern: matches_repo(repo, pattern))

    def check_file(self, repo: Repo, file: RepoFile) -> None:
        """Raises RefusedByRuleError. The repository is not checked again. Upper and lower case are
        equal in the patterns, so that `*.bin` also refuses `model.BIN`."""
        subject, path = f"{file.path} of {repo}", file.path.lower()
        self._check(subject, "files", lambda pattern: matches(path, pattern.lower()))
        if 0 < self.max_file_size < file.size:
            rule = f'max_file_size = "{human(self.max_file_size)}"'
            raise RefusedByRuleError(f"{subject} ({human(file.size)})", rule, self.file)

    def refused(self, repo: Repo, files: Iterable[RepoFile]) -> dict[str, RefusedByRuleError]:
        """The refused files of a revision, by path. Raises RefusedByRuleError for the first of them
        with `whole_only`."""
        found: dict[str, RefusedByRuleError] = {}
        for file in files:
            try:
                self.check_file(repo, file)
            except RefusedByRuleError as exc:
                if self.whole_only:
                    raise
                found[file.path] = exc
        return found

    def _check(self, subject: str, what: str, is_match: Callable[[str], bool]) -> None:
        for pattern in getattr(self, f"deny_{what}"):
            if is_match(pattern):
                raise RefusedByRuleError(subject, _rule(f"deny_{what}", [pattern]), self.file)
        allowed = getattr(self, f"allow_{what}")
        if allowed and not any(map(is_match, allowed)):
            raise RefusedByRuleError(subject, _rule(f"allow_{what}", allowed), self.file)


def _rule(name: str, patterns: Sequence[str]) -> str:
    """A rule as the configuration file has it; of a long list, the first patterns."""
    shown = [json.dumps(pattern, ensure_ascii=False) for pattern in patterns[:_MAX_SHOWN]]
    return f"{name} = [{', '.join([*shown, *['…'] * (len(patterns) > _MAX_SHOWN)])}]"
