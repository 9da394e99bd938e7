"""A client of the upstream hub: huggingface.co, another hubmirror, or a compatible server.

huggingface_hub provides tokens, transfers and Xet.
"""

from __future__ import annotations

import contextlib
import errno
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx2
import orjson
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, set_client_factory
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, xet_get
from huggingface_hub.utils import (
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
    tqdm,
)
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils._runtime import is_xet_available

from mirror.config.values import hub_url
from mirror.core.errors import (
    CorruptBlobError,
    RequestError,
    UpstreamError,
    UpstreamFailure,
)
from mirror.core.record import MAX_FILE, clean_info, clean_organization
from mirror.core.repo import COMMIT_HASH, Repo, RepoType, check_ref
from mirror.core.tree import RepoFile, check_disjoint, check_file_path, is_etag
from mirror.sync.connection_errors import advice, is_misconfigured, where
from mirror.sync.git_commit import fetch_commit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from huggingface_hub.utils._xet import XetFileData

    from mirror.core.commit import Commit

_MAX_TRIES = 6
_MAX_WAIT_S = 60.0
_MAX_RETRY_AFTER_S = 310.0
"""The longest wait that upstream may request: the rate limit window of huggingface.co is five
minutes."""

_MAX_ANSWER = 64 * 1024 * 1024
_MAX_ANSWER_S = 300.0
_MAX_PAGES = 10_000
_MAX_FILES = 2_000_000
_PERMANENT_STATUSES = (400, 401, 403, 404)

_Result = TypeVar("_Result")


def _client() -> httpx2.Client:
    """huggingface_hub's default client, with timeouts and with a limit on `Retry-After`."""
    client = default_client_factory()
    client.timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "response": [*hooks["response"], _refuse_long_waits]}
    return client


def _refuse_long_waits(answer: httpx2.Response) -> None:
    """Raise UpstreamError for a long `Retry-After`; huggingface_hub's `http_backoff` would sleep
    for the whole time."""
    if answer.status_code in (429, 503) and _requested_wait(answer.headers) > _MAX_RETRY_AFTER_S:
        raise UpstreamError(
            f"{answer.url.host} answers with status {answer.status_code} and requests a wait of "
            f"more than {_MAX_RETRY_AFTER_S:.0f} s. Pull again later."
        )


def _requested_wait(headers: httpx2.Headers) -> float:
    """The seconds that a response asks its client to wait; 0 if it does not ask."""
    try:
        limit = parse_ratelimit_headers(headers)
    except ValueError:  # a number with too many digits
        return float("inf")
    if limit is not None:
        return min(limit.reset_in_seconds, 10**9) + 1.0
    given = headers.get("retry-after", "")
    return float(given[:10]) if given.isascii() and given.isdigit() else 0.0


set_client_factory(_client)


@dataclass(frozen=True, slots=True)
class Head:
    """A resolved revision. `repo` is the requested repository, in upstream's spelling of upper and
    lower case. `renamed_to` is its new name if upstream renamed it, else empty."""

    repo: Repo
    commit_hash: str
    info: Mapping[str, Any]
    renamed_to: str = ""


@dataclass(frozen=True, slots=True)
class Location:
    """The URL of a file's bytes, and the headers to send to it; they have a token only for the
    origin of the hub. `xet` is set if the file can be fetched by Xet, with `xet_headers`."""

    url: str
    headers: dict[str, str]
    xet: XetFileData | None
    xet_headers: dict[str, str]


