"""Bad input of every sort: a clear error, nothing lost, and the server keeps serving."""

from __future__ import annotations

import fcntl
import http.client
import itertools
import json
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from click.testing import CliRunner

from mirror.cli import main
from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.derived.facts import Facts
from mirror.derived.state import State
from mirror.sources.folder import Folder
from mirror.sources.hf_cache import HfCache
from tests import folders
from tests.conftest import Serve, serving
from tests.folders import COMMIT, OLDER, Content
from tests.waiting import until

BIG = 64 * 1024 * 1024
BIG_ETAG = 64 * "b"


@dataclass
class Place:
    """A server of a managed and a foreign cache, in which each test makes its own repository."""

    client: httpx2.Client
    managed: Path
    foreign: Path
    _number: Iterator[int] = field(default_factory=itertools.count)

    def make(self, files: Mapping[str, bytes], kind: str = "foreign") -> tuple[str, Path]:
        """The id and the folder of a new repository."""
        repo_id = f"Org/R{next(self._number)}"
        content = Content(files, COMMIT, Repo.parse(repo_id))
        if kind == "managed":
            return repo_id, folders.make_managed(self.managed, content)
        return repo_id, folders.make_classic(self.foreign, content)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.client.get(path, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("bad")
    managed, foreign, state = folder / "managed", folder / "foreign", State(folder / "state")
    folders.make_managed(managed)
    folders.write(folder / "secret" / "key", b"root:secret")
    _make_big(folders.make_classic(foreign, Content({"a": b"a"}, COMMIT, Repo.parse("Org/Big"))))
    with closing(Digests(state)) as digests:
        sources = [HfCache(managed, digests, managed=True, ttl_s=0),
                   HfCache(foreign, digests, managed=False, ttl_s=0)]  # fmt: skip
        with serving(state, *sources) as client:
            yield Place(client, managed, foreign)


def _make_big(folder: Path) -> None:
    """Add a file of holes, larger than what sockets buffer."""
    blob = folder / "blobs" / BIG_ETAG
    folders.write(blob, b"")
    os.truncate(blob, BIG)
    folders.link(folder / "snapshots" / COMMIT / "big.bin", blob)


def _raw_get(client: httpx2.Client, path: str) -> tuple[int, Mapping[str, str], bytes]:
    """A GET of the path as it stands: httpx would tidy it."""
    with closing(_http(client)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def _http(client: httpx2.Client) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(*_address(client), timeout=5)


def _address(client: httpx2.Client) -> tuple[str, int]:
    return client.base_url.host, client.base_url.port or 80


def _exchange(client: httpx2.Client, data: bytes) -> bytes:
    """What the server says to these bytes until it closes the connection."""
    with socket.create_connection(_address(client), timeout=5) as connection:
        connection.sendall(data)
        said = b""
        while chunk := connection.recv(65536):
            said += chunk
        return said


def _has_message(answer: httpx2.Response) -> bool:
    return bool(answer.headers["x-error-message"] == answer.json()["error"])


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd",
        "a/../config.json", "./config.json", "%2Fetc%2Fpasswd", "/etc%00passwd", "config.json%00",
        "a%5Cb", "..%5C..%5Cetc", "%ff", "%C3%28", "a%2F%2Fb",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "route", ["/Org/Model/resolve", "/Org/Model/raw", "/api/models/Org/Model/tree"]
)
def test_a_path_that_is_none(place: Place, route: str, path: str) -> None:
    status, headers, body = _raw_get(place.client, f"{route}/main/{path}")
    assert (status, json.loads(body)["error"]) == (400, headers["x-error-message"])
    assert "x-error-code" not in headers


@pytest.mark.parametrize("revision", ["..", "%2e%2e", "..%2F..%2Fetc", "%00", "%ff"])
def test_a_revision_that_is_none(place: Place, revision: str) -> None:
    status, headers, _ = _raw_get(place.client, f"/Org/Model/resolve/{revision}/config.json")
    assert (status, "x-error-message" in headers) == (400, True)


@pytest.mark.parametrize("repo_id", ["a--b", "-a", ".a", "a..b", "a%20b", "%C3%BC", "a" * 97])
def test_a_repository_id_that_is_none(place: Place, repo_id: str) -> None:
    answer = place.get(f"/api/models/Org/{repo_id}")
    assert (answer.status_code, "is not a repository id" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize("path", ["a" * 300, "a/" * 2500 + "b"], ids=["long-name", "long-path"])
def test_a_path_that_no_disk_takes(place: Place, path: str) -> None:
    repo_id, _ = place.make({"config.json": b"{}"})
    answer = place.get(f"/{repo_id}/resolve/main/{path}")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "EntryNotFound")


def test_odd_paths_have_no_info(place: Place) -> None:
    body = {"paths": ["../x", "/etc/passwd", "a\0b", "", ".", "config.json"], "expand": False}
    answer = place.client.post("/api/models/Org/Model/paths-info/main", json=body)
    assert [row["path"] for row in answer.json()] == ["config.json"]


@pytest.mark.parametrize("name", ["a\r\nx-evil: 1", "a\nx-evil: 1\n", "\n", "\x7f\x1b[31m"])
def test_a_control_character_in_a_name_adds_no_header(place: Place, name: str) -> None:
    repo_id, _ = place.make({name: b"text"})
    status, headers, body = _raw_get(place.client, f"/{repo_id}/resolve/main/{quote(name)}")
    assert (status, body) == (200, b"text") or (status, "x-error-message" in headers) == (400, True)
    assert "x-evil" not in headers
    assert not re.search(r"[\x00-\x1f\x7f]", headers.get("content-disposition", ""))


def test_a_name_that_is_not_utf_8_is_listed_and_refused(place: Place) -> None:
    """A file that an old system named in Latin-1."""
    repo_id, folder = place.make({"config.json": b"{}"})
    folders.write(folder / "snapshots" / COMMIT / os.fsdecode(b"caf\xe9.txt"), b"")
    assert place.get(f"/{repo_id}/resolve/main/config.json").content == b"{}"
    siblings = place.get(f"/api/models/{repo_id}").json()["siblings"]
    assert sorted(one["rfilename"] for one in siblings) == ["caf\ufffd.txt", "config.json"]
    assert place.get(f"/{repo_id}/resolve/main/caf%EF%BF%BD.txt").status_code == 503


def test_a_name_that_is_no_unicode_in_a_plain_folder(
    tmp_path: Path, plain: Folder, serve: Serve
) -> None:
    folders.make_plain(tmp_path / "plain")
    folders.write(tmp_path / "plain" / os.fsdecode(b"caf\xe9.txt"), b"")
    client = serve(plain)
    assert client.get("/Org/Model/resolve/main/empty.txt").status_code == 200
    assert client.get("/api/models/Org/Model/tree/main").status_code == 200


# Links


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../../../../secret/key", "../../../models--Org--Big/blobs/" + BIG_ETAG,
     "link", "other", "."],
    ids=["absolute", "outside", "another-repository", "itself", "loop", "folder"],
)  # fmt: skip
def test_a_link_that_leads_elsewhere(place: Place, target: str) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    link = folder / "snapshots" / COMMIT / "link"
    link.symlink_to(target)
    link.with_name("other").symlink_to("link")
    answer = place.get(f"/{repo_id}/resolve/main/link")
    assert (answer.status_code, "x-error-code" in answer.headers) == (503, False)
    assert "link cannot be served" in answer.headers["x-error-message"]
    assert "x-repo-commit" not in answer.headers


