"""The tree of exceptions. `web/errors.py` holds the one table that maps them to HTTP responses.

    HubmirrorError
    ├── ConfigError                      the configuration is invalid: the server does not start
    ├── UpstreamError                    the upstream hub fails
    ├── CarryError                       a copy to or from another host or disk fails
    ├── CorruptBlobError                 the bytes do not match their digest
    ├── RequestError                     the request is malformed
    │   └── SlowRequestError             the request body does not arrive in time
    ├── UnauthorizedError                the mirror's own token is missing or wrong
    ├── ForbiddenError                   a signed URL has a wrong signature or has expired
    ├── RefusedByRuleError               a rule of the configuration keeps the resource out
    ├── RefusedError                     upstream does not let this token read the repository
    ├── ReadOnlyError                    a client tries to upload
    ├── NotOfferedError                  a route of the hub that this mirror does not implement
    ├── NotFoundError
    │   ├── RepositoryNotFoundError
    │   ├── RevisionNotFoundError
    │   ├── EntryNotFoundError           `known`: the commit certainly has no such file
    │   └── XetHashNotFoundError
    └── UnavailableError                 the resource exists, or may exist, but is not served now
        ├── BusyError                    too many requests of one kind at the same time
        ├── RevisionIncompleteError      files of the revision are still missing
        ├── PendingError                 the answer is being prepared: the request waits for it
        │   ├── DigestPendingError       the digest of a file is still being computed
        │   ├── ListingPendingError      the listing of all repositories is still being computed
        │   └── UpstreamPendingError     upstream has been asked, and has not answered yet
        ├── BadGatewayError              upstream answers with an error
        ├── GatewayTimeoutError          upstream cannot be reached, or does not answer in time
        ├── BlobUnreadableError          the file is missing, has a wrong size, or the disk fails
        └── BlobChangedError             the file became shorter while it was read

Clients store a "not found" response on disk. So only a source that *knows* that the file does not
exist raises a NotFoundError; in every other case it raises an `UnavailableError`. A message names
the thing, the cause and the next step, and never contains a path of the server.
"""

from __future__ import annotations

import errno
import re
from enum import StrEnum
from typing import TYPE_CHECKING

from mirror.core.units import human

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.core.repo import Repo


_NEXT_STEPS = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT),
        "Free space on this disk, for example with `hubmirror gc` or `hubmirror rm`.",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM),
        "Run the command as the user who owns the folder, or correct its owner and permissions.",
    ),
    errno.EROFS: "Mount the disk so that it can be written, or name another folder.",
    errno.ENOENT: "Check that the folder exists, and that its disk is mounted.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.EIO: "The disk fails: check it.",
    errno.ESTALE: "The file server fails: check it, and mount the folder again.",
}


def os_error_text(exc: OSError, path: object = "") -> str:
    """The path, the cause and the next step of a failed access to a file, for the operator.

    `path` is used if the exception has none.
    """
    where = exc.filename or path or "A file cannot be read or written"
    cause = (exc.strerror or str(exc) or type(exc).__name__).rstrip(".")
    step = _NEXT_STEPS.get(exc.errno or 0, "Correct the cause.")
    return f"{where}: {cause}. {step} Then run the command again."


class HubmirrorError(Exception):
    """The base class of all exceptions of this package."""


class ConfigError(HubmirrorError):
    """The configuration, a flag, or a folder in the configuration cannot be used."""


class UpstreamFailure(StrEnum):
    """Why an upstream hub does not give what was requested."""

    NO_REPOSITORY = "no-repository"
    NO_REVISION = "no-revision"
    REFUSED = "refused"
    BUSY = "busy"
    TIMEOUT = "timeout"
    FAILED = "failed"


class UpstreamError(HubmirrorError):
    """The upstream hub refuses the request, fails, or cannot be reached. `retry_after` is the time
    in seconds that upstream asks its clients to wait; 0 if it does not ask."""

    def __init__(
        self,
        message: str,
        failure: UpstreamFailure = UpstreamFailure.FAILED,
        retry_after: float = 0.0,
    ) -> None:
        self.failure = failure
        self.retry_after = retry_after
        super().__init__(message)


class CarryError(HubmirrorError):
    """A copy to or from another host or disk fails: rsync fails, or a bundle is damaged."""


