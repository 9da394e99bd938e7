"""What can go wrong, as one tree. `web/errors.py` holds the one table that turns it into HTTP.

    HubmirrorError
    ├── ConfigError                      the start is refused
    ├── UpstreamError                    the hub that is pulled from fails
    ├── CarryError                       a copy to or from another place fails
    ├── CorruptBlobError                 bytes that are not what their digest says
    ├── RequestError                     the request itself is malformed
    │   └── SlowRequestError             its body does not come in time
    ├── UnauthorizedError                the mirror's own token is missing or wrong
    ├── ForbiddenError                   a signed URL is forged or has expired
    ├── ReadOnlyError                    somebody tried to upload
    ├── NotOfferedError                  a hub route that a mirror has no answer for
    ├── NotFoundError
    │   ├── RepositoryNotFoundError
    │   ├── RevisionNotFoundError
    │   ├── EntryNotFoundError           `known`: a promise that the commit has no such file
    │   └── XetHashNotFoundError
    └── UnavailableError                 it is there, or may be, and cannot be served now
        ├── BusyError                    others' requests take all that there is
        ├── RevisionIncompleteError      files of the revision are still missing
        ├── DigestPendingError           files are being read for the first time
        ├── BlobUnreadableError          vanished, wrong size, or the disk fails
        └── BlobChangedError             it became shorter while it was read

A "not found" is kept on disk by clients, so only a source that *knows* may raise one; all else
is an `UnavailableError`. Messages name the thing, the cause and the next step, and never a path
of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.core.units import human

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.core.repo import Repo


class HubmirrorError(Exception):
    """Any error that this package raises on purpose."""


class ConfigError(HubmirrorError):
    """The configuration, a flag or a folder that it names is unusable."""


class UpstreamError(HubmirrorError):
    """The hub that is pulled from refuses, fails, or cannot be reached."""


class CarryError(HubmirrorError):
    """A copy to, or from, another place cannot be made: rsync fails, a bundle is damaged."""


class CorruptBlobError(HubmirrorError):
    """A file's bytes are not what its digest says."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path} is corrupt: {cause}.")


class RequestError(HubmirrorError):
    """The request cannot be understood: a path with `..`, a body of the wrong form."""


class SlowRequestError(RequestError):
    """The body of a request did not come in time."""

    def __init__(self) -> None:
        super().__init__("The body of the request did not come in time. Send it again.")


class UnauthorizedError(HubmirrorError):
    """The request lacks the token that this mirror was started with."""


class ForbiddenError(HubmirrorError):
    """The request carries a signature that is wrong or has expired."""


class ReadOnlyError(HubmirrorError):
    """An upload, or any other change, was asked of a read-only mirror."""

    def __init__(self) -> None:
        super().__init__("This server is a read-only mirror; uploads are disabled")


class NotOfferedError(HubmirrorError):
    """A route of the real hub that has no meaning on a mirror, or a thing beside the models that
    is not here."""

    def __init__(self, message: str = "Not available on this mirror.") -> None:
        super().__init__(message)


class NotFoundError(HubmirrorError):
    """Something that the mirror knows not to exist here."""


class RepositoryNotFoundError(NotFoundError):
    """No source holds the repository."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        super().__init__(
            f"{repo} is not in this mirror. Ask its operator to add it, or check the spelling."
        )


class RevisionNotFoundError(NotFoundError):
    """The repository is here, but neither a ref nor a snapshot answers to the revision."""

    def __init__(self, repo: Repo, revision: str, reason: str = "") -> None:
        self.repo = repo
        self.revision = revision
        reason = reason or f"This mirror holds no such revision of {repo}."
        super().__init__(f"Invalid rev id: {revision}. {reason}")


class EntryNotFoundError(NotFoundError):
    """The revision has no such file, or this mirror cannot offer it.

    `known` is true where the commit's whole tree is known: then the answer carries
    `X-Repo-Commit`, and clients write a `.no_exist` marker for it.
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
    """It exists, or may exist, but cannot be served now. `retry_after` is in seconds."""

    retry_after = 30


class BusyError(UnavailableError):
    """Too many requests of this kind are being answered."""

    retry_after = 5

    def __init__(self) -> None:
        super().__init__("This mirror is busy with requests like this one. Try again in a moment.")


class RevisionIncompleteError(UnavailableError):
    """No complete revision answers: files are still missing from the folder.

    `brief` says how much is missing in a few words, for a table; `corrupt` whether some of it was
    set aside, or changed; `absent` why each file is not served, where that differs.
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


class DigestPendingError(UnavailableError):
    """A file's digest is still being computed. Sizes in bytes."""

    retry_after = 5

    def __init__(self, name: str, remaining: int) -> None:
        self.remaining = remaining
        super().__init__(
            f"{name} is being read for the first time, to know its digests: "
            f"{human(remaining)} are left. Try again in a moment."
        )


class BlobUnreadableError(UnavailableError):
    """A file that the tree lists cannot be read as the tree says."""

    def __init__(self, path: str, cause: str) -> None:
        self.cause = cause
        super().__init__(
            f"{path} cannot be served: {cause}. Ask the mirror's operator to copy or pull it again."
        )


class BlobChangedError(UnavailableError):
    """A file became shorter while it was read. Once an answer has begun, its connection is closed:
    nothing is ever padded."""

    def __init__(self) -> None:
        super().__init__("The file became shorter while it was read. Try again in a moment.")