def test_a_link_that_leads_elsewhere_is_listed_without_its_size(place: Place) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    (folder / "snapshots" / COMMIT / "link").symlink_to("/etc/passwd")
    (folder / "snapshots" / COMMIT / "etc").symlink_to("/etc")
    rows = place.get(f"/api/models/{repo_id}/tree/main?recursive=true").json()
    assert [row["path"] for row in rows] == ["config.json", "etc", "link"]
    assert [row["size"] for row in rows] == [2, 0, 0]


def test_a_snapshot_that_is_a_link_out_of_the_cache(place: Place) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    (folder / "snapshots" / OLDER).symlink_to("../../../secret")
    answer = place.get(f"/{repo_id}/resolve/{OLDER}/key")
    assert answer.status_code in (404, 503)
    assert b"secret" not in answer.content


def test_blobs_that_are_a_link_out_of_the_cache(place: Place) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    (folder / "blobs").rename(folder / "aside")
    (folder / "blobs").symlink_to("../../secret")
    folders.link(folder / "snapshots" / COMMIT / "stolen", folder / "blobs" / "key")
    answer = place.get(f"/{repo_id}/resolve/main/stolen")
    assert answer.status_code in (404, 503)
    assert b"secret" not in answer.content


def test_a_folder_that_is_a_link_out_of_a_managed_cache(place: Place) -> None:
    repo_id, folder = place.make({"sub/key": b"root:secret"}, "managed")
    for blob in (folder / "blobs").iterdir():
        blob.unlink()
    sub = folder / "snapshots" / COMMIT / "sub"
    (sub / "key").unlink()
    sub.rmdir()
    sub.symlink_to("../../../../secret")
    assert place.get(f"/{repo_id}/resolve/main/sub/key").status_code == 503


