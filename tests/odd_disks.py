"""File systems that refuse what Linux's own allow: small ones, and such without modes, locks or
links."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
OWN_DISK = ("unshare", "--map-root-user", "--mount", "sh", "-c")

needs_own_disk = pytest.mark.skipif(
    bool(subprocess.run([*OWN_DISK, "true"], check=False, capture_output=True).returncode),
    reason="unshare cannot give a process its own file system on this machine",
)

_SIGNATURES = {
    "flock": "int flock(int fd, int operation)",
    "symlink": "int symlink(const char *target, const char *path)",
    "symlinkat": "int symlinkat(const char *target, int folder, const char *path)",
    "link": "int link(const char *from, const char *to)",
    "linkat": "int linkat(int f, const char *from, int t, const char *to, int flags)",
}


def on_own_disk(mount: str, folder: Path, *words: str, status: int = 1) -> str:
    """What a command says that runs in `folder` after `mount`, both in a namespace of their own."""
    line = f'{mount} && exec "$0" -m mirror "$@"'
    result = subprocess.run(
        [*OWN_DISK, line, sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = result.stdout + result.stderr
    assert result.returncode == status, said
    assert "Traceback" not in said
    return said


def refusing(folder: Path, *names: str, errno: str = "EPERM") -> Path:
    """A library for LD_PRELOAD in which these functions fail. Skips a test without a compiler."""
    if shutil.which("cc") is None:
        pytest.skip("a C compiler is not installed: apt-get install gcc libc6-dev")
    both = [name for name in _SIGNATURES if name.removesuffix("at") in names]
    body = "".join(f"{_SIGNATURES[name]} {{ errno = {errno}; return -1; }}\n" for name in both)
    source, library = folder / "refusing.c", folder / "refusing.so"
    source.write_text(f"#include <errno.h>\n{body}")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@contextlib.contextmanager
def without_modes(folder: Path) -> Iterator[None]:
    """Mount a folder on itself so that each chmod is refused, as on CIFS or exFAT."""
    if os.geteuid() != 0 or shutil.which("bindfs") is None or not Path("/dev/fuse").exists():
        pytest.skip("bindfs needs root and /dev/fuse: apt-get install bindfs")
    words = ["bindfs", "--chmod-deny", "--chown-ignore", str(folder), str(folder)]
    mounted = subprocess.run(
        [*words, "-o", "nonempty"], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"bindfs cannot mount a folder here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
