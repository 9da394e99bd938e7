"""Facts that nobody needs any more go, and no others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mirror.derived.digests import DigestJob, Digests
from mirror.derived.state import State
from mirror.maintenance.garbage import unused_facts
from tests.folders import write

MONTHS_S = 90 * 24 * 3600.0


def digest(state: State, file: Path) -> DigestJob:
    found = file.stat()
    job = DigestJob(str(file), found.st_size, found.st_mtime_ns, "git-sha1")
    digests = Digests(state)
    digests.of("a file", [job])
    digests.close()
    return job


def age(state: State) -> None:
    then = time.time() - MONTHS_S
    for path in state.folder.rglob("*.json"):
        os.utime(path, (then, then))


@pytest.mark.parametrize("name", [b"a.txt", b"odd-\xff\xfe.txt"])
def test_the_digest_of_a_file_that_is_gone_goes(tmp_path: Path, state: State, name: bytes) -> None:
    file = tmp_path / os.fsdecode(name)
    write(file, b"a")
    job = digest(state, file)
    assert unused_facts(state) == []
    age(state)
    assert unused_facts(state) == []  # its file is there
    write(file, b"another")
    assert len(unused_facts(state)) == 1
    file.unlink()
    assert len(unused_facts(state)) == 1
    assert Digests(state).known(job)  # so it counts as used
    assert unused_facts(state) == []


@pytest.mark.parametrize(
    "fact", [5, None, [], [1, 2, 40 * "a"], [1, 2, 40 * "a", 5], [1, 2, 40 * "a", "\u4e00"],
             [1, 2, 40 * "a", "\0"], [1, 2, 40 * "a", "x" * 100_000]],
)  # fmt: skip
def test_a_fact_that_says_nothing_goes_when_it_is_old(state: State, fact: object) -> None:
    state.put("digests", "key", fact)
    assert unused_facts(state) == []
    age(state)
    assert len(unused_facts(state)) == 1


def test_what_small_files_said_goes_when_nobody_used_it(state: State) -> None:
    for kind in ("facts/card", "headers/gguf"):
        state.put(kind, "key", {})
    state.put("other", "key", {})
    age(state)
    state.get("facts/card", "key")
    assert [one.text for one in unused_facts(state)] == ["unused facts (headers/gguf)"]


def test_a_run_looks_at_a_bounded_number(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.maintenance.garbage._MAX_FACTS", 3)
    for number in range(10):
        state.put("facts/card", str(number), {})
    age(state)
    assert len(unused_facts(state)) == 3


def test_a_state_folder_that_is_not_there(tmp_path: Path) -> None:
    assert unused_facts(State(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("link", ["digests", "digests/ab", "facts"])
def test_a_link_in_the_state_folder_is_not_followed(
    tmp_path: Path, state: State, link: str
) -> None:
    precious = tmp_path / "elsewhere" / "card" / "ab" / "precious.json"
    for path in (precious, tmp_path / "elsewhere" / "precious.json"):
        write(path, b"{}")
        os.utime(path, (1, 1))
    (state.folder / link).parent.mkdir(parents=True, exist_ok=True)
    (state.folder / link).symlink_to(tmp_path / "elsewhere")
    assert unused_facts(state) == []
