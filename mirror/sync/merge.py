"""The record that a pull writes, beside the record that the cache has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mirror.core.repo import short_ref
from mirror.sync.completeness import read_record

if TYPE_CHECKING:
    from mirror.core.record import Record
    from mirror.sources.repo_dir import RepoDir


def merged(folder: RepoDir, record: Record, revision: str) -> Record:
    """The planned record, merged with the changes of other pulls since the plan was made.

    Adds the files of the same commit. Removes the refs that now point to another commit, except
    the requested `revision`.
    """
    same_or_absent = (record.commit_hash, "")
    refs = tuple(
        name
        for name in record.refs
        if revision in (name, short_ref(name)) or folder.points_to(name) in same_or_absent
    )
    record = replace(record, refs=refs)
    known = read_record(folder, record.commit_hash)
    if known is None:
        return record
    files = {**known.files, **record.files}
    tree = {**known.files, **known.left_out, **record.files, **record.left_out}
    left_out = {path: file for path, file in tree.items() if path not in files}
    refs = tuple(dict.fromkeys((*current_refs(folder, known), *record.refs)))
    return replace(record, files=files, left_out=left_out, refs=refs)


def current_refs(folder: RepoDir, known: Record | None) -> tuple[str, ...]:
    """The refs of a record that do not point to another commit now."""
    if known is None:
        return ()
    same_or_absent = (known.commit_hash, "")
    return tuple(name for name in known.refs if folder.points_to(name) in same_or_absent)


def is_same_record(known: Record, record: Record) -> bool:
    """Whether both records have the same files, refs, publisher and commit object."""
    return (known.files.keys(), set(known.refs), known.organization, known.commit) == (
        record.files.keys(), set(record.refs), record.organization, record.commit,
    )  # fmt: skip
