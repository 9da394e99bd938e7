"""A hub that lies: a pull ends with a clean message, writes below the data folder alone, and tells
its token to nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tests.folders import write
from tests.fuzz.mutation import FACTOR
from tests.fuzz.verified import harm
from tests.hub import EVER, Effect, HubSimulator, refused, run_hub
from tests.servers import run_server

TOKEN = "hf_" + 34 * "t"
DEADLINE = 60
REPO = "org/model"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"\1w" * 5000,
}
ROOT = Path(__file__).parents[2]


@dataclass
class Other:
    """A server that the hub names, and the Authorization headers that came to it."""

    url: str = ""
    given: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("it speaks HTTP alone")
        headers = {name.lower(): value.decode() for name, value in scope["headers"]}
        self.given += [headers[name] for name in (b"authorization", b"cookie") if name in headers]
        self.given += [TOKEN] if TOKEN in str(scope) else []
        await JSONResponse([])(scope, receive, send)


@dataclass
class Lie:
    """What a lie may name: the hub, another server, and the folder of the decoys."""

    hub: HubSimulator
    other: Other
    decoys: Path
    revision: str = "main"


Tell = Callable[[Lie], None]
INFO, TREE, REFS, FILE = "/revision/", "/tree/", "/refs$", "/resolve/"


def told(change: Callable[[Any], Any]) -> Effect:
    """The true answer, with another body: what `change` returns, or the changed one."""

    def effect(_: Request, answer: Response) -> Response:
        body = orjson.loads(answer.body)
        changed = change(body)
        headers = {name: value for name, value in answer.headers.items() if "content" not in name}
        return Response(orjson.dumps(body if changed is None else changed), 200, headers,
                        "application/json")  # fmt: skip

    return effect


def info(**fields: Any) -> Tell:
    return lambda lie: lie.hub.fail(INFO, told(lambda body: body.update(fields)), EVER)


def rows(**fields: Any) -> Tell:
    """The first row of the tree says something else."""
    return lambda lie: lie.hub.fail(TREE, told(lambda body: body[0].update(fields)), EVER)


def lfs(**fields: Any) -> Tell:
    return lambda lie: lie.hub.fail(TREE, told(lambda body: body[-1]["lfs"].update(fields)), EVER)


def more(*paths: str) -> Tell:
    """The tree has more rows, which are as the first."""

    def change(body: list[dict[str, Any]]) -> None:
        body.extend({**body[0], "path": path} for path in paths)

    return lambda lie: lie.hub.fail(TREE, told(change), EVER)


def ref(name: str) -> Tell:
    def tell(lie: Lie) -> None:
        lie.revision = "v1"
        lie.hub.repo(REPO).refs["refs/tags/v1"] = lie.hub.repo(REPO).refs["main"]
        name_here = name.replace("{decoys}", str(lie.decoys))
        change = told(lambda body: [one.update(ref=name_here) for one in body["tags"]] and None)
        lie.hub.fail(REFS, change, EVER)

    return tell


def whole(where: str, body: Any) -> Tell:
    """Another answer altogether."""
    return lambda lie: lie.hub.fail(where, lambda *_: JSONResponse(body), EVER)


def html(where: str) -> Tell:
    page = "<html><body>Sign in to the network</body></html>"
    return lambda lie: lie.hub.fail(where, lambda *_: HTMLResponse(page), EVER)


def header(where: str, **fields: str) -> Tell:
    """The true answer with other headers; `{other}`, `{self}`, `{up}` and `{decoys}` are filled
    in."""

    def tell(lie: Lie) -> None:
        def effect(request: Request, answer: Response) -> Response:
            for name, value in fields.items():
                text = value.replace("{other}", lie.other.url).replace("{up}", 30 * "../")
                text = text.replace("{self}", str(request.url))
                answer.headers[name.replace("_", "-")] = text.replace("{decoys}", str(lie.decoys))
            return answer

        lie.hub.fail(where, effect, EVER)

    return tell


def redirect(where: str, path: str = "/x") -> Tell:
    def tell(lie: Lie) -> None:
        headers = {"location": f"{lie.other.url}{path}"}
        lie.hub.fail(where, lambda *_: Response(status_code=302, headers=headers), EVER)

    return tell


def body(change: Callable[[bytes], bytes]) -> Tell:
    """The weights have other bytes."""

    def tell(lie: Lie) -> None:
        def effect(request: Request, answer: Response) -> Response:
            headers = {name: text for name, text in answer.headers.items() if "length" not in name}
            if request.method == "HEAD":
                return answer
            return Response(change(bytes(answer.body)), answer.status_code, headers)

        lie.hub.fail(r"/resolve/.*/model\.safetensors", effect, EVER)

    return tell


def endless(where: str, piece: bytes) -> Tell:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield piece
            await asyncio.sleep(0.1)

    def effect(*_: Any) -> Response:
        return StreamingResponse(pieces(), media_type="application/json")

    return lambda lie: lie.hub.fail(where, effect, EVER)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


QUICK: dict[str, Tell] = {
    "nothing but the truth": lambda _: None,
    "an etag that leaves": header(FILE, etag='"{up}{decoys}/victim"'),
    "an etag that is a path": header(FILE, etag='"{decoys}/victim"'),
    "a linked etag that is a path": header(FILE, x_linked_etag='"{decoys}/victim"'),
    "a commit that is a path": header(FILE, x_repo_commit="{decoys}/victim"),
    "a ref that leaves": ref("refs/heads/../../../../../decoys/x"),
    "a ref that is a path": ref("refs/heads/{decoys}/x"),
    "a ref that is empty": ref("refs/heads/"),
    "a path that leaves": more("../../../../../decoys/victim", "ok.txt"),
    "a file that is a folder": more("config.json/x"),
    "a size that is a text": rows(size="12"),
    "a negative size": rows(size=-1),
    "tags that are a number": info(tags=5),
    "downloads that are a text": info(downloads="many"),
    "the id of another repository": info(id="org/another"),
    "HTML for a tree": html(TREE),
    "a next page on another server": header(TREE, link='<{other}/next>; rel="next"'),
    "Xet on another server": header(
        FILE, x_xet_hash=64 * "a", link='<{other}/token>; rel="xet-auth"'
    ),
    "a wait that is no number": lambda lie: lie.hub.fail(INFO, refused(429, retry_after="\xb2"), 1),
    "a wait of years": lambda lie: lie.hub.fail(
        INFO, refused(429, retry_after="9" * 400, ratelimit='"api";r=0;t=999999999'), EVER
    ),
}
SLOW: dict[str, Tell] = {
    "a file on another server": redirect(FILE),
    "a path of 1,400 levels": more("a/" * 1400 + "b"),
    "an etag that leaves, and a size": header(
        FILE, x_linked_etag='"{up}{decoys}/victim"', x_linked_size="5"
    ),
    "an etag that is long": header(FILE, etag='"' + 5000 * "a" + '"'),
    "an etag that is empty": header(FILE, etag='""'),
    "a commit that leaves": info(sha="../../../../decoys/x"),
    "a commit in capitals": info(sha=40 * "A"),
    "a commit that is a number": info(sha=5),
    "a ref with a NUL": ref("refs/heads/a\0b"),
    "a ref in another place": ref("blobs/x"),
    "a ref that is a number": whole(REFS, {"tags": [{"name": "v1", "ref": 5}], "branches": []}),
    "refs that are a list": whole(REFS, []),
    "a path that is absolute": more("/etc/hubmirror-victim"),
    "a path with a NUL": more("a\0b"),
    "a path with two slashes": more("a//b"),
    "a path with a backslash": more("..\\..\\x"),
    "a path that is empty": more(""),
    "a name that is long": more("x" * 300),
    "a path twice": more("config.json"),
    "a path that is a number": rows(path=5),
    "a path that is null": rows(path=None),
    "a size that is null": rows(size=None),
    "a size that is a fraction": rows(size=1.5),
    "a size that is true": rows(size=True),
    "a huge size": rows(size=2**63),
    "a size of another file": rows(size=3),
    "an LFS size that is a text": lfs(size="many"),
    "an LFS digest that is a path": lfs(oid="../../x"),
    "LFS that is a number": rows(lfs=5),
    "no digest": rows(oid=None),
    "a tree that is a number": whole(TREE, 5),
    "a tree of numbers": whole(TREE, [5]),
    "a tree of nothing": whole(TREE, []),
    "a tree that is an object": whole(TREE, {"error": "no"}),
    "info that is a list": whole(INFO, []),
    "info that is null": whole(INFO, None),
    "info that is deep": info(cardData=_nested(300)),
    "an id that leaves": info(id="../../decoys"),
    "an id that is a number": info(id=5),
    "files that are a number": info(siblings=5),
    "a date that is none": info(lastModified="yesterday", createdAt=5),
    "a card that is a text": info(cardData="mit", config=[1], safetensors="x", gated={"a": 1}),
    "HTML for info": html(INFO),
    "HTML for a file": html(FILE),
    "a next page that is the same": header(TREE, link='<{self}>; rel="next"'),
    "a next page without a host": header(TREE, link='</x>; rel="next"'),
    "a next page that is a file": header(TREE, link='<file:///etc/passwd>; rel="next"'),
    "a next page that is no URL": header(TREE, link='<http://[>; rel="next"'),
    "a tree on another server": redirect(TREE),
    "info on another server": redirect(INFO),
    "a hub that sends one round": redirect(INFO, "/api/models/org/model/revision/main"),
    "a body that is longer": body(lambda whole: whole + b"x" * 100_000),
    "a body that is shorter": body(lambda whole: whole[:-1]),
    "a body that is empty": body(lambda _: b""),
    "a body that is another": body(lambda whole: whole[::-1]),
    "a status that is none": lambda lie: lie.hub.fail(INFO, refused(999), EVER),
    "too early": lambda lie: lie.hub.fail(TREE, refused(425), EVER),
    "no content": lambda lie: lie.hub.fail(TREE, refused(204), EVER),
    "an answer without end": endless(TREE, b" " * 4096),
    "a file without end": endless(r"/resolve/.*/model\.safetensors", b"x" * 4096),
}
LIES = QUICK | SLOW


@pytest.fixture
def other() -> Iterator[Other]:
    one = Other()
    with run_server(one) as url:
        one.url = url.replace("127.0.0.1", "localhost")
        yield one


def _tree(folder: Path) -> dict[str, str]:
    """Everything below a folder but the data folder and what huggingface_hub keeps, by content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] not in ("data", "hf"):
            body = path.read_bytes() if path.is_file() else b""
            found[str(name)] = f"{path.lstat().st_mode} {hashlib.sha256(body).hexdigest()}"
    return found


