"""Several worker processes on one listening socket."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import socket
import time
from importlib import import_module
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from mirror.server.hang_up import HangUp
from mirror.server.worker_config import CANNOT_START

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection

log = logging.getLogger("hubmirror")

_CONTEXT = multiprocessing.get_context("spawn")
_START_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.5
_EARLY_S = 5.0
_MAX_FAILURES = 6  # half a minute


def _run_main(
    module: str,
    description: Mapping[str, Any],
    listeners: Sequence[socket.socket],
    ready: Connection,
) -> None:
    """In the new process: run `main` of a module. It sends `b"ready"` when it has started."""
    import_module(module).main(description, listeners, ready)


@contextlib.contextmanager
def signalled() -> Iterator[socket.socket]:
    """A socket that becomes readable when a signal arrives, so that a wait for it ends."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.settimeout(0)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(before)


class Worker:
    """One process, which runs `main` of a module. The modules are imported in the process only."""

    def __init__(
        self, module: str, description: Mapping[str, Any], listeners: Sequence[socket.socket]
    ) -> None:
        self.module = module
        self._parent, child = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(
            target=_run_main, args=(module, dict(description), list(listeners), child)
        )
        self.process.start()
        child.close()
        self.started_at = time.monotonic()
        self.restart_at: float | None = None

    def wait_until_ready(self, supervisor: Supervisor) -> bool:
        """Whether it accepts requests; False if it ended first, took too long, or the supervisor is
        to stop."""
        deadline = self.started_at + _START_TIMEOUT_S
        while time.monotonic() < deadline and not supervisor.is_stopping:
            if self._parent.poll(0.1):
                return self._is_told()
            if not self.process.is_alive():
                return False
        return False

    def _is_told(self) -> bool:
        try:
            return bool(self._parent.recv() == b"ready")
        except EOFError:
            return False

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it, rather than a fault of its own."""
        self.process.join(1)
        return (self.process.exitcode or 0) < 0

    def stop(self) -> None:
        """Ask it to stop: it accepts nothing more, and finishes what it is sending."""
        self.process.terminate()

    def join(self, timeout_s: float) -> None:
        """Wait for its end, and force it after the time-out."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class Supervisor:
    """Starts a process for each of `modules`, and replaces those that die.

    SIGHUP brings up a new worker for each old one, which then finishes what it is sending: several
    that come at once are obeyed by one restart. SIGTERM, SIGINT and a closed terminal come before
    all else and stop all; what is not finished after `grace` seconds is cut.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        listeners: Sequence[socket.socket],
        modules: Sequence[str],
        grace: float,
    ) -> None:
        self._description = description
        self._listeners = listeners
        self._modules = modules
        self._grace = grace
        self._workers: list[Worker] = []
        self._retiring: list[Worker] = []
        self._restart = False
        self._failures = 0
        self.is_stopping = False

    def run(self, started: Callable[[], None] = lambda: None) -> bool:
        """Serve until a signal ends it; whether the workers could be started. `started` is called
        when they accept requests."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        HangUp(self._on_reload, self._on_stop)
        with signalled() as woken:
            return self._run(started, woken)

    def _run(self, started: Callable[[], None], woken: socket.socket) -> bool:
        self._workers = [self._start(module) for module in self._modules]
        is_started = all(one.wait_until_ready(self) or one.was_killed for one in self._workers)
        if not is_started and not self.is_stopping:
            log.error("A worker did not start. Its own message is above.")
        if is_started:
            started()
        while is_started and not self.is_stopping:
            alive = [one for one in (*self._workers, *self._retiring) if one.process.is_alive()]
            if woken in wait([woken, *(one.process.sentinel for one in alive)], _POLL_INTERVAL_S):
                woken.recv(1024)
            if self._restart:
                self._restart = False
                self._replace_all()
            self._replace_dead()
        self._stop_all()
        return is_started or self.is_stopping

    def _on_stop(self, *_: Any) -> None:
        self.is_stopping = True

    def _on_reload(self) -> None:
        self._restart = True

    def _start(self, module: str) -> Worker:
        return Worker(module, self._description, self._listeners)

    def _replace_all(self) -> None:
        for index, old in enumerate(self._workers):
            new = self._start(old.module)
            if not new.wait_until_ready(self):
                new.stop()
                new.join(0)
                if not self.is_stopping:
                    log.error("A new worker did not start; the old ones go on.")
                return
            old.stop()
            self._retiring.append(old)
            self._workers[index] = new

    def _replace_dead(self) -> None:
        """Start a worker for each that died. The more of them die within seconds of their start,
        the longer the next start waits."""
        self._retiring = [one for one in self._retiring if one.process.is_alive()]
        now = time.monotonic()
        for index, old in enumerate(self._workers):
            if self.is_stopping or old.process.is_alive():
                continue
            if old.restart_at is None:
                is_early = now - old.started_at < _EARLY_S or old.process.exitcode == CANNOT_START
                self._failures = min(self._failures + 1, _MAX_FAILURES) if is_early else 0
                old.restart_at = now + (2.0**self._failures - 1) / 2
                if old.process.exitcode != CANNOT_START:
                    log.error("A worker died with exit code %s.", old.process.exitcode)
            if now >= old.restart_at:
                self._workers[index] = self._start(old.module)

    def _stop_all(self) -> None:
        for listener in self._listeners:
            listener.close()
        everyone = [*self._workers, *self._retiring]
        for one in everyone:
            one.stop()
        deadline = time.monotonic() + self._grace
        for one in everyone:
            one.join(max(0.0, deadline - time.monotonic()))
