"""Private repositories, rules, the offline mode, and the limit of the cache."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.carried import hubmirror
from tests.hub import HubSimulator, refused
from tests.pull_through.conftest import StartMirror
from tests.servers import Command
from tests.waiting import until

FILE = "/Org/Model/resolve/main/config.json"


def get(mirror: Command, path: str, token: str = "", **options: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx2.get(f"{mirror.url}{path}", timeout=60, headers=headers, **options)


@pytest.fixture
def private(hub: HubSimulator) -> HubSimulator:
    repo = hub.repo("Org/Model")
    repo.commit({"config.json": b"{}", "other.json": b"[]"})
    repo.info, repo.readers = {"private": True}, {"reader"}
    return hub


@pytest.fixture
def forwarding(private: HubSimulator, start: StartMirror, data: Path, upstream: str) -> Command:
    return start(data, upstream, "--forward-token", "--workers", "2", "--fresh", "1")


def test_a_private_repository_is_served_to_those_whom_upstream_lets_in(
    forwarding: Command, private: HubSimulator, data: Path
) -> None:
    assert get(forwarding, FILE, "reader").content == b"{}"
    for token in ("", "stranger"):
        for path in (FILE, "/api/models/Org/Model", "/Org/Model/resolve/main/other.json"):
            answer = get(forwarding, path, token)
            assert answer.status_code == 404, (token, path)
            assert b"{}" not in answer.content
    until((data / "hub/models--Org--Model/hubmirror").is_dir)
    assert [row["id"] for row in get(forwarding, "/api/models").json()] == []
    commit = private.repo("Org/Model").refs["main"]
    held = get(forwarding, f"/Org/Model/resolve/{commit}/config.json", "stranger")
    assert held.status_code == 404
    log = (data.parent / "log").read_text()
    assert "reader" not in log
    assert "stranger" not in log
    for kept in data.rglob("*"):
        if kept.is_file():
            assert b"stranger" not in kept.read_bytes()


def test_access_fails_closed(forwarding: Command, private: HubSimulator) -> None:
    assert get(forwarding, FILE, "reader").status_code == 200
    private.fault = refused(500)(None, None)  # type: ignore[arg-type]
    assert get(forwarding, FILE, "another").status_code in (502, 504)


def test_rules_keep_files_and_repositories_out(
    hub: HubSimulator, start: StartMirror, data: Path, upstream: str, tmp_path: Path
) -> None:
    hub.repo("Org/Model").commit({"config.json": b"{}", "pytorch_model.bin": b"x"})
    hub.repo("Other/Model").commit({"config.json": b"{}"})
    (tmp_path / "hubmirror.toml").write_text(
        '[proxy]\ndeny_files = ["*.bin"]\nallow_repos = ["Org/*"]\n'
    )
    mirror = start(data, upstream)
    assert get(mirror, FILE).content == b"{}"
    for method in ("GET", "HEAD"):
        url = f"{mirror.url}/Org/Model/resolve/main/pytorch_model.bin"
        refusal = httpx2.request(method, url, timeout=60)
        assert refusal.status_code == 403
        assert 'deny_files = ["*.bin"]' in refusal.headers["x-error-message"]
    other = get(mirror, "/Other/Model/resolve/main/config.json")
    assert (other.status_code, hub.count("Other")) == (403, 0)


def test_offline_asks_nobody(
    hub: HubSimulator, start: StartMirror, data: Path, upstream: str
) -> None:
    hub.repo("Org/Model").commit({"config.json": b"{}", "other.json": b"[]"})
    mirror = start(data, upstream, "--fresh", "1")
    assert get(mirror, FILE).content == b"{}"
    assert hubmirror(data, "mode").output.strip() == "proxy"
    hubmirror(data, "mode", "offline")
    time.sleep(1.5)
    asked = len(hub.requests)
    assert get(mirror, FILE).content == b"{}"
    assert get(mirror, "/Org/Model/resolve/main/other.json").status_code in (503, 504)
    assert get(mirror, "/api/models/Org/None").status_code == 504
    assert len(hub.requests) == asked
    hubmirror(data, "mode", "proxy")
    until(lambda: get(mirror, "/Org/Model/resolve/main/other.json").status_code == 200)


def test_the_least_recently_read_revision_leaves(
    hub: HubSimulator, start: StartMirror, data: Path, upstream: str
) -> None:
    names = ("Org/One", "Org/Two", "Org/Pinned")
    for name in names:
        hub.repo(name).commit({"weights.bin": os.urandom(2_000_000)})
    mirror = start(data, upstream)
    for name in names:
        assert len(get(mirror, f"/{name}/resolve/main/weights.bin").content) == 2_000_000
    folders = [data / "hub" / f"models--{name.replace('/', '--')}" for name in names]
    for folder in folders:
        until((folder / "hubmirror").is_dir)
    hubmirror(data, "pin", "Org/Pinned")
    age = time.time() - 86400
    for number, folder in enumerate(folders[::-1]):  # Two is read after Pinned, and One last
        _set_age(data, folder, age + 3600 * number)
    dry = hubmirror(data, "gc", "--dry-run", "--cache-size", "4500k").output
    assert "Org/Two" in dry
    assert "last read" in dry
    hubmirror(data, "gc", "--cache-size", "4500k")
    assert [folder.is_dir() for folder in folders] == [True, False, True]
    assert len(get(mirror, "/Org/Two/resolve/main/weights.bin").content) == 2_000_000


def _set_age(data: Path, folder: Path, moment: float) -> None:
    """Let the revision look as if it was pulled and read last at that time."""
    for record in (folder / "hubmirror").iterdir():
        body = record.read_text()
        old = re.sub('"pulled_at": "[^"]*"', '"pulled_at": "2026-01-01T00:00:00+00:00"', body)
        record.write_text(old)
        read = data / "hub/.hubmirror/reads" / folder.name.lower() / record.stem
        until(read.exists)
        os.utime(read, (moment, moment))
