"""The questions of a server process to the filler, and the answers.

The filler listens on a Unix socket in the work folder of the managed cache, and speaks HTTP. A
question is a POST with a JSON object, whose fields are those of the dataclasses below. A failure is
an answer too: status 200, with the fields of `Failure`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mirror.core.errors import (
    BadGatewayError,
    GatewayTimeoutError,
    RefusedError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    UnavailableError,
    UpstreamFailure,
)
from mirror.core.repo import Repo, RepoType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.core.errors import HubmirrorError, UpstreamError

VERSION = 1
_LONGEST_RETRY_AFTER_S = 3600.0


def socket_path(work_dir: Path) -> Path:
    """The socket of the filler of a managed cache."""
    return work_dir / f"filler-{VERSION}.sock"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a repository. `token` is the client's token, if tokens are forwarded.

    `revision` is a branch, a tag or a commit hash. `path` and `offset` are set if a byte of a file
    is requested.
    """

    repo: Repo
    revision: str = "main"
    token: str | None = None
    path: str = ""
    offset: int = 0

    def render(self) -> dict[str, Any]:
        repo = {"repo_type": self.repo.repo_type.value, "repo_id": self.repo.repo_id}
        return repo | {
            "revision": self.revision,
            "token": self.token,
            "path": self.path,
            "offset": self.offset,
        }

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Question:
        """Raises KeyError, TypeError or ValueError."""
        token = body["token"]
        return cls(
            Repo(RepoType(body["repo_type"]), body["repo_id"]),
            str(body["revision"]),
            None if token is None else str(token),
            str(body["path"]),
            int(body["offset"]),
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why upstream does not give what was requested. `valid_s` is for how many seconds the answer
    may be kept."""

    failure: str
    message: str
    retry_after: float = 0.0
    valid_s: float = 0.0

    @classmethod
    def of(cls, error: UpstreamError, valid_s: float = 0.0) -> Failure:
        return cls(error.failure.value, str(error), error.retry_after, valid_s)

    def render(self) -> dict[str, Any]:
        return asdict(self)

    def error(self, repo: Repo, revision: str) -> HubmirrorError:
        """The error for the client of this server."""
        match self.failure:
            case UpstreamFailure.NO_REPOSITORY:
                return RepositoryNotFoundError(repo, self.message)
            case UpstreamFailure.NO_REVISION:
                return RevisionNotFoundError(repo, revision, self.message)
            case UpstreamFailure.REFUSED:
                return RefusedError(self.message)
            case UpstreamFailure.BUSY:
                busy = UnavailableError(self.message)
                busy.retry_after = int(min(max(self.retry_after, 1.0), _LONGEST_RETRY_AFTER_S))
                return busy
            case UpstreamFailure.TIMEOUT:
                return GatewayTimeoutError(self.message)
        return BadGatewayError(self.message)


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit of a revision. `stale` is the reason why it may not be the newest one; empty if
    upstream named it a short time ago."""

    commit_hash: str
    stale: str = ""
    valid_s: float = 0.0

    def render(self) -> dict[str, Any]:
        return asdict(self)
