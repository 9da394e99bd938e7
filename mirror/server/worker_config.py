"""The configuration of a worker process, as named plain values: a worker with newer code can read
the description from an older supervisor."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.config.specs import SourceSpec
from mirror.config.values import read_token
from mirror.core.errors import ConfigError
from mirror.web.access import Signer
from mirror.web.proxy import ProxySettings

if TYPE_CHECKING:
    from collections.abc import Mapping

CANNOT_START = 78
"""The exit code of a worker that cannot start, and has logged why (sysexits.h, EX_CONFIG)."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How one process serves. Every field but `data` has a default, which a worker of newer code
    takes for a field that the supervisor does not know.

    `certificate` is a file with a certificate and its key, for `names`, if https is served.
    `upstream` is the hub to fetch from; empty if nothing is fetched. `config_file` has the rules
    of what may come in, and other hubs; it is read at each start of a process. `recording` is the
    file that gets what clients ask for. `devices` are the folders that are served, and the device
    of each at the start of the server. `temporary` are folders that all workers share, and that
    are removed when the server ends.
    """

    data: Path
    state: Path | None = None
    sources: tuple[str, ...] = ()
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ("127.0.0.0/8", "::1")
    accel: str = ""
    token_file: Path | None = None
    log_format: str = "text"
    advertise_xet: bool = True
    xet_min_size: int = 0
    certificate: Path | None = None
    names: tuple[str, ...] = ()
    workers: int = 1
    recording: Path | None = None
    upstream: str = ""
    config_file: Path | None = None
    fresh_s: float = 60.0
    finish: str = "always"
    cache_size: int = 0
    forward_token: bool = False
    devices: tuple[str, ...] = ()
    temporary: tuple[Path, ...] = ()

    @property
    def offers_xet(self) -> bool:
        """Whether clients are offered Xet. With forwarded tokens they are not: a Xet client sends
        its token only to the hub's own routes, and upstream could not be asked about it."""
        return self.advertise_xet and not self.forward_token

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor starts several processes."""
        return self.workers > 1 or bool(self.upstream)

    def describe(self) -> dict[str, Any]:
        """The description: texts, numbers, truth values and lists of them."""
        named = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return {"version": _VERSION, **named}

    @classmethod
    def parse(cls, description: Mapping[str, Any]) -> WorkerConfig:
        """The inverse of `describe`; names that are not known here are passed over."""
        values = {
            field.name: description[field.name]
            for field in fields(cls)
            if description.get(field.name) is not None
        }
        for name in ("data", "state", "token_file", "certificate", "recording", "config_file"):
            if name in values:
                values[name] = Path(values[name])
        for name in ("sources", "trusted_proxies", "names", "devices"):
            if name in values:
                values[name] = tuple(values[name])
        values["temporary"] = tuple(map(Path, values.get("temporary", ())))
        return cls(**values)

    def source_specs(self) -> list[SourceSpec]:
        """Raises ConfigError."""
        return [SourceSpec.parse(text) for text in self.sources]

    def proxy_settings(self) -> ProxySettings:
        """Raises ConfigError, also for a token file that cannot be read now."""
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"public_url {self.public_url!r} must begin with http:// or https://."
            )
        try:
            networks = [ipaddress.ip_network(one) for one in self.trusted_proxies]
        except ValueError as exc:
            raise ConfigError(f"trusted_proxies: {exc}.") from exc
        signer = Signer(read_token(self.token_file))
        return ProxySettings(
            self.public_url,
            networks,
            self.accel,
            signer,
            self.certificate,
            shares_answers=not self.forward_token,
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
