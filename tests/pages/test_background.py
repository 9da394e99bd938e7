"""A value that is found in a thread."""

from __future__ import annotations

import logging

import pytest

from mirror.core.errors import ListingPendingError
from mirror.pages.background import Background
from tests.waiting import until


def test_a_listing_that_is_still_made_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Exception | int] = [ListingPendingError(), ListingPendingError(), 7]

    def find() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    value = Background("number", 60.0, find)
    with caplog.at_level(logging.WARNING):
        until(lambda: value.get() == 7)
    assert not caplog.records
