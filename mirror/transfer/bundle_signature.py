"""Checks the signature of a bundle: `manifest.json.sig`, which `ssh-keygen -Y sign` writes."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from mirror.core.errors import CarryError

if TYPE_CHECKING:
    from pathlib import Path

_NAMESPACE = "hubmirror"
_DEADLINE_S = 60.0


def check_signature(body: bytes, signature: Path, signers: Path) -> str:
    """The identity of the allowed signer who signed `body`, the bytes of a manifest.

    `signers` is a file in the format of `ALLOWED SIGNERS` in ssh-keygen(1). Raises CarryError.
    """
    if shutil.which("ssh-keygen") is None:
        raise CarryError(
            "ssh-keygen, which checks signatures, is not installed. Run apt-get install "
            "openssh-client."
        )
    if not signers.is_file():
        raise CarryError(f"The file of allowed signers {signers} does not exist.")
    if not signature.is_file():
        raise CarryError(
            f"The bundle is not signed: {signature} does not exist. Nothing was changed. Sign the "
            f"bundle where it was created: {sign_command(signature.with_suffix(''))}"
        )
    files = ["-s", str(signature), "-f", str(signers)]
    found = _run(["find-principals", *files], b"")
    if found.returncode or not found.stdout.strip():
        raise CarryError(
            f"The key that signed the bundle is not in {signers}. Nothing was changed. Add the "
            "public key of the signer, if you trust it."
        )
    signer = found.stdout.decode(errors="replace").splitlines()[0]
    checked = _run(["verify", *files, "-I", signer, "-n", _NAMESPACE], body)
    if checked.returncode:
        lines = checked.stderr.decode(errors="replace").strip().splitlines() or ["it is wrong"]
        raise CarryError(
            f"The signature of the bundle is not valid: {lines[-1].rstrip('.')}. Nothing was "
            "changed. Copy manifest.json and manifest.json.sig again, or sign the bundle again."
        )
    return signer


def sign_command(manifest: Path) -> str:
    """The command that signs a bundle, to show to the operator."""
    return f"ssh-keygen -Y sign -f ~/.ssh/id_ed25519 -n {_NAMESPACE} {manifest}"


def _run(words: list[str], body: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603
        ["ssh-keygen", "-Y", *words],  # noqa: S607
        input=body,
        capture_output=True,
        check=False,
        timeout=_DEADLINE_S,
    )
