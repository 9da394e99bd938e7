"""git and git-lfs for repositories of the hub: a clone has upstream's commit id."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from mirror.core.commit import Commit
from mirror.core.repo import Repo
from mirror.core.tree import git_id, lfs_pointer
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from tests import folders
from tests.conftest import Serve
from tests.filling import Filling
from tests.folders import Content

SMART = "info/refs?service=git-upload-pack"
WEIGHTS = b"weights" * 50_000
FILES = {
    ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    "README.md": b"# Model\n",
    "run.sh": b"#!/bin/sh\n",
    "sub dir/\u00fcn\u00ef#1.txt": b"odd\n",
    "sub dir/deep/model.safetensors": WEIGHTS,
    "sub-file.txt": b"",
}
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
needs_lfs = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")


def git(folder: Path, *words: str, **settings: str) -> str:
    """Real git, without the configuration of the user."""
    home = next((one for one in (folder, *folder.parents) if one.name == "home"), folder)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0", "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org", **settings,
    }  # fmt: skip
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def upstream(tmp_path: Path) -> tuple[Content, Commit]:
    """A commit that git made, with a parent, an executable file and a pointer, as a hub has it."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "first")
    for path, body in FILES.items():
        is_lfs = path.endswith(".safetensors")
        pointer = lfs_pointer(hashlib.sha256(body).hexdigest(), len(body))
        folders.write(folder / path, pointer if is_lfs else body)
    (folder / "run.sh").chmod(0o755)
    git(folder, "-c", "filter.lfs.clean=cat", "-c", "filter.lfs.process=", "add", ".")
    git(folder, "commit", "--quiet", "-m", "second")
    commit_hash = git(folder, "rev-parse", "HEAD")
    body = subprocess.run(
        ["git", "cat-file", "commit", commit_hash], cwd=folder, capture_output=True, check=True
    ).stdout
    return Content(FILES, commit_hash), Commit(body, {"run.sh": "100755"})


@pytest.fixture
def client(
    upstream: tuple[Content, Commit], hub: Path, managed: HfCache, serve: Serve
) -> httpx2.Client:
    """A mirror that has this commit, with a second branch, as three types of repository."""
    content, commit = upstream
    for name in ("Org/Model", "datasets/Org/Data", "kernels/Org/Kernel"):
        one = replace(content, repo=Repo.parse(name))
        folders.make_managed(hub, one, refs=("refs/heads/main", "refs/tags/v1.0"), commit=commit)
    return serve(managed)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def address(client: httpx2.Client, name: str) -> str:
    return f"{str(client.base_url).rstrip('/')}/{name}"


def files_of(clone: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(clone)): path.read_bytes()
        for path in clone.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(clone).parts
    }


@needs_lfs
@pytest.mark.parametrize(
    "name", ["Org/Model", "Org/Model.git", "org/MODEL", "datasets/Org/Data", "kernels/Org/Kernel"]
)
def test_a_clone_has_the_commit_and_the_files(
    client: httpx2.Client, home: Path, upstream: tuple[Content, Commit], name: str
) -> None:
    git(home, "lfs", "install", "--skip-repo")
    git(home, "clone", "--quiet", address(client, name), "clone")
    clone = home / "clone"
    assert git(clone, "rev-parse", "HEAD") == upstream[0].commit_hash
    assert files_of(clone) == FILES
    assert os.access(clone / "run.sh", os.X_OK)
    assert git(clone, "status", "--porcelain") == ""
    git(clone, "fsck", "--strict")
    git(clone, "lfs", "fsck")
    assert git(clone, "tag") == "v1.0"


@pytest.mark.parametrize(
    "words",
    [
        ("--depth=1",), ("--depth=1", "--filter=blob:none"), ("--branch=v1.0",), ("--bare",),
        ("--sparse",), ("--depth=1", "--sparse", "--filter=blob:none"),
        ("-c", "protocol.version=0"),
    ],
)  # fmt: skip
def test_forms_of_a_clone(
    client: httpx2.Client, home: Path, upstream: tuple[Content, Commit], words: tuple[str, ...]
) -> None:
    url = address(client, "Org/Model")
    git(home, "clone", "--quiet", *words, url, "clone", GIT_LFS_SKIP_SMUDGE="1")
    assert git(home / "clone", "rev-parse", "HEAD") == upstream[0].commit_hash


