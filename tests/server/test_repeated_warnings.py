"""A log that no client fills."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from mirror.server.repeated_warnings import RepeatedWarnings
from tests.attacks.raw import connect
from tests.folders import make_managed
from tests.servers import run_command
from tests.waiting import until


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(said: io.StringIO) -> Iterator[logging.Logger]:
    """A logger whose minutes are short."""
    handler = logging.StreamHandler(said)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.addFilter(RepeatedWarnings(handler, interval_s=0.3))
    logger = logging.getLogger("tests.repeated")
    logger.propagate = False
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_identical_warnings_are_counted(log: logging.Logger, said: io.StringIO) -> None:
    for number in range(1000):
        log.warning("A request that is not HTTP came from %s.", number)
    log.warning("Another.")
    until(lambda: "more" in said.getvalue())
    assert said.getvalue().splitlines() == [
        "WARNING A request that is not HTTP came from 0.",
        "WARNING Another.",
        "WARNING A request that is not HTTP came from 999. (the last of 999 more within a minute)",
    ]
    log.warning("A request that is not HTTP came from %s.", "a")
    assert said.getvalue().endswith("came from a.\n")


def test_one_warning_is_not_reported_again(log: logging.Logger, said: io.StringIO) -> None:
    log.warning("Once.")
    log.warning("Twice.")
    log.warning("Twice.")
    until(lambda: "more" in said.getvalue())
    assert said.getvalue().count("Once.") == 1


def test_no_traceback_is_lost(log: logging.Logger, said: io.StringIO) -> None:
    for number in range(3):
        try:
            raise ValueError(number)
        except ValueError:
            log.exception("Request failed.")
    assert said.getvalue().count("Traceback") == 3


def test_garbage_does_not_fill_the_log(tmp_path: Path) -> None:
    make_managed(tmp_path / "data" / "hub")
    errors = tmp_path / "errors"
    with (
        errors.open("w") as stream,
        run_command(tmp_path, "--workers", "1", errors=stream) as command,
    ):
        for _ in range(300):
            with closing(connect(command.url, 20)) as connection:
                connection.sendall(b"\x00 this is not HTTP\r\n\r\n")
                assert connection.recv(12) == b"HTTP/1.1 400"
        assert httpx2.get(f"{command.url}/healthz").status_code == 200
    assert errors.read_text().count("is not HTTP") == 1
