"""What a command asked the mirror for, as `[[repo]]` entries that `pull` takes."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from mirror.config.specs import RepoSpec
from mirror.core.errors import HubmirrorError
from mirror.core.repo import Repo, RepoType
from mirror.core.source import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mirror.core.source import Snapshot
    from mirror.sources.first_found import FirstFound

HEADER = "# Recorded by `hubmirror record`."


@dataclass(frozen=True, slots=True)
class Entry:
    """A revision that was asked for. `missing` maps the paths of files that the mirror did not send
    to the reason; the path is empty if the whole revision was missing."""

    spec: RepoSpec
    missing: dict[str, str]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Recording:
    """All that a command asked for. `requests` are paths beside the hub, with the reason where the
    mirror did not answer."""

    entries: Sequence[Entry]
    requests: dict[str, str]

    @property
    def missing(self) -> list[str]:
        """What the mirror did not have, one line each."""
        of_repos = [
            f"{f'{path} of ' if path else ''}{entry.spec}: {reason}"
            for entry in self.entries
            for path, reason in entry.missing.items()
        ]
        return of_repos + [f"{path}: {why}" for path, why in self.requests.items() if why]

    def render(self) -> str:
        """The content of the file; the configuration parser reads it."""
        lines = [HEADER, *(f"# Missing: {_comment(line)}" for line in self.missing)]
        if self.requests:
            rows = [f"  {_text(path)},\n" for path in self.requests]
            lines += ["", f"requests = [\n{''.join(rows)}]"]
        for entry in self.entries:
            lines += ["", *_render(entry)]
        return "\n".join(lines) + "\n"


@dataclass(slots=True)
class _Commit:
    """What was asked of one commit; `commit_hash` is empty if no snapshot was found."""

    repo: Repo
    commit_hash: str
    revisions: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, question: dict[str, Any]) -> None:
        revision = question["revision"]
        self.revisions.add("main" if revision == "HEAD" else revision)
        status, paths = question["status"], question["paths"]
        if status < 400 or status == 416:
            self.found.update(paths)
        elif not question["absent"]:
            self.missing.update(dict.fromkeys(paths or [""], question["error"]))


def read_recording(file: Path, sources: FirstFound) -> Recording:
    """Read the lines of a recorder. `sources` are those of the server that wrote them."""
    questions = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    requests: dict[str, str] = {}
    for question in questions:
        if "path" in question and requests.get(question["path"], "?"):
            requests[question["path"]] = question.get("error", "")
    about_repos = [question for question in questions if "repo_id" in question]
    entries = [entry for commit in _commits(about_repos) for entry in _entries(commit, sources)]
    entries.sort(key=lambda entry: (entry.spec.repo, entry.spec.revision))
    return Recording(entries, dict(sorted(requests.items())))


def _commits(questions: Sequence[dict[str, Any]]) -> Iterable[_Commit]:
    """The questions by commit. A revision without a snapshot is that of a later question, if the
    mirror knew it then."""
    known = {
        (_repo(question).key, question["revision"]): question["commit_hash"]
        for question in questions
        if question["commit_hash"]
    }
    commits: dict[tuple[str, str], _Commit] = {}
    for question in questions:
        repo, revision = _repo(question), question["revision"]
        commit_hash = known.get((repo.key, revision), "")
        commit = _Commit(repo, commit_hash)
        commits.setdefault((repo.key, commit_hash or revision), commit).add(question)
    return commits.values()


def _repo(question: dict[str, Any]) -> Repo:
    return Repo(RepoType(question["repo_type"]), question["repo_id"])


def _entries(commit: _Commit, sources: FirstFound) -> Iterable[Entry]:
    """One entry for each name of a commit; for the commit hash itself, if it has no other name."""
    missing = {path: why for path, why in commit.missing.items() if path not in commit.found}
    snapshot = None
    if commit.commit_hash:
        missing.pop("", None)
        snapshot = _snapshot(commit, sources)
    include, note = _include(commit.found | (missing.keys() - {""}), snapshot)
    names = sorted(commit.revisions - {commit.commit_hash})
    is_pinned = names and commit.commit_hash and _is_commit_of_upstream(commit.repo, sources)
    for name in names or [commit.commit_hash]:
        pin = commit.commit_hash if is_pinned else ""
        spec = RepoSpec(commit.repo, name, include, commit_hash=pin)
        yield Entry(spec, missing, note)


def _is_commit_of_upstream(repo: Repo, sources: FirstFound) -> bool:
    """Whether an upstream hub knows the commits of the repository: a plain folder has its own."""
    try:
        return sources.holder(repo).layout is not Layout.OTHER
    except HubmirrorError:
        return True


def _snapshot(commit: _Commit, sources: FirstFound) -> Snapshot | None:
    try:
        return sources.snapshot(commit.repo, commit.commit_hash)
    except HubmirrorError:
        return None


def _include(paths: set[str], snapshot: Snapshot | None) -> tuple[tuple[str, ...], str]:
    """The patterns of the files, and a note for the reader. No pattern, if all files of the commit
    were read."""
    if snapshot is not None and not paths:
        smallest = min(snapshot.files.values(), key=lambda stored: stored.file.size, default=None)
        paths = {smallest.file.path} if smallest else set()
        return _escaped(paths), "No file was read. The smallest file stands for the repository."
    if snapshot is not None and _is_all(snapshot, paths):
        return (), ""
    note = "" if paths else "The mirror did not have it: which files it needs is not known."
    return _escaped(paths), note


def _is_all(snapshot: Snapshot, paths: set[str]) -> bool:
    return snapshot.whole and not snapshot.absent and snapshot.files.keys() <= paths


def _escaped(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(glob.escape(path) for path in sorted(paths))


def _render(entry: Entry) -> list[str]:
    spec = entry.spec
    lines = ["[[repo]]", *([f"# {entry.note}"] if entry.note else [])]
    lines.append(f"repo_id = {_text(spec.repo.repo_id)}")
    if spec.repo.repo_type is not RepoType.MODEL:
        lines.append(f"repo_type = {_text(spec.repo.repo_type.value)}")
    lines.append(f"revision = {_text(spec.revision)}")
    if spec.commit_hash:
        lines.append(f"commit_hash = {_text(spec.commit_hash)}")
    if spec.include:
        lines.append(
            f"include = [\n{''.join(f'  {_text(one)},{chr(10)}' for one in spec.include)}]"
        )
    return lines


def _text(value: str) -> str:
    """A TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
