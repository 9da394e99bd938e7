"""The command line: parse, build the objects, call one function, print."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from typing import Any

import click

from mirror import __version__
from mirror.core.errors import HubmirrorError, operator_text, os_error_text

# A command is imported only when it runs: `serve` needs no upstream code, `pull` no server code.
_COMMANDS = {
    "serve": "serve:serve",
    "ls": "ls:ls",
    "record": "record:record",
    "rehearse": "record:rehearse",
    "demo": "serve:demo",
    "pull": "pull:pull",
    "verify": "maintenance:verify",
    "adopt": "maintenance:adopt",
    "rm": "remove:rm",
    "gc": "remove:gc",
    "mode": "proxy:mode",
    "pin": "proxy:pin",
    "push": "transfer:push",
    "bundle": "transfer:bundle",
    "bento": "bento:bento",
    "openllm": "openllm:openllm",
    "ca": "ca:ca",
}


_AFTER_INTERRUPT = {
    "pull": " Finished files are kept, and files in progress start again with the next pull.",
    "push": " Run the same command again to continue.",
    "bundle": " Run the same command again: finished volumes and files are kept.",
    "openllm": " Finished files are kept, and files in progress start again with the next pull.",
}


def _program_text(exc: subprocess.SubprocessError) -> str:
    """A program that failed, its last line, and the next step."""
    command = getattr(exc, "cmd", "")
    name = command[0] if isinstance(command, list | tuple) else str(command).partition(" ")[0]
    output = getattr(exc, "stderr", None) or b""
    lines = (output if isinstance(output, str) else output.decode(errors="replace")).splitlines()
    cause = lines[-1].strip() if lines else str(exc)
    return f"{name} failed: {cause.rstrip('.')}. Correct the cause, and run the command again."


class _Commands(click.Group):
    """Shows our own errors, and those of disks and programs, as one line, without a traceback. An
    interrupt ends the process at once: threads may be at work, and what they do can be cut
    anywhere."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HubmirrorError as exc:
            raise click.ClickException(operator_text(exc)) from exc
        except OSError as exc:
            if exc.errno == errno.EPIPE:  # a closed pipe, which click knows
                raise
            raise click.ClickException(os_error_text(exc)) from exc
        except subprocess.SubprocessError as exc:
            raise click.ClickException(_program_text(exc)) from exc
        except KeyboardInterrupt:
            again = _AFTER_INTERRUPT.get(ctx.invoked_subcommand or "", "")
            click.echo(f"Interrupted.{again}", err=True)
            sys.stdout.flush()
            os._exit(130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"mirror.cli.{module}"), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hubmirror")
def main() -> None:
    """A local Hugging Face hub for hosts without internet."""