# Files that cannot be read


def _vanish(blob: Path) -> None:
    blob.unlink()


def _make_folder(blob: Path) -> None:
    blob.unlink()
    blob.mkdir()


def _make_fifo(blob: Path) -> None:
    blob.unlink()
    os.mkfifo(blob)


def _shorten(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:-1])


def _lengthen(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes() + b"x")


def _make_link(blob: Path) -> None:
    blob.unlink()
    blob.symlink_to("/etc/passwd")


HARMS = [_vanish, _make_folder, _make_fifo, _shorten, _lengthen, _make_link]
NO_PROMISES = [_vanish, _make_folder, _make_fifo, _make_link]


def _harmed(folder: Path, harm: Callable[[Path], None]) -> Path:
    (blob,) = (folder / "blobs").iterdir()
    harm(blob)
    return blob


@contextmanager
def _never_blocking(blob: Path) -> Iterator[None]:
    """Let go whoever waits for a writer of a fifo, so that a failed test ends."""
    try:
        yield
    finally:
        if blob.is_fifo():
            os.close(os.open(blob, os.O_RDWR | os.O_NONBLOCK))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_went_bad_after_it_was_listed_is_an_outage(
    hub: Path, digests: Digests, serve: Serve, harm: Callable[[Path], None], method: str
) -> None:
    folder = folders.make_classic(hub, Content({"config.json": b"{}"}))
    client = serve(HfCache(hub, digests, managed=False, ttl_s=60))
    assert client.get("/Org/Model/resolve/main/config.json").content == b"{}"
    with _never_blocking(_harmed(folder, harm)):
        answer = client.request(method, "/Org/Model/resolve/main/config.json", timeout=3)
    assert (answer.status_code, "retry-after" in answer.headers) == (503, False)
    assert str(hub) not in answer.headers["x-error-message"]


@pytest.mark.parametrize("harm", NO_PROMISES)
def test_a_bad_blob_of_a_foreign_cache_promises_nothing(
    place: Place, harm: Callable[[Path], None]
) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    _harmed(folder, harm)
    answer = place.get(f"/{repo_id}/resolve/main/config.json")
    assert answer.status_code in (404, 503)
    assert "x-repo-commit" not in answer.headers
    assert answer.headers["x-error-message"] != "Entry not found: config.json"


@pytest.mark.parametrize("harm", [*NO_PROMISES, _shorten, _lengthen])
def test_a_bad_blob_of_a_managed_cache_is_an_outage(
    place: Place, harm: Callable[[Path], None]
) -> None:
    repo_id, folder = place.make({"config.json": b"{}"}, "managed")
    _harmed(folder, harm)
    answer = place.get(f"/{repo_id}/resolve/main/config.json")
    assert answer.status_code == 503
    assert "1 of 1 files" in answer.headers["x-error-message"]


def test_a_size_that_the_tree_denies_is_an_outage(place: Place) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    folders.add_tree(folder, Content({"config.json": b"{}"}))
    _harmed(folder, _shorten)
    answer = place.get(f"/{repo_id}/resolve/main/config.json")
    assert answer.status_code == 503
    assert "1 bytes where 2 are expected" in answer.headers["x-error-message"]


def test_a_file_that_shrinks_while_it_is_sent_breaks_the_connection(place: Place) -> None:
    repo_id, folder = place.make({"a": b"a"})
    _make_big(folder)
    with closing(_http(place.client)) as connection:
        connection.request("GET", f"/{repo_id}/resolve/main/big.bin")
        answer = connection.getresponse()
        answer.read(1000)
        os.truncate(folder / "blobs" / BIG_ETAG, 2000)
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer.read()


