"""The command line: parse, build the objects, call one function, print."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mirror import __version__
from mirror.config import (
    DEFAULT_FILE,
    SETTINGS,
    File,
    Setting,
    SourceSpec,
    refuse_unknown_variables,
)
from mirror.demo import write_demo
from mirror.errors import HubmirrorError
from mirror.inventory import Row, inventory
from mirror.server import (
    Place,
    Plan,
    configure_log,
    listen,
    open_place,
    parse_reach,
    read_token,
    run,
)
from mirror.sizes import human
from mirror.source import unseen_text

log = logging.getLogger("hubmirror")

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PLACE = ("data", "state")
_MOST_LOOKS = 20
_ANY_HOST = ("0.0.0.0", "::")


class _Path(click.Path):
    """A path in which `~` is the user's home, in the configuration file too."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return Path(os.fsdecode(super().convert(value, param, ctx))).expanduser()


class _Errors(click.Group):
    """Shows our own errors as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HubmirrorError as exc:
            raise click.ClickException(str(exc)) from exc


def _option(setting: Setting) -> Callable[[_Command], _Command]:
    kind: Any = {
        "log_format": click.Choice(["text", "json"]),
        "accel": click.Choice(["nginx"]),
        "port": click.IntRange(0, 65535),
        "workers": click.IntRange(1, 256),
        "xet_min_size": click.IntRange(0),
    }.get(setting.name, _Path(path_type=Path) if setting.type is Path else setting.type)
    return click.option(
        setting.flag,
        setting.name,
        type=kind,
        default=setting.default,
        multiple=setting.several,
        envvar=setting.variable,
        show_default=setting.default is not None,
        help=setting.help,
    )


def _settings(*names: str) -> Callable[[_Command], _Command]:
    """The options of a command that reads the configuration: its settings and the sources."""

    def add(command: _Command) -> _Command:
        for name in reversed(names):
            command = _option(SETTINGS[name])(command)
        command = click.option(
            "--source",
            "sources",
            multiple=True,
            envvar="HUBMIRROR_SOURCE",
            help="A folder to serve: hf-cache:PATH, managed:PATH or folder:PATH=ORG/NAME. "
            "The first that holds a repository answers for it.",
        )(command)
        return click.option(
            "--config",
            type=click.Path(path_type=Path),
            envvar="HUBMIRROR_CONFIG",
            is_eager=True,
            expose_value=False,
            callback=_read_file,
            help="The configuration file [default: hubmirror.toml, where there is one].",
        )(command)

    return add


def _read_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults, below flags and the environment."""
    refuse_unknown_variables(os.environ)
    if path is None and not DEFAULT_FILE.exists():
        return
    file = File.read(path or DEFAULT_FILE)
    ctx.default_map = {**file.settings, "sources": [str(spec) for spec in file.sources]}


@click.group(cls=_Errors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hubmirror")
def main() -> None:
    """A local Hugging Face hub for hosts without internet."""


@main.command()
@_settings(*SETTINGS)
def serve(
    data: Path, state: Path | None, sources: tuple[str, ...], host: str, port: int, **rest: Any
) -> None:
    """Serve the data folder, and any other source, as a Hugging Face hub."""
    configure_log(rest["log_format"])
    plan = Plan(
        data,
        state,
        tuple(SourceSpec.parse(text) for text in sources),
        parse_reach(
            rest["public_url"] or "",
            rest["trusted_proxies"],
            rest["accel"] or "",
            read_token(rest["token_file"]),
        ),
        rest["log_format"],
        advertise_xet=rest["xet"],
        xet_min_size=rest["xet_min_size"],
    )
    place = plan.open()
    listener = listen(host, port)
    if plan.log_format == "text":
        _greet(place, listener, plan)
    else:
        _log_start(place, listener)
    run(replace(plan, state=place.state.folder), place, listener, rest["workers"])


@main.command()
@_settings(*_PLACE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def ls(data: Path, state: Path | None, sources: tuple[str, ...], *, as_json: bool) -> None:
    """List what the sources hold, revision by revision."""
    place = open_place(data, state, [SourceSpec.parse(text) for text in sources])
    rows = list(inventory(place.sources))
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(_plain(row)))
        return
    console = Console()
    if rows:
        console.print(_table(rows))
    else:
        console.print("Nothing is here yet.")
    _tell_unseen(console, place)


@main.command()
@_settings("data")
def demo(data: Path, **_: Any) -> None:
    """Make a tiny demo model, unless the data folder's hub/ holds something."""
    hub = data / "hub"
    if hub.is_dir() and any(hub.iterdir()):
        return
    hub.mkdir(parents=True, exist_ok=True)
    record = write_demo(hub)
    click.echo(f"Made the demo model {record.repo}.")


def _greet(place: Place, listener: socket.socket, plan: Plan) -> None:
    console = Console(highlight=False)
    host, port = listener.getsockname()[:2]
    console.print(f"[bold]hubmirror {__version__}[/bold]")
    for source in place.sources.sources:
        repos = list(source.repos())
        console.print(f"  {escape(source.label)}  ({len(repos)} repositories)")
    _tell_unseen(console, place)
    name = socket.gethostname() if host in _ANY_HOST else f"[{host}]" if ":" in host else host
    url = plan.reach.public_url or f"http://{name}:{port}"
    console.print("On a client:\n")
    console.print(f"  export HF_ENDPOINT={escape(url)}", soft_wrap=True)
    console.print(f"  hf download {_an_example(place)}\n", soft_wrap=True)
    if not plan.reach.signer.closed and not host.startswith("127.") and host != "::1":
        console.print(
            "Whoever reaches this port can read everything. --token-file closes it.", style="yellow"
        )


def _tell_unseen(console: Console, place: Place) -> None:
    for source in place.sources.sources:
        if repos := source.unseen():
            folder = source.label.partition(":")[2]
            console.print(escape(unseen_text(repos, folder)), style="yellow")


def _an_example(place: Place) -> str:
    """A repository that can be downloaded, if one is found soon."""
    for source in place.sources.sources:
        for repo in itertools.islice(source.repos(), _MOST_LOOKS):
            with contextlib.suppress(HubmirrorError):
                return str(source.snapshot(repo, "HEAD").repo)
    return "ORG/NAME"


def _log_start(place: Place, listener: socket.socket) -> None:
    """What `_greet` shows a person, for a program that reads the log."""
    host, port = listener.getsockname()[:2]
    log.info("hubmirror %s listens on %s port %d", __version__, host, port)
    if unseen := place.sources.unseen():
        log.warning(unseen_text(unseen))


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("repository", "revision", "refs", "files", "size", "source", "status"):
        number = name in ("files", "size")
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        status = f"{row.status}: {row.note}" if row.note else row.status
        table.add_row(
            str(row.repo), row.commit_hash[:8], " ".join(map(_short, row.refs)), str(row.files),
            human(row.size), escape(row.source), escape(status),
        )  # fmt: skip
    return table


def _short(ref: str) -> str:
    return re.sub(r"^refs/(heads/|tags/)?", "", ref)


def _plain(row: Row) -> dict[str, Any]:
    return {
        "repo_type": row.repo.repo_type, "repo_id": row.repo.repo_id,
        "commit_hash": row.commit_hash, "refs": row.refs, "source": row.source,
        "status": row.status, "files": row.files, "size": row.size, "note": row.note,
    }  # fmt: skip
