"""The list of settings.

The value of a setting comes from its flag, else from `HUBMIRROR_<NAME>`, else from its table in the
file, else from its default.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_DATA = Path("data")
_SERVICE_VARIABLE = re.compile(
    r"HUBMIRROR(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|"
    r"PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `default` is None if it has none. In the file, it is `key` in `table`. `option`
    is the name of its flag and its variable, if that is not `name`."""

    name: str
    help: str
    type: type = str
    default: Any = None
    several: bool = False
    table: str = "serve"
    option: str = ""

    @property
    def key(self) -> str:
        return self.name.removeprefix(f"{self.table}_")

    @property
    def flag(self) -> str:
        flag = f"--{(self.option or self.name).replace('_', '-')}"
        return f"{flag}/--no-{flag[2:]}" if self.type is bool else flag

    @property
    def variable(self) -> str:
        return f"HUBMIRROR_{(self.option or self.name).upper()}"

    def check(self, value: Any, path: Path) -> None:
        """Raises ConfigError if a value in the file has a wrong type."""
        one = self.type if self.type in (int, bool) else str
        values = value if self.several else [value]
        if not isinstance(values, list) or any(type(each) is not one for each in values):
            what = f"a list of {one.__name__}" if self.several else one.__name__
            raise ConfigError(f"{self.key} in {path} is {value!r}, and must be {what}.")


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("data", "The folder to serve; its hub/ is a managed cache.", Path, DEFAULT_DATA),
        Setting("state", "The folder for derived facts [default: .hubmirror in data].", Path),
        Setting("upstream", "The hub to pull from [default: HF_ENDPOINT].", table="pull"),
        Setting(
            "allowed_signers",
            "A file with the keys that may sign a bundle.",
            Path,
            table="bundle",
        ),
        Setting(
            "proxy_upstream",
            "The hub to fetch from what is missing (pull-through).",
            table="proxy",
            option="upstream",
        ),
        Setting(
            "fresh",
            "Seconds for which a branch is not looked up upstream again.",
            int,
            60,
            table="proxy",
        ),
        Setting(
            "cache_size",
            "The largest size of the managed cache, as 500G or 2T [default: no limit].",
            table="proxy",
        ),
        Setting(
            "finish",
            "Which fetches run to their end: always, or while-asked by a client.",
            str,
            "always",
            table="proxy",
        ),
        Setting(
            "forward_token",
            "Ask upstream with the client's token, and serve private repositories to those whom "
            "upstream lets in.",
            bool,
            default=False,
            table="proxy",
        ),
        Setting("host", "The address to listen on.", str, "127.0.0.1"),
        Setting("port", "The port to listen on; 0 takes a free one.", int, 8400),
        Setting(
            "workers",
            "Processes that serve [default: one for each core, at most 4].",
            int,
            min(os.cpu_count() or 1, 4),
        ),
        Setting("public_url", "The URL of this server, if the Host header does not have it."),
        Setting(
            "trusted_proxies",
            "An address or network whose X-Forwarded-* headers are believed.",
            default=("127.0.0.0/8", "::1"),
            several=True,
        ),
        Setting("accel", "The proxy in front that sends the large files: nginx."),
        Setting("token_file", "A file with the one token that clients must send.", Path),
        Setting("tls", "Serve https as well, under the names.", bool, default=False),
        Setting("tls_port", "The port of https.", int, 8443),
        Setting(
            "names", "A name in the certificate of https: huggingface.co.", several=True, default=()
        ),
        Setting(
            "ca", "The folder of the private certificate authority.", Path, Path("hubmirror-ca")
        ),
        Setting("log_format", "The format of log lines: text or json.", str, "text"),
        Setting(
            "xet",
            "Offer large files to clients by Xet.",
            bool,
            default=True,
        ),
        Setting(
            "xet_min_size",
            "The smallest file, in bytes, that is offered by Xet.",
            int,
            20_000_000,
            table="xet",
        ),
    )
}


def refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    """Raises ConfigError for a `HUBMIRROR_*` variable that looks like a misspelt setting.

    Other programs have such variables too: Kubernetes sets several for a Service of this name, and
    the compose file reads `HUBMIRROR_IMAGE`. They are ignored.
    """
    known = {setting.variable for setting in SETTINGS.values()}
    known |= {"HUBMIRROR_CONFIG", "HUBMIRROR_SOURCE"}
    for name, value in environ.items():
        if name in known or not name.startswith("HUBMIRROR_"):
            continue
        if not _SERVICE_VARIABLE.fullmatch(name) and not is_service_address(value):
            _refuse_misspelt(name, known)


def is_service_address(value: str) -> bool:
    """Whether Kubernetes, and not the operator, set the variable, for example
    `HUBMIRROR_PORT=tcp://10.0.0.7:80`."""
    return _SERVICE_ADDRESS.fullmatch(value) is not None


def _refuse_misspelt(name: str, known: Iterable[str]) -> None:
    short = name.removeprefix("HUBMIRROR_")
    settings = {one.removeprefix("HUBMIRROR_"): one for one in known}
    nearest = difflib.get_close_matches(short, settings, 1) or [
        one for one in settings if short.startswith(f"{one}_")
    ]
    if nearest:
        raise ConfigError(
            f"{name} in the environment is not a setting. Did you mean {settings[nearest[0]]}? "
            "Otherwise unset it, or choose another name."
        )
