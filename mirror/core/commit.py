"""Commit objects of git: the proof that a revision is the one that its 40 digits name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.core.tree import Tree, git_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.core.tree import RepoFile

MAX_COMMIT = 64 * 1024
"""The maximum size of a commit object, in bytes."""

MODES = frozenset({"100755", "120000"})
"""The modes that a file can have beside 100644: executable, and symlink."""

_TREE = re.compile(rb"tree ([0-9a-f]{40})\n")
_PARENT = re.compile(rb"^parent [0-9a-f]{40}$", re.MULTILINE)
_FOLDER = (
    "tree {}\n"
    "author hubmirror <hubmirror@localhost> 0 +0000\n"
    "committer hubmirror <hubmirror@localhost> 0 +0000\n"
    "\n"
    "The files of a folder\n"
)


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit object as git stores it, and the files of its tree whose mode is not 100644."""

    body: bytes
    modes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_folder(cls, files: Mapping[str, RepoFile]) -> Commit:
        """The commit of a folder that was never on a hub: the same files have the same commit on
        every host."""
        return cls(_FOLDER.format(Tree(files).tree_id()).encode())

    @property
    def commit_hash(self) -> str:
        return git_id("commit", self.body)

    @property
    def has_parents(self) -> bool:
        return _PARENT.search(self.body.partition(b"\n\n")[0]) is not None

    def problem(self, commit_hash: str, files: Mapping[str, RepoFile]) -> str:
        """The reason why this does not prove that the commit has these files; empty if it does."""
        found = _TREE.match(self.body)
        if self.commit_hash != commit_hash or found is None:
            return "its commit object is that of another commit"
        if Tree(files, self.modes).tree_id() != found[1].decode():
            return "its files are not those of the tree of its commit"
        return ""
