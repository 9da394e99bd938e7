"""From a raw path to what is asked."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.errors import HubmirrorError, RequestError
from mirror.core.repo import RepoType
from mirror.web.routes import ROUTER

Found = tuple[str, RepoType, str, tuple[str, ...]]


def parse(path: bytes) -> Found | None:
    match = ROUTER.match(path)
    return (match.route.name, match.repo_type, match.repo_id, match.params) if match else None


def target(
    name: str,
    repo_type: RepoType = RepoType.MODEL,
    repo_id: str = "",
    params: tuple[str, ...] = (),
) -> Found:
    return name, repo_type, repo_id, params


MODEL, DATASET, SPACE = RepoType.MODEL, RepoType.DATASET, RepoType.SPACE

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=10).filter(lambda name: ".." not in name)
SEGMENTS = st.text('ab1 ./%#?+&=\\\n"\u00fc\u6f22\U0001f917', min_size=1, max_size=12).filter(
    lambda text: ".." not in text.split("/")
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", target("welcome")),
        ("/datasets", target("browse", DATASET)),
        ("/a", target("repository", MODEL, "a")),
        ("/datasets/a/b", target("repository", DATASET, "a/b")),
        ("/a/b/tree/main", target("files", MODEL, "a/b", ("main",))),
        ("/spaces/a/b/blob/main/c/d", target("file", SPACE, "a/b", ("main", "c", "d"))),
        ("/-/status", target("status")),
        ("/a/b/resolve/main/c/d", target("resolve", MODEL, "a/b", ("main", "c", "d"))),
        ("/gpt2/resolve/main/c", target("resolve", MODEL, "gpt2", ("main", "c"))),
        ("/datasets/squad/raw/main/c", target("raw", DATASET, "squad", ("main", "c"))),
        ("/spaces/a/b/resolve/main/c", target("resolve", SPACE, "a/b", ("main", "c"))),
        ("/a/b/resolve/refs%2Fpr%2F1/c", target("resolve", MODEL, "a/b", ("refs/pr/1", "c"))),
        ("/a/b/resolve/main/c%2Fd", target("resolve", MODEL, "a/b", ("main", "c/d"))),
        ("/a/b/resolve/main/c+d%2B", target("resolve", MODEL, "a/b", ("main", "c+d+"))),
        ("/a/b/resolve/main/%2520", target("resolve", MODEL, "a/b", ("main", "%20"))),
        ("//a//b//resolve/main/c", target("resolve", MODEL, "a/b", ("main", "c"))),
        ("/api/models", target("listing", MODEL)),
        ("/api/datasets/", target("listing", DATASET)),
        ("/api/models/gpt2", target("info", MODEL, "gpt2")),
        ("/api/models/a/b", target("info", MODEL, "a/b")),
        ("/api/models/gpt2/tree/main", target("tree", MODEL, "gpt2", ("main",))),
        ("/api/models/a/b/tree/main/c", target("tree", MODEL, "a/b", ("main", "c"))),
        ("/api/spaces/a/b/refs", target("refs", SPACE, "a/b")),
        ("/api/models/a/tag", target("info", MODEL, "a/tag")),
        ("/api/models/a/commit", target("info", MODEL, "a/commit")),
        (
            f"/api/resolve-cache/datasets/a/b/{40 * 'a'}/c",
            target("resolve", DATASET, "a/b", (40 * "a", "c")),
        ),
        ("/v2", target("registry")),
        ("/v2/a/b/manifests/latest", target("manifests", MODEL, "a/b", ("latest",))),
        ("/api/telemetry/gradio/x", target("telemetry", params=("gradio", "x"))),
    ],
)
def test_a_path_has_its_route(path: str, expected: Found) -> None:
    assert parse(path.encode()) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/a/b/c", "/a/b/c/resolve/main/d", "/api/models/a/b/nope/main", "/-/a/b",
        "/api/resolve-cache/models/a/b/main/c", "/api/resolve-cache/models", "/v2/manifests/x",
    ],
)  # fmt: skip
def test_what_is_not_offered(path: str) -> None:
    assert parse(path.encode()) is None


@pytest.mark.parametrize(
    "path",
    [
        b"/a/b/resolve/main/..", b"/a/b/resolve/main/%2e%2e/c", b"/a/b/resolve/main/c%2F..%2Fd",
        b"/a/b/resolve/..%2Fmain/c", b"/../a/resolve/main/c", b"/a/b/resolve/main/%00",
        b"/a/b/resolve/main/%ff", b"/a/b/resolve/main/%C3", b"/" + 9000 * b"a",
    ],
)  # fmt: skip
def test_nonsense_is_a_request_error(path: bytes) -> None:
    with pytest.raises(RequestError):
        parse(path)


def test_two_dots_inside_a_name_are_harmless() -> None:
    found = parse(b"/a/b/resolve/main/c..d/...")
    assert found == target("resolve", MODEL, "a/b", ("main", "c..d", "..."))


@given(st.binary(max_size=60))
def test_any_bytes_give_a_target_or_an_error_of_ours(path: bytes) -> None:
    with suppress(HubmirrorError):
        parse(b"/" + path)


@given(
    st.lists(
        st.sampled_from(
            [b"api", b"models", b"datasets", b"v2", b"resolve", b"tree", b"refs", b"a", b"%2F",
             b"..", b"%2e%2e", b"%", b"%0", b"resolve-cache", b"manifests", b"info", b"", b"%00"]
        ),
        max_size=8,
    )
)  # fmt: skip
def test_any_words_give_a_target_or_an_error_of_ours(words: list[bytes]) -> None:
    with suppress(HubmirrorError):
        parse(b"/" + b"/".join(words))


@given(
    st.sampled_from([MODEL, DATASET, SPACE]),
    NAMES.filter(
        lambda name: name not in ("-", "api", "v1", "v2", "datasets", "spaces", "resolve")
    ),
    NAMES.filter(lambda name: name != "resolve"),
    SEGMENTS,
    st.lists(SEGMENTS, min_size=1, max_size=4),
)
def test_what_a_client_quotes_comes_back(
    repo_type: RepoType, namespace: str, name: str, revision: str, path: list[str]
) -> None:
    quoted = "/".join(quote(one, safe="") for one in (revision, *path))
    found = parse(f"/{repo_type.url_prefix}{namespace}/{name}/resolve/{quoted}".encode())
    assert found == target("resolve", repo_type, f"{namespace}/{name}", (revision, *path))
