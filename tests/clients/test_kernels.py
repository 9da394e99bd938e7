"""The kernels package and transformers load real kernels: Python code in the format of kernels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirror.core.repo import Repo
from mirror.sync.kernel_dependencies import BY_MODEL_TYPE, BY_QUANTIZATION
from tests import folders
from tests.clients.clients import KERNELS, TRANSFORMERS_KERNELS, Run, each
from tests.clients.conftest import Mirror
from tests.folders import COMMIT, OLDER, Content

pytestmark = pytest.mark.timeout(900)  # the first run makes the environments

TRUSTED = {"name": "Org", "fullname": "The Org", "trustedKernelPublisher": True}


def build(
    version: int, variant: str = "torch-universal", *, kernel_depends: Any = ()
) -> dict[str, bytes]:
    """A kernel for one build variant."""
    body = {
        "id": f"tiny_kernel_{version}", "name": "tiny-kernel", "version": version,
        "license": "Apache-2.0", "python-depends": [], "backend": {"type": "cpu"},
        "kernel-depends": list(kernel_depends),
    }  # fmt: skip
    code = f"VERSION = {version}\n\n\ndef double(number):\n    return 2 * number\n"
    return {
        f"build/{variant}/__init__.py": code.encode(),
        f"build/{variant}/metadata.json": json.dumps(body).encode(),
        "README.md": b"---\nlicense: apache-2.0\n---\n",
    }


def make(
    mirror: Mirror, repo_id: str, files: dict[str, bytes], commit: str, version: int, **record: Any
) -> None:
    content = Content(files, commit, Repo.parse(f"kernels/{repo_id}"))
    refs = (f"refs/heads/v{version}",)
    folders.make_managed(mirror.managed, content, refs=refs, **{"organization": TRUSTED} | record)


@pytest.fixture(scope="session")
def shelf(mirror: Mirror) -> Mirror:
    """Kernels: one of two versions, one that depends on it, one for another platform, and one whose
    publisher is not trusted."""
    make(mirror, "Org/tiny", build(1), OLDER, 1)
    make(mirror, "Org/tiny", build(2), COMMIT, 2)
    depends = [{"repo-id": "Org/tiny", "version": 2}]
    make(mirror, "Org/outer", build(3, kernel_depends=depends), COMMIT, 3)
    make(mirror, "Org/elsewhere", build(1, "torch213-cu130-aarch64-windows"), COMMIT, 1)
    make(mirror, "Unknown/tiny", build(1), COMMIT, 1, organization={})
    make(mirror, "kernels-community/finegrained-fp8", build(4), COMMIT, 4,
         organization=TRUSTED | {"name": "kernels-community"})  # fmt: skip
    return mirror


@each("download", *KERNELS)
@pytest.mark.parametrize("version", [1, 2])
def test_a_version_of_a_kernel_is_loaded(run: Run, shelf: Mirror, version: int) -> None:
    told = run("load", "Org/tiny", "version", str(version))
    assert told == {"version": version, "doubled": 42}
    (folder,) = (run.home / "hf" / "hub").glob("kernels--*")
    assert folder.name == "kernels--Org--tiny"


@each("download", *KERNELS)
def test_a_kernel_that_depends_on_another_is_loaded(run: Run, shelf: Mirror) -> None:
    assert run("load", "Org/outer", "version", "3")["version"] == 3


@each("revisions", *KERNELS)
@pytest.mark.parametrize("revision", ["v1", OLDER])
def test_a_revision_of_a_kernel_is_loaded(run: Run, shelf: Mirror, revision: str) -> None:
    assert run("load", "Org/tiny", "revision", revision)["version"] == 1


@each("errors", *KERNELS)
@pytest.mark.parametrize(
    ("repo_id", "version", "kind", "message"),
    [
        ("Org/tiny", 7, "ValueError", "Version 7 not found, available versions: 1, 2"),
        ("Org/absent", 1, "RepositoryNotFoundError", "is not in this mirror"),
        ("Org/elsewhere", 1, "FileNotFoundError", "Cannot find a build variant"),
        ("Unknown/tiny", 1, "ValueError", "could not verify publisher trust status"),
    ],
)
def test_a_kernel_that_cannot_be_loaded_is_explained(
    run: Run, shelf: Mirror, repo_id: str, version: int, kind: str, message: str
) -> None:
    told = run("error", repo_id, str(version), "")
    assert told["kinds"] == [kind]
    assert message in told["message"]


@each("download", TRANSFORMERS_KERNELS)
def test_transformers_loads_a_kernel_by_its_own_name(run: Run, shelf: Mirror) -> None:
    assert run("load", "finegrained-fp8") == {"version": 4, "doubled": 42}


@each("download", TRANSFORMERS_KERNELS)
def test_the_kernels_of_transformers_are_known(run: Run) -> None:
    """But for gguf, which llama.cpp loads too, and what a model asks for by itself."""
    known = {*BY_MODEL_TYPE.values(), *(one for many in BY_QUANTIZATION.values() for one in many)}
    assert set(run("names")) == known | {
        "ggml-org/ggml-quantization",
        "kernels-community/sonic-moe",
    }
