"""The package index, read by pip, by uv, and line by line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.openllm.wheel_metadata import metadata, wheel_project
from tests.folders import write
from tests.wheels import make_wheel, needs_uv, serving_openllm_files, sha256

JSON = "application/vnd.pypi.simple.v1+json"
# What pip sends.
ASKED = f"{JSON}, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
HTML = "text/html; charset=utf-8"
TOKEN = "s3cret"
ANCHOR = re.compile(r'<a href="([^"#]+)#sha256=([0-9a-f]{64})"([^>]*)>([^<]+)</a>')


@dataclass(frozen=True)
class Index:
    """A server of the wheels in a data folder."""

    client: httpx2.Client
    data: Path

    @property
    def wheels(self) -> Path:
        return self.data / "wheels"

    @property
    def base(self) -> str:
        return str(self.client.base_url).rstrip("/")

    @property
    def url(self) -> str:
        return f"{self.base}/-/simple/"

    def page(self, path: str = "") -> str:
        answer = self.client.get(f"/-/simple/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, HTML)
        return answer.text

    def json(self, path: str = "") -> dict[str, Any]:
        answer = self.client.get(f"/-/simple/{path}", headers={"accept": ASKED})
        assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
        told: dict[str, Any] = answer.json()
        return told

    def metadata(self, name: str, **headers: str) -> httpx2.Response:
        return self.client.get(f"/-/wheels/{name}.metadata", headers=headers)


def fill(data: Path) -> Path:
    wheels = data / "wheels"
    make_wheel(wheels, "tiny-a", "1.0")
    make_wheel(wheels, "tiny-a", "1.1")
    make_wheel(wheels, "tiny-a", "2.0", python=">=99")
    make_wheel(wheels, "Tiny.B", requires=["tiny_a>=1"], python=">=3.8")
    make_wheel(wheels, "tiny-c", "1!2.0+local.1", tag="cp311-cp311-manylinux_2_28_x86_64")
    for name in ("readme.txt", "tiny_a-1.0.tar.gz", "no-wheel.whl", ".hidden-1.0-py3-none-any.whl"):
        write(wheels / name, b"x")
    write(data / "secret-1.0-py3-none-any.whl", b"secret")
    write(data / "openllm" / "llama__1b.txt", b"tiny-a==1.0\n")
    write(data / "openllm" / "llama__1b.json", b"{}")
    return data


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    data = fill(tmp_path_factory.mktemp("simple"))
    with serving_openllm_files(data) as client:
        yield Index(client, data)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Index]:
    """For tests that fill it."""
    (tmp_path / "wheels").mkdir()
    with serving_openllm_files(tmp_path) as client:
        yield Index(client, tmp_path)


# Pages


def test_the_projects_that_have_a_wheel(index: Index) -> None:
    names = ["tiny-a", "tiny-b", "tiny-c"]
    assert re.findall(r'<a href="([^"]+)/">([^<]+)</a>', index.page()) == [(n, n) for n in names]
    told = index.json()
    assert told["projects"] == [{"name": name} for name in names]
    assert told["meta"]["api-version"] == "1.1"


def test_an_index_of_nothing(own: Index) -> None:
    assert "<a" not in own.page()
    assert own.json()["projects"] == []
    own.wheels.with_name("hub").mkdir(exist_ok=True)  # an empty data folder would be an outage
    own.wheels.rmdir()
    assert own.json()["projects"] == []


def test_a_project_as_a_page(index: Index) -> None:
    links = ANCHOR.findall(index.page("tiny-a/"))
    assert [name for *_, name in links] == [
        f"tiny_a-{version}-py3-none-any.whl" for version in ("1.0", "1.1", "2.0")
    ]
    for url, digest, more, name in links:
        assert url == f"{index.base}/-/wheels/{name}"
        assert digest == sha256(index.wheels / name)
        assert 'data-core-metadata="true"' in more
    assert 'data-requires-python="&gt;=99"' in links[2][2]
    assert "requires-python" not in links[0][2]


def test_a_project_as_json(index: Index) -> None:
    told = index.json("tiny-b/")
    wheel = index.wheels / "Tiny_B-1.0-py3-none-any.whl"
    assert (told["name"], told["versions"]) == ("tiny-b", ["1.0"])
    assert told["files"] == [
        {
            "filename": wheel.name,
            "url": f"{index.base}/-/wheels/{wheel.name}",
            "hashes": {"sha256": sha256(wheel)},
            "size": wheel.stat().st_size,
            "core-metadata": True,
            "requires-python": ">=3.8",
        }
    ]


@pytest.mark.parametrize("name", ["tiny-b", "Tiny.B", "TINY_b", "tiny--b", "tiny%2Db"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_project_answers_to_every_form_of_its_name(index: Index, name: str, end: str) -> None:
    assert index.json(name + end)["name"] == "tiny-b"
    assert "Tiny_B-1.0" in index.page(name + end)


def test_the_index_with_and_without_a_slash(index: Index) -> None:
    assert index.client.get("/-/simple").text == index.page()


@pytest.mark.parametrize("name", ["other", "no", "readme.txt", "hidden", "secret", "a%2Fb", "..."])
def test_a_project_that_is_not_here(index: Index, name: str) -> None:
    answer = index.client.get(f"/-/simple/{name}/")
    assert (answer.status_code, "no wheel of" in answer.json()["error"]) == (404, True)


def test_a_wheel_that_is_put_there_is_seen_at_once(own: Index) -> None:
    assert own.client.get("/-/simple/tiny-a/").status_code == 404
    for version in ("1.0", "2.0"):
        make_wheel(own.wheels, "tiny-a", version)
        assert own.json("tiny-a/")["versions"][-1] == version


def test_the_digest_of_a_wheel_that_was_replaced(own: Index) -> None:
    wheel = make_wheel(own.wheels, "tiny-a")
    before = own.json("tiny-a/")["files"][0]["hashes"]["sha256"]
    make_wheel(own.wheels, "tiny-a", requires=["tiny-b"])
    after = own.json("tiny-a/")["files"][0]["hashes"]["sha256"]
    assert before != after == sha256(wheel)


def test_a_page_and_json_are_not_mixed(index: Index) -> None:
    """Nor when both are asked for at once."""

    def kind(number: int) -> str:
        path = "/-/simple/" + ("tiny-a/" if number % 4 > 1 else "")
        headers = {"accept": ASKED if number % 2 else "*/*"}
        return str(index.client.get(path, headers=headers).headers["content-type"])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(kind, range(64))) == [HTML, JSON] * 32


def test_every_address_is_that_by_which_the_client_came(index: Index) -> None:
    headers = {"x-forwarded-host": "hub.example:8443", "x-forwarded-proto": "https"}
    page = index.client.get("/-/simple/tiny-a/", headers=headers).text
    assert {url.partition("/-/")[0] for url, *_ in ANCHOR.findall(page)} == {
        "https://hub.example:8443"
    }


# Files


def test_a_wheel(index: Index) -> None:
    wheel = index.wheels / "tiny_a-1.0-py3-none-any.whl"
    answer = index.client.get(f"/-/wheels/{wheel.name}")
    assert (answer.content, answer.headers["content-type"]) == (
        wheel.read_bytes(), "application/octet-stream",
    )  # fmt: skip
    head = index.client.head(f"/-/wheels/{wheel.name}")
    assert (head.headers["content-length"], head.content) == (str(wheel.stat().st_size), b"")


def test_a_wheel_whose_name_must_be_quoted(index: Index) -> None:
    (row,) = index.json("tiny-c/")["files"]
    assert "!" not in row["url"]
    assert "+" not in row["url"]
    assert index.client.get(row["url"]).status_code == 200


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=5-99", 5, 99), ("bytes=-7", -7, None), ("bytes=9-", 9, None)],
)
def test_a_range_of_a_wheel(index: Index, asked: str, first: int, last: int | None) -> None:
    wheel = index.wheels / "tiny_a-1.0-py3-none-any.whl"
    answer = index.client.get(f"/-/wheels/{wheel.name}", headers={"range": asked})
    whole = wheel.read_bytes()
    wanted = whole[first:] if last is None else whole[first : last + 1]
    assert (answer.status_code, answer.content) == (206, wanted)
    assert answer.headers["content-range"].endswith(f"/{len(whole)}")


def test_a_range_past_the_end_of_a_wheel(index: Index) -> None:
    answer = index.client.get(
        "/-/wheels/tiny_a-1.0-py3-none-any.whl", headers={"range": "bytes=99999-"}
    )
    assert answer.status_code == 416


def test_a_large_wheel(own: Index) -> None:
    body = os.urandom(3_000_000)
    write(own.wheels / "big-1.0-py3-none-any.whl", body)
    url = "/-/wheels/big-1.0-py3-none-any.whl"
    assert own.client.get(url).content == body
    assert own.client.get(url, headers={"range": "bytes=1000000-"}).content == body[1_000_000:]


def test_the_metadata_of_a_wheel(index: Index) -> None:
    name = "Tiny_B-1.0-py3-none-any.whl"
    with zipfile.ZipFile(index.wheels / name) as opened:
        wanted = opened.read("Tiny_B-1.0.dist-info/METADATA")
    answer = index.metadata(name)
    assert (answer.status_code, answer.content) == (200, wanted)
    assert answer.headers["content-type"].startswith("text/plain")
    assert index.metadata(name, range="bytes=0-3").content == wanted[:4]
    assert index.client.head(f"/-/wheels/{name}.metadata").content == b""


@pytest.mark.parametrize(
    "name",
    ["other-1.0-py3-none-any.whl", "readme.txt", "tiny_a-1.0.tar.gz", "tiny_a-1.0-py3-none-any.WHL",
     "..%2fsecret-1.0-py3-none-any.whl", "%2e%2e", "%2fetc%2fpasswd", "a%00b.whl", ".metadata",
     "..%2fsecret-1.0-py3-none-any.whl.metadata", "tiny_a-1.0-py3-none-any.whl.metadata.metadata",
     "readme.txt.metadata", 300 * "x" + ".whl"],
)  # fmt: skip
def test_a_file_that_is_not_here(index: Index, name: str) -> None:
    assert index.client.get(f"/-/wheels/{name}").status_code in (400, 404)


def test_a_wheel_that_is_a_link_within_the_folder(own: Index) -> None:
    wheel = make_wheel(own.wheels / "kept", "tiny-a")
    (own.wheels / wheel.name).symlink_to(wheel)
    (row,) = own.json("tiny-a/")["files"]
    assert own.client.get(row["url"]).content == wheel.read_bytes()


def test_the_folder_of_wheels_may_be_a_link(own: Index, tmp_path: Path) -> None:
    """To another disk."""
    wheel = make_wheel(tmp_path / "disk", "tiny-a")
    own.wheels.rmdir()
    own.wheels.symlink_to(tmp_path / "disk")
    (row,) = own.json("tiny-a/")["files"]
    assert own.client.get(row["url"]).content == wheel.read_bytes()


@pytest.mark.parametrize("relative", [False, True])
def test_no_link_leads_out_of_the_folder(own: Index, *, relative: bool) -> None:
    make_wheel(own.wheels, "tiny-a", "1.0")
    secret = make_wheel(own.data / "secrets", "tiny-a", "2.0")
    target = Path("..") / "secrets" / secret.name if relative else secret
    (own.wheels / secret.name).symlink_to(target)
    (own.wheels / "tiny_a-3.0-py3-none-any.whl").symlink_to("tiny_a-3.0-py3-none-any.whl")
    os.mkfifo(own.wheels / "tiny_a-4.0-py3-none-any.whl")
    assert own.json("tiny-a/")["versions"] == ["1.0"]
    for version in ("2.0", "3.0", "4.0"):
        url = f"/-/wheels/tiny_a-{version}-py3-none-any.whl"
        assert [own.client.get(url + end).status_code for end in ("", ".metadata")] == [404, 404]


# Damaged wheels


def _corrupt(wheel: Path) -> None:
    """Spoil the compressed bytes of METADATA; the zip's own directory stays as it was."""
    with zipfile.ZipFile(wheel) as opened:
        info = next(one for one in opened.infolist() if one.filename.endswith("METADATA"))
    body = bytearray(wheel.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    body[start : start + info.compress_size] = b"\xff" * info.compress_size
    wheel.write_bytes(body)


def _encrypt(wheel: Path) -> None:
    """Say that all is encrypted."""
    _set_in_headers(wheel, 6, b"\1")


def _set_in_headers(wheel: Path, at: int, value: bytes) -> None:
    """Change the local header of each file, and two bytes further its entry in the directory."""
    body = bytearray(wheel.read_bytes())
    for mark, offset in ((b"PK\3\4", at), (b"PK\1\2", at + 2)):
        start = -1
        while (start := body.find(mark, start + 1)) >= 0:
            body[start + offset : start + offset + len(value)] = value
    wheel.write_bytes(body)


def _packed(method: int) -> Callable[[Path], Any]:
    """Written anew, by another compression."""

    def pack(wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as opened:
            files = {name: opened.read(name) for name in opened.namelist()}
        with zipfile.ZipFile(wheel, "w", method) as opened:
            for name, body in files.items():
                opened.writestr(name, body)

    return pack


def _replaced(mark: bytes, at: int, new: bytes) -> Callable[[Path], Any]:
    """With other bytes in the last record of a kind."""

    def replace(wheel: Path) -> None:
        body = bytearray(wheel.read_bytes())
        start = body.rindex(mark) + at
        body[start : start + len(new)] = new
        wheel.write_bytes(body)

    return replace


def _renamed(wheel: Path) -> None:
    """With names that are not UTF-8, though they say so."""
    body = wheel.read_bytes().replace(b".dist-info/METADATA", b".dist-info/\xff\xfe\xfd\xfcDATA")
    wheel.write_bytes(body)
    _replaced(b"PK\1\2", 8, b"\0\x08")(wheel)


def _crowded(wheel: Path) -> None:
    """METADATA behind 100,000 others."""
    with zipfile.ZipFile(wheel, "w") as opened:
        for number in range(100_001):
            opened.writestr(zipfile.ZipInfo(f"x/{number}"), b"")
        opened.writestr("tiny_a-2.0.dist-info/METADATA", b"Name: tiny-a\n")


def _bomb(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("tiny_a-2.0.dist-info/METADATA", bytes(256 * 1024 * 1024))


def _method(wheel: Path) -> None:
    """Compressed in a way that nobody knows."""
    _set_in_headers(wheel, 8, b"\x63\0")


END, ENTRY = b"PK\5\6", b"PK\1\2"

DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no zip": lambda wheel: wheel.write_bytes(b"PK no zip"),
    "empty": lambda wheel: wheel.write_bytes(b""),
    "cut": lambda wheel: wheel.write_bytes(wheel.read_bytes()[:300]),
    "corrupt": _corrupt,
    "encrypted": _encrypt,
    "no metadata": lambda wheel: zipfile.ZipFile(wheel, "w").close(),
    "lzma": _packed(zipfile.ZIP_LZMA),
    "bz2": _packed(zipfile.ZIP_BZIP2),
    "another method": _method,
    "names": _renamed,
    "a long directory": _replaced(END, 12, b"\xff\xff\xff\x7f"),
    "a far directory": _replaced(END, 16, b"\xff\xff\xff\x7f"),
    "a damaged directory": _replaced(ENTRY, 0, b"PKxx"),
    "a million entries": _crowded,
    "a bomb": _bomb,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_wheel_spoils_no_other(own: Index, damage: str) -> None:
    make_wheel(own.wheels, "tiny-a", "1.0")
    DAMAGES[damage](make_wheel(own.wheels, "tiny-a", "2.0"))
    rows = own.json("tiny-a/")["files"]
    assert [row["filename"].split("-")[1] for row in rows] == ["1.0", "2.0"]
    assert len(ANCHOR.findall(own.page("tiny-a/"))) == 2


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_wheel_promises_no_metadata(own: Index, damage: str) -> None:
    """A client that is told of metadata takes an empty answer for it."""
    wheel = make_wheel(own.wheels, "tiny-a")
    DAMAGES[damage](wheel)
    assert not own.json("tiny-a/")["files"][0].get("core-metadata")
    assert "core-metadata" not in own.page("tiny-a/")
    assert own.metadata(wheel.name).status_code == 404


def test_a_link_that_leads_nowhere_spoils_no_other(own: Index) -> None:
    make_wheel(own.wheels, "tiny-a")
    (own.wheels / "tiny_a-2.0-py3-none-any.whl").symlink_to("nowhere")
    assert own.json("tiny-a/")["versions"] == ["1.0"]


@pytest.mark.parametrize("size", [0, 70_000])
def test_a_wheel_with_a_comment_or_with_bytes_before_it(own: Index, size: int) -> None:
    """As zipfile reads it."""
    wheel = make_wheel(own.wheels, "tiny-a", python=">=3.8")
    wheel.write_bytes(bytes(size) + wheel.read_bytes())
    with zipfile.ZipFile(wheel, "a") as opened:
        opened.comment = b"x" * (size and 60_000)
        wanted = opened.read("tiny_a-1.0.dist-info/METADATA")
    assert own.metadata(wheel.name).content == wanted
    assert own.json("tiny-a/")["files"][0]["requires-python"] == ">=3.8"


def test_a_wheel_of_many_files(own: Index) -> None:
    """More than a zip file can say without its 64-bit records."""
    wheel = make_wheel(own.wheels, "tiny-a")
    with zipfile.ZipFile(wheel, "a") as opened:
        for number in range(66_000):
            opened.writestr(zipfile.ZipInfo(f"x/{number}"), b"")
    assert own.metadata(wheel.name).content.startswith(b"Metadata-Version")


@pytest.mark.parametrize(
    "told",
    [b"Requires-Python: " + b"x" * 1_000_000, b"Requires-Python: \x1b[1m",
     b"X: y\n" * 100_000 + b"\nRequires-Python: >=3", b" " * 1_000_000 + b"Requires-Python: >=3"],
    ids=["long", "control", "in the text", "no key"],
)  # fmt: skip
def test_odd_headers_of_metadata(own: Index, told: bytes) -> None:
    wheel = make_wheel(own.wheels, "tiny-a")
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("tiny_a-1.0.dist-info/METADATA", told)
    (row,) = own.json("tiny-a/")["files"]
    assert (row["core-metadata"], "requires-python" in row) == (True, False)


NAMES = st.text("aA1._-+!v\u0661\n ", max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(NAMES, max_size=7))
def test_no_name_of_a_wheel_is_too_odd(parts: list[str]) -> None:
    name = "-".join(parts) + ".whl"
    project = wheel_project(name)
    assert project == "" or len(name.split("-")) >= 5


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 2000))
def test_no_damage_of_a_wheel_is_too_odd(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int
) -> None:
    wheel = make_wheel(tmp_path_factory.getbasetemp() / "odd", "tiny-a")
    body = wheel.read_bytes()
    at %= len(body)
    wheel.write_bytes(body[:at] + data + body[at + len(data) :])
    assert isinstance(metadata(wheel), bytes)


# Constraints


@pytest.mark.parametrize("form", ["link", "fifo", "folder", "long"])
def test_constraints_that_are_no_file_of_the_folder(own: Index, form: str) -> None:
    folder = own.data / "openllm"
    folder.mkdir()
    place = folder / "a.txt"
    if form == "link":
        write(own.data / "secret.txt", b"secret")
        place.symlink_to(own.data / "secret.txt")
    elif form == "fifo":
        os.mkfifo(place)
    elif form == "folder":
        place.mkdir()
    else:
        with place.open("wb") as file:
            file.truncate(17 * 1024 * 1024)
    assert own.client.get("/-/constraints/a.txt").status_code == 404


def test_constraints(index: Index) -> None:
    answer = index.client.get("/-/constraints/llama__1b.txt")
    assert (answer.status_code, answer.text) == (200, "tiny-a==1.0\n")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "name", ["other.txt", "llama__1b.json", "..%2fopenllm%2fllama__1b.txt", ".txt", "%2e%2e",
             "%2fetc%2fpasswd", "llama__1b.txt%00", "%ff.txt"],
)  # fmt: skip
def test_constraints_that_are_not_here(index: Index, name: str) -> None:
    assert index.client.get(f"/-/constraints/{name}").status_code in (400, 404)


