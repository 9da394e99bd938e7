"""`hubmirror serve`, and `demo`."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape

from mirror import __version__
from mirror.cli.ls import warn_unrecorded
from mirror.cli.settings import settings
from mirror.config.settings import SETTINGS
from mirror.config.values import hub_url, size_limit
from mirror.core.errors import ConfigError, HubmirrorError, UnavailableError
from mirror.core.source import unrecorded_text
from mirror.core.units import several
from mirror.derived.catalog import Catalog
from mirror.server.run import listen, raise_descriptor_limit, run
from mirror.server.uvicorn_adapter import check
from mirror.server.worker import configure_log, open_config
from mirror.server.worker_config import WorkerConfig
from mirror.store.demo import write_demo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirror.config.file import File
    from mirror.server.opened_sources import OpenedSources
    from mirror.web.proxy import ProxySettings

log = logging.getLogger("hubmirror")

CONTENT = ("data", "state", "token_file", "xet", "xet_min_size")
UPSTREAM = ("proxy_upstream", "fresh", "cache_size", "finish", "forward_token")
_MAX_LOOKS = 20
_MAX_PROBLEMS = 20
_ANY_HOST = ("0.0.0.0", "::")


@click.command()
@click.pass_obj
@settings(*(name for name in SETTINGS if name != "upstream"))
def serve(
    file: File | None,
    /,
    data: Path,
    state: Path | None,
    sources: tuple[str, ...],
    host: str,
    port: int,
    **rest: Any,
) -> None:
    """Serve the data folder, and any other source, as a Hugging Face hub."""
    check()
    raise_descriptor_limit()
    configure_log(rest["log_format"])
    _check_names(rest["names"])
    certificate, secure = _open_tls(host, rest) if rest["tls"] else (None, [])
    config = replace(
        content_config(data, state, sources, rest),
        public_url=rest["public_url"] or "",
        trusted_proxies=tuple(rest["trusted_proxies"]),
        accel=rest["accel"] or "",
        log_format=rest["log_format"],
        certificate=certificate,
        names=tuple(rest["names"]) if certificate else (),
        workers=rest["workers"],
    )
    config = with_upstream(config, file, rest)
    proxy = config.proxy_settings()
    opened = open_config(config)
    listeners = [listen(host, port), *secure]
    if config.log_format == "text":
        _greet(opened, listeners, config, proxy)
    else:
        _log_start(opened, listeners[0])
    threading.Thread(target=_warn_problems, args=(opened,), name="problems", daemon=True).start()
    config = replace(config, state=opened.state.folder, devices=opened.devices())
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has stopped, and raises it again
        run(config, opened, listeners)


def content_config(
    data: Path, state: Path | None, sources: tuple[str, ...], rest: dict[str, Any]
) -> WorkerConfig:
    """How a server serves, by the settings of `CONTENT`: what it serves, and not where."""
    return WorkerConfig(
        data=data,
        state=state,
        sources=sources,
        token_file=rest["token_file"],
        advertise_xet=rest["xet"],
        xet_min_size=rest["xet_min_size"],
    )


def with_upstream(config: WorkerConfig, file: File | None, rest: dict[str, Any]) -> WorkerConfig:
    """The configuration with the settings of `UPSTREAM`. Raises ConfigError."""
    return replace(
        config,
        upstream=hub_url(rest["proxy_upstream"]) if rest["proxy_upstream"] else "",
        config_file=file.path.absolute() if file else None,
        fresh_s=rest["fresh"],
        finish=rest["finish"],
        cache_size=size_limit(rest["cache_size"]),
        forward_token=rest["forward_token"],
    )


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


def _check_names(names: Sequence[str]) -> None:
    """Raises ConfigError for names of https if no setting says whether https is wanted."""
    source = click.get_current_context().get_parameter_source("tls")
    if names and source is ParameterSource.DEFAULT:
        raise ConfigError(
            f"--names {names[0]} is a name for https, which is off. Add --tls to serve https, or "
            "--no-tls to serve http only."
        )


def _open_tls(host: str, rest: dict[str, Any]) -> tuple[Path, list[socket.socket]]:
    # It is imported when it is called for: cryptography takes time and memory.
    issue = importlib.import_module("mirror.server.certificates").issue
    certificate = issue(rest["ca"], rest["names"])
    return certificate, [listen(host, rest["tls_port"], "--tls-port")]


def _greet(
    place: OpenedSources,
    listeners: Sequence[socket.socket],
    config: WorkerConfig,
    proxy: ProxySettings,
) -> None:
    console = Console(highlight=False)
    host, port = listeners[0].getsockname()[:2]
    console.print(f"[bold]hubmirror {__version__}[/bold]")
    for source in place.sources.sources:
        repos = list(source.repos())
        console.print(f"  {escape(source.label)}  ({several(len(repos), 'repository')})")
    warn_unrecorded(place, lambda text: console.print(escape(text), style="yellow"))
    name = socket.gethostname() if host in _ANY_HOST else f"[{host}]" if ":" in host else host
    url = config.public_url or f"http://{name}:{port}"
    console.print("On a client:\n")
    console.print(f"  export HF_ENDPOINT={escape(url)}", soft_wrap=True)
    if config.names:
        secure = listeners[1].getsockname()[1]
        names = " ".join(f"https://{one}:{secure}" for one in config.names)
        console.print(f"  # or, with its certificate trusted: {escape(names)}", soft_wrap=True)
    console.print(f"  hf download {_an_example(place)}\n", soft_wrap=True)
    if not proxy.signer.closed and not host.startswith("127.") and host != "::1":
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


def _warn_problems(place: OpenedSources) -> None:
    """Log which files cannot be served. With many repositories the first look takes a while, so
    the server does not wait for it."""
    try:
        problems = Catalog(place.sources, place.state).problems()
    except UnavailableError as exc:
        log.warning("%s", exc)
        return
    for text in problems[:_MAX_PROBLEMS]:
        log.warning(text)
    if len(problems) > _MAX_PROBLEMS:
        log.warning("%d more repositories have files that cannot be served. List them with "
                    "`hubmirror ls`.", len(problems) - _MAX_PROBLEMS)  # fmt: skip


def _log_start(place: OpenedSources, listener: socket.socket) -> None:
    """What `_greet` shows a person, for a program that reads the log."""
    host, port = listener.getsockname()[:2]
    log.info("hubmirror %s listens on %s port %d", __version__, host, port)
    if unrecorded := place.sources.unrecorded():
        log.warning(unrecorded_text(unrecorded))
