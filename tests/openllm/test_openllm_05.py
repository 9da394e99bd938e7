"""OpenLLM 0.5.7, as it is, as far as it goes on a host without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("bentoml", reason="BentoML is not installed beside hubmirror")

from tests.openllm.closed import MIRROR_URL, basics
from tests.openllm.conftest import Close
from tests.openllm.environments import environment
from tests.openllm.pages import documented
from tests.openllm.sites import demo_data, hubmirror

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

NO_GPU = "Key 'gpu' error"
NO_VLLM = "No module named 'vllm'"


@dataclass(frozen=True)
class Host:
    """A host without a GPU, beside a mirror and its Bento store."""

    close: Close
    home: Path
    data: Path
    tag: str
    program: Path

    def start(self, words: Sequence[str], complaint: str, **settings: str) -> list[str]:
        """`openllm` with these words, until there is a complaint; what was asked of the mirror by
        then."""
        closed = self.close()
        mirror = closed.mirror(self.data)
        env = {
            **basics(self.home, self.program / "bin"),
            "HF_ENDPOINT": MIRROR_URL,
            "BENTOML_HOME": str(self.data / "bentoml"),
            **settings,
        }
        python = str(self.program / "bin" / "python")
        command = [python, "-m", "openllm", *words, "--port", "3456"]
        server = closed.start("openllm", command, env)
        closed.wait_until_said(server, complaint, 120)
        return mirror.requests()


@pytest.fixture(scope="session")
def program() -> Path:
    return environment("openllm-0.5", gigabytes=1)


@pytest.fixture
def host(close: Close, home: Path, program: Path, tmp_path: Path) -> Host:
    data, _ = demo_data(tmp_path / "data")
    add = documented("hubmirror bento add Qwen/Qwen2-7B-Instruct --for openllm-0.5")
    tag = hubmirror(*add, "--data", data, cwd=tmp_path).splitlines()[0]
    return Host(close, home, data, tag, program)


def test_a_tag_is_found_and_no_hub_is_asked(host: Host) -> None:
    assert host.tag.startswith("hubmirror--demo:")
    assert host.start(["start", host.tag], NO_GPU) == []


def test_a_tag_without_its_version_is_found(host: Host) -> None:
    start = documented(
        "BENTOML_HOME=/srv/hubmirror/data/bentoml openllm start qwen--qwen2-7b-instruct"
    )
    assert host.start(start, NO_GPU) == []


def test_a_worker_asks_no_hub_either(host: Host) -> None:
    """Told that there is a GPU, it goes on until it imports vLLM."""
    assert host.start(["start", host.tag], NO_VLLM, CUDA_VISIBLE_DEVICES="0") == []


def test_a_repository_is_read_from_the_mirror(host: Host) -> None:
    config = "/hubmirror/demo/resolve/main/config.json 200"
    asked = host.start(["start", "hubmirror/demo"], NO_GPU)
    assert asked == [f"HEAD {config}", f"GET {config}", f"HEAD {config}"]
