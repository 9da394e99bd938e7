"""The clients, and how one is run: its own interpreter, and nothing in its environment but the
mirror's address."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.clients.proxies import Trap
from tests.clients.venvs import environment, pins

SCRIPTS = Path(__file__).parent / "scripts"
CAPABILITIES = {
    "download": "download a file",
    "snapshot": "snapshot",
    "info": "info, lists",
    "fs": "ranges, streams",
    "errors": "errors",
    "resume": "resume",
    "xet": "Xet",
    "revisions": "PR, tag, commit",
    "login": "login",
    "upload": "refused upload",
}


@dataclass(frozen=True)
class Client:
    """One version of a client. Clients of a family share their scripts.

    `lacks` says of capabilities that are not tested why not. `asks` are other hosts that it is
    known to ask, and to do without.
    """

    name: str
    family: str
    distribution: str
    lacks: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    asks: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """What runs, by its pins or by its own word; "?" where the machine lacks it."""
        if self.family in ("curl", "aria2"):
            if shutil.which(self.distribution) is None:
                return "?"
            said = subprocess.run([self.distribution, "--version"], capture_output=True, check=True)
            found = re.search(rb"\d+\.[\d.]*\d", said.stdout)
        else:
            pattern = rf"{re.escape(self.distribution)}(?:==|\": \")([\d.]+)"
            found = re.search(pattern.encode(), pins(self.name).read_bytes())
        return found[found.lastindex or 0].decode() if found else "?"

    def command(self, script: str) -> list[str]:
        """How a script is run; skips the test where the machine lacks the client."""
        path = next((SCRIPTS / self.family).glob(f"{script}.*"))
        if path.suffix == ".sh":
            self._need(self.distribution)
            return ["sh", str(path)]
        if path.suffix == ".mjs":
            self._need("node")
            self._need("npm")
            return ["node", str(path)]
        return [str(environment(self.name) / "bin" / "python"), str(path)]

    def _need(self, program: str) -> None:
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on this machine")


@dataclass(frozen=True)
class Cell:
    """One client and one capability: a cell of the table."""

    client: Client
    capability: str


@dataclass(frozen=True)
class Run:
    """Runs scripts of one client against one server. What a script prints as JSON comes back."""

    client: Client
    endpoint: str
    home: Path
    trap: Trap
    log: Callable[[], str]
    """What the server logged since the test began."""
    timeout: float = 100

    def __call__(self, script: str, *args: str, endpoint: str = "", **settings: str) -> Any:
        command = [*self.client.command(script), *args]
        variables = {
            "HF_ENDPOINT": endpoint or self.endpoint,
            "HF_HOME": str(self.home / "hf"),
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "http_proxy": self.trap.url,
            "https_proxy": self.trap.url,
            "no_proxy": "127.0.0.1",
            **self.client.settings,
            **settings,
        }
        if self.client.family == "node":
            variables["NODE_PATH"] = str(environment("node") / "node_modules")
        done = subprocess.run(
            command, env=variables, cwd=self.home, capture_output=True, text=True,
            timeout=self.timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        others = self.trap.unlike(self.client.asks)
        assert not others, f"not the mirror was asked: {others}"
        return json.loads(done.stdout.splitlines()[-1])


_BY_URL = "it takes URLs, not repositories"
_BY_HUB = "it uses huggingface_hub for that"
_BY_KERNELS = "it uses kernels for that"
_LEFT_TO_HUB = dict.fromkeys(("snapshot", "info", "resume", "xet", "login", "upload"), _BY_HUB)
_NO_XET = "it does not support Xet"
# It counts a download, looks for a prepared copy (2.14) and for a viewer: all may fail.
_ASKED_BY_DATASETS = ("s3.amazonaws.com", "storage.googleapis.com", "//datasets-server.")

HUBS_WITHOUT_XET = [
    Client(name, "hub", "huggingface-hub", {"xet": _NO_XET})
    for name in ("hub-0.17", "hub-0.23", "hub-0.30")
]
HUBS_WITH_XET = [
    Client(name, "hub", "huggingface-hub") for name in ("hub-0.32", "hub-0.36", "hub-1", "hub-2")
]
HUBS = [*HUBS_WITHOUT_XET, *HUBS_WITH_XET]
IN_EVERY_RUN = (HUBS[0], HUBS[-1])
HF_TRANSFER = Client(
    "hf_transfer",
    "hub",
    "hf-transfer",
    dict.fromkeys(CAPABILITIES.keys() - {"download", "resume"}, "it only downloads large files"),
    {"HF_HUB_ENABLE_HF_TRANSFER": "1", "HF_HUB_DISABLE_XET": "1"},
)
NODE = Client(
    "node",
    "node",
    "@huggingface/hub",
    {
        "resume": "it does not resume a broken download",
        "xet": "it asks for Xet by a header of its own",
    },
)
CURL = Client(
    "curl",
    "curl",
    "curl",
    dict.fromkeys(("snapshot", "info", "login"), _BY_URL) | {"xet": _NO_XET},
)
ARIA2 = Client(
    "aria2",
    "aria2",
    "aria2c",
    dict.fromkeys(("snapshot", "info", "login", "upload"), _BY_URL)
    | {"fs": "it reads whole files only", "xet": _NO_XET},
)
TRANSFORMERS = [
    Client(name, "transformers", "transformers", _LEFT_TO_HUB | {"fs": _BY_HUB})
    for name in ("transformers-4", "transformers-5")
]
DATASETS = [
    Client(name, "datasets", "datasets", _LEFT_TO_HUB, asks=_ASKED_BY_DATASETS)
    for name in ("datasets-2.14", "datasets")
]
SENTENCE_TRANSFORMERS = Client(
    "sentence-transformers",
    "sentence_transformers",
    "sentence-transformers",
    dict.fromkeys(CAPABILITIES.keys() - {"download"}, _BY_HUB),
)
KERNELS = [
    Client(name, "kernels", "kernels", _LEFT_TO_HUB | {"fs": _BY_HUB})
    for name in ("kernels-0.14", "kernels-0.15", "kernels-0.16", "kernels")
]
TRANSFORMERS_KERNELS = Client(
    "transformers-kernels",
    "transformers_kernels",
    "transformers",
    dict.fromkeys(CAPABILITIES.keys() - {"download"}, _BY_KERNELS),
)
CLIENTS = [
    *HUBS, HF_TRANSFER, *TRANSFORMERS, *DATASETS, SENTENCE_TRANSFORMERS, *KERNELS,
    TRANSFORMERS_KERNELS, NODE, CURL, ARIA2,
]  # fmt: skip


def each(capability: str, *clients: Client) -> pytest.MarkDecorator:
    """Run a test, which takes `run`, for each client: in the full matrix only (the marker
    `clients`), but for the oldest and the newest huggingface_hub."""
    return pytest.mark.parametrize(
        "cell",
        [
            pytest.param(
                Cell(client, capability),
                id=client.name,
                marks=() if client in IN_EVERY_RUN else pytest.mark.clients,
            )
            for client in clients
        ],
    )
