"""OpenLLM 0.4.44, as it is, generates on the CPU from an entry that `bento add` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("bentoml", reason="BentoML is not installed beside hubmirror")

from tests.openllm.closed import MIRROR_URL, basics
from tests.openllm.conftest import Close
from tests.openllm.environments import environment
from tests.openllm.pages import documented
from tests.openllm.sites import demo_data, hubmirror

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

SERVICE = "http://127.0.0.1:3456"
PROMPT = json.dumps({"prompt": "the mirror", "llm_config": {"max_new_tokens": 8}})


@pytest.fixture(scope="session")
def program() -> Path:
    return environment("openllm-0.4", gigabytes=3, torch="2.13.0")


def test_openllm_generates_and_asks_the_hub_once(
    close: Close, home: Path, program: Path, tmp_path: Path
) -> None:
    data, record = demo_data(tmp_path / "data")
    add = documented("hubmirror bento add facebook/opt-125m --for openllm-0.4 --backend pt")
    said = hubmirror(*add, "--data", data, cwd=tmp_path)
    assert said.splitlines()[0] == f"pt-hubmirror--demo:{record.commit_hash}"
    closed = close()
    mirror = closed.mirror(data)
    env = {
        **basics(home, program / "bin"),
        "HF_ENDPOINT": MIRROR_URL,
        "BENTOML_HOME": str(data / "bentoml"),
    }
    start = documented(
        "HF_ENDPOINT=http://mirror.site:8400 BENTOML_HOME=/srv/hubmirror/data/bentoml "
        "openllm start facebook/opt-125m --backend pt"
    )
    python = str(program / "bin" / "python")
    command = [python, "-m", "openllm", *start, "--port", "3456"]
    server = closed.start("openllm", command, env)
    closed.wait_for(f"{SERVICE}/readyz", server, 300)
    answer = json.loads(closed.ask(f"{SERVICE}/v1/generate", PROMPT))
    assert answer["outputs"][0]["token_ids"]
    assert mirror.requests() == ["GET /api/models/hubmirror/demo 200"]
