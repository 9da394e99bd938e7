"""Creates a private certificate authority and the server certificate that it signs."""

from __future__ import annotations

import ipaddress
import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mirror.core.errors import ConfigError
from mirror.derived.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

AUTHORITY = "ca.pem"
_KEY = "ca.key"
_SERVER = "server.pem"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_AUTHORITY_LIFE = timedelta(days=3650)
_SERVER_LIFE = timedelta(days=397)  # some clients reject a longer lifetime
_RENEW_BEFORE = timedelta(days=30)


def init(folder: Path) -> Path:
    """Create an authority, and return the path of its certificate.

    Raises ConfigError if the folder already holds an authority.
    """
    certificate = folder / AUTHORITY
    if certificate.exists() or (folder / _KEY).exists():
        raise ConfigError(
            f"{folder} already holds an authority. With a new authority, every client has to trust "
            "a new certificate. To create a new authority, remove the folder first."
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hubmirror private authority")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_secret(folder / _KEY, _pem(key))
    try:
        write_atomically(certificate, built.public_bytes(serialization.Encoding.PEM))
    except OSError:
        (folder / _KEY).unlink()
        raise
    return certificate


def is_key_exposed(folder: Path) -> bool:
    """Whether other users can read the key of an authority: some file systems have no modes."""
    return bool((folder / _KEY).stat().st_mode & 0o077)


def issue(folder: Path, names: Sequence[str]) -> Path:
    """The path of a PEM file with the server certificate for `names` and its key.

    An existing certificate is reused while it is for the same names, by this authority, and valid
    for 30 more days. Raises ConfigError if the authority is missing or damaged, or a name is not a
    host name or an IP address.
    """
    if not names:
        raise ConfigError(
            "TLS needs at least one name. Add: --names huggingface.co --names mirror.lan."
        )
    try:
        authority = x509.load_pem_x509_certificate((folder / AUTHORITY).read_bytes())
        signer = serialization.load_pem_private_key((folder / _KEY).read_bytes(), None)
    except (OSError, ValueError) as exc:
        if (folder / AUTHORITY).exists() or (folder / _KEY).exists():
            raise ConfigError(
                f"The authority in {folder} is damaged or incomplete. Restore {AUTHORITY} and "
                f"{_KEY} from a backup. Or remove the folder, create a new authority with "
                f"`hubmirror ca init --ca {folder}`, and install its certificate on every client."
            ) from exc
        raise ConfigError(
            f"There is no authority in {folder}. Create one: hubmirror ca init --ca {folder}"
        ) from exc
    if signer.public_key() != authority.public_key():
        raise ConfigError(
            f"{folder / _KEY} is not the key of {AUTHORITY} in the same folder: clients reject the "
            "certificates that it signs. Restore both files from the same backup, or remove the "
            "folder and create a new authority."
        )
    subject_names = [_subject_name(name) for name in names]
    file = folder / _SERVER
    if _is_reusable(file, subject_names, authority):
        return file
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(min(now + _SERVER_LIFE, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(subject_names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    _write_secret(file, _pem(key) + built.public_bytes(serialization.Encoding.PEM))
    return file


def _is_reusable(file: Path, names: list[x509.GeneralName], authority: x509.Certificate) -> bool:
    """Whether a certificate is for these names, by this authority, and does not expire soon."""
    try:
        body = file.read_bytes()
        certificate = x509.load_pem_x509_certificate(body)
        key = serialization.load_pem_private_key(body, None)
        certificate.verify_directly_issued_by(authority)
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # noqa: BLE001  (an unusable file is replaced)
        return False
    remaining = certificate.not_valid_after_utc - datetime.now(UTC)
    has_own_key = key.public_key() == certificate.public_key()
    return remaining > _RENEW_BEFORE and has_own_key and list(listed) == names


def _subject_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        if not _HOST.fullmatch(text):
            raise ConfigError(
                f"{text!r} is not a valid name for a certificate. Pass --names a host name without "
                "scheme and port, or an IP address."
            ) from None
        return x509.DNSName(text.lower())


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_secret(file: Path, body: bytes) -> None:
    """Write a file that only its owner can read, at any moment."""
    temporary = file.with_name(f".{file.name}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(body)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        exc.filename = str(file)
        raise