def test_a_first_read_that_is_slow_holds_nobody_else_up(
    hub: Path, state: State, serve: Serve
) -> None:
    """Digests of one repository are pending, and many clients ask for it."""
    folders.make_real_files(hub)
    folders.make_classic(hub, Content({"a": b"a"}, COMMIT, Repo.parse("Org/Other")))
    state.folder.mkdir()
    with (state.folder / "digests.lock").open("w") as lock, ExitStack() as stack:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digests = stack.enter_context(closing(Digests(state, timeout_s=0.05)))
        stack.callback(fcntl.flock, lock, fcntl.LOCK_UN)
        client = serve(HfCache(hub, digests, managed=False, ttl_s=0))
        for _ in range(45):
            connection = stack.enter_context(closing(_http(client)))
            connection.request("GET", "/Org/Model/resolve/main/config.json")
        time.sleep(0.5)
        assert client.get("/Org/Other/resolve/main/a", timeout=5).content == b"a"


# Damaged side files


TREES = {
    "empty": b"",
    "cut": b"{",
    "list": b"[]",
    "null": b"null",
    "not-utf-8": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "another-format": b'{"format_version": 2, "files": {}}',
    "no-files": b'{"format_version": 1}',
    "list-of-files": b'{"format_version": 1, "files": []}',
    "number-for-a-file": b'{"format_version": 1, "files": {"x": 5}}',
    "odd-entry": b'{"format_version": 1, "files": {"x": {"size": "big", "blob_id": 5}}}',
    "parent-folder": b'{"format_version": 1, "files": {"../x": {"size": 1, "blob_id": "%s"}}}'
    % (40 * b"a"),
}


@pytest.mark.parametrize("body", TREES.values(), ids=list(TREES))
def test_a_damaged_tree_file(place: Place, body: bytes) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    folders.write(folder / "trees" / f"{COMMIT}.json", body)
    assert place.get(f"/{repo_id}/resolve/main/config.json").content == b"{}"
    assert "x-repo-commit" not in place.get(f"/{repo_id}/resolve/main/nope").headers


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"\xff\xfe", 39 * b"a", 41 * b"a"],
    ids=["empty", "words", "not-utf-8", "short", "long"],
)
def test_a_damaged_ref_is_an_outage_of_that_ref_alone(place: Place, body: bytes) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    (folder / "refs" / "main").write_bytes(body)
    assert place.get(f"/{repo_id}/resolve/main/config.json").status_code == 503
    assert place.get(f"/{repo_id}/resolve/{COMMIT}/config.json").content == b"{}"
    assert place.get(f"/api/models/{repo_id}/refs").status_code == 200


@pytest.mark.parametrize("target", ["nowhere", "odd"], ids=["dangling", "loop"])
def test_a_ref_that_cannot_be_read_is_an_outage_of_that_ref_alone(
    place: Place, target: str
) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    (folder / "refs" / "odd").symlink_to(target)
    assert place.get(f"/{repo_id}/resolve/main/config.json").content == b"{}"
    assert place.get(f"/{repo_id}/resolve/{COMMIT}/config.json").content == b"{}"


def test_a_branch_whose_snapshot_is_not_here_hides_no_other(place: Place) -> None:
    """A HEAD alone makes huggingface_hub write the ref."""
    repo_id, folder = place.make({"config.json": b"{}"})
    (folder / "refs" / "main").write_text(OLDER)
    folders.write(folder / "refs" / "v1", COMMIT.encode())
    assert place.get(f"/{repo_id}/resolve/v1/config.json").content == b"{}"
    assert place.get(f"/{repo_id}/resolve/{COMMIT}/config.json").content == b"{}"
    answer = place.get(f"/{repo_id}/resolve/main/config.json")
    assert answer.headers["x-error-code"] == "RevisionNotFound"


@pytest.mark.parametrize("branch", ["face", "deadbeef", "2024"])
def test_a_branch_that_reads_like_a_hash(place: Place, branch: str) -> None:
    repo_id, folder = place.make({"config.json": b"{}"})
    folders.write(folder / "refs" / branch, COMMIT.encode())
    assert place.get(f"/{repo_id}/resolve/{branch}/config.json").content == b"{}"


# Damaged metadata: it costs the answer that one fact, and nobody else anything

