"""What an operator can do if a connection to a hub fails."""

from __future__ import annotations

import httpx2

_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


def is_misconfigured(exc: BaseException) -> bool:
    """Whether the settings must change: a retry gives the same result."""
    return bool(advice(exc))


def advice(exc: BaseException) -> str:
    """The next step for the operator; empty if there is nothing to correct here."""
    text = str(exc)
    if _UNTRUSTED in text:
        return (
            "This host does not trust its certificate. If a proxy of your site replaces "
            "certificates, or the hub has a private authority, set SSL_CERT_FILE to a PEM file "
            "that contains this authority, and pull again."
        )
    if any(word in text for word in _NO_TLS):
        return "It does not answer with TLS. Write http:// in place of https://, and pull again."
    return ""


def where(exc: BaseException) -> str:
    """The host that could not be reached, for a line about a connection; else empty."""
    if not isinstance(exc, httpx2.TransportError):
        return ""
    try:
        url = exc.request.url
    except RuntimeError:  # the exception does not know its request
        return ""
    return f"{url.host}:{url.port}" if url.port else url.host
