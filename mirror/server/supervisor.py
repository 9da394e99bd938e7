"""Several worker processes on one listening socket.

This is uvicorn's supervisor, but for three things: a rolling restart does not wait for the
downloads of the workers that it retires, a stop does not wait for ever, and workers stop when their
supervisor was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from typing import TYPE_CHECKING

from uvicorn.supervisors.multiprocess import Multiprocess, Process

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import uvicorn

log = logging.getLogger("hubmirror")


class Supervisor(Multiprocess):
    """Starts `config.workers` processes, and replaces those that die.

    SIGHUP brings up a new worker for each old one, which then finishes what it is sending. SIGTERM
    and SIGINT stop all; what is not finished after `grace` seconds is cut. `others` are listeners
    that the application itself has: a stop closes them as well.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        *others: socket.socket,
        grace: float,
    ) -> None:
        super().__init__(config, [listener])
        self._listeners = (listener, *others)
        self._grace = grace
        self._retiring: list[Process] = []

    def handle_signals(self) -> None:
        """Obey a stop before all else, and any number of SIGHUP by one restart."""
        count = len(self.signal_queue)  # more may come at any time
        came = dict.fromkeys(self.signal_queue[:count])
        del self.signal_queue[:count]
        if came.keys() & {signal.SIGTERM, signal.SIGINT}:
            self.should_exit.set()
            return
        self.signal_queue.extend(came)
        super().handle_signals()

    def restart_all(self) -> None:
        for index, old in enumerate(self.processes):
            new = Process(self.config, self.sockets)
            new.start()
            if not new.wait_until_ready(self.config.timeout_worker_healthcheck, self.should_exit):
                new.kill()
                new.join()
                log.error("A new worker did not start; the old ones go on.")
                return
            old.terminate()
            self._retiring.append(old)
            self.processes[index] = new

    def keep_subprocess_alive(self) -> None:
        self._retiring = [one for one in self._retiring if one.process.is_alive()]
        super().keep_subprocess_alive()

    def join_all(self) -> None:
        for listener in self._listeners:
            listener.close()
        deadline = time.monotonic() + self._grace
        for one in [*self.processes, *self._retiring]:
            one.process.join(max(0.0, deadline - time.monotonic()))
            if one.process.is_alive():
                one.process.kill()
                one.process.join()


class ParentWatch:
    """Stops this worker when its supervisor is gone, in the same way as SIGTERM does; what is not
    finished after `grace` seconds is cut.

    `folders` are the temporary folders of the supervisor. When it is gone, the last worker that
    stops removes them: each worker holds a shared lock on the first of them until then.
    """

    def __init__(self, folders: Sequence[Path], grace: float) -> None:
        self._folders = folders
        self._grace = grace
        self._parent = multiprocessing.parent_process()
        self._lock = _lock_shared(folders[0]) if folders else None
        if self._parent is not None:
            join = self._parent.join
            threading.Thread(target=self._watch, args=(join,), daemon=True).start()

    def close(self) -> None:
        """The worker is about to end."""
        if self._parent is not None and not self._parent.is_alive() and self._is_last():
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _watch(self, wait_for_parent: Callable[[], None]) -> None:
        wait_for_parent()
        log.error("The supervisor was killed; this worker stops.")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace)
        self.close()
        os._exit(1)

    def _is_last(self) -> bool:
        if self._lock is None:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def _lock_shared(folder: Path) -> int | None:
    """A descriptor of the folder that holds a shared lock; None where the folder is gone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor
    return None