class Upstream:
    """A hub to pull from.

    All methods block, are thread-safe, retry temporary failures, and raise UpstreamError.
    """

    def __init__(
        self,
        endpoint: str = "",
        *,
        token: str | None = None,
        first_wait: float = 1.0,
        once: bool = False,
        retrying: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        """`endpoint` is a URL; if it is empty, huggingface_hub's (`HF_ENDPOINT`) is used.

        `token` is the token for this hub: empty for no token, None for huggingface_hub's
        (`HF_TOKEN`). `first_wait` is the pause before the first retry, in seconds; each further
        pause is twice as long. With `once`, a request is sent once, and no other
        request is sent to explain a failure. `retrying` is called
        before each pause with the cause and the seconds. Raises ConfigError for an endpoint that is
        not an HTTP URL.
        """
        self.endpoint = hub_url(endpoint or constants.ENDPOINT)
        self._token = False if token == "" else token
        self._login = (
            "log in with `hf auth login` or set HF_TOKEN"
            if token is None
            else "set the token_file of its [[upstream]]"
        )
        self._first_wait = first_wait
        self._once = once
        self._retrying = retrying

    def head(self, repo: Repo, revision: str) -> Head:
        """Resolve a revision, with one request: `/api/{type}s/{repo}/revision/{revision}`."""
        url = f"{self._api(repo)}/revision/{quote(revision, safe='')}"
        info = self._with_retries(repo, revision, lambda: self._get_json(url))
        try:
            found = Repo(repo.repo_type, info["id"])
            is_same = found.key == repo.key
            return Head(
                found if is_same else repo,
                _commit_hash(info["sha"]),
                clean_info(info),
                "" if is_same else str(found),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise UpstreamError(
                f"{self.endpoint} does not answer like a hub: its response for {repo} has no "
                "repo_id or no commit_hash. Check --upstream."
            ) from exc

    def tree(self, head: Head) -> dict[str, RepoFile]:
        """All files of the commit, by path."""
        repo, commit_hash = head.repo, head.commit_hash

        first = f"{self._api(repo)}/tree/{commit_hash}?recursive=true"
        rows = self._with_retries(repo, commit_hash, lambda: self._pages(first))
        try:
            files = [_file(row) for row in rows if row["type"] == "file"]
            check_disjoint(file.path for file in files)
        except (AttributeError, KeyError, TypeError, RequestError, ValueError) as exc:
            raise UpstreamError(f"{self.endpoint} lists invalid files for {repo}: {exc}") from exc
        return {file.path: file for file in files}

    def _pages(self, url: str) -> list[Any]:
        """The rows of all pages of a file list. A next page on another host is refused, so that
        no other host receives the token."""
        rows: list[Any] = []
        seen: set[str] = set()
        while url:
            if not self._is_same_origin(url) or url in seen or len(seen) >= _MAX_PAGES:
                raise UpstreamError(
                    f"{self.endpoint} names {url[:200]!r} as the next page of a file list. This "
                    "URL is on another host, is a page that was already read, or is one page too "
                    "many. Pull from another hub."
                )
            seen.add(url)
            answer = self._get(url)
            page = orjson.loads(answer.content)
            if not isinstance(page, list) or len(rows) + len(page) > _MAX_FILES:
                raise UpstreamError(
                    f"{self.endpoint} sends a file list that is not an array or has more than "
                    f"{_MAX_FILES} files. Pull from another hub."
                )
            rows += page
            url = self._next(url, answer)
        return rows

    def _next(self, url: str, answer: httpx2.Response) -> str:
        given = answer.links.get("next", {}).get("url", "")
        return self._at_endpoint(urljoin(url, given)) if given else ""

    def _at_endpoint(self, url: str) -> str:
        """Replace huggingface.co by this endpoint, since other hubs may pass on its URLs
        (`huggingface_hub.utils._xet.parse_xet_file_data_from_response` does the same)."""
        home = constants.HUGGINGFACE_CO_URL_HOME
        return f"{self.endpoint}/{url.removeprefix(home)}" if url.startswith(home) else url

    def _is_same_origin(self, url: str) -> bool:
        """Whether a URL has the origin of this hub. Only this origin receives the token."""
        return _origin(url) == _origin(self.endpoint)

    def check_access(self, repo: Repo) -> None:
        """Raises UpstreamError if the token may not read the files (`HfApi.auth_check`)."""
        self._with_retries(repo, "main", lambda: self._get(f"{self._api(repo)}/auth-check"))

    def refs(self, repo: Repo) -> dict[str, str]:
        """The branches and tags of a repository: full ref names mapped to commit hashes."""

        def named() -> dict[str, str]:
            found = self._get_json(f"{self._api(repo)}/refs")
            rows = (*found["tags"], *found["branches"], *found.get("converts", ()))
            return {check_ref(row["ref"]): _commit_hash(row["targetCommit"]) for row in rows}

        return self._with_retries(repo, "refs", named)

    def ref_name(self, head: Head, revision: str) -> str | None:
        """The full name of the ref `revision`; None for a commit hash or an unknown ref."""
        if COMMIT_HASH.fullmatch(revision):
            return None
        if revision.startswith("refs/"):
            return check_ref(revision)
        if revision == "main":
            return "refs/heads/main"
        repo = head.repo

        def matching_refs() -> dict[str, str]:
            refs = self._refs(repo)
            rows = (*refs["tags"], *refs["branches"])
            return {row["name"]: check_ref(row["ref"]) for row in rows if row["name"] == revision}

        return self._with_retries(repo, revision, matching_refs).get(revision)

    def branches(self, repo: Repo) -> list[str]:
        """The names of the branches of a repository."""
        return self._with_retries(
            repo, "main", lambda: [str(row["name"]) for row in self._refs(repo)["branches"]]
        )

    def publisher(self, repo: Repo) -> dict[str, Any]:
        """What upstream says about the organization of a kernel, because clients load kernels only
        from publishers that the hub trusts. Empty for other types, and for the kernel of a user."""
        if repo.repo_type is not RepoType.KERNEL or not repo.author:
            return {}
        url = f"{self.endpoint}/api/organizations/{repo.author}/overview"

        def overview() -> dict[str, Any]:
            try:
                return clean_organization(self._get_json(url))
            except HfHubHTTPError as exc:
                if exc.response.status_code == 404:
                    return {}
                raise

        return self._with_retries(repo, "main", overview)

    def commit(self, head: Head, files: Mapping[str, RepoFile]) -> Commit | None:
        """The commit object of a revision, if this hub offers git and the object proves the
        files."""
        bearer = build_hf_headers(token=self._token).get("authorization", "")
        url = f"{self.endpoint}/{head.repo}"
        return fetch_commit(url, head.commit_hash, files, bearer.removeprefix("Bearer "))

    def fetch(
        self, head: Head, file: RepoFile, staging: Path, advanced: Callable[[int], None]
    ) -> Path:
        """Download a file to `staging/<etag>` and return this path.

        The etag is from the file list; no response header becomes a path. `advanced` receives
        counts of bytes; a negative count before a retry. Raises CorruptBlobError if upstream sends
        more than `file.size` bytes.
        """
        received = 0
        target, done = self.incomplete_path(file, staging), staging / file.etag
        if done.is_file() and not done.is_symlink() and done.stat().st_size == file.size:
            return done  # a pull was killed after the download and before the digest check

        class Bar(tqdm):
            """Reports the count of bytes to `advanced`, and displays nothing."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

            def update(self, n: float | None = 1) -> None:
                nonlocal received
                received += int(n or 0)
                if received > file.size:
                    raise CorruptBlobError(file.path, f"it is longer than its {file.size} bytes")
                advanced(int(n or 0))

            def update_transfer(self, n: float) -> None:
                """Ignore the bytes of the network; `update` counts the bytes of the file."""

            def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
                """Ignore the rate of the network."""

        def download() -> None:
            nonlocal received
            advanced(-received)
            received = 0
            target.unlink(missing_ok=True)
            self._download(head, file, target, Bar)

        staging.mkdir(parents=True, exist_ok=True)
        self._with_retries(head.repo, head.commit_hash, download)
        target.replace(done)
        return done

    @staticmethod
    def incomplete_path(file: RepoFile, staging: Path) -> Path:
        """The path to which `fetch` writes. Each try creates a new file."""
        return staging / f"{file.etag}.incomplete"

    def locate(self, head: Head, file: RepoFile) -> Location:
        """Where the bytes of a file are, with one HEAD. Raises UpstreamError if upstream names
        another size, and the client's own errors, which `error_of` describes."""
        repo = head.repo
        url = hf_hub_url(
            repo.repo_id,
            file.path,
            repo_type=repo.repo_type,
            revision=head.commit_hash,
            endpoint=self.endpoint,
        )
        headers = self._headers()
        found = get_hf_file_metadata(
            url, token=self._token, headers=headers, endpoint=self.endpoint
        )
        if found.size not in (None, file.size):
            raise UpstreamError(
                f"{self.endpoint} lists {file.path} of {repo} with {file.size} bytes, but sends "
                f"{found.size} bytes. The file was not fetched. Pull from another hub, or contact "
                "the operator of this hub."
            )
        xet = found.xet_file_data
        if xet is not None and not (is_xet_available() and self._is_same_origin(xet.refresh_route)):
            xet = None
        open_headers = {name: headers[name] for name in headers if name != "authorization"}
        is_own = self._is_same_origin(found.location)
        return Location(found.location, headers if is_own else open_headers, xet, headers)

    def _download(self, head: Head, file: RepoFile, target: Path, bar: type[tqdm]) -> None:
        """One try, like `huggingface_hub.file_download._download_to_tmp_and_move`."""
        found = self.locate(head, file)
        options: dict[str, Any] = {
            "expected_size": file.size, "displayed_filename": file.path, "tqdm_class": bar,
        }  # fmt: skip
        with target.open("xb") as writer:
            if found.xet is not None:
                xet_get(
                    incomplete_path=target,
                    xet_file_data=found.xet,
                    headers=found.xet_headers,
                    **options,
                )
            else:
                http_get(found.url, writer, headers=found.headers, **options)

    def identities(self) -> set[str]:
        """The names of the caches that upstream serves; empty if it is not a hubmirror."""
        try:
            return set(self._get_json(f"{self.endpoint}/-/identity")["caches"])
        except (httpx2.HTTPError, UpstreamError, OfflineModeIsEnabled, ValueError, KeyError,
                TypeError):  # fmt: skip
            return set()

    def _headers(self) -> dict[str, str]:
        return build_hf_headers(token=self._token)

    def _api(self, repo: Repo) -> str:
        return f"{self.endpoint}/api/{repo.repo_type.plural}/{repo.repo_id}"

    def _refs(self, repo: Repo) -> Any:
        return self._get_json(f"{self._api(repo)}/refs")

    def _get(self, url: str) -> httpx2.Response:
        """A GET with its whole body: at most `_MAX_ANSWER` bytes within `_MAX_ANSWER_S` seconds."""
        limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=self._headers(), timeout=limit) as answer:
            body = self._read(answer)
        received = httpx2.Headers(answer.headers)
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            received.pop(name, None)  # the body is decoded
        response = httpx2.Response(
            answer.status_code, headers=received, content=body, request=answer.request
        )
        hf_raise_for_status(response)
        return response

    def _get_json(self, url: str) -> Any:
        return orjson.loads(self._get(url).content)

    def _read(self, answer: httpx2.Response) -> bytes:
        body, deadline = bytearray(), time.monotonic() + _MAX_ANSWER_S
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > _MAX_ANSWER or time.monotonic() > deadline:
                raise UpstreamError(
                    f"{self.endpoint} sends a response of more than {_MAX_ANSWER} bytes or for "
                    f"more than {_MAX_ANSWER_S:.0f} s. Pull from another hub."
                )
        return bytes(body)

    def _with_retries(self, repo: Repo, revision: str, request: Callable[[], _Result]) -> _Result:
        """The result of `request`, which is retried while upstream is busy or fails."""
        wait = self._first_wait
        for tries_left in reversed(range(1 if self._once else _MAX_TRIES)):
            try:
                return request()
            except (UpstreamError, CorruptBlobError):
                raise
            except Exception as exc:  # hf_xet raises RuntimeError, the client for example OSError
                if not tries_left or not is_temporary(exc):
                    raise self.error_of(repo, revision, exc) from exc
                pause = max(_retry_after(exc), wait * random.uniform(0.75, 1.25))  # noqa: S311
                self._retrying(f"{repo}: {_summary(exc)}", pause)
                time.sleep(pause)
                wait = min(2 * wait, _MAX_WAIT_S)
        raise AssertionError

    def _absence(self, repo: Repo) -> str:
        if not self._once and (other := self._other_type(repo)):
            return f"{repo} is not on {self.endpoint}, but {other} is. Pull {other}."
        return (
            f"{repo} is not on {self.endpoint}, or it is private. Check the spelling, or "
            f"{self._login}."
        )

    def _other_type(self, repo: Repo) -> Repo | None:
        """A repository of the same name and another type; None if the hub has none."""
        for repo_type in RepoType:
            other = Repo(repo_type, repo.repo_id)
            with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError, UpstreamError, ValueError):
                if other != repo and self._get_json(self._api(other)):
                    return other
        return None

    def error_of(self, repo: Repo, revision: str, exc: BaseException) -> UpstreamError:
        """The error for an exception of the client, with a message for the operator."""
        text = self._message(repo, revision, exc)
        return UpstreamError(text, _failure(exc), _retry_after(exc))

    def _message(self, repo: Repo, revision: str, exc: BaseException) -> str:
        if isinstance(exc, GatedRepoError):
            text = (
                f"{repo} is gated. Ask for access at {self.endpoint}/{repo}, {self._login}, and "
                "pull again."
            )
        elif isinstance(exc, RepositoryNotFoundError):
            text = self._absence(repo)
        elif isinstance(exc, HfHubHTTPError) and exc.response.status_code in (401, 403):
            text = (
                f"{self.endpoint} refuses the token or access to {repo}. Correct the token "
                f"({self._login}), and pull again."
            )
        elif isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
            text = f"{repo} cannot be written: {exc.strerror}. Free space and pull again."
        elif isinstance(exc, RevisionNotFoundError):
            text = f"{repo} has no revision {revision} on {self.endpoint}. Check the spelling."
        elif isinstance(exc, EntryNotFoundError):
            text = (
                f"{repo} at {revision}: {self.endpoint} lists a file that it does not have. "
                "Pull from another hub, or contact the operator of this hub."
            )
        elif isinstance(exc, OfflineModeIsEnabled):
            text = "HF_HUB_OFFLINE is set. Unset it to pull."
        else:
            text = f"{repo} at {revision} cannot be pulled from {self.endpoint}: {_summary(exc)}."
            text = f"{text} {advice(exc)}".rstrip()
        return text


