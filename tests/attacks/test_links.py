"""Links that lead out of a cache or a folder: no byte behind them is sent, and none is listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.core.source import Source
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.bento import BentoStore
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from tests.conftest import serving
from tests.folders import COMMIT, Content, make_classic, make_managed, make_plain, write

SECRET = b"secret of the host"
FILES = {"config.json": b"{}", "sub/link": b"what it was"}
KINDS = ("managed", "foreign", "plain", "bento")
MODEL_YAML = b"""name: org--m
version: "1"
creation_time: "2026-01-01T00:00:00"
labels: {}
metadata:
  hubmirror:
    repo_id: %b
    repo_type: model
"""


def _targets(root: Path) -> Mapping[str, str]:
    """Where links lead, by name; those that are relative begin in the folder `sub`."""
    outside = root / "outside"
    write(outside / "secret", SECRET)
    (outside / "chain").symlink_to("secret")
    return {
        "passwd": "/etc/passwd",
        "zero": "/dev/zero",
        "fd": "/proc/self/fd/0",
        "environ": "/proc/self/environ",
        "folder": "/etc",
        "parents": "../" * 40 + "etc/passwd",
        "relative": "../" * 40 + str(outside / "secret").lstrip("/"),
        "secret": str(outside / "secret"),
        "chain": str(outside / "chain"),
        "dotted": f"{outside}/../outside/./secret",
        "empty-folder": "..",
        "itself": "link",
    }


LINKS = (
    "passwd", "zero", "fd", "environ", "folder", "parents", "relative", "secret", "chain", "dotted",
    "empty-folder", "itself", "two-links", "folder-link", "blob-link",
)  # fmt: skip


def _make(root: Path, kind: str, repo_id: str) -> tuple[Path, Path]:
    """A repository of a kind: the folder of its files, and that of the whole repository."""
    content = Content(FILES, COMMIT, Repo.parse(repo_id))
    if kind in ("managed", "foreign"):
        make = make_managed if kind == "managed" else make_classic
        folder = make(root / kind, content)
        return folder / "snapshots" / COMMIT, folder
    if kind == "plain":
        folder = make_plain(root / kind / repo_id, content)
        return folder, folder
    version = root / kind / "models" / repo_id.replace("/", "--").lower() / "1"
    make_plain(version, content)
    write(version / "model.yaml", MODEL_YAML % repo_id.encode())
    return version, version


def _break(root: Path, files: Path, folder: Path, name: str, targets: Mapping[str, str]) -> None:
    """Put a link in the place of `sub/link`, or on the way to it."""
    link = files / "sub" / "link"
    if name == "blob-link":
        blob = link.resolve() if link.is_symlink() else link
        blob.unlink()
        blob.symlink_to(targets["secret"])
        return
    link.unlink()
    if name == "folder-link":
        link.parent.rmdir()
        write(root / "outside" / "link", SECRET)
        link.parent.symlink_to(root / "outside")
    elif name == "two-links":
        (link.parent / "hop").symlink_to(targets["secret"])
        link.symlink_to("hop")
    else:
        link.symlink_to(targets[name])


def _source(root: Path, kind: str, repo_id: str, digests: Digests) -> Source:
    if kind == "plain":
        return Folder(root / kind / repo_id, Repo.parse(repo_id), digests, ttl_s=0)
    if kind == "bento":
        return BentoStore(root / kind, digests, ttl_s=0)
    return HfCache(root / kind, digests, managed=kind == "managed", ttl_s=0)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def served(tmp_path: Path, kind: str) -> Iterator[tuple[httpx2.Client, Mapping[str, str]]]:
    """A client, and the repository of each link."""
    targets = _targets(tmp_path)
    repos = {name: f"Org/R{number}" for number, name in enumerate((*LINKS, "good"))}
    sources: list[Source] = []
    state = State(tmp_path / "state")
    with closing(Digests(state)) as digests:
        for name, repo_id in repos.items():
            files, folder = _make(tmp_path, kind, repo_id)
            if name != "good":
                _break(tmp_path, files, folder, name, targets)
            if kind == "plain" or not sources:
                sources.append(_source(tmp_path, kind, repo_id, digests))
        with serving(state, *sources) as client:
            yield client, repos


def test_no_link_leads_out(kind: str, served: tuple[httpx2.Client, Mapping[str, str]]) -> None:
    client, repos = served
    good = client.get(f"/{repos['good']}/resolve/main/sub/link")
    assert (good.status_code, good.content) == (200, FILES["sub/link"])
    for name in LINKS:
        for path in (f"/{repos[name]}/resolve/main/sub/link", f"/{repos[name]}/raw/main/sub/link"):
            for method in ("GET", "HEAD"):
                answer = client.request(method, path, headers={"range": "bytes=0-99"}, timeout=8)
                if answer.is_success and kind == "managed":
                    # The record names the blob, and the link is not asked.
                    assert answer.content == (FILES["sub/link"] if method == "GET" else b"")
                    continue
                assert (name, answer.status_code) in ((name, 404), (name, 503))
                assert "content-range" not in answer.headers
                assert SECRET not in answer.content
                assert b"root:" not in answer.content


def test_a_link_that_leads_out_is_listed_without_its_target(
    served: tuple[httpx2.Client, Mapping[str, str]],
) -> None:
    client, repos = served
    for name in LINKS:
        base = f"/api/models/{repos[name]}"
        for path in (f"{base}/tree/main?recursive=true", f"{base}/tree/main/sub", base):
            answer = client.get(path, timeout=8)
            assert answer.status_code in (200, 404, 503)
            assert "passwd" not in answer.text
        told = client.post(f"{base}/paths-info/main", json={"paths": ["sub/link", "sub"]})
        assert "passwd" not in told.text
    assert "passwd" not in client.get("/api/models?full=true").text
