"""What the file and the command line declare: sources, revisions to pull, and upstreams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.config.values import expanded, parse_repo, type_prefix
from mirror.core.errors import ConfigError
from mirror.core.repo import ALL_VERSIONS, PLURALS, Repo, RepoType

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KINDS = {
    "managed": "an HF cache that pull fills: complete revisions only",
    "hf-cache": "any other HF cache, served as far as it goes",
    "folder": "a plain folder, served as one repository",
    "bento": "a BentoML model store: each entry as the repository that it came from",
}


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A declared source: its kind, its folder, and for a plain folder its repository."""

    kind: str
    path: Path
    repo: Repo | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"{self.kind!r} is not a kind of source. The kinds are: {', '.join(KINDS)}."
            )
        if (self.kind == "folder") != (self.repo is not None):
            raise ConfigError(
                f"Source {self}: a folder needs a repo id (folder:PATH=ORG/NAME), "
                "and the other kinds know their own."
            )

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f"={self.repo}" if self.repo else "")

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """`hf-cache:PATH`, `managed:PATH`, `bento:PATH` or
        `folder:PATH=[datasets/|spaces/|kernels/]ORG/NAME`."""
        kind, colon, rest = text.partition(":")
        path, equals, repo_id = rest.rpartition("=") if kind == "folder" else (rest, "", "")
        if not colon or not path:
            raise ConfigError(
                f"{text!r} declares no source. Write hf-cache:PATH, bento:PATH or "
                "folder:PATH=ORG/NAME."
            )
        return cls(kind, expanded(path), parse_repo(repo_id) if equals else None)


@dataclass(frozen=True, slots=True)
class RepoSpec:
    """A revision to pull, with huggingface_hub's patterns for its files. An empty revision becomes
    `main`, or for a kernel all its versions. With `commit_hash`, this commit is pulled, whatever
    `revision` means upstream; the mirror has it as `revision`."""

    repo: Repo
    revision: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    commit_hash: str = ""

    def __post_init__(self) -> None:
        if not self.revision:
            is_kernel = self.repo.repo_type is RepoType.KERNEL
            object.__setattr__(self, "revision", ALL_VERSIONS if is_kernel else "main")

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def is_all_versions(self) -> bool:
        """Whether it stands for one revision for each version of a kernel."""
        return (self.repo.repo_type, self.revision) == (RepoType.KERNEL, ALL_VERSIONS)

    @classmethod
    def parse(
        cls,
        text: str,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        repo_type: str = "model",
    ) -> RepoSpec:
        """`[datasets/|spaces/|kernels/]ORG/NAME[@REVISION]`; `repo_type` is the type of a name
        without a prefix."""
        repo_id, _, revision = text.partition("@")
        has_prefix = repo_id.partition("/")[0] in PLURALS
        repo = parse_repo(repo_id if has_prefix else f"{type_prefix(repo_type)}{repo_id}")
        return cls(repo, revision, tuple(include), tuple(exclude))


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """The hub of the repositories that one of the patterns matches. It gets the token of its own
    token file, and no other."""

    match: tuple[str, ...]
    url: str
    token_file: Path | None = None
