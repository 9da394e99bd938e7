"""How clients reach this server: through which proxies, under which address, with which token."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.core.errors import RequestError
from mirror.web.access import Signer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from starlette.datastructures import Headers
    from starlette.types import Scope

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?")
_FORWARDED = frozenset({"x-forwarded-host", "x-forwarded-proto"})
_MAX_HOPS = 20


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The base of absolute links, and who may read.

    The base is `public_url` if it is set; else the Host header, or X-Forwarded-Host and -Proto if
    the connection comes from one of the `trusted_proxies` (addresses and networks). `accel` is
    `nginx` if a trusted proxy obeys X-Accel-Redirect. `certificate` is the file of https, if there
    is one. `shares_answers` is false if an answer depends on the token of the client: then no
    answer is cached.
    """

    public_url: str = ""
    trusted_proxies: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = field(
        default_factory=lambda: [ipaddress.ip_network(one) for one in ("127.0.0.0/8", "::1")]
    )
    accel: str = ""
    signer: Signer = field(default_factory=Signer)
    certificate: Path | None = None
    shares_answers: bool = True

    def base_url(self, scope: Scope, headers: Headers) -> str:
        """The address that the client used, without a slash at its end. Raises RequestError."""
        if self.public_url:
            return self.public_url.rstrip("/")
        scheme, host = scope["scheme"], headers.get("host", _own_address(scope))
        if _FORWARDED.intersection(headers.keys()) and self.trusts(scope):
            host = headers.get("x-forwarded-host", host).split(",")[0].strip()
            scheme = headers.get("x-forwarded-proto", scheme).split(",")[0].strip()
        if not _HOST.fullmatch(host) or scheme not in ("http", "https"):
            raise RequestError("The Host header is not a host name.")
        return f"{scheme}://{host}"

    def trusts(self, scope: Scope) -> bool:
        """Whether the connection comes from a trusted proxy."""
        client = scope.get("client")
        if client is None:
            return True  # a Unix socket
        return self._is_trusted(client[0])

    def client(self, scope: Scope, forwarded_for: str) -> str:
        """The address of the client: the last of X-Forwarded-For that is not a trusted proxy."""
        address = str((scope.get("client") or "-")[0])
        if not forwarded_for or not self.trusts(scope):
            return address
        for hop in reversed(forwarded_for.split(",")[-_MAX_HOPS:]):
            try:
                address = str(ipaddress.ip_address(hop.strip()))
            except ValueError:
                return address
            if not self._is_trusted(address):
                return address
        return address

    def _is_trusted(self, text: str) -> bool:
        address = ipaddress.ip_address(text)
        return any(address in network for network in self.trusted_proxies)


def _own_address(scope: Scope) -> str:
    """For HTTP/1.0, which has no Host header."""
    host, port = scope.get("server") or ("localhost", 80)
    return f"{host}:{port}"
