"""A small model repository with a bento that runs on the CPU, in the shape of OpenLLM's own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

SERVICE = Path(__file__).parent / "scripts" / "tiny_service.py"
NAME, VERSION, ALIAS = "tiny", "cpu-0c1d", "demo"
TAG = f"{NAME}:{ALIAS}"
PYTHON = "3.11"
ENDPOINT = "https://huggingface.co"
# bentoml is named twice in the bentos that upstream's tools write.
REQUIREMENTS = "bentoml==1.4.39\nhuggingface_hub==2.4.0\nbentoml==1.4.39\n"
CREATED = "2026-11-18T00:29:11.079856+00:00"  # with what its requirements mean a week later


def make(folder: Path, repo_id: str, commit_hash: str) -> Path:
    """The folder `openllm-models`, a git repository, with the branches main and nightly."""
    root = folder / "openllm-models"
    root.mkdir()
    for path, text in _files(repo_id, commit_hash).items():
        file = root / "bentoml" / "bentos" / NAME / VERSION / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=Models")
    git(root, "checkout", "--quiet", "-b", "nightly")
    (root / "README.md").write_text("Of tonight.\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=Tonight")
    git(root, "checkout", "--quiet", "main")
    return root


def git(folder: Path, *words: str) -> str:
    who = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "A"), ("EMAIL", "a@localhost"))
    }
    env = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *words], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def _files(repo_id: str, commit_hash: str) -> dict[str, str]:
    bento = _bento(repo_id, commit_hash)
    return {
        "bento.yaml": yaml.safe_dump(bento, sort_keys=False),
        "README.md": "# tiny\n",
        "apis/openapi.yaml": "openapi: 3.0.2\n",
        "apis/schema.json": json.dumps(bento["schema"], indent=2),
        "env/docker/Dockerfile": f"FROM python:{PYTHON}-slim\n",
        "env/python/requirements.in": REQUIREMENTS,
        "env/python/requirements.txt": REQUIREMENTS,
        "src/bentofile.yaml": "service: service:LLM\n",
        "src/requirements.txt": REQUIREMENTS,
        "src/service.py": SERVICE.read_text(),
    }


def _bento(repo_id: str, commit_hash: str) -> dict[str, Any]:
    """A bento.yaml with every key that those of upstream's repository have."""
    model = {
        "tag": f"{repo_id.lower().replace('/', '--')}:{'0123456789abcdef' * 2}",
        "module": None,
        "creation_time": CREATED,
        "registry": "huggingface",
        "metadata": {
            "model_id": repo_id.lower(),
            "revision": commit_hash,
            "endpoint": ENDPOINT,
            "include": None,
            "exclude": ["original", "*.pth", "*.pt", "original/**/*"],
        },
    }
    facts = {
        "name": "facts",
        "route": "/facts",
        "batchable": False,
        "input": {"properties": {}, "title": "Input", "type": "object"},
        "output": {"type": "object", "additionalProperties": True},
        "is_task": False,
    }
    config = {"name": NAME, "traffic": {"timeout": 300}, "resources": {"cpu": 1}}
    return {
        "service": "service:LLM",
        "name": NAME,
        "version": VERSION,
        "bentoml_version": "1.4.39",
        "creation_time": CREATED,
        "labels": {"generator": "openllm", "owner": "bentoml-team", "aliases": ALIAS},
        "models": [],
        "entry_service": NAME,
        "services": [
            {"name": NAME, "service": "", "models": [model], "dependencies": [], "config": config}
        ],
        "envs": [
            {"name": "HF_TOKEN", "value": ""},
            {"name": "HF_HUB_DISABLE_PROGRESS_BARS", "value": "1"},
        ],
        "schema": {"name": NAME, "type": "service", "routes": [facts]},
        "args": {},
        "spec": 2,
        "image": {
            "base_image": f"python:{PYTHON}-slim",
            "python_version": PYTHON,
            "commands": ["apt-get update"],
            "python_requirements": REQUIREMENTS,
            "post_commands": [],
        },
    }
