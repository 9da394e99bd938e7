"""Repositories and revisions: names, validation, and the commit of a revision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

COMMIT_HASH = re.compile(r"[0-9a-f]{40}")
ALL_VERSIONS = "v*"
"""In place of the revision of a kernel: all its version branches."""

_VERSION = re.compile(r"v[0-9]+")
_SHORT_HASH = re.compile(r"[0-9a-f]{4,39}")
# huggingface_hub.utils.validate_repo_id applies the same rule before a client sends a request.
_PART = r"(?![.-])[\w.-]{1,96}(?<![.-])"
_REPO_ID = re.compile(rf"(?!.*(?:--|\.\.))(?:{_PART}/)?{_PART}(?<!\.git)", re.ASCII)
# The rules of git-check-ref-format(1). A surrogate stands for a byte of a file name that is not
# UTF-8.
_REF_PART = r"(?!\.)[^\x00-\x20\x7f~^:?*\[\\/\ud800-\udfff]+(?<!\.)(?<!\.lock)"
_REF = re.compile(
    rf"(?!.*(?:\.\.|@\{{))refs/(?:(?:heads|tags)/(?!refs/)|(?!heads/|tags/){_REF_PART}/)"
    rf"{_REF_PART}(?:/{_REF_PART})*"
)
_MAX_REF_BYTES = 500
_MAX_REF_PART_BYTES = 200


class RepoType(StrEnum):
    """The `repo_type` of huggingface_hub. `plural` is the form in API paths."""

    MODEL = "model"
    DATASET = "dataset"
    SPACE = "space"
    KERNEL = "kernel"

    @property
    def plural(self) -> str:
        return f"{self.value}s"

    @property
    def url_prefix(self) -> str:
        """The prefix of the repo id in file URLs; empty for models."""
        return "" if self is RepoType.MODEL else f"{self.plural}/"


PLURALS = {repo_type.plural: repo_type for repo_type in RepoType}


@dataclass(frozen=True, slots=True, order=True)
class Repo:
    """A repository: its type, and an id of one or two segments.

    Raises ValueError for an id that huggingface_hub does not accept.
    """

    repo_type: RepoType
    repo_id: str

    def __post_init__(self) -> None:
        if not is_repo_id(self.repo_id):
            raise ValueError(f"not a repo id: {self.repo_id!r}")

    def __str__(self) -> str:
        return f"{self.repo_type.url_prefix}{self.repo_id}"

    @property
    def key(self) -> str:
        """The key of the repository. Ids that differ only in case have the same key."""
        return f"{self.repo_type.value}:{self.repo_id.lower()}"

    @property
    def author(self) -> str | None:
        namespace, slash, _ = self.repo_id.rpartition("/")
        return namespace if slash else None

    @property
    def folder_name(self) -> str:
        """The folder of this repo in an HF cache (huggingface_hub `repo_folder_name`)."""
        return "--".join([self.repo_type.plural, *self.repo_id.split("/")])

    @classmethod
    def from_folder_name(cls, name: str) -> Repo | None:
        """The repo of a folder in an HF cache, or None for any other folder."""
        plural, _, rest = name.partition("--")
        repo_id = rest.replace("--", "/")
        try:
            return cls(PLURALS[plural], repo_id)
        except (KeyError, ValueError):
            return None

    @classmethod
    def parse(cls, text: str) -> Repo:
        """`org/name`, or with the plural of another type before it, `datasets/org/name`; ValueError
        for anything else."""
        head, slash, rest = text.partition("/")
        if slash and head in PLURALS:
            return cls(PLURALS[head], rest)
        return cls(RepoType.MODEL, text)


def is_repo_id(text: str) -> bool:
    """Whether huggingface_hub accepts the id (`validate_repo_id`)."""
    return _REPO_ID.fullmatch(text) is not None


def find_commit(revision: str, refs: Mapping[str, str], commits: Collection[str]) -> str | None:
    """The commit hash of a revision, or None.

    `refs` maps full ref names (`refs/heads/main`) to commit hashes; `commits` are the hashes that
    can be used without a ref. A ref has precedence over an abbreviated hash.
    """
    if revision == "HEAD":
        return default_commit(refs, commits)
    for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
        if name in refs:
            return refs[name]
    if COMMIT_HASH.fullmatch(revision):
        return revision if revision in commits else None
    if _SHORT_HASH.fullmatch(revision):
        matches = [commit for commit in commits if commit.startswith(revision)]
        return matches[0] if len(matches) == 1 else None
    return None


def default_commit(refs: Mapping[str, str], commits: Collection[str]) -> str | None:
    """The commit of `HEAD`: that of `main`, else of `master`, else of the last ref, else the last
    commit."""
    for name in ("refs/heads/main", "refs/heads/master"):
        if name in refs:
            return refs[name]
    rest = list(refs.values()) or list(commits)
    return rest[-1] if rest else None


def versions(branches: Iterable[str]) -> list[str]:
    """The branches `v1`, `v2`, … of a kernel, which the kernels package selects by number; `main`
    if the kernel has none."""
    return [name for name in branches if _VERSION.fullmatch(name)] or ["main"]


def check_ref(name: str) -> str:
    """The full name of a ref (`refs/heads/main`, `refs/pr/1`), if git accepts it; else ValueError.

    A valid name is always a path below the folder of refs.
    """
    body = name.encode(errors="replace")
    parts = body.split(b"/")
    is_short = len(body) <= _MAX_REF_BYTES and max(map(len, parts)) <= _MAX_REF_PART_BYTES
    if not is_short or not _REF.fullmatch(name):
        raise ValueError(f"{name[:200]!r} is not the name of a ref")
    return name


def is_ref(name: str) -> bool:
    """Whether `check_ref` accepts the name."""
    try:
        check_ref(name)
    except ValueError:
        return False
    return True


def short_ref(name: str) -> str:
    """The name that clients use for a full ref name: `main`, `v1`, `refs/pr/1`."""
    return name.removeprefix("refs/heads/").removeprefix("refs/tags/")


def ref_name(short: str) -> str:
    """The full ref name of a branch. A name that is already full (`refs/pr/1`) is returned
    unchanged."""
    return short if short.startswith("refs/") else f"refs/heads/{short}"
