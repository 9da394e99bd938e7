"""`hubmirror serve`, and `demo`."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from mirror import __version__
from mirror.cli.ls import warn_unrecorded
from mirror.cli.settings import settings
from mirror.config import SETTINGS, SourceSpec
from mirror.core.errors import HubmirrorError
from mirror.core.source import unrecorded_text
from mirror.core.units import several
from mirror.server.run import (
    OpenedSources,
    Tls,
    WorkerConfig,
    configure_log,
    listen,
    parse_proxy_settings,
    read_token,
    run,
)
from mirror.store.demo import write_demo

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("hubmirror")

_MAX_LOOKS = 20
_ANY_HOST = ("0.0.0.0", "::")


@click.command()
@settings(*SETTINGS)
def serve(
    data: Path, state: Path | None, sources: tuple[str, ...], host: str, port: int, **rest: Any
) -> None:
    """Serve the data folder, and any other source, as a Hugging Face hub."""
    configure_log(rest["log_format"])
    plan = WorkerConfig(
        data,
        state,
        tuple(SourceSpec.parse(text) for text in sources),
        parse_proxy_settings(
            rest["public_url"] or "",
            rest["trusted_proxies"],
            rest["accel"] or "",
            read_token(rest["token_file"]),
        ),
        rest["log_format"],
        advertise_xet=rest["xet"],
        xet_min_size=rest["xet_min_size"],
        tls=_open_tls(host, rest) if rest["tls"] else None,
        workers=rest["workers"],
    )
    place = plan.open()
    listener = listen(host, port)
    if plan.log_format == "text":
        _greet(place, listener, plan)
    else:
        _log_start(place, listener)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has stopped, and raises it again
        run(replace(plan, state=place.state.folder), place, listener)


@click.command()
@settings("data")
def demo(data: Path, **_: Any) -> None:
    """Make a tiny demo model, unless the data folder's hub/ holds something."""
    hub = data / "hub"
    if hub.is_dir() and any(hub.iterdir()):
        return
    hub.mkdir(parents=True, exist_ok=True)
    record = write_demo(hub)
    click.echo(f"Made the demo model {record.repo}.")


def _open_tls(host: str, rest: dict[str, Any]) -> Tls:
    # It is imported when it is called for: cryptography takes time and memory.
    issue = importlib.import_module("mirror.server.certificates").issue
    certificate = issue(rest["ca"], rest["names"])
    return Tls(listen(host, rest["tls_port"], "--tls-port"), certificate, rest["names"])


def _greet(place: OpenedSources, listener: socket.socket, plan: WorkerConfig) -> None:
    console = Console(highlight=False)
    host, port = listener.getsockname()[:2]
    console.print(f"[bold]hubmirror {__version__}[/bold]")
    for source in place.sources.sources:
        repos = list(source.repos())
        console.print(f"  {escape(source.label)}  ({several(len(repos), 'repository')})")
    warn_unrecorded(console, place)
    name = socket.gethostname() if host in _ANY_HOST else f"[{host}]" if ":" in host else host
    url = plan.proxy.public_url or f"http://{name}:{port}"
    console.print("On a client:\n")
    console.print(f"  export HF_ENDPOINT={escape(url)}", soft_wrap=True)
    if plan.tls:
        secure = plan.tls.listener.getsockname()[1]
        names = " ".join(f"https://{one}:{secure}" for one in plan.tls.names)
        console.print(f"  # or, with its certificate trusted: {escape(names)}", soft_wrap=True)
    console.print(f"  hf download {_an_example(place)}\n", soft_wrap=True)
    if not plan.proxy.signer.closed and not host.startswith("127.") and host != "::1":
        console.print(
            "Whoever reaches this port can read everything. --token-file closes it.", style="yellow"
        )


def _an_example(place: OpenedSources) -> str:
    """A repository that can be downloaded, if one is found soon."""
    for source in place.sources.sources:
        for repo in itertools.islice(source.repos(), _MAX_LOOKS):
            with contextlib.suppress(HubmirrorError):
                return str(source.snapshot(repo, "HEAD").repo)
    return "ORG/NAME"


def _log_start(place: OpenedSources, listener: socket.socket) -> None:
    """What `_greet` shows a person, for a program that reads the log."""
    host, port = listener.getsockname()[:2]
    log.info("hubmirror %s listens on %s port %d", __version__, host, port)
    if unrecorded := place.sources.unrecorded():
        log.warning(unrecorded_text(unrecorded))
