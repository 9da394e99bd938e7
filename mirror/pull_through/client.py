"""A server process's side of the filler: it asks without blocking a thread of a request."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

from mirror.core.errors import BlobUnreadableError, UpstreamFailure, UpstreamPendingError
from mirror.pull_through.kept import Kept
from mirror.pull_through.wire import Commit, Failure, socket_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirror.pull_through.wire import Question

_MAX_QUESTIONS = 32
_ANSWER_TIMEOUT_S = 65.0
_CONNECT_TIMEOUT_S = 10.0
"""How long a question waits for a filler: another one takes over within a second."""

_RETRY_S = 0.1
_FILL_VALID_S = 1.0
"""A reader who waits for bytes says so again after this time."""

_ACCESS_S = 60.0
_BUSY_S = 1.0


class FillerClient:
    """Questions to the filler of a managed cache. Every answer is kept for as long as the filler
    says; the methods return at once, or raise UpstreamPendingError while there is no answer."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._answers: Kept[Mapping[str, Any]] = Kept("filler-questions", _MAX_QUESTIONS)
        self._lock = threading.Lock()
        self._http: httpx2.Client | None = None

    def resolve(self, question: Question) -> Commit:
        """The commit of a revision. Raises the errors of `Failure.error`."""
        found = self._answer("/resolve", question, lambda body: float(body["valid_s"]))
        return Commit(**found)

    def refs(self, question: Question) -> dict[str, str]:
        """The refs that upstream has. Raises the errors of `Failure.error`."""
        found: dict[str, str] = self._answer("/refs", question, lambda _: _ACCESS_S)["refs"]
        return found

    def check_access(self, question: Question) -> None:
        """Raises the errors of `Failure.error` if upstream does not let the token in."""
        self._answer("/access", question, lambda _: _ACCESS_S)

    def fill(self, question: Question, block: int) -> None:
        """Request a byte of a file that is not here. Raises BlobUnreadableError if upstream does
        not give the file, and never UpstreamPendingError."""
        key = ("/fill", question.repo.key, question.revision, question.path, block)
        found = self._answers.find(key)
        if found is None:
            self._answers.start(key, lambda: (self._post("/fill", question), _FILL_VALID_S))
        elif "failure" in found:
            raise BlobUnreadableError(question.path, str(found["message"]).rstrip("."))

    def close(self) -> None:
        self._answers.close()

    def _answer(
        self, path: str, question: Question, valid_s: Callable[[Mapping[str, Any]], float]
    ) -> Mapping[str, Any]:
        key = (path, question.repo.key, question.revision, question.token)
        found = self._answers.find(key)
        if found is None:

            def compute() -> tuple[Mapping[str, Any], float]:
                body = self._post(path, question)
                # An answer that must not be kept serves the requests that wait for it now.
                least = _BUSY_S if "failure" in body else 0.0
                keep_s = float(body["valid_s"]) if "failure" in body else valid_s(body)
                return body, max(least, keep_s)

            self._answers.start(key, compute)
            raise UpstreamPendingError(str(question.repo))
        if "failure" in found:
            raise _failure(found).error(question.repo, question.revision)
        return found

    def _post(self, path: str, question: Question) -> Mapping[str, Any]:
        """The answer of the filler; a Failure if no filler answers."""
        deadline = time.monotonic() + _CONNECT_TIMEOUT_S
        while True:
            try:
                answer = self._client().post(path, content=orjson.dumps(question.render()))
                if answer.status_code == 200:
                    found: dict[str, Any] = orjson.loads(answer.content)
                    return found
                cause = f"status {answer.status_code}"
            except (httpx2.HTTPError, OSError, orjson.JSONDecodeError) as exc:
                cause = type(exc).__name__
                self._reset()
            if time.monotonic() > deadline:
                return Failure(
                    UpstreamFailure.TIMEOUT,
                    f"The process of this mirror that asks upstream does not answer ({cause}). "
                    "Try again in a moment.",
                ).render()
            time.sleep(_RETRY_S)

    def _client(self) -> httpx2.Client:
        with self._lock:
            if self._http is None:
                path = str(socket_path(self._work_dir))
                if len(os.fsencode(path)) > 100:  # the kernel's limit is 108 bytes
                    folder = os.open(self._work_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    path = f"/proc/self/fd/{folder}/{Path(path).name}"
                self._http = httpx2.Client(
                    transport=httpx2.HTTPTransport(uds=path),
                    base_url="http://filler",
                    timeout=httpx2.Timeout(_ANSWER_TIMEOUT_S, connect=2.0),
                )
            return self._http

    def _reset(self) -> None:
        """Connect again at the next question: another filler may have taken over."""
        with self._lock:
            client, self._http = self._http, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()


def _failure(found: Mapping[str, Any]) -> Failure:
    return Failure(**found)
