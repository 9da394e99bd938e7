"""A host that has used the real hub: its cache lists the files of a commit with their xet hashes,
so huggingface_hub asks the mirror for Xet without having been told of it (1.22 and newer)."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from mirror.core.repo import Repo
from mirror.derived.state import State
from mirror.web.access import Signer
from tests import folders
from tests.clients.clients import HUBS_WITH_XET, Run, each
from tests.clients.conftest import TOKEN, Mirror, offering
from tests.clients.test_clients import digests
from tests.clients.test_xet import by_xet, calmly, make_told
from tests.folders import COMMIT, Content

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

WITH_TREES = HUBS_WITH_XET[-2:]
CONTENT = Content(
    {
        "config.json": b"{}",
        "one.safetensors": Random(0).randbytes(17_000_000),
        "two.safetensors": Random(1).randbytes(9_000_000),
    },
    repo=Repo.parse("Org/Known"),
)
WEIGHTS = {"one.safetensors", "two.safetensors"}


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a pull filled: it knows the hashes."""
    make_told(hub := tmp_path_factory.mktemp("managed"), CONTENT)
    return hub


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of an old client, to which nobody told the hashes."""
    folders.make_classic(hub := tmp_path_factory.mktemp("foreign"), CONTENT)
    return hub


@pytest.fixture
def trees(run: Run, mirror: Mirror, managed: Path, tmp_path: Path) -> str:
    """The list of files that a client keeps of a commit of which it got one small file. The real
    hub is a mirror here that knows all hashes."""
    elsewhere = replace(mirror, log=io.StringIO())
    with offering(elsewhere, managed, State(tmp_path / "real")) as real_hub:
        run("snapshot", "Org/Known", "config.json", endpoint=real_hub)
    (path,) = run.home.glob(f"hf/hub/models--Org--Known/trees/{COMMIT}.json")
    return path.read_text()


@each("xet", *WITH_TREES)
@pytest.mark.parametrize("advertise", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("folder", ["managed", "foreign"])
def test_what_the_real_hub_told_is_downloaded_from_the_mirror(
    run: Run, trees: str, mirror: Mirror, folder: str,
    request: pytest.FixtureRequest, state: State, *, advertise: bool,
) -> None:  # fmt: skip
    """Whether the mirror knows the hashes or computes them, and whether it tells of Xet or not."""
    assert trees.count("xet_hash") == 2
    hub = request.getfixturevalue(folder)
    is_managed = folder == "managed"
    with offering(mirror, hub, state, managed=is_managed, advertise=advertise) as url:
        assert run("snapshot", "Org/Known", endpoint=url, **calmly(run)) == digests(CONTENT)
    assert by_xet(run.log()) == WEIGHTS
    assert "HEAD" not in run.log()


@each("xet", *WITH_TREES)
def test_a_locked_mirror_asks_for_its_token_before_it_speaks_xet(
    run: Run, trees: str, managed: Path, mirror: Mirror, state: State
) -> None:
    assert trees
    with offering(mirror, managed, state, signer=Signer(TOKEN)) as url:
        told = run("error", "Org/Known", COMMIT, "one.safetensors", endpoint=url)
        assert "This mirror asks for its token" in told["message"]
        assert not by_xet(run.log())
        run("snapshot", "Org/Known", endpoint=url, HF_TOKEN=TOKEN, **calmly(run))
    assert by_xet(run.log()) == WEIGHTS
