"""Fixtures of tests that fill a folder: a simulated hub, and a folder to fill from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fill.filling import FILES, MODEL, Filling
from tests.hub import HubSimulator, run_hub


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's: no token, no configuration file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("HF_TOKEN", "HUBMIRROR_TEST_KILLS"):
        monkeypatch.delenv(name, raising=False)


Later = Callable[[float], None]
DAY = 24 * 3600.0


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Lets seconds pass: no file can be given an older change time."""

    def pass_(seconds: float) -> None:
        now = time.time() + seconds
        monkeypatch.setattr("mirror.fill.remove.time.time", lambda: now)

    return pass_


@pytest.fixture
def simulator() -> HubSimulator:
    """A hub with one model."""
    simulator = HubSimulator()
    simulator.repo(MODEL).commit(FILES)
    return simulator


@pytest.fixture
def filling(simulator: HubSimulator, tmp_path: Path) -> Iterator[Filling]:
    """An empty data folder, to be filled from the simulator."""
    with run_hub(simulator) as url:
        yield Filling(tmp_path / "data", url)
