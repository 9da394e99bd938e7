"""Runs a command on a real terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.waiting import until

_ROOT = Path(__file__).parents[1]


def on_a_terminal(data: Path, *words: str, answer: str = "", after: str = "") -> tuple[int, str]:
    """The exit status of a command on a data folder, and all that it prints. `answer` is typed
    after the command has printed `after`."""
    controller, terminal = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if "HUBMIRROR" not in name}
    process = subprocess.Popen(
        [sys.executable, "-m", "mirror", *words],
        cwd=data.parent,
        env={
            **environment,
            "HUBMIRROR_DATA": str(data),
            "PYTHONPATH": str(_ROOT),
            "COLUMNS": "200",
        },
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    said = bytearray()
    os.set_blocking(controller, False)

    def reads() -> bool:
        """Read what is there; whether the terminal was closed."""
        try:
            said.extend(os.read(controller, 65536))
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    if answer:
        until(lambda: reads() or after.encode() in said, 60)
        os.write(controller, f"{answer}\n".encode())
    until(reads, 60)
    os.close(controller)
    return process.wait(60), said.decode()
