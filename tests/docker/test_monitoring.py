"""The profile `monitoring` of docker-compose.yml."""

from __future__ import annotations

import json

import pytest

from tests.docker.conftest import Clone
from tests.docker.engine import ROOT, Engine
from tests.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]


def build(engine: Engine) -> None:
    engine.run("docker-compose", "--profile", "monitoring", "build")


def test_prometheus_reads_the_mirror_and_answers_the_dashboard(clone: Clone) -> None:
    clone.compose("up", "--detach", "mirror", "prometheus")
    prometheus = clone.container("prometheus")

    def ask(expression: str, code: int | None = 0) -> str:
        words = ("promtool", "query", "instant", "http://127.0.0.1:9090", expression)
        return clone.engine.docker("exec", prometheus, *words, code=code)

    until(lambda: "=> 1 @" in ask('up{job="hubmirror"}', code=None), 120, 1)
    dashboard = json.loads((ROOT / "deploy/grafana/hubmirror.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            ask(target["expr"].replace("$__rate_interval", "1m"))
    assert "hubmirror_" in ask('{__name__=~"hubmirror_.+"}')
