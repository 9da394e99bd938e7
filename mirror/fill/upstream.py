"""The hub that is pulled from: the real one, or any that speaks its language.

The one module that imports huggingface_hub, which brings tokens, transfers and Xet.
"""

from __future__ import annotations

import errno
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile as HubFile
from huggingface_hub.utils import (
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
    tqdm,
)

from mirror.errors import ConfigError, RequestError, UpstreamError
from mirror.repos import COMMIT_HASH, Repo
from mirror.trees import RepoFile, check_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Else blobs would be links into a store that a copy of one repository leaves behind.
constants.HF_HUB_DISABLE_SHARED_BLOBS = True

_TRIES = 6
_LONGEST_WAIT = 60.0
_LONGEST_WINDOW = 310.0  # the real hub counts requests for five minutes
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_WRONG = (400, 401, 403, 404)

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Head:
    """What a revision of a repository is, upstream: its true id, its commit, and its info."""

    repo: Repo
    commit_hash: str
    info: Mapping[str, Any]


def _began(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class Upstream:
    """A hub to pull from; `endpoint` is that of huggingface_hub where it is empty.

    All methods block, may be called from threads, try again where that can help, and raise
    UpstreamError; a URL that is none is a ConfigError. `retrying` is told why and for how many
    seconds one waits.
    """

    def __init__(
        self,
        endpoint: str = "",
        *,
        first_wait: float = 1.0,
        retrying: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        if not re.match(r"https?://[^/]", self.endpoint):
            raise ConfigError(
                f"The upstream {self.endpoint!r} does not begin with http:// or https://."
            )
        self._first_wait = first_wait
        self._retrying = retrying

    def head(self, repo: Repo, revision: str) -> Head:
        """One request: `/api/{type}s/{repo}/revision/{revision}`."""
        quoted = revision.replace("/", "%2F")
        url = f"{self._api(repo)}/revision/{quoted}"
        info = self._ask(repo, revision, lambda: self._get(url).json())
        try:
            return Head(Repo(repo.repo_type, info["id"]), _commit_hash(info["sha"]), info)
        except (KeyError, TypeError, ValueError) as exc:
            raise UpstreamError(
                f"{self.endpoint} does not answer as a hub does: its info of {repo} has no id "
                "or no commit hash."
            ) from exc

    def tree(self, head: Head) -> dict[str, RepoFile]:
        """All files of the commit, by path."""
        repo, commit_hash = head.repo, head.commit_hash

        def listed() -> list[Any]:
            rows: list[Any] = []
            url = f"{self._api(repo)}/tree/{commit_hash}?recursive=true"
            while url:
                answer = self._get(url)
                rows += answer.json()
                url = answer.links.get("next", {}).get("url", "")
            return rows

        rows = self._ask(repo, commit_hash, listed)
        try:
            files = [_file(row) for row in rows if row["type"] == "file"]
        except (KeyError, TypeError, RequestError, ValueError) as exc:
            raise UpstreamError(
                f"{self.endpoint} lists files of {repo} that no repository can have: {exc}"
            ) from exc
        return {file.path: file for file in files}

    def ref_name(self, head: Head, revision: str) -> str | None:
        """The full name of a ref that means the commit; None for a commit hash."""
        if COMMIT_HASH.fullmatch(revision):
            return None
        if revision == "main" or revision.startswith("refs/"):
            return revision if revision.startswith("refs/") else "refs/heads/main"
        repo = head.repo

        def named() -> dict[str, str]:
            refs = self._get(f"{self._api(repo)}/refs").json()
            return {one["name"]: one["ref"] for one in (*refs["tags"], *refs["branches"])}

        return self._ask(repo, revision, named).get(revision)

    def fetch(
        self, head: Head, file: RepoFile, staging: Path, advanced: Callable[[int], None]
    ) -> Path:
        """Download a file into `staging`, a cache of its own; where its bytes are then."""
        came = 0

        class Bar(tqdm):
            """Tells how many bytes came, and shows nothing."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

            def update(self, n: float | None = 1) -> None:
                nonlocal came
                came += int(n or 0)
                advanced(int(n or 0))

            def update_transfer(self, n: float) -> None:
                """Bytes on the wire; `update` counts those in the file."""

            def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
                """The rate on the wire."""

        repo = head.repo

        def download() -> str:
            nonlocal came
            advanced(-came)
            came = 0
            return hf_hub_download(
                repo.repo_id,
                file.path,
                repo_type=repo.repo_type,
                revision=head.commit_hash,
                cache_dir=staging,
                endpoint=self.endpoint,
                tqdm_class=Bar,
            )

        return Path(self._ask(repo, head.commit_hash, download)).resolve()

    @staticmethod
    def under_way(file: RepoFile, repo: Repo, staging: Path) -> Path | None:
        """What `fetch` writes into just now (`huggingface_hub._download_to_tmp_and_move`)."""
        folder = staging / repo.folder_name / "blobs"
        return max(folder.glob(f"{file.etag}*.incomplete"), key=_began, default=None)

    def identities(self) -> set[str]:
        """The names of the caches that upstream serves, where it is a hubmirror."""
        try:
            return set(self._get(f"{self.endpoint}/-/identity").json()["caches"])
        except (httpx2.HTTPError, OfflineModeIsEnabled, ValueError, KeyError, TypeError):
            return set()

    def _api(self, repo: Repo) -> str:
        return f"{self.endpoint}/api/{repo.repo_type.plural}/{repo.repo_id}"

    def _get(self, url: str) -> httpx2.Response:
        """With a limit, since huggingface_hub's own questions wait for ever."""
        limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
        answer = get_session().get(url, headers=build_hf_headers(), timeout=limit)
        hf_raise_for_status(answer)
        return answer

    def _ask(self, repo: Repo, revision: str, question: Callable[[], _Answer]) -> _Answer:
        """The answer, after several tries where upstream is busy or fails."""
        wait = self._first_wait
        for left in reversed(range(_TRIES)):
            try:
                return question()
            except Exception as exc:  # hf_xet raises RuntimeError, the client OSError and others
                cause = _root(exc)
                if not left or not _may_pass(cause):
                    raise self._error(repo, revision, cause) from exc
                pause = max(_retry_after(cause), wait * random.uniform(0.75, 1.25))  # noqa: S311
                self._retrying(f"{repo}: {_brief(cause)}", pause)
                time.sleep(pause)
                wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError

    def _error(self, repo: Repo, revision: str, exc: BaseException) -> UpstreamError:
        if isinstance(exc, GatedRepoError):
            text = (
                f"{repo} is gated: ask for access at {self.endpoint}/{repo}, then log in with "
                "`hf auth login` or set HF_TOKEN, and pull again."
            )
        elif isinstance(exc, RepositoryNotFoundError):
            text = (
                f"{repo} is not on {self.endpoint}, or is private: check the spelling, or log in "
                "with `hf auth login` or HF_TOKEN."
            )
        elif isinstance(exc, HfHubHTTPError) and exc.response.status_code in (401, 403):
            text = (
                f"{self.endpoint} refuses {repo}, or the token: log in with `hf auth login`, or "
                "correct HF_TOKEN, and pull again."
            )
        elif isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
            text = f"{repo} could not be written: {exc.strerror}."
        elif isinstance(exc, RevisionNotFoundError):
            text = f"{repo} has no revision {revision} on {self.endpoint}."
        elif isinstance(exc, EntryNotFoundError):
            text = f"{repo} at {revision}: {self.endpoint} lists a file that it does not have."
        elif isinstance(exc, OfflineModeIsEnabled):
            text = "HF_HUB_OFFLINE is set: unset it to pull."
        else:
            text = f"{repo} at {revision} cannot be pulled from {self.endpoint}: {_brief(exc)}."
        return UpstreamError(text)


_STAYS = (errno.EACCES, errno.ENOSPC, errno.EROFS)


def _root(exc: BaseException) -> BaseException:
    """What is behind the error that `hf_hub_download` makes of a failed HEAD."""
    while isinstance(exc, LocalEntryNotFoundError) and exc.__cause__ is not None:
        exc = exc.__cause__
    return exc


def _may_pass(exc: BaseException) -> bool:
    """Whether another try may succeed."""
    if isinstance(exc, HfHubHTTPError):
        return exc.response.status_code not in _WRONG
    if isinstance(exc, OfflineModeIsEnabled | ValueError | TypeError | KeyError):
        return False
    # A full disk stays full.
    return not (isinstance(exc, OSError) and exc.errno is not None and exc.errno in _STAYS)


def _retry_after(exc: BaseException) -> float:
    if not isinstance(exc, HfHubHTTPError):
        return 0.0
    headers = exc.response.headers
    given, limit = headers.get("retry-after", ""), parse_ratelimit_headers(headers)
    if exc.response.status_code == 429 and limit is not None:
        return min(limit.reset_in_seconds + 1.0, _LONGEST_WINDOW)
    return min(float(given), _LONGEST_WAIT) if given.isdigit() else 0.0


def _brief(exc: BaseException) -> str:
    if isinstance(exc, HfHubHTTPError):
        return f"status {exc.response.status_code}"
    if isinstance(exc, UnicodeEncodeError):
        return "HF_TOKEN holds a character that no token has"
    text = str(exc).strip().partition("\n")[0].rstrip(".")
    return text or type(exc).__name__


def _commit_hash(text: str) -> str:
    if not COMMIT_HASH.fullmatch(text):
        raise ValueError(text)
    return text


def _file(row: Mapping[str, Any]) -> RepoFile:
    """Raises RequestError for a path, and ValueError for a digest, that is none; KeyError or
    TypeError for what no hub tells."""
    entry = HubFile(**row)  # type: ignore[no-untyped-call]
    sha256 = entry.lfs.sha256 if entry.lfs else None
    path = check_path(entry.path)
    if not _SHA1.fullmatch(entry.blob_id) or not (sha256 is None or _SHA256.fullmatch(sha256)):
        raise ValueError(f"{path} has a digest that is none.")
    xet_hash = entry.xet_hash if _SHA256.fullmatch(entry.xet_hash or "") else None
    return RepoFile(path, entry.size, entry.blob_id, sha256, xet_hash)
