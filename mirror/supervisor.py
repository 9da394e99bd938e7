"""Several worker processes on one listening socket.

This is uvicorn's supervisor, but for two things: a rolling restart does not wait for the downloads
of the workers that it retires, and a stop does not wait for ever.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from uvicorn.supervisors.multiprocess import Multiprocess, Process

if TYPE_CHECKING:
    import socket

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
