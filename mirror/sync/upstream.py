"""The hub that is pulled from: the real one, or any that speaks its language.

The one module that imports huggingface_hub, which brings tokens, transfers and Xet.
"""

from __future__ import annotations

import errno
import random
import re
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

from mirror.core.errors import ConfigError, CorruptBlobError, RequestError, UpstreamError
from mirror.core.record import MAX_FILE, clean_info
from mirror.core.repo import COMMIT_HASH, Repo, check_ref
from mirror.core.tree import RepoFile, check_disjoint, check_file_path, is_etag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_TRIES = 6
_MAX_WAIT_S = 60.0
_MAX_WINDOW_S = 310.0
"""The longest wait that an upstream may ask for: the real hub counts requests for five minutes."""

_MAX_ANSWER = 64 * 1024 * 1024
_MAX_ANSWER_S = 300.0
_MAX_PAGES = 10_000
_MAX_FILES = 2_000_000
_WRONG = (400, 401, 403, 404)

_Answer = TypeVar("_Answer")


def _client() -> httpx2.Client:
    """huggingface_hub's own client, with time-outs, and with a bound on the waits that it obeys."""
    client = default_client_factory()
    client.timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "response": [*hooks["response"], _refuse_long_waits]}
    return client


def _refuse_long_waits(answer: httpx2.Response) -> None:
    """huggingface_hub sleeps for as long as an answer says (`http_backoff`)."""
    if answer.status_code in (429, 503) and _wait_asked(answer.headers) > _MAX_WINDOW_S:
        raise UpstreamError(
            f"{answer.url.host} answers {answer.status_code}, and asks to wait for longer than "
            f"{_MAX_WINDOW_S:.0f} s. Pull again later."
        )


def _wait_asked(headers: httpx2.Headers) -> float:
    """The seconds that an answer asks its client to wait; 0 where it asks for none."""
    try:
        limit = parse_ratelimit_headers(headers)
    except ValueError:  # digits without end
        return float("inf")
    if limit is not None:
        return min(limit.reset_in_seconds, 10**9) + 1.0
    given = headers.get("retry-after", "")
    return float(given[:10]) if given.isascii() and given.isdigit() else 0.0


set_client_factory(_client)