def test_a_filter_without_a_depth_is_refused(client: httpx2.Client, home: Path) -> None:
    """git asks a shallow repository for the same commit without end."""
    words = ["git", "clone", "--filter=blob:none", address(client, "Org/Model"), "clone"]
    done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode
    assert "400" in done.stderr


@needs_lfs
def test_pointers_stay_pointers_until_they_are_asked_for(client: httpx2.Client, home: Path) -> None:
    git(home, "lfs", "install", "--skip-repo")
    url = address(client, "Org/Model")
    git(home, "clone", "--quiet", url, "clone", GIT_LFS_SKIP_SMUDGE="1")
    path = home / "clone" / "sub dir/deep/model.safetensors"
    assert path.read_bytes().startswith(b"version https://git-lfs")
    git(home / "clone", "lfs", "pull")
    assert path.read_bytes() == WEIGHTS


def test_a_fetch_brings_a_new_revision(
    client: httpx2.Client, home: Path, hub: Path, upstream: tuple[Content, Commit]
) -> None:
    git(home, "clone", "--quiet", address(client, "Org/Model"), "clone", GIT_LFS_SKIP_SMUDGE="1")
    files = {"README.md": b"# New\n"}
    newer = Commit.of_folder(Content(files).entries)
    folders.make_managed(hub, Content(files, newer.commit_hash), commit=newer)
    git(home / "clone", "fetch", "--quiet")
    assert git(home / "clone", "rev-parse", "origin/main") == newer.commit_hash


def test_a_pull_brings_the_commit_object(
    client: httpx2.Client, tmp_path: Path, home: Path, serve: Serve,
    upstream: tuple[Content, Commit],
) -> None:  # fmt: skip
    """From one mirror to another: the second offers what the first has, and the proof with it."""
    content, commit = upstream
    filling = Filling(tmp_path / "second", str(client.base_url).rstrip("/"))
    filling.pull("Org/Model", "datasets/Org/Data")
    assert filling.record(content.commit_hash, "Org/Model").commit == commit
    with filling.source() as source:
        second = serve(source)
        git(home, "clone", "--quiet", address(second, "datasets/Org/Data"), "clone",
            GIT_LFS_SKIP_SMUDGE="1")  # fmt: skip
    assert git(home / "clone", "rev-parse", "HEAD") == content.commit_hash
    checked = filling.run("verify", "--commit")
    assert "No problems found" in checked.output


def test_a_partial_pull_is_proven_and_not_offered(
    client: httpx2.Client, tmp_path: Path, serve: Serve, upstream: tuple[Content, Commit]
) -> None:
    filling = Filling(tmp_path / "second", str(client.base_url).rstrip("/"))
    filling.pull("Org/Model", include=["*.md"])
    filling.run("verify", "--commit")
    with filling.source() as source:
        answer = serve(source).get(f"/Org/Model/{SMART}")
    assert answer.status_code == 404
    assert "without --include and --exclude" in answer.text


def test_a_later_pull_brings_a_missing_commit_object(
    client: httpx2.Client, tmp_path: Path, upstream: tuple[Content, Commit]
) -> None:
    content, commit = upstream
    filling = Filling(tmp_path / "second", str(client.base_url).rstrip("/"))
    folders.make_managed(filling.hub, content)
    assert filling.record(content.commit_hash, "Org/Model").commit is None
    filling.pull("Org/Model")
    assert filling.record(content.commit_hash, "Org/Model").commit == commit


def test_a_commit_that_does_not_prove_the_files(
    upstream: tuple[Content, Commit], hub: Path, managed: HfCache, serve: Serve, tmp_path: Path
) -> None:
    """One byte of a file, one mode, or the commit object itself is another."""
    content, commit = upstream
    changed = Content(FILES | {"README.md": b"# model\n"}, content.commit_hash)
    for number, (files, proof) in enumerate([
        (changed, commit), (content, Commit(commit.body)), (content, Commit(commit.body + b"\n")),
    ]):  # fmt: skip
        one = replace(files, repo=Repo.parse(f"Org/m{number}"))
        folders.make_managed(hub, one, commit=proof)
    client = serve(managed)
    for number in range(3):
        answer = client.get(f"/Org/m{number}/{SMART}")
        assert answer.status_code == 404
        assert "is not offered by git" in answer.text
    filling = Filling(hub.parent, "http://127.0.0.1:9")
    output = filling.run("verify", "--commit", status=1).output
    assert output.count("unproven") == 3


