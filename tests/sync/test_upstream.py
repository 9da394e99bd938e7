"""Requests to a hub, and the use of its responses."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from starlette.responses import Response

from mirror.core.errors import ConfigError, UpstreamError
from mirror.core.repo import Repo
from mirror.store.cache import Cache
from mirror.sync.upstream import Head, Upstream
from tests.conftest import Serve
from tests.filling import FILES, FIRST_WAIT, MODEL, WEIGHTS, Filling
from tests.folders import entry
from tests.hub import EVER, HubSimulator, refused, run_hub

REPO = Repo.parse(MODEL)


@pytest.fixture
def waits() -> list[float]:
    """The pauses before the retries, in seconds."""
    return []


@pytest.fixture
def upstream(simulator: HubSimulator, waits: list[float]) -> Iterator[Upstream]:
    with run_hub(simulator) as url:
        yield Upstream(url, first_wait=FIRST_WAIT, retrying=lambda _, wait: waits.append(wait))


def test_the_head_of_a_branch(simulator: HubSimulator, upstream: Upstream) -> None:
    simulator.repo(MODEL).info = {"tags": ["tiny"]}
    head = upstream.head(Repo.parse("ORG/Model"), "main")
    assert (head.repo, head.commit_hash) == (REPO, simulator.repo(MODEL).refs["main"])
    assert head.info["tags"] == ["tiny"]
    assert simulator.requests == ["GET /api/models/ORG/Model/revision/main"]


def test_a_tree_has_sizes_and_digests(upstream: Upstream) -> None:
    tree = upstream.tree(upstream.head(REPO, "main"))
    assert tree == {path: entry(path, body) for path, body in FILES.items()}


@pytest.mark.parametrize(
    ("revision", "name"),
    [
        ("main", "refs/heads/main"),
        ("feature/x", "refs/heads/feature/x"),
        ("v1", "refs/tags/v1"),
        ("refs/tags/v1", "refs/tags/v1"),
        ("refs/pr/1", "refs/pr/1"),
        ("0" * 40, None),
        ("0" * 7, None),
    ],
)
def test_the_name_of_a_ref(
    simulator: HubSimulator, upstream: Upstream, revision: str, name: str | None
) -> None:
    commit = simulator.repo(MODEL).refs["main"]
    simulator.repo(MODEL).refs |= dict.fromkeys(["feature/x", "refs/tags/v1", "refs/pr/1"], commit)
    assert upstream.ref_name(Head(REPO, commit, {}), revision) == name


def test_a_file_is_fetched_and_counted(upstream: Upstream, tmp_path: Path) -> None:
    counts: list[int] = []
    head = upstream.head(REPO, "main")
    body = FILES[WEIGHTS]
    staged = upstream.fetch(head, entry(WEIGHTS, body), tmp_path / "staging", counts.append)
    assert staged.read_bytes() == body
    assert sum(counts) == len(body)


def test_a_hub_has_no_identity(upstream: Upstream) -> None:
    assert upstream.identities() == set()


def test_a_mirror_has_an_identity(serve: Serve, filling: Filling) -> None:
    filling.pull(MODEL)
    with filling.source() as source:
        upstream = Upstream(str(serve(source).base_url))
        assert upstream.identities() == {Cache.of(filling.hub).identity()}


def test_a_copy_of_a_mirror_has_another_identity(
    serve: Serve, filling: Filling, tmp_path: Path
) -> None:
    """A plain rsync copies `.hubmirror` too."""
    filling.pull(MODEL)
    shutil.copytree(filling.hub, tmp_path / "copy" / "hub", symlinks=True)
    with filling.source() as source:
        url = str(serve(source).base_url)
        copy = Filling(tmp_path / "copy", url)
        assert (
            "is this mirror itself"
            in Filling(filling.data, url).run("pull", MODEL, status=1).output
        )
        assert "up to date" in copy.run("pull", MODEL).output
    assert Cache.of(copy.hub).identity() != Cache.of(filling.hub).identity()


@pytest.mark.parametrize("url", ["127.0.0.1:8400", "ftp://hub", "http://"])
def test_an_upstream_that_is_not_a_url(url: str) -> None:
    with pytest.raises(ConfigError, match="does not begin with http"):
        Upstream(url)


def test_the_rate_limit_header_is_respected(simulator: HubSimulator, upstream: Upstream) -> None:
    """The rate limit window of huggingface.co is five minutes."""
    waits: list[float] = []
    limited = Upstream(upstream.endpoint, retrying=lambda _, wait: waits.append(wait))
    headers = {"ratelimit": '"api";r=0;t=1', "ratelimit-policy": '"fixed window";"api";q=5;w=300'}
    simulator.fail("revision", lambda *_: Response(status_code=429, headers=headers))
    limited.head(REPO, "main")
    assert len(waits) == 1
    assert waits[0] >= 2


def test_an_unreachable_hub_is_reported() -> None:
    waits: list[float] = []
    upstream = Upstream(
        "http://127.0.0.1:9", first_wait=0.001, retrying=lambda _, wait: waits.append(wait)
    )
    with pytest.raises(UpstreamError) as failure:
        upstream.head(REPO, "main")
    assert str(failure.value) == (
        "org/model at main cannot be pulled from http://127.0.0.1:9: "
        "127.0.0.1:9 cannot be reached: [Errno 111] Connection refused."
    )
    assert len(waits) == 5
    assert all(1.1 * earlier < later for earlier, later in pairwise(waits))


ANSWERS: list[tuple[str, Callable[[Upstream], object]]] = [
    ("/revision/", lambda hub: hub.head(REPO, "main")),
    ("/refs", lambda hub: hub.ref_name(Head(REPO, "0" * 40, {}), "main2")),
]


@pytest.mark.parametrize(("where", "ask"), ANSWERS)
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_hub_is_retried(
    simulator: HubSimulator,
    upstream: Upstream,
    waits: list[float],
    where: str,
    ask: Callable[[Upstream], object],
    status: int,
) -> None:
    simulator.fail(where, refused(status), 3)
    ask(upstream)
    assert len(waits) == 3


def test_retry_after_is_respected(
    simulator: HubSimulator, upstream: Upstream, waits: list[float]
) -> None:
    simulator.fail("/revision/", refused(429, retry_after="1"))
    upstream.head(REPO, "main")
    assert waits == [1.0]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_retried(simulator: HubSimulator, upstream: Upstream, status: int) -> None:
    simulator.fail("/revision/", refused(status), EVER)
    with pytest.raises(UpstreamError, match="org/model"):
        upstream.head(REPO, "main")
    assert len(simulator.requests) == 1


@pytest.mark.parametrize(
    "info", [{"sha": "main"}, {"sha": None}, {"sha": 1}, {"id": 5}, {"id": "../x"}]
)
def test_a_server_that_is_not_a_hub_is_reported(
    simulator: HubSimulator, upstream: Upstream, info: dict[str, object]
) -> None:
    simulator.repo(MODEL).info = info
    with pytest.raises(UpstreamError, match="does not answer like a hub"):
        upstream.head(REPO, "main")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b""])
def test_a_proxy_error_page_is_reported(
    simulator: HubSimulator, upstream: Upstream, body: bytes
) -> None:
    simulator.fail("/revision/", lambda _, __: Response(body), EVER)
    with pytest.raises(UpstreamError, match="org/model"):
        upstream.head(REPO, "main")
    assert len(simulator.requests) == 1


@pytest.mark.parametrize(
    "path", ["../../../../escaped", "a/../../../../../escaped", "a//escaped", "a\\escaped"]
)
def test_a_path_outside_of_the_repository_is_refused(
    simulator: HubSimulator, filling: Filling, path: str
) -> None:
    simulator.repo(MODEL).commit({path: b"same", "innocent.txt": b"same"})
    (failed,) = filling.pull(MODEL).failed
    assert "escaped" in failed
    assert not list(filling.data.rglob("*escaped"))


def test_an_invalid_token_is_reported(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e9")
    with pytest.raises(UpstreamError, match="the token contains an invalid character"):
        upstream.head(REPO, "main")