DEEP = b"[" * 500 + b"]" * 500
CARDS = {
    "not-yaml": b"a: [",
    "not-an-object": b"- a",
    "tabs": b"\ta:\t1",
    "not-utf-8": b"a: \xff\xfe",
    "alias-bomb": b"a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c]",
    "an-alias-of-itself": b"a: &a [*a]",
    "python-object": b"a: !!python/object/apply:os.system [id]",
    "huge-float": b"a: 1" + b":1" * 400 + b".5",
    "bad-bool": b"a: !!bool foo",
    "bad-int": b'a: !!int ""',
    "bad-float": b'a: !!float ""',
    "bad-timestamp": b"a: !!timestamp foo",
    "bad-date": b"a: 2001-99-99",
    "long-int": b"a: " + b"9" * 9000,
    "keys-of-all-sorts": b"? [a]\n: 1\n? {b: c}\n: 2",
    "types-of-all-sorts": b"tags: {a: b}\nlicense: [[mit]]\nlanguage: 5\nlibrary_name: [x]",
}


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_a_broken_front_matter(place: Place, card: bytes) -> None:
    repo_id, _ = place.make({"README.md": b"---\n" + card + b"\n---\n# Title\n"})
    answer = place.get(f"/api/models/{repo_id}")
    assert (answer.status_code, answer.json()["id"]) == (200, repo_id)
    assert isinstance(answer.json().get("cardData", {}), dict)


@pytest.mark.parametrize("card", ["huge-float", "bad-bool"])
def test_a_broken_front_matter_hides_no_other_repository(
    hub: Path, foreign: HfCache, serve: Serve, card: str
) -> None:
    folders.make_classic(hub)
    readme = b"---\n" + CARDS[card] + b"\n---\n"
    folders.make_classic(hub, Content({"README.md": readme}, COMMIT, Repo.parse("Org/Bad")))
    assert [row["id"] for row in serve(foreign).get("/api/models").json()] == [
        "Org/Bad", "Org/Model",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "card",
    [b"a: " + b"[" * 200_000, b"a:\n" + b"- " * 400_000, b"a: 1" + b":1" * 450_000],
    ids=["deep-brackets", "deep-lists", "sexagesimal"],
)
def test_a_card_neither_ends_nor_stops_the_process(tmp_path: Path, card: bytes) -> None:
    """Read in a process of its own, since a crash of the C parser would end this one."""
    folders.make_classic(tmp_path, Content({"README.md": b"---\n" + card + b"\n---\n"}))
    done = subprocess.run(
        [sys.executable, "-c", _READ_CARD, tmp_path],
        cwd=Path(__file__).parents[1], timeout=15, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr[-300:]) == (0, b"")


_READ_CARD = """
import sys
from pathlib import Path
from tests.test_bad_input import read_card
read_card(Path(sys.argv[1]))
"""


def read_card(hub: Path) -> Mapping[str, Any]:
    """The card of the model in a cache, as the server reads it."""
    state = State(hub / "state")
    with closing(Digests(state)) as digests:
        snapshot = HfCache(hub, digests, managed=False).snapshot(folders.MODEL, "main")
        return Facts(snapshot, state).card


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _gguf(*entries: bytes, tensors: tuple[bytes, ...] = ()) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    return head + b"".join(entries) + b"".join(tensors)


def _tensor(*sizes: int) -> bytes:
    return _string(b"t") + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, 0)


def _safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


TOKENS = _string(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 1) + _string(b"<s>")
NEGATIVE = _string(b"tokenizer.ggml.bos_token_id") + struct.pack("<Ii", 5, -9)
BROKEN_HEADERS = {
    "empty.safetensors": b"",
    "short.safetensors": b"\0\0",
    "longer-than-the-file.safetensors": struct.pack("<Q", 5000) + b"{}",
    "huge.safetensors": struct.pack("<Q", 2**63) + b"{}",
    "not-json.safetensors": _safetensors(b"\xff"),
    "list.safetensors": _safetensors(b"[1]"),
    "no-shape.safetensors": _safetensors(b'{"a": {"dtype": "F32"}}'),
    "shape-of-words.safetensors": _safetensors(b'{"a": {"dtype": "F32", "shape": ["x"]}}'),
    "impossible.safetensors": _safetensors(
        b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 9223372036854775807]}}'
    ),
    "empty.gguf": b"",
    "magic.gguf": b"GGML" + bytes(40),
    "version.gguf": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "short.gguf": b"GGUF" + struct.pack("<IQ", 3, 5),
    "counts.gguf": b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60),
    "long-string.gguf": _gguf(struct.pack("<Q", 2**60)),
    "impossible.gguf": _gguf(tensors=(_tensor(2**63, 2**63),)),
    "unknown-type.gguf": _gguf(_string(b"a") + struct.pack("<I", 77)),
}


