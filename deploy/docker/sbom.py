"""Print the parts of this image as a CycloneDX document: Debian's packages, and Python's."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

_COPIED = Path("/usr/share/hubmirror/copied")
"""Debian's packages of which the image has some files, as lines of name, version, architecture."""

_SHOW = ("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n")


def document() -> dict[str, object]:
    """The whole document, with the mirror as its subject."""
    python = {one.name: one for one in importlib.metadata.distributions()}
    mirror = _python(python.pop("hubmirror"))
    debian = subprocess.run(_SHOW, capture_output=True, text=True, check=True).stdout  # noqa: S603
    lines = [*debian.splitlines(), *_COPIED.read_text().splitlines()]
    parts = [*map(_debian, lines), *map(_python, python.values())]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**mirror, "type": "application"}},
        "components": sorted(parts, key=lambda part: part["purl"]),
    }


def _debian(line: str) -> dict[str, str]:
    name, version, architecture = line.split()
    return _part(name, version, f"pkg:deb/debian/{name}@{version}?arch={architecture}")


def _python(one: importlib.metadata.Distribution) -> dict[str, str]:
    name = one.name.lower().replace("_", "-")
    return _part(name, one.version, f"pkg:pypi/{name}@{one.version}")


def _part(name: str, version: str, purl: str) -> dict[str, str]:
    purl = purl.replace("+", "%2B").replace("~", "%7E")
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
