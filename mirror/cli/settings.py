"""The settings as command line options, for all commands that read the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mirror.config.file import DEFAULT_FILE, File
from mirror.config.settings import SETTINGS, Setting, is_service_address, refuse_unknown_variables

_Command = TypeVar("_Command", bound=Callable[..., Any])
PLACE = ("data", "state")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")


class _Path(click.Path):
    """A path in which `~` is the user's home, in the configuration file too."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return Path(os.fsdecode(super().convert(value, param, ctx))).expanduser()


class _Option(click.Option):
    """An option that ignores a variable that Kubernetes sets for a Service."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        return None if value and is_service_address(value) else value


def _option(setting: Setting) -> Callable[[_Command], _Command]:
    kind: Any = {
        "log_format": click.Choice(["text", "json"]),
        "accel": click.Choice(["nginx"]),
        "finish": click.Choice(["always", "while-asked"]),
        "fresh": click.IntRange(1),
        "port": click.IntRange(0, 65535),
        "workers": click.IntRange(1, 256),
        "xet_min_size": click.IntRange(0),
        "tls_port": click.IntRange(1, 65535),
    }.get(setting.name, _Path(path_type=Path) if setting.type is Path else setting.type)
    return click.option(
        setting.flag,
        setting.name,
        cls=_Option,
        type=kind,
        default=setting.default,
        multiple=setting.several,
        envvar=setting.variable,
        show_default=setting.default is not None,
        help=setting.help,
    )


def settings(*names: str) -> Callable[[_Command], _Command]:
    """The options of a command that reads the configuration: its settings and the sources."""

    def add(command: _Command) -> _Command:
        for name in reversed(names):
            command = _option(SETTINGS[name])(command)
        command = click.option(
            "--source",
            "sources",
            multiple=True,
            envvar="HUBMIRROR_SOURCE",
            help="A folder to serve: hf-cache:PATH, managed:PATH, bento:PATH or "
            "folder:PATH=ORG/NAME. "
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
    """Use the values of the file as defaults; flags and environment variables override them."""
    refuse_unknown_variables(os.environ)
    if path is None and not DEFAULT_FILE.exists():
        return
    file = File.read(path or DEFAULT_FILE)
    ctx.default_map = {**file.settings, "sources": [str(spec) for spec in file.sources]}
    ctx.obj = file