@pytest.mark.parametrize("name", BROKEN_HEADERS)
def test_a_broken_weight_header(place: Place, name: str) -> None:
    repo_id, _ = place.make({name: BROKEN_HEADERS[name], "config.json": b"{}"})
    answer = place.get(f"/api/models/{repo_id}")
    assert answer.status_code == 200
    assert not {"safetensors", "gguf"} & set(answer.json())


def test_a_gguf_token_out_of_its_list(place: Place) -> None:
    repo_id, _ = place.make({"a.gguf": _gguf(TOKENS, NEGATIVE)})
    answer = place.get(f"/api/models/{repo_id}?expand=gguf")
    assert answer.status_code == 200
    assert "bos_token" not in answer.json()["gguf"]


CONFIGS = {
    "empty": b"",
    "cut": b"{",
    "list": b"[1]",
    "not-utf-8": b"\xff",
    "type-is-an-object": b'{"architectures": 5, "model_type": {"a": 1}}',
    "type-is-a-list": b'{"architectures": [[]], "model_type": ["x"]}',
    "deep": b'{"quantization_config": ' + DEEP + b"}",
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_a_broken_config(place: Place, config: bytes) -> None:
    repo_id, _ = place.make({"config.json": config})
    answer = place.get(f"/api/models/{repo_id}")
    assert (answer.status_code, answer.json()["id"]) == (200, repo_id)


# Bytes on the socket


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x1b[31m\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nNo colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["words", "tls", "http2", "space", "version", "escape", "no-colon", "two-lengths",
         "length-and-chunks", "negative-length", "connect"],
)  # fmt: skip
def test_bad_http(place: Place, data: bytes) -> None:
    assert _exchange(place.client, data).startswith(b"HTTP/1.1 400 ")
    assert place.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "start",
    [b"GET /healthz HTTP/1.1\r\nA: ", b"GET /", b"GET /healthz HTTP/1.1\r\n"],
    ids=["header", "path", "headers"],
)
def test_a_head_without_end(place: Place, start: bytes) -> None:
    filler = b"a: b\r\n" if start.endswith(b"\n") else b"aaaaaa"
    answer = _exchange(place.client, start + filler * (11 * 1024))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert place.get("/healthz").status_code == 200


