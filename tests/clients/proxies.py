"""Proxies on loopback: one loses a connection, one is slow, and one lets nothing out."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

_Passes = Callable[[bytes], bool]
_RANGE = re.compile(rb"^range: *(\S+)\r$", re.IGNORECASE | re.MULTILINE)


@dataclass
class Trap:
    """An HTTP proxy that hangs up. A client that has no other way out asks nobody else."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    """The first line of every request for another host."""

    def unlike(self, known: Sequence[str]) -> list[str]:
        return [line for line in self.asked if not any(one in line for one in known)]


@dataclass
class FileSegments:
    """A way to a server that breaks once, in the answer that passes `after` bytes."""

    after: int
    url: str = ""
    done: bool = False
    ranges: list[str] = field(default_factory=list)
    """The Range headers of the requests after the break."""

    def request(self, body: bytes) -> bool:
        if self.done:
            self.ranges += [one.decode() for one in _RANGE.findall(body)]
        return True

    def answer(self, passed: int) -> bool:
        """Whether an answer that is `passed` bytes long so far may go on."""
        if self.done or passed <= self.after:
            return True
        self.done = True
        return False


@dataclass
class Slow:
    """A way to a server on which all answers together get `rate` bytes a second."""

    rate: int
    url: str = ""
    passed: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: bytes) -> bool:
        with self._turn:
            time.sleep(len(body) / self.rate)
            self.passed += len(body)
        return True


@contextlib.contextmanager
def run_trap() -> Iterator[Trap]:
    trap = Trap()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            trap.asked.append(self.rfile.readline(1000).decode("latin-1").strip())

    with _listening(Handler) as trap.url:
        yield trap


@contextlib.contextmanager
def run_cut(server_url: str, after: int) -> Iterator[FileSegments]:
    cut = FileSegments(after)
    with _forwarding(server_url, cut.request, lambda: _counted(cut)) as cut.url:
        yield cut


@contextlib.contextmanager
def run_slow(server_url: str, rate: int) -> Iterator[Slow]:
    """Also while the server is away: then it hangs up."""
    slow = Slow(rate)
    with _forwarding(server_url, lambda _: True, lambda: slow.answer) as slow.url:
        yield slow


def _counted(cut: FileSegments) -> _Passes:
    passed = 0

    def passes(body: bytes) -> bool:
        nonlocal passed
        passed += len(body)
        return cut.answer(passed)

    return passes


@contextlib.contextmanager
def _forwarding(server_url: str, request: _Passes, answer: Callable[[], _Passes]) -> Iterator[str]:
    """The address of a way to the server; `answer` is called for each connection."""
    host, _, port = server_url.removeprefix("http://").partition(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection((host, int(port))) as server,
            ):
                back = threading.Thread(target=_pump, args=(server, self.request, answer()))
                back.start()
                _pump(self.request, server, request)
                back.join()

    with _listening(Handler) as url:
        yield url


def _pump(source: socket.socket, target: socket.socket, passes: _Passes) -> None:
    """Copy until one side ends or `passes` says no; then close both."""
    with contextlib.suppress(OSError):
        while (body := source.recv(65536)) and passes(body):
            target.sendall(body)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _listening(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
