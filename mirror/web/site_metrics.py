"""Metrics of the site: the disk, the certificate, the last pull, and what is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.pages.status import StatusBoard


class SiteCollector:
    """The numbers of the status, without a look at a repository."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if disk := self._board.disk():
            yield GaugeMetricFamily(
                "hubmirror_disk_size_bytes", "Size of the disk of the data folder.", disk.total
            )
            yield GaugeMetricFamily(
                "hubmirror_disk_free_bytes", "Free bytes of the disk of the data folder.", disk.free
            )
        if ends := self._board.certificate_ends():
            yield GaugeMetricFamily(
                "hubmirror_certificate_expiry_timestamp_seconds",
                "When the certificate of https ends.", ends.timestamp(),
            )  # fmt: skip
        yield self._problems()

    def _problems(self) -> GaugeMetricFamily:
        found = GaugeMetricFamily(
            "hubmirror_problems", "Revisions that are not whole, by what is wrong.",
            labels=["state"],
        )  # fmt: skip
        for state, count in self._board.problems().items():
            found.add_metric([state], count)
        return found

    def describe(self) -> list[GaugeMetricFamily]:
        return []
