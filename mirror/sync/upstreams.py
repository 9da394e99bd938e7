"""The upstream hub of each repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.config.values import read_token
from mirror.sync.filters import matches_repo
from mirror.sync.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.config.specs import UpstreamSpec
    from mirror.core.repo import Repo


class Upstreams:
    """Several hubs. The first spec with a pattern that matches a repository names its hub; the
    other repositories are on the default hub."""

    def __init__(
        self,
        default: Upstream,
        specs: Sequence[UpstreamSpec] = (),
        *,
        once: bool = False,
        retrying: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        """Raises ConfigError for a URL or a token file that cannot be used."""
        self.default = default
        self._others = [
            (
                spec.match,
                Upstream(
                    spec.url,
                    token=read_token(spec.token_file),
                    once=once,
                    retrying=retrying,
                ),
            )
            for spec in specs
        ]

    def of(self, repo: Repo) -> Upstream:
        """The hub of a repository."""
        for patterns, upstream in self._others:
            if any(matches_repo(repo, pattern) for pattern in patterns):
                return upstream
        return self.default
