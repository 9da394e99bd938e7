"""The files in deploy: those for Prometheus and Grafana are valid, and name metrics that exist; the
units of systemd and the scripts for Slurm are understood."""

from __future__ import annotations

import json
import os
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


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    system = Path("/usr/lib/systemd/system")
    if analyze is None or not system.is_dir():
        pytest.skip("systemd-analyze is not installed here (Debian: systemd)")
    units = tmp_path / "etc/systemd/system"
    shutil.copytree(DEPLOY / "systemd", units)
    shutil.copytree(system, tmp_path / "usr/lib/systemd/system", symlinks=True)
    for name in ("opt/hubmirror/bin/hubmirror", "bin/kill"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2("/bin/true", tmp_path / name)
    names = sorted(unit.name for unit in units.iterdir())
    words = ("verify", f"--root={tmp_path}", "--man=no", "--recursive-errors=yes")
    done = subprocess.run([analyze, *words, *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_slurm_gives_each_task_the_mirror_and_a_folder_of_its_user(tmp_path: Path) -> None:
    """Run as Slurm runs them; `/local` is a folder of the test."""
    scripts = tmp_path / "slurm"
    shutil.copytree(DEPLOY / "slurm", scripts)
    for script in scripts.iterdir():
        script.write_text(script.read_text().replace("/local/", f"{tmp_path}/local/"))
    user = {"SLURM_JOB_UID": str(os.getuid()), "SLURM_JOB_NUM_NODES": "2", **os.environ}
    subprocess.run([scripts / "prolog.sh"], env=user, check=True)
    printed = subprocess.check_output([scripts / "task_prolog.sh"], env=user, text=True)
    told = dict(line.removeprefix("export ").split("=", 1) for line in printed.splitlines())
    assert told["HF_ENDPOINT"].startswith("http://")
    folder = Path(told["HF_HOME"])
    assert folder.stat().st_mode & 0o777 == 0o700
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/sh\necho "${HF_HUB_OFFLINE:-0} $*"\n')
    srun.chmod(0o755)
    path = f"{srun.parent}:{os.environ['PATH']}"
    job = ["sh", str(scripts / "job.sbatch")]
    steps = subprocess.check_output(job, env={**user, "PATH": path}, text=True).splitlines()
    assert steps == [
        "0 --ntasks-per-node=1 --ntasks=2 hf download Qwen/Qwen3-8B",
        "1 python train.py",
    ]
