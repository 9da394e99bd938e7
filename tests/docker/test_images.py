"""The two images of the mirror: their size, their user, and their list of parts."""

from __future__ import annotations

import json

import pytest

from tests.docker.engine import Engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]

SBOM = "/usr/share/hubmirror/sbom.cdx.json"
LISTED = "import importlib.metadata as m; print(*(one.name for one in m.distributions()))"


def build(engine: Engine) -> None:
    for target in ("slim", "full"):
        engine.build(target, f"hubmirror:{target}")


@pytest.mark.parametrize(("target", "most"), [("slim", 220_000_000), ("full", 420_000_000)])
def test_an_image_is_small_and_lists_its_parts(engine: Engine, target: str, most: int) -> None:
    image = f"hubmirror:{target}"
    assert engine.size(image) <= most

    def ask(*words: str, code: int = 0) -> str:
        options = ("--rm", "--network", "none", "--entrypoint", words[0])
        return engine.docker("run", *options, image, *words[1:], code=code)

    assert ask("id", "--user") == "10400"
    sbom = json.loads(ask("cat", SBOM))
    purls = [part["purl"] for part in sbom["components"]]
    assert len(purls) == len(set(purls))
    names = {purl.partition("@")[0] for purl in purls}
    python = ask("/opt/hubmirror/bin/python", "-c", LISTED).lower().replace("_", "-").split()
    debian = ask("dpkg-query", "--show", "--showformat", "${Package} ").split()
    subject = sbom["metadata"]["component"]
    assert subject["purl"] == f"pkg:pypi/hubmirror@{subject['version']}"
    wanted = {f"pkg:pypi/{name}" for name in python if name != "hubmirror"}
    wanted |= {f"pkg:deb/debian/{name}" for name in (*debian, "git")}
    assert names == {purl.replace("+", "%2B") for purl in wanted}
    assert ("bentoml" in python) == (target == "full")
    if target == "slim":
        said = ask("hubmirror", "bento", "add", "hubmirror/demo", code=1)
        assert "pip install 'hubmirror[bentoml]'" in said
