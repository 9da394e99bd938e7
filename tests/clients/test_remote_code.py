"""Code that comes with a model: transformers fetches it from the mirror, and runs it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.hf_cache import HfCache
from tests import shapes
from tests.clients.clients import TRANSFORMERS, Client
from tests.clients.conftest import url_of
from tests.clients.proxies import Trap
from tests.clients.venvs import environment
from tests.conftest import serving
from tests.shapes import SHAPES, Shape

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

WITH_CODE = ("Kimi-K2-Thinking", "GLM-ASR-Nano-2512")
_CONFIG = """
import json, sys
from transformers import AutoConfig
config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
with open(sys.modules[type(config).__module__].__file__) as file:
    print(json.dumps([type(config).__name__, config.model_type, file.read()]))
"""
_TOKENIZER = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps([type(tokenizer).__name__, tokenizer.vocab_size]))
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mirror of the shapes that bring code."""
    folder = tmp_path_factory.mktemp("shapes")
    for name in WITH_CODE:
        shapes.make_managed(folder / "hub", SHAPES[name]())
    state = State(folder / "state")
    with (
        closing(Digests(state)) as digests,
        serving(state, HfCache(folder / "hub", digests, managed=True)) as client,
    ):
        yield url_of(client)


@pytest.fixture(params=TRANSFORMERS, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    client: Client = request.param
    return client


@pytest.fixture(params=WITH_CODE)
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]()


def test_the_configuration_is_the_models_own(
    client: Client, shape: Shape, url: str, trap: Trap, tmp_path: Path
) -> None:
    name, model_type, source = _run(client, _CONFIG, shape, url, trap, tmp_path)
    module, _, class_name = shape.config["auto_map"]["AutoConfig"].partition(".")
    assert (name, model_type) == (class_name, shape.config["model_type"])
    assert source.encode() == shape.files[f"{module}.py"]


def test_the_tokenizer_is_the_models_own(
    client: Client, url: str, trap: Trap, tmp_path: Path
) -> None:
    shape = shapes.kimi_k2_thinking()
    told = _run(client, _TOKENIZER, shape, url, trap, tmp_path)
    assert told == ["TikTokenTokenizer", 256]


def _run(client: Client, script: str, shape: Shape, url: str, trap: Trap, home: Path) -> list[Any]:
    """What the script prints as JSON. Nobody but the mirror is asked."""
    settings = {
        "HF_ENDPOINT": url, "HF_HOME": str(home), "HOME": str(home), "PATH": os.environ["PATH"],
        "http_proxy": trap.url, "https_proxy": trap.url, "no_proxy": "127.0.0.1",
    }  # fmt: skip
    python = str(environment(client.name) / "bin" / "python")
    done = subprocess.run(
        [python, "-c", script, shape.repo_id], env=settings, cwd=home, capture_output=True,
        text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not trap.asked
    told: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return told