def _failure(exc: BaseException) -> UpstreamFailure:
    status = exc.response.status_code if isinstance(exc, HfHubHTTPError) else 0
    if isinstance(exc, GatedRepoError) or status == 403:
        return UpstreamFailure.REFUSED
    if isinstance(exc, RepositoryNotFoundError):  # also 401 without a message of the hub
        return UpstreamFailure.NO_REPOSITORY
    if isinstance(exc, RevisionNotFoundError):
        return UpstreamFailure.NO_REVISION
    if status == 401:
        return UpstreamFailure.REFUSED
    if status == 429:
        return UpstreamFailure.BUSY
    if isinstance(exc, httpx2.TimeoutException):
        return UpstreamFailure.TIMEOUT
    return UpstreamFailure.FAILED


_PERMANENT_ERRNOS = (errno.EACCES, errno.ENOSPC, errno.EROFS)


def is_temporary(exc: BaseException) -> bool:
    """Whether a retry may succeed."""
    if isinstance(exc, HfHubHTTPError):
        return exc.response.status_code not in _PERMANENT_STATUSES
    if isinstance(exc, OfflineModeIsEnabled | ValueError | TypeError | KeyError):
        return False
    if is_misconfigured(exc):
        return False
    return not (isinstance(exc, OSError) and exc.errno in _PERMANENT_ERRNOS)


