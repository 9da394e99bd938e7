"""Fetches the commit object of a revision from an upstream hub, by git."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from mirror.core.commit import MAX_COMMIT, MODES, Commit
from mirror.core.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.core.tree import RepoFile

_DEADLINE_S = 300.0
_MAX_TREE = 64 * 1024 * 1024
_ABSENT = re.compile(r"not found|error: 40[134]|could not read Username|not our ref", re.IGNORECASE)


def fetch_commit(
    url: str, commit_hash: str, files: Mapping[str, RepoFile], token: str
) -> Commit | None:
    """The commit object, if it proves the files. None if this hub does not offer git, or if the
    commit has entries that are not files. Raises UpstreamError if git is not installed, or fails
    for another reason."""
    if shutil.which("git") is None:
        raise UpstreamError("git is not installed")
    with tempfile.TemporaryDirectory(prefix="hubmirror-") as folder:
        environment = _environment(token)
        try:
            _git(folder, environment, "init", "--quiet", "--bare", ".")
            _git(
                folder, environment, "fetch", "--quiet", "--no-tags", "--depth=1",
                "--filter=blob:none", "--end-of-options", url, commit_hash,
            )  # fmt: skip
            body = _git(folder, environment, "cat-file", "commit", commit_hash)
            rows = _git(folder, environment, "ls-tree", "-r", "-z", "--full-tree", commit_hash)
        except subprocess.TimeoutExpired as exc:
            raise UpstreamError(f"git took more than {_DEADLINE_S:.0f} s") from exc
        except subprocess.CalledProcessError as exc:
            complaint = exc.stderr.decode(errors="replace").strip()
            if _ABSENT.search(complaint):
                return None
            raise UpstreamError(f"git says: {complaint.rpartition(chr(10))[2][:200]}") from exc
    if len(body) > MAX_COMMIT or len(rows) > _MAX_TREE:
        return None
    commit = Commit(body, _modes(rows))
    return None if commit.problem(commit_hash, files) else commit


def _modes(rows: bytes) -> dict[str, str]:
    """The paths whose mode is not 100644, from the output of `git ls-tree -z`."""
    modes = {}
    for row in rows.split(b"\0"):
        start, _, path = row.partition(b"\t")
        mode = start[:6].decode("ascii", "replace")
        if mode in MODES:
            modes[path.decode(errors="replace")] = mode
    return modes


def _git(folder: str, environment: Mapping[str, str], *words: str) -> bytes:
    done = subprocess.run(  # noqa: S603
        ["git", *words],  # noqa: S607
        cwd=folder, env=environment, capture_output=True, check=True,
        timeout=_DEADLINE_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout


def _environment(token: str) -> dict[str, str]:
    """The environment of git, without the operator's configuration. The token is not an argument,
    so that other users of the host do not see it."""
    settings = {
        "http.lowSpeedLimit": "1", "http.lowSpeedTime": "60", "http.followRedirects": "initial",
        "gc.auto": "0", "transfer.fsckObjects": "false",
    }  # fmt: skip
    if token:
        basic = base64.b64encode(f"user:{token}".encode()).decode()
        settings["http.extraHeader"] = f"Authorization: Basic {basic}"
    return {
        **{name: text for name, text in os.environ.items() if not name.startswith("GIT_")},
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": "http:https",
        "LC_ALL": "C",
        "GIT_CONFIG_COUNT": str(len(settings)),
        **{f"GIT_CONFIG_KEY_{number}": key for number, key in enumerate(settings)},
        **{f"GIT_CONFIG_VALUE_{number}": text for number, text in enumerate(settings.values())},
    }