# Installing


def install(program: str, url: str, target: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Install into a folder, with no settings but these."""
    commands = {
        "pip": ["pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--no-compile"],
        "uv": ["uv", "pip", "install", "--no-cache", "--python", sys.executable],
    }
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", *commands[program], "--index-url", url, "--target", str(target),
         *words],
        capture_output=True, text=True, check=False, cwd=target.parent,
        env={**kept, "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "NO_PROXY": "127.0.0.1"},
    )  # fmt: skip


@needs_uv
def test_a_package_comes_with_what_it_needs(index: Index, tmp_path: Path) -> None:
    done = install("uv", index.url, tmp_path / "target", "tiny-b")
    assert done.returncode == 0, done.stderr
    # Not 2.0, which is for another Python.
    assert (tmp_path / "target" / "tiny_a.py").read_text() == "version = '1.1'\n"
    assert (tmp_path / "target" / "Tiny_B.py").exists()


@needs_uv
def test_constraints_choose_a_version(index: Index, tmp_path: Path) -> None:
    url = f"{index.base}/-/constraints/llama__1b.txt"
    done = install("uv", index.url, tmp_path / "target", "tiny-b", "--constraint", url)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target" / "tiny_a.py").read_text() == "version = '1.0'\n"


@pytest.mark.parametrize("program", ["pip", pytest.param("uv", marks=needs_uv)])
def test_a_locked_index_takes_the_token_as_password(tmp_path: Path, program: str) -> None:
    with serving_openllm_files(fill(tmp_path / "data"), TOKEN) as client:
        url = str(client.base_url).rstrip("/") + "/-/simple/"
        done = install(program, url.replace("://", f"://x:{TOKEN}@"), tmp_path / "t", "tiny-b")
        assert done.returncode == 0, done.stderr
        assert all((tmp_path / "t" / name).is_file() for name in ("tiny_a.py", "Tiny_B.py"))


@needs_uv
def test_nothing_comes_from_a_locked_index_without_the_token(tmp_path: Path) -> None:
    with serving_openllm_files(fill(tmp_path / "data"), TOKEN) as client:
        url = str(client.base_url).rstrip("/") + "/-/simple/"
        done = install("uv", url, tmp_path / "target", "tiny-b")
        assert (done.returncode, "401" in done.stderr) == (1, True)


@needs_uv
def test_uv_tells_what_is_missing(index: Index, tmp_path: Path) -> None:
    done = install("uv", index.url, tmp_path / "target", "other-package")
    assert "other-package was not found" in done.stderr