def test_a_long_head_is_answered(place: Place) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: " + 60_000 * b"a"
    assert _exchange(place.client, head + b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_client_of_http_1_0_without_host(place: Place) -> None:
    answer = _exchange(place.client, b"GET /Org/Model/resolve/main/config.json HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_body_that_is_too_long(place: Place) -> None:
    answer = place.client.post(
        "/api/models/Org/Model/paths-info/main", content=b"paths=" + bytes(9_000_000)
    )
    assert (answer.status_code, _has_message(answer)) == (400, True)


# Clients that are slow, or leave


def test_a_request_that_comes_byte_by_byte(place: Place) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(_address(place.client), timeout=5) as connection:
        for index in range(len(request)):
            connection.sendall(request[index : index + 1])
        assert place.get("/healthz").text == "ok\n"
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_slow_readers_hold_nobody_up(place: Place) -> None:
    connections = [_http(place.client) for _ in range(50)]
    for connection in connections:
        connection.request("GET", "/Org/Big/resolve/main/big.bin")
        assert connection.getresponse().read(10) == bytes(10)
    assert place.get("/Org/Model/resolve/main/empty.txt", timeout=5).status_code == 200
    for connection in connections:
        connection.close()


def test_a_client_that_leaves_a_big_file(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.get("/healthz")
    before = _open_files()
    for _ in range(5):
        with closing(_http(place.client)) as connection:
            connection.request("GET", "/Org/Big/resolve/main/big.bin")
            connection.getresponse().read(1000)
    until(lambda: _open_files() <= before)
    assert place.get("/Org/Big/resolve/main/a").content == b"a"
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_client_that_leaves_its_own_body(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.get("/healthz")
    before = _open_files()
    with closing(_http(place.client)) as connection:
        connection.putrequest("POST", "/api/models/Org/Model/paths-info/main")
        connection.putheader("Content-Length", "300")
        connection.endheaders(b"paths=conf")
        time.sleep(0.05)
    until(lambda: _open_files() <= before)
    assert place.get("/healthz").text == "ok\n"
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# The operator's mistakes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which commands run; it has an empty data folder. Logging stays ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])
    (tmp_path / "data").mkdir()
    return tmp_path


def _error(*words: str) -> str:
    """The one line that a command ends with."""
    result = CliRunner().invoke(main, words)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("Error: ")
    return result.output


def _error_of_serve(*words: str) -> str:
    """As `_error`, of `hubmirror serve` with a port that is taken, so that it never serves."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return _error("serve", "--port", str(taken.getsockname()[1]), *words)


MISTAKES = {
    "key": ("[serve]\nprot = 1", "'prot'"),
    "table": ("[server]\nport = 1", "'server'"),
    "key-of-source": ('[[source]]\nkind = "hf-cache"\npath = "x"\nrepo = "a/b"', "'repo'"),
    "no-kind": ('[[source]]\npath = "x"', "kind"),
    "kind": ('[[source]]\nkind = "zip"\npath = "x"', "'zip'"),
    "no-id": ('[[source]]\nkind = "folder"\npath = "x"', "repo id"),
    "id": ('[[source]]\nkind = "folder"\npath = "x"\nrepo_id = "../x"', "'../x'"),
    "type": (
        '[[source]]\nkind = "folder"\npath = "x"\nrepo_id = "a/b"\nrepo_type = 5', "repo_type",
    ),
    "one-bracket": ('[source]\nkind = "hf-cache"\npath = "x"', "[[source]]"),
    "source-is-text": ('source = "hf-cache:x"', "[[source]]"),
    "serve-is-a-number": ("serve = 5", "serve"),
    "not-toml": ("not toml", "not TOML"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "named"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_file_that_says_what_is_not_known(folder: Path, text: str, named: str) -> None:
    (folder / "hubmirror.toml").write_text(text)
    assert named in _error("ls")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("data = 5", "data"),
        ("public_url = 5", "public"),
        ('port = "many"', "port"),
        ("port = 70000", "port"),
        ('log_format = "xml"', "log"),
        ('trusted_proxies = "10.0.0.1/99"', "10.0.0.1/99"),
        ("trusted_proxies = [5]", "5"),
    ],
)
def test_a_setting_of_the_wrong_sort(folder: Path, line: str, named: str) -> None:
    """Ours is one line, click's has its usage above it."""
    (folder / "hubmirror.toml").write_text(f"[serve]\n{line}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that it never serves
        port = () if line.startswith("port") else ("--port", str(taken.getsockname()[1]))
        result = CliRunner().invoke(main, ["serve", *port])
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert named in result.output.splitlines()[-1]


def test_an_unknown_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBMIRROR_PROT", "1")
    error = _error("ls")
    assert "HUBMIRROR_PROT" in error
    assert "HUBMIRROR_PORT" in error


def test_a_configuration_file_that_is_not_there(folder: Path) -> None:
    assert "nowhere.toml" in _error("ls", "--config", "nowhere.toml")


def test_a_port_in_use(folder: Path) -> None:
    """In a process of its own: all that it says is that one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "mirror", "serve", "--port", port],
            cwd=folder, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert re.match(rf"Error: .*{port}.*--port", done.stderr)


def test_an_address_that_is_not_ours(folder: Path) -> None:
    assert "192.0.2.1" in _error_of_serve("--host", "192.0.2.1")


def test_a_data_folder_that_is_not_there(folder: Path) -> None:
    assert re.search(r"nowhere.*--data", _error_of_serve("--data", "nowhere"))


def test_a_hub_that_is_a_file(folder: Path) -> None:
    folders.write(folder / "data" / "hub", b"")
    assert "hub" in _error("ls")
    assert "hub" in _error_of_serve()


@pytest.mark.parametrize("source", ["hf-cache:nowhere", "folder:nowhere=Org/Model", "nowhere"])
def test_a_source_that_is_not_there(folder: Path, source: str) -> None:
    assert "nowhere" in _error("ls", "--source", source)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--public-url", "hub.lan"),
        ("--token-file", "nowhere"),
        ("--trusted-proxies", "10.0.0.1/99"),
    ],
)
def test_a_flag_of_nonsense(folder: Path, flag: str, value: str) -> None:
    assert value in _error_of_serve(flag, value)
