"""Folders of every kind that is served, made from the same content.

A test describes a repository as `Content`: files by path, and which of them are kept by LFS. Each
`make_*` function writes it to disk as one kind of folder would hold it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mirror.core.record import Record, render_tree
from mirror.core.repo import Repo
from mirror.core.source import StoredFile
from mirror.core.tree import RepoFile, git_id, lfs_file
from mirror.store.publish import publish

COMMIT = "c0ffee" + 34 * "0"
OLDER = "0dde5" + 35 * "0"
MODEL = Repo.parse("Org/Model")

FILES = {
    "README.md": b"---\nlicense: mit\nlanguage: [en]\ntags: [tiny]\n---\n# Model\n",
    "config.json": b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
    "model.safetensors": b"\x00weights" * 40_000,
    "empty.txt": b"",
    "sub dir/deep/\u00fcn\u00ef#100%+?.txt": b"odd name\n",
}


@dataclass(frozen=True)
class Content:
    """A commit of a repository. `.safetensors`, `.bin` and `.gguf` files are kept by LFS."""

    files: Mapping[str, bytes] = field(default_factory=lambda: FILES)
    commit_hash: str = COMMIT
    repo: Repo = MODEL

    @property
    def entries(self) -> dict[str, RepoFile]:
        return {path: entry(path, body) for path, body in self.files.items()}


def entry(path: str, body: bytes) -> RepoFile:
    if path.endswith((".safetensors", ".bin", ".gguf")):
        return lfs_file(path, len(body), hashlib.sha256(body).hexdigest())
    return RepoFile(path, len(body), git_id("blob", body))


def repo_dir(hub: Path, repo: Repo = MODEL) -> Path:
    return hub / repo.folder_name


def make_classic(hub: Path, content: Content | None = None, ref: str | None = "main") -> Path:
    """A cache as huggingface_hub writes it on Linux: blobs, links, a ref."""
    content = content or Content()
    folder = repo_dir(hub, content.repo)
    for path, body in content.files.items():
        blob = folder / "blobs" / entry(path, body).etag
        write(blob, body)
        link(folder / "snapshots" / content.commit_hash / path, blob)
    if ref:
        write(folder / "refs" / ref, content.commit_hash.encode())
    return folder


def make_shared(hub: Path, content: Content | None = None) -> Path:
    """The 2.x layout: blobs of LFS files are links on into the cache's own blobs/."""
    content = content or Content()
    folder = make_classic(hub, content)
    write(hub / "blobs" / ".huggingface-shared-blobs", b"1\n")
    for file in content.entries.values():
        if file.lfs_sha256:
            xet_hash = hashlib.sha256(file.lfs_sha256.encode()).hexdigest()
            blob, shared = folder / "blobs" / file.etag, hub / "blobs" / xet_hash[:2] / xet_hash
            shared.parent.mkdir(parents=True, exist_ok=True)
            if not blob.is_symlink():
                blob.rename(shared)
                link(blob, shared)
    return folder


def make_real_files(hub: Path, content: Content | None = None) -> Path:
    """A cache made on Windows: real files in snapshots/, no blobs/."""
    content = content or Content()
    folder = repo_dir(hub, content.repo)
    for path, body in content.files.items():
        write(folder / "snapshots" / content.commit_hash / path, body)
    write(folder / "refs" / "main", content.commit_hash.encode())
    return folder


def make_managed(hub: Path, content: Content | None = None, **record: Any) -> Path:
    """What `hubmirror pull` leaves: blobs, links, a tree file, a record, refs."""
    content = content or Content()
    folder = repo_dir(hub, content.repo)
    for path, body in content.files.items():
        write(folder / "blobs" / entry(path, body).etag, body)
    publish(hub, make_record(content, **record))
    return folder


def make_record(content: Content, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "repo": content.repo,
        "commit_hash": content.commit_hash,
        "files": content.entries,
        "refs": ("refs/heads/main",),
        "pulled_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "upstream": "https://huggingface.co",
    }
    return Record(**(values | changes))


def make_plain(folder: Path, content: Content | None = None) -> Path:
    """A folder that somebody exported, with the `.gitattributes` that the hub gives to all."""
    content = content or Content()
    for path, body in content.files.items():
        write(folder / path, body)
    attributes = "".join(f"*.{end} filter=lfs\n" for end in ("safetensors", "bin", "gguf"))
    write(folder / ".gitattributes", attributes.encode())
    return folder


def add_tree(folder: Path, content: Content) -> None:
    """huggingface_hub's own list of all files of the commit (>= 1.22)."""
    write(folder / "trees" / f"{content.commit_hash}.json", render_tree(content.entries.values()))


def add_no_exist(folder: Path, path: str, commit_hash: str = COMMIT) -> None:
    write(folder / ".no_exist" / commit_hash / path, b"")


def make_safetensors(tensors: Mapping[str, tuple[str, list[int]]]) -> bytes:
    """A header alone, as `{name: (dtype, shape)}`, with no data behind it."""
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
        for name, (dtype, shape) in tensors.items()
    }
    body = json.dumps(header).encode()
    return len(body).to_bytes(8, "little") + body


def write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def content_of(stored: StoredFile) -> bytes:
    """The bytes of a file of a snapshot."""
    with contextlib.closing(stored.open()) as blob:
        return blob.pread(0, blob.size)
