"""`hubmirror record` and `hubmirror rehearse`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import httpx2

from mirror.cli.serve import CONTENT, UPSTREAM, content_config, with_upstream
from mirror.cli.settings import settings
from mirror.config.file import File
from mirror.config.values import read_token
from mirror.core.errors import ConfigError
from mirror.core.units import human, several
from mirror.derived.state import write_atomically
from mirror.server.closed_network import URL, closed_network
from mirror.server.opened_sources import OpenedSources, open_sources
from mirror.server.own_server import own_server
from mirror.server.run import listen
from mirror.sync.recording import HEADER, Recording, read_recording
from mirror.sync.rehearsal import Rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mirror.server.worker_config import WorkerConfig

# With one of these, a client would not ask the mirror for all that it needs.
_CLIENT_CACHES = (
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE", "HF_ASSETS_CACHE", "HF_XET_CACHE", "HF_DATASETS_CACHE",
    "HF_MODULES_CACHE", "TRANSFORMERS_CACHE",
)  # fmt: skip
_TIMEOUT_S = 60.0


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
@settings(*CONTENT, *UPSTREAM)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("recorded.toml"),
    show_default=True,
    help="The file to write.",
)
@click.option("--closed", is_flag=True, help="Let the command reach nothing but the mirror.")
@click.option(
    "--hf-home",
    type=click.Path(path_type=Path, file_okay=False),
    help="HF_HOME of the command [default: a new temporary folder].",
)
def record(
    file: File | None,
    /,
    command: tuple[str, ...],
    data: Path,
    state: Path | None,
    sources: tuple[str, ...],
    output: Path,
    **rest: Any,
) -> None:
    """Run COMMAND against the mirror, and write down what it asks for.

    The file has a [[repo]] for each revision, for `hubmirror pull --config FILE` and `hubmirror
    rehearse FILE`. The exit status is that of COMMAND.
    """
    _check(command, output)
    opened, config = _open(data, state, sources, rest)
    config = with_upstream(config, file, rest)
    with contextlib.closing(opened), _scratch() as folder:
        lines = folder / "requests.jsonl"
        lines.touch()
        home = rest["hf_home"] or folder / "hf-home"
        env = _environment(read_token(config.token_file), home)
        status = _run(command, replace(config, recording=lines), folder / "server.log", env, **rest)
        recording = read_recording(lines, opened.sources)
    write_atomically(output, recording.render().encode())
    _show(recording, output)
    sys.exit(status)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@settings(*CONTENT)
def rehearse(
    file: Path, data: Path, state: Path | None, sources: tuple[str, ...], **rest: Any
) -> None:
    """Check that the mirror serves all that FILE declares, without any upstream.

    FILE is written by `hubmirror record`; a configuration file with [[repo]] is accepted too. The
    exit status is 1 if a request would fail.
    """
    wanted = File.read(file)
    if not wanted.repos and not wanted.requests:
        raise ConfigError(f"{file} declares no [[repo]]. Write it with `hubmirror record`.")
    opened, config = _open(data, state, sources, rest)
    count = 0
    with contextlib.closing(opened), _rehearsal(opened, config) as rehearsal:
        for problem in _problems(rehearsal, wanted):
            count += 1
            click.echo(problem)
    what = f"{several(len(wanted.repos), 'revision')}, {several(rehearsal.files, 'file')}, "
    what += f"{human(rehearsal.size)}, {several(len(wanted.requests), 'other request')}"
    click.echo(f"{several(count, 'problem')}." if count else f"Everything is here: {what}.")
    sys.exit(1 if count else 0)


def _open(
    data: Path, state: Path | None, sources: tuple[str, ...], rest: dict[str, Any]
) -> tuple[OpenedSources, WorkerConfig]:
    """The sources, and the configuration of a server of the same sources."""
    config = content_config(data, state, sources, rest)
    opened = open_sources(data, state, config.source_specs())
    return opened, replace(config, state=opened.state.folder)


def _check(command: Sequence[str], output: Path) -> None:
    """Raises ConfigError before anything is started."""
    if shutil.which(command[0]) is None:
        raise ConfigError(f"There is no program {command[0]}. Check its name and PATH.")
    if output.exists() and not output.read_text(errors="replace").startswith(HEADER):
        raise ConfigError(
            f"{output} was not written by `hubmirror record`. Name another file with -o."
        )
    if not os.access(output.absolute().parent, os.W_OK):
        raise ConfigError(f"{output} cannot be written. Name a file in another folder with -o.")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder. What another process still writes into it may stay."""
    with tempfile.TemporaryDirectory(prefix="hubmirror-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _environment(token: str, home: Path) -> dict[str, str]:
    """The environment of the command, without the address of the mirror."""
    env = {name: value for name, value in os.environ.items() if name not in _CLIENT_CACHES}
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, [env.get(name, ""), "127.0.0.1"]))
    return {**env, "HF_HOME": str(home.absolute()), **({"HF_TOKEN": token} if token else {})}


def _run(
    command: Sequence[str],
    config: WorkerConfig,
    log: Path,
    env: Mapping[str, str],
    *,
    closed: bool,
    **_: Any,
) -> int:
    """Run the command with a server of its own; returns the exit status of the command."""
    if closed:
        with (
            closed_network(command, {**env, "HF_ENDPOINT": URL}) as network,
            own_server(config, network.listener, log),
        ):
            return _wait(network.start())
    with _listening(config, log) as url:
        process = subprocess.Popen(command, env={**env, "HF_ENDPOINT": url})  # noqa: S603
        return _wait(process)


@contextlib.contextmanager
def _listening(config: WorkerConfig, log: Path) -> Iterator[str]:
    """A server on a free port of loopback; yields its URL."""
    with listen("127.0.0.1", 0) as listener, own_server(config, listener, log):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit status of the command. Signals end the command, and not the recording; the terminal
    itself sends an interrupt to both."""
    handlers = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        **{
            number: signal.signal(number, lambda sent, _: process.send_signal(sent))
            for number in (signal.SIGTERM, signal.SIGHUP)
        },
    }
    try:
        status = process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _show(recording: Recording, output: Path) -> None:
    for line in recording.missing:
        click.echo(f"Missing: {line}", err=True)
    counts = f"{several(len(recording.entries), 'revision')}, "
    counts += several(len(recording.requests), "other request")
    click.echo(f"Recorded in {output}: {counts}.", err=True)


@contextlib.contextmanager
def _rehearsal(opened: OpenedSources, config: WorkerConfig) -> Iterator[Rehearsal]:
    token = read_token(config.token_file)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with (
        _scratch() as folder,
        _listening(config, folder / "server.log") as url,
        httpx2.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S, trust_env=False) as client,
    ):
        yield Rehearsal(opened.sources, client)


def _problems(rehearsal: Rehearsal, wanted: File) -> Iterator[str]:
    for spec in wanted.repos:
        yield from rehearsal.problems(spec)
    for path in wanted.requests:
        if problem := rehearsal.problem(path):
            yield f"{path}: {problem}"