class CorruptBlobError(HubmirrorError):
    """The bytes of a file do not match its digest."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path} is corrupt: {cause}.")


class RequestError(HubmirrorError):
    """The request is malformed: a path with `..`, or a body that cannot be parsed."""


class SlowRequestError(RequestError):
    """The body of a request did not arrive in time."""

    def __init__(self) -> None:
        super().__init__("The body of the request did not arrive in time. Send the request again.")


class UnauthorizedError(HubmirrorError):
    """The request does not have the token that is set for this mirror."""


class ForbiddenError(HubmirrorError):
    """The signature in the request is wrong or has expired."""


class RefusedByRuleError(HubmirrorError):
    """A rule of the configuration keeps a repository or a file out of this mirror. `rule` is the
    rule as it is written, and `file` the name of the file that has it."""

    def __init__(self, subject: str, rule: str, file: str) -> None:
        self.rule = rule
        super().__init__(
            f"{subject} is refused by the rule {rule} in [proxy] of {file}. The operator of this "
            "mirror can change the rule."
        )


class RefusedError(HubmirrorError):
    """Upstream does not let the token of the mirror, or of the client, read the repository."""


class ReadOnlyError(HubmirrorError):
    """The client requests an upload or another change, and the mirror is read-only."""

    def __init__(self) -> None:
        super().__init__("This server is a read-only mirror; uploads are disabled")


class NotOfferedError(HubmirrorError):
    """A route of the real hub that this mirror does not implement, or a file that is not part of a
    repository (a package, an OpenLLM file) and that this mirror does not have."""

    def __init__(self, message: str = "Not available on this mirror.") -> None:
        super().__init__(message)


class NotFoundError(HubmirrorError):
    """The mirror knows that it does not have the resource."""


class RepositoryNotFoundError(NotFoundError):
    """No source has the repository."""

    def __init__(self, repo: Repo, reason: str = "") -> None:
        self.repo = repo
        reason = reason or "Ask its operator to add it, or check the spelling."
        super().__init__(f"{repo} is not in this mirror. {reason}")


class RevisionNotFoundError(NotFoundError):
    """The repository exists, but has no ref and no snapshot for the revision."""

    def __init__(self, repo: Repo, revision: str, reason: str = "") -> None:
        self.repo = repo
        self.revision = revision
        reason = reason or f"This mirror does not have this revision of {repo}."
        super().__init__(f"Invalid rev id: {revision}. {reason}")


class EntryNotFoundError(NotFoundError):
    """The revision has no such file, or this mirror does not have the file.

    `known` is true if the mirror knows the whole tree of the commit. Then the response has the
    header `X-Repo-Commit`, and clients write a `.no_exist` marker for the file.
    """

    def __init__(self, repo: Repo, commit_hash: str, path: str, reason: str = "") -> None:
        self.repo = repo
        self.commit_hash = commit_hash
        self.path = path
        self.known = not reason
        super().__init__(f"Entry not found: {path}. {reason}".rstrip(" ."))


class XetHashNotFoundError(NotFoundError):
    """No file of the revision has the xet hash."""

    def __init__(self, repo: Repo, commit_hash: str, xet_hash: str) -> None:
        super().__init__(
            f"No file of {repo} at {commit_hash} in this mirror has the xet hash {xet_hash}. If "
            "upstream has it, ask the mirror's operator to add the file."
        )


class UnavailableError(HubmirrorError):
    """The resource exists, or may exist, but cannot be served now.

    A client may try again after `retry_after` seconds; None if only the operator can mend it.
    `path` is the file or folder on this host that is the cause, for the operator; it is never part
    of a response.
    """

    retry_after: int | None = 30
    path = ""


class BusyError(UnavailableError):
    """The mirror already handles the maximum number of requests of this kind."""

    retry_after = 5

    def __init__(self) -> None:
        super().__init__("This mirror handles too many requests of this kind. Try again later.")


class RevisionIncompleteError(UnavailableError):
    """The revision is incomplete: files are still missing from the folder.

    `brief` is a short text for a table: how much is missing. `corrupt` is true if a file was
    quarantined or has changed. `absent` maps paths to the reason why the file is not served, if
    the reasons differ.
    """

    def __init__(
        self,
        message: str,
        brief: str = "its record is missing or damaged",
        *,
        corrupt: bool = False,
        absent: Mapping[str, str] | None = None,
    ) -> None:
        self.brief = brief
        self.corrupt = corrupt
        self.absent = absent or {}
        super().__init__(message)


class BadGatewayError(UnavailableError):
    """Upstream answers with an error, or with nonsense."""


class GatewayTimeoutError(UnavailableError):
    """Upstream cannot be reached, or does not answer in time."""


class PendingError(UnavailableError):
    """The answer is being prepared. A request waits for it without a thread."""

    patience_s = 0.0
    """For how many seconds a request waits, if its route does not say more."""

    retry_after = 5


class DigestPendingError(PendingError):
    """The digest of a file is still being computed. `remaining` is in bytes."""

    def __init__(self, name: str, remaining: int) -> None:
        self.remaining = remaining
        super().__init__(
            f"The digests of {name} are being computed: {human(remaining)} are left. "
            "Try again in a moment."
        )


class UpstreamPendingError(PendingError):
    """Upstream has been asked, and has not answered yet."""

    patience_s = 60.0

    def __init__(self, name: str) -> None:
        super().__init__(f"Upstream has not answered yet about {name}. Try again in a moment.")


class ListingPendingError(PendingError):
    """Another thread looks at all repositories, and the last listing is too old."""

    def __init__(self) -> None:
        super().__init__(
            "The repositories are being listed. This takes longest after the first start. Try "
            "again in a moment."
        )


class BlobUnreadableError(UnavailableError):
    """A file is in the tree, but its bytes cannot be read or do not match the tree."""

    retry_after = None

    def __init__(self, path: str, cause: str) -> None:
        self.cause = cause
        super().__init__(
            f"{path} cannot be served: {cause}. Ask the mirror's operator to copy or pull it again."
        )


class BlobChangedError(UnavailableError):
    """A file became shorter while it was read. If the response has begun, the connection is closed:
    the server never pads a body."""

    def __init__(self) -> None:
        super().__init__("The file became shorter while it was read. Try again in a moment.")


_ASK = re.compile(r"\b[Aa]sk (?:the mirror's|its) operator to (\w)")


def operator_text(exc: HubmirrorError) -> str:
    """The message for the operator: with the path of its cause, which no client may see, and with
    the next step as the operator's own."""
    text = _ASK.sub(_own_step, str(exc))
    path = exc.path if isinstance(exc, UnavailableError) else ""
    return f"{text} The path is {path}" if path else text


def _own_step(found: re.Match[str]) -> str:
    return found[1].upper() if found[0].startswith("A") else found[1]
