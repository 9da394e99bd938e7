"""The files in deploy: those for Prometheus and Grafana are valid, and name metrics that exist; the
units of systemd and the scripts for Slurm are understood."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = DEPLOY / "prometheus" / "hubmirror.rules.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "hubmirror.json").read_text())
NAMED = (DEPLOY.parent / "docs" / "operating.md").read_text()


def _expressions() -> list[str]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    alerts = [rule["expr"] for rule in group["rules"]]
    return alerts + [one["expr"] for panel in DASHBOARD["panels"] for one in panel["targets"]]


@pytest.mark.parametrize("expression", _expressions())
def test_each_expression_names_metrics_of_the_table(expression: str) -> None:
    for name in re.findall(r"hubmirror_\w+", expression):
        assert f"| `{name.removesuffix('_bucket')}` |" in NAMED


def test_no_panel_covers_another() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", RULES.name),
        ("test", "rules", "hubmirror.test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
)
def test_prometheus_accepts_the_rules_and_each_alert_fires(words: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here (Debian: prometheus)")
    done = subprocess.run(
        [promtool, *words], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
