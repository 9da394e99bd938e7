"""Pulls that run at the same time in separate processes."""

from __future__ import annotations

import threading

import pytest

from tests.filling import FILES, MODEL, WEIGHTS, Filling
from tests.hub import EVER, HubSimulator, slow, stalled, together
from tests.processes import Running, begin
from tests.waiting import until

WAITING = "Waiting for another pull of org/model to finish."


@pytest.fixture(autouse=True)
def slowly(simulator: HubSimulator) -> None:
    """The hub sends bytes so slowly that pulls overlap."""
    simulator.fail("GET .*/resolve/", slow(0.05), EVER)


def _pull(filling: Filling, number: int, *words: str) -> Running:
    log = filling.data.parent / f"{number}.log"
    return begin(log, "pull", "--data", str(filling.data), "--upstream", filling.url, *words)


@pytest.fixture
def planned_at_once(simulator: HubSimulator) -> None:
    """Both pulls make their plan before the other pull has finished."""
    simulator.fail("/tree/", together(threading.Barrier(2)), 2)


def _verify(filling: Filling) -> None:
    assert filling.run("verify").stdout == "No problems found.\n"


def test_two_pulls_of_one_repository(simulator: HubSimulator, filling: Filling) -> None:
    gate = threading.Barrier(2)
    simulator.faults.clear()
    simulator.fail(f"GET .*/{WEIGHTS}", together(gate))
    first = _pull(filling, 0, MODEL)
    until(lambda: simulator.count(f"GET .*/{WEIGHTS}") > 0)
    second = _pull(filling, 1, MODEL)
    until(lambda: WAITING in second.said)
    gate.wait(30)
    assert (first.wait(), second.wait()) == (0, 0), (first.said, second.said)
    assert filling.shown() == FILES
    for path in (WEIGHTS, "config.json", "vocab.txt"):
        assert simulator.count(f"GET .*/resolve/.*{path}") == 1
    _verify(filling)


def test_pulls_of_repositories_that_overlap(simulator: HubSimulator, filling: Filling) -> None:
    repos = [MODEL, "org/second", "org/third", "org/fourth"]
    for repo in repos[1:]:
        simulator.repo(repo).commit({**FILES, "id.txt": repo.encode()})
    pulls = [
        _pull(filling, number, *specs)
        for number, specs in enumerate([repos[:3], repos[1:], [repos[3], repos[0]]])
    ]
    assert [pull.wait() for pull in pulls] == [0, 0, 0], [pull.said for pull in pulls]
    assert filling.shown() == FILES
    for repo in repos[1:]:
        assert filling.shown(repo=repo) == {**FILES, "id.txt": repo.encode()}
    _verify(filling)


def test_a_pull_of_a_moved_branch_waits_for_the_other_pull(
    simulator: HubSimulator, filling: Filling
) -> None:
    first = _pull(filling, 0, MODEL)
    until(lambda: simulator.count("GET .*/resolve/") > 0)
    old = simulator.repo(MODEL).refs["main"]
    simulator.repo(MODEL).commit({**FILES, "new.bin": b"new"})
    second = _pull(filling, 1, MODEL)
    assert (first.wait(), second.wait()) == (0, 0)
    assert filling.shown()["new.bin"] == b"new"
    assert filling.shown(old) == FILES
    _verify(filling)


def test_a_waiting_pull_continues_when_the_other_is_killed(
    simulator: HubSimulator, filling: Filling
) -> None:
    simulator.faults.clear()
    simulator.fail(f"GET .*/{WEIGHTS}", stalled(60, 1000))
    first = _pull(filling, 0, MODEL)
    until(lambda: simulator.count(f"GET .*/{WEIGHTS}") > 0)
    second = _pull(filling, 1, MODEL)
    until(lambda: WAITING in second.said)
    assert first.kill()
    assert second.wait() == 0
    assert filling.shown() == FILES
    _verify(filling)


@pytest.mark.usefixtures("planned_at_once")
def test_parallel_pulls_with_different_filters_are_merged(filling: Filling) -> None:
    pulls = [
        _pull(filling, number, MODEL, "--include", pattern)
        for number, pattern in enumerate(("*.json", "*.md"))
    ]
    assert [pull.wait() for pull in pulls] == [0, 0], [pull.said for pull in pulls]
    assert filling.shown().keys() == {"config.json", "README.md"}
    _verify(filling)


@pytest.mark.usefixtures("planned_at_once")
def test_parallel_pulls_of_different_refs_are_merged(
    simulator: HubSimulator, filling: Filling
) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    simulator.repo(MODEL).refs["refs/pr/1"] = commit
    pulls = [
        _pull(filling, number, f"{MODEL}@{ref}") for number, ref in enumerate(("refs/pr/1", "main"))
    ]
    assert [pull.wait() for pull in pulls] == [0, 0], [pull.said for pull in pulls]
    assert set(filling.record(commit).refs) == {"refs/heads/main", "refs/pr/1"}
