"""Asks a mirror for what was recorded, as a client does."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2

from mirror.core.errors import HubmirrorError
from mirror.sync.filters import Filters, matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mirror.config.specs import RepoSpec
    from mirror.core.source import Snapshot, Source

_MAX_SHOWN = 5


@dataclass(slots=True)
class Rehearsal:
    """The requests of a client to a mirror that serves `source`. `files` and `size` count what was
    found."""

    source: Source
    client: httpx2.Client
    files: int = 0
    size: int = 0

    def problems(self, spec: RepoSpec) -> Iterator[str]:
        """Why the mirror does not serve the revision, or some of its files."""
        repo, revision = spec.repo, quote(spec.revision, safe="")
        if problem := self.problem(
            f"/api/{repo.repo_type.plural}/{repo.repo_id}/revision/{revision}"
        ):
            yield f"{spec}: {problem}"
            return
        try:
            snapshot = self.source.snapshot(repo, spec.revision)
        except HubmirrorError as exc:
            yield f"{spec}: {exc}"
            return
        if spec.commit_hash not in ("", snapshot.commit_hash):
            yield (
                f"{spec} is the commit {snapshot.commit_hash} here, and {spec.commit_hash} in the "
                "file. Pull the commit of the file, or record the command again."
            )
        yield from _left_out(spec, snapshot)
        for path in _paths(spec, snapshot):
            if problem := self.problem(f"/{repo}/resolve/{revision}/{quote(path)}"):
                yield f"{path} of {spec}: {problem}"
            else:
                self.files += 1
                self.size += snapshot.files[path].file.size

    def problem(self, path: str) -> str:
        """Why the mirror does not answer a request; empty if it answers."""
        try:
            answer = self.client.head(path)
        except httpx2.HTTPError as exc:
            return f"The mirror does not answer: {exc}."
        if answer.status_code < 400:
            return ""
        return answer.headers.get("x-error-message") or f"The status is {answer.status_code}."


def _paths(spec: RepoSpec, snapshot: Snapshot) -> Iterable[str]:
    """The files that the patterns select, and each file that a pattern names, here or not."""
    if not spec.include:
        return filter(Filters(exclude=spec.exclude), snapshot.files)
    chosen: dict[str, None] = {}
    for pattern in spec.include:
        path = re.sub(r"\[([*?[])\]", r"\1", pattern)
        is_name = glob.escape(path) == pattern and not pattern.endswith("/")
        found = [path] if is_name else [one for one in snapshot.files if matches(one, pattern)]
        chosen |= dict.fromkeys(found)
    return filter(Filters(exclude=spec.exclude), chosen)


def _left_out(spec: RepoSpec, snapshot: Snapshot) -> Iterator[str]:
    """Why some files of the commit are not here, if the spec is for all of them."""
    absent = [] if spec.include else list(filter(Filters(exclude=spec.exclude), snapshot.absent))
    for path in absent[:_MAX_SHOWN]:
        yield f"{path} of {spec}: {snapshot.absent[path]}"
    if len(absent) > _MAX_SHOWN:
        yield f"{spec}: {len(absent) - _MAX_SHOWN} more files are missing."