@dataclass(frozen=True, slots=True)
class Head:
    """What a revision of a repository is, upstream: its id, its commit, and its info. `repo` is the
    one that was asked for, in upstream's case; `renamed_to` is its id where that is another."""

    repo: Repo
    commit_hash: str
    info: Mapping[str, Any]
    renamed_to: str = ""


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
        url = f"{self._api(repo)}/revision/{quote(revision, safe='')}"
        info = self._ask(repo, revision, lambda: self._get_json(url))
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
                f"{self.endpoint} does not answer as a hub does: its info of {repo} has no id "
                "or no commit hash."
            ) from exc

    def tree(self, head: Head) -> dict[str, RepoFile]:
        """All files of the commit, by path."""
        repo, commit_hash = head.repo, head.commit_hash

        first = f"{self._api(repo)}/tree/{commit_hash}?recursive=true"
        rows = self._ask(repo, commit_hash, lambda: self._pages(first))
        try:
            files = [_file(row) for row in rows if row["type"] == "file"]
            check_disjoint(file.path for file in files)
        except (AttributeError, KeyError, TypeError, RequestError, ValueError) as exc:
            raise UpstreamError(
                f"{self.endpoint} lists files of {repo} that no repository can have: {exc}"
            ) from exc
        return {file.path: file for file in files}

    def _pages(self, url: str) -> list[Any]:
        """The rows of all pages of a listing. The token goes to no other host, whatever a page
        names as the next one."""
        rows: list[Any] = []
        seen: set[str] = set()
        while url:
            if not self._is_ours(url) or url in seen or len(seen) >= _MAX_PAGES:
                raise UpstreamError(
                    f"{self.endpoint} names {url[:200]!r} as the next page of a listing, which is "
                    "another host's, or one that was read. Pull from another hub."
                )
            seen.add(url)
            answer = self._get(url)
            page = orjson.loads(answer.content)
            if not isinstance(page, list) or len(rows) + len(page) > _MAX_FILES:
                raise UpstreamError(
                    f"{self.endpoint} lists something other than at most {_MAX_FILES} files."
                )
            rows += page
            url = self._next(url, answer)
        return rows

    def _next(self, url: str, answer: httpx2.Response) -> str:
        given = answer.links.get("next", {}).get("url", "")
        return self._at_endpoint(urljoin(url, given)) if given else ""

    def _at_endpoint(self, url: str) -> str:
        """A URL of the real hub, as other hubs hand it on, at this one
        (`huggingface_hub.utils._xet.parse_xet_file_data_from_response` does the same)."""
        home = constants.HUGGINGFACE_CO_URL_HOME
        return f"{self.endpoint}/{url.removeprefix(home)}" if url.startswith(home) else url

    def _is_ours(self, url: str) -> bool:
        """Whether a URL has the origin of this hub, to which alone the token goes."""
        return _origin(url) == _origin(self.endpoint)

    def ref_name(self, head: Head, revision: str) -> str | None:
        """The full name of a ref that means the commit; None for a commit hash."""
        if COMMIT_HASH.fullmatch(revision):
            return None
        if revision.startswith("refs/"):
            return check_ref(revision)
        if revision == "main":
            return "refs/heads/main"
        repo = head.repo

        def named() -> dict[str, str]:
            refs = self._get_json(f"{self._api(repo)}/refs")
            rows = (*refs["tags"], *refs["branches"])
            return {one["name"]: check_ref(one["ref"]) for one in rows if one["name"] == revision}

        return self._ask(repo, revision, named).get(revision)

    def fetch(
        self, head: Head, file: RepoFile, staging: Path, advanced: Callable[[int], None]
    ) -> Path:
        """Download a file into the folder `staging`; where its bytes are then.

        The file there is named by the digest that the tree has; no header of an answer becomes a
        path. Raises CorruptBlobError where upstream has another size for it.
        """
        came = 0
        target, done = self.under_way(file, staging), staging / file.etag
        if done.is_file() and not done.is_symlink() and done.stat().st_size == file.size:
            return done  # by a pull that was killed before it proved the file

        class Bar(tqdm):
            """Tells how many bytes came, and shows nothing."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

            def update(self, n: float | None = 1) -> None:
                nonlocal came
                came += int(n or 0)
                if came > file.size:
                    raise CorruptBlobError(file.path, f"it is longer than its {file.size} bytes")
                advanced(int(n or 0))

            def update_transfer(self, n: float) -> None:
                """Bytes on the wire; `update` counts those in the file."""

            def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
                """The rate on the wire."""

        def download() -> None:
            nonlocal came
            advanced(-came)
            came = 0
            target.unlink(missing_ok=True)
            self._download(head, file, target, Bar)

        staging.mkdir(parents=True, exist_ok=True)
        self._ask(head.repo, head.commit_hash, download)
        target.replace(done)
        return done

    @staticmethod
    def under_way(file: RepoFile, staging: Path) -> Path:
        """What `fetch` writes into; a new file for each try."""
        return staging / f"{file.etag}.incomplete"

    def _download(self, head: Head, file: RepoFile, target: Path, bar: type[tqdm]) -> None:
        """One try, as `huggingface_hub.file_download._download_to_tmp_and_move` makes it."""
        repo = head.repo
        url = hf_hub_url(
            repo.repo_id,
            file.path,
            repo_type=repo.repo_type,
            revision=head.commit_hash,
            endpoint=self.endpoint,
        )
        headers = build_hf_headers()
        found = get_hf_file_metadata(url, headers=headers, endpoint=self.endpoint)
        if found.size not in (None, file.size):
            raise UpstreamError(
                f"{self.endpoint} lists {file.path} of {repo} with {file.size} bytes, and offers "
                f"{found.size} bytes. Nothing of it was fetched. Pull from another hub, or tell "
                "the operator of that one."
            )
        known: dict[str, Any] = {
            "expected_size": file.size, "displayed_filename": file.path, "tqdm_class": bar,
        }  # fmt: skip
        xet = found.xet_file_data
        with target.open("xb") as opened:
            if xet is not None and is_xet_available() and self._is_ours(xet.refresh_route):
                xet_get(incomplete_path=target, xet_file_data=xet, headers=headers, **known)
                return
            if not self._is_ours(found.location):
                headers.pop("authorization", None)
            http_get(found.location, opened, headers=headers, **known)

    def identities(self) -> set[str]:
        """The names of the caches that upstream serves, where it is a hubmirror."""
        try:
            return set(self._get_json(f"{self.endpoint}/-/identity")["caches"])
        except (httpx2.HTTPError, UpstreamError, OfflineModeIsEnabled, ValueError, KeyError,
                TypeError):  # fmt: skip
            return set()

    def _api(self, repo: Repo) -> str:
        return f"{self.endpoint}/api/{repo.repo_type.plural}/{repo.repo_id}"

    def _get(self, url: str) -> httpx2.Response:
        """A small answer, whole: at most `_MAX_ANSWER` bytes, within `_MAX_ANSWER_S` seconds."""
        limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=build_hf_headers(), timeout=limit) as answer:
            body = self._read(answer)
        plain = httpx2.Headers(answer.headers)
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            plain.pop(name, None)
        whole = httpx2.Response(
            answer.status_code, headers=plain, content=body, request=answer.request
        )
        hf_raise_for_status(whole)
        return whole

    def _get_json(self, url: str) -> Any:
        return orjson.loads(self._get(url).content)

    def _read(self, answer: httpx2.Response) -> bytes:
        body, deadline = bytearray(), time.monotonic() + _MAX_ANSWER_S
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > _MAX_ANSWER or time.monotonic() > deadline:
                raise UpstreamError(
                    f"{self.endpoint} sends an answer without end: more than {_MAX_ANSWER} bytes, "
                    f"or for more than {_MAX_ANSWER_S:.0f} s. Pull from another hub."
                )
        return bytes(body)

    def _ask(self, repo: Repo, revision: str, question: Callable[[], _Answer]) -> _Answer:
        """The answer, after several tries where upstream is busy or fails."""
        wait = self._first_wait
        for left in reversed(range(_TRIES)):
            try:
                return question()
            except (UpstreamError, CorruptBlobError):
                raise
            except Exception as exc:  # hf_xet raises RuntimeError, the client OSError and others
                if not left or not _may_pass(exc):
                    raise self._error(repo, revision, exc) from exc
                pause = max(_retry_after(exc), wait * random.uniform(0.75, 1.25))  # noqa: S311
                self._retrying(f"{repo}: {_brief(exc)}", pause)
                time.sleep(pause)
                wait = min(2 * wait, _MAX_WAIT_S)
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
    limit = _MAX_WINDOW_S if exc.response.status_code == 429 else _MAX_WAIT_S
    return min(_wait_asked(exc.response.headers), limit)


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
    """A row of `/tree` (huggingface_hub `RepoFile`). Raises RequestError for a path, and
    ValueError for a digest or a size, that no file has; KeyError or TypeError for another form."""
    path, size, blob_id = check_file_path(row["path"]), row["size"], row["oid"]
    lfs = row.get("lfs")
    sha256 = lfs["oid"] if lfs else None
    if not is_etag(blob_id) or len(blob_id) != 40 or not (sha256 is None or _is_sha256(sha256)):
        raise ValueError(f"{path} has a digest that is none.")
    if type(size) is not int or not 0 <= size <= MAX_FILE:
        raise ValueError(f"{path} has the size {size!r}.")
    xet_hash = row.get("xetHash")
    return RepoFile(path, size, blob_id, sha256, xet_hash if _is_sha256(xet_hash) else None)


def _is_sha256(text: Any) -> bool:
    return is_etag(text) and len(text) == 64


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port. A URL that has none has an origin of its own."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ("", url, None)
    return (parts.scheme, (parts.hostname or "").lower(), port)
