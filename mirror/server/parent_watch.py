"""Stops a worker after its supervisor was killed."""

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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = logging.getLogger("hubmirror")


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
        # Until the server handles the signal, it would end the process before `close` is called.
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
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
