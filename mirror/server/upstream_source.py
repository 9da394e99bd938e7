"""Puts an upstream hub beside the opened sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.config.file import File
from mirror.pull_through.client import FillerClient
from mirror.pull_through.known_revisions import KnownRevisions
from mirror.pull_through.source import PullThrough
from mirror.store.cache import Cache
from mirror.sync.rules import Rules

if TYPE_CHECKING:
    from mirror.server.opened_sources import OpenedSources
    from mirror.server.worker_config import WorkerConfig


def open_upstream(config: WorkerConfig, opened: OpenedSources) -> PullThrough:
    """The opened sources, and upstream beside them. Raises OSError if hub/ cannot be created."""
    cache = Cache.of(config.data / "hub")
    return PullThrough(
        opened.sources,
        cache,
        KnownRevisions(cache.work_dir),
        FillerClient(cache.work_dir),
        Rules.of(File.read(config.config_file) if config.config_file else None),
        forwards_tokens=config.forward_token,
    )