def _retry_after(exc: BaseException) -> float:
    if not isinstance(exc, HfHubHTTPError):
        return 0.0
    limit = _MAX_RETRY_AFTER_S if exc.response.status_code == 429 else _MAX_WAIT_S
    return min(_requested_wait(exc.response.headers), limit)


def _summary(exc: BaseException) -> str:
    if isinstance(exc, HfHubHTTPError):
        return f"status {exc.response.status_code}"
    if isinstance(exc, UnicodeEncodeError):
        return "the token contains an invalid character"
    text = str(exc).strip().partition("\n")[0].rstrip(".") or type(exc).__name__
    host = where(exc)
    return f"{host} cannot be reached: {text}" if host else text


def _commit_hash(text: str) -> str:
    if not COMMIT_HASH.fullmatch(text):
        raise ValueError(text)
    return text


def _file(row: Mapping[str, Any]) -> RepoFile:
    """A row of `/tree` (huggingface_hub `RepoFile`). Raises RequestError for an invalid path,
    ValueError for an invalid digest or size, and KeyError or TypeError for a malformed row."""
    path, size, blob_id = check_file_path(row["path"]), row["size"], row["oid"]
    lfs = row.get("lfs")
    sha256 = lfs["oid"] if lfs else None
    if not is_etag(blob_id) or len(blob_id) != 40 or not (sha256 is None or _is_sha256(sha256)):
        raise ValueError(f"{path} has an invalid digest.")
    if type(size) is not int or not 0 <= size <= MAX_FILE:
        raise ValueError(f"{path} has the invalid size {size!r}.")
    xet_hash = row.get("xetHash")
    return RepoFile(path, size, blob_id, sha256, xet_hash if _is_sha256(xet_hash) else None)


def _is_sha256(text: Any) -> bool:
    return is_etag(text) and len(text) == 64


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port. An invalid URL is its own origin."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ("", url, None)
    return (parts.scheme, (parts.hostname or "").lower(), port)


def is_same_host(url: str, other: str) -> bool:
    """Whether two URLs name the same host, with any scheme and port."""
    return _origin(url)[1] == _origin(other)[1]