def _pull(folder: Path, url: str, revision: str) -> tuple[int, str]:
    """The command's exit status, and all that it said."""
    environment = {name: text for name, text in os.environ.items() if "HUBMIRROR" not in name}
    environment |= {
        "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "hf"), "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "temporary"), "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    (folder / "data").mkdir(exist_ok=True)
    words = "pull", f"{REPO}@{revision}", "--upstream", url, "--data", str(folder / "data")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mirror", *words], cwd=folder, env=environment, timeout=DEADLINE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise AssertionError(f"it did not end within {DEADLINE} s: {exc.stdout!r}") from exc
    return done.returncode, done.stdout


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", LIES)
def test_a_lie_harms_nothing(tmp_path: Path, other: Other, name: str) -> None:
    if name in SLOW and FACTOR <= 1:
        pytest.skip("`make fuzz` tells this lie")
    for folder in ("data", "hf", "home", "temporary", "decoys"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "decoys" / "victim", b"as it was")
    hub = HubSimulator()
    hub.repo(REPO).commit(FILES)
    lie = Lie(hub, other, tmp_path / "decoys")
    LIES[name](lie)
    before = _tree(tmp_path)
    with run_hub(hub) as url:
        status, said = _pull(tmp_path, url, lie.revision)
    assert "Traceback" not in said, said[-2000:]
    assert TOKEN not in said
    assert other.given == []
    assert _tree(tmp_path) == before
    assert status in (0, 1), said
    assert status == 0 or said.strip().splitlines()[-1].strip(), said
    if name == "nothing but the truth":
        assert status == 0, said
    if (tmp_path / "data" / "hub").exists():
        assert harm(tmp_path / "data") == []