@pytest.mark.parametrize("name", ["Org/Model", "Org/Absent"])
def test_git_shows_the_reason(
    name: str, hub: Path, managed: HfCache, serve: Serve, home: Path
) -> None:
    folders.make_managed(hub)
    url = address(serve(managed), name)
    done = subprocess.run(
        ["git", "clone", url, "clone"], cwd=home, capture_output=True, text=True, check=False
    )
    reason = "hubmirror pull Org/Model" if name == "Org/Model" else "is not in this mirror"
    assert done.returncode
    assert reason in done.stderr


def test_a_folder_has_the_same_commit_everywhere(
    plain: Folder, tmp_path: Path, serve: Serve, home: Path
) -> None:
    """That which every answer of the mirror names."""
    folders.make_plain(tmp_path / "plain", Content({"a.txt": b"a", "b/c.bin": b"LFS"}))
    client = serve(plain)
    commit = client.get("/api/models/Org/Model").json()["sha"]
    git(home, "clone", "--quiet", address(client, "Org/Model"), "clone", GIT_LFS_SKIP_SMUDGE="1")
    assert git(home / "clone", "rev-parse", "HEAD") == commit
    body = subprocess.run(
        ["git", "cat-file", "commit", commit], cwd=home / "clone", capture_output=True, check=True
    ).stdout
    assert git_id("commit", body) == commit


def test_a_push_is_refused(client: httpx2.Client) -> None:
    assert client.get("/Org/Model/info/refs?service=git-receive-pack").status_code == 403
    assert client.post("/Org/Model/git-receive-pack", content=b"0000").status_code == 403


def test_objects_that_are_not_here(client: httpx2.Client) -> None:
    """A want of a commit that the mirror does not offer."""
    want = b"0032want 0dde50000000000000000000000000000000000\n00000009done\n"
    answer = client.post("/Org/Model/git-upload-pack", content=want)
    assert answer.status_code in (200, 400)
    assert b"PACK" not in answer.content


# git-lfs


def batch(client: httpx2.Client, objects: object, operation: str = "download") -> httpx2.Response:
    body = json.dumps({"operation": operation, "transfers": ["basic"], "objects": objects})
    return client.post("/Org/Model.git/info/lfs/objects/batch", content=body)


def test_lfs_files_are_at_their_addresses(
    client: httpx2.Client, upstream: tuple[Content, Commit]
) -> None:
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    answer = batch(client, [{"oid": oid, "size": 350_000}, {"oid": 64 * "0", "size": 1}])
    assert answer.headers["content-type"] == "application/vnd.git-lfs+json"
    found, absent = answer.json()["objects"]
    href = found["actions"]["download"]["href"]
    assert f"/Org/Model/resolve/{upstream[0].commit_hash}/" in href
    assert client.get(href).content == WEIGHTS
    assert absent["error"]["code"] == 404


@pytest.mark.parametrize(
    ("objects", "status"),
    [
        ([{"oid": 64 * "a", "size": 1}] * 1001, 400),
        ([{"oid": 64 * "a", "size": 1}] * 100_000, 400),
        ("text", 400), ([1], 400), ([{"oid": 1}], 400), ([{"oid": "x", "size": "many"}], 400),
        ([{"oid": "../../etc", "size": -1}], 200), ([], 200),
    ],
)  # fmt: skip
def test_batches_that_git_lfs_does_not_send(
    client: httpx2.Client, objects: object, status: int
) -> None:
    answer = batch(client, objects)
    assert answer.status_code == status or (status == 400 and answer.status_code == 413)


def test_a_batch_of_an_absent_repository(client: httpx2.Client) -> None:
    answer = client.post(
        "/Org/Absent.git/info/lfs/objects/batch", content=b'{"operation":"download","objects":[]}'
    )
    assert answer.status_code == 404
