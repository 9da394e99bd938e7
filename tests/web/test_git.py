"""Git over smart HTTP, spoken by git itself."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.openllm.served_files import OpenLLMFiles
from mirror.sources.first_found import FirstFound
from mirror.web.app import create_app
from tests.servers import run_server
from tests.waiting import until
from tests.wheels import bento_files, commit, git, needs_git, serve_bare, serving_openllm_files

pytestmark = needs_git

ADDRESS = "github.com/bentoml/openllm-models"
REPO = f"/-/git/{ADDRESS}"
REFS = f"{REPO}/info/refs?service=git-upload-pack"
PACK = f"{REPO}/git-upload-pack"
TOKEN = "s3cret"
FILES = bento_files() | {"README.md": b"one\n", "dir with space/\u00fc#%.txt": b"odd\n"}


@dataclass(frozen=True)
class Mirror:
    """A server of a data folder, and the repository that its own was made from."""

    client: httpx2.Client
    data: Path
    upstream: Path

    @property
    def base(self) -> str:
        return str(self.client.base_url).rstrip("/")

    @property
    def url(self) -> str:
        return self.base + REPO

    @property
    def bare(self) -> Path:
        return self.data / "git" / f"{ADDRESS}.git"


def make(folder: Path, stack: ExitStack, token: str = "") -> Mirror:
    upstream, data = folder / "upstream", folder / "data"
    commit(upstream, {"README.md": b"zero\n"})
    commit(upstream, FILES)
    commit(upstream, {"only/nightly": b"n\n"}, "nightly")
    git(upstream, "switch", "--quiet", "main")
    serve_bare(upstream, data)
    return Mirror(stack.enter_context(serving_openllm_files(data, token)), data, upstream)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """For tests that change nothing."""
    with ExitStack() as stack:
        yield make(tmp_path_factory.mktemp("git"), stack)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Mirror]:
    """For tests that do."""
    with ExitStack() as stack:
        yield make(tmp_path, stack)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    with ExitStack() as stack:
        yield make(tmp_path_factory.mktemp("locked"), stack, TOKEN)


def files(clone: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(clone)): path.read_bytes()
        for path in clone.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }


# Cloning


def test_the_clone_that_openllm_makes(mirror: Mirror, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--depth=1", "-b", "main", mirror.url, "clone")
    assert files(tmp_path / "clone") == FILES
    assert git(tmp_path / "clone", "rev-list", "--count", "HEAD") == "1"
    tip = git(mirror.upstream, "rev-parse", "main")
    assert git(tmp_path / "clone", "rev-parse", "HEAD") == tip


@pytest.mark.parametrize("version", ["0", "1", "2"])
@pytest.mark.parametrize("depth", [(), ("--depth=1",)], ids=["full", "shallow"])
def test_every_version_of_the_protocol(
    mirror: Mirror, tmp_path: Path, version: str, depth: tuple[str, ...]
) -> None:
    words = ("-c", f"protocol.version={version}", "clone", *depth, "-b", "nightly", mirror.url)
    git(tmp_path, *words, "clone")
    assert files(tmp_path / "clone") == {**FILES, "only/nightly": b"n\n"}
    assert git(tmp_path / "clone", "rev-list", "--count", "HEAD") == ("1" if depth else "3")
    git(tmp_path / "clone", "fsck", "--strict")


def test_the_address_with_and_without_its_ending(mirror: Mirror, tmp_path: Path) -> None:
    refs = git(mirror.upstream, "ls-remote", "--heads", ".")
    for end in ("", ".git", "/"):
        assert git(tmp_path, "ls-remote", "--heads", mirror.url + end) == refs


def test_what_is_cloned_without_a_branch(mirror: Mirror, tmp_path: Path) -> None:
    git(tmp_path, "clone", mirror.url, "clone")
    assert git(tmp_path / "clone", "branch", "--show-current") == "main"


def test_the_line_that_leads_openllm_to_the_mirror(mirror: Mirror, tmp_path: Path) -> None:
    line = f"url.{mirror.base}/-/git/github.com/.insteadOf=https://github.com/"
    url = f"https://{ADDRESS}"
    git(tmp_path, "-c", line, "clone", "--depth=1", "-b", "main", url, "clone")
    assert files(tmp_path / "clone") == FILES


def test_a_partial_clone_fetches_files_later(mirror: Mirror, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--filter=blob:none", "--no-checkout", mirror.url, "clone")
    missing = git(tmp_path / "clone", "rev-list", "--objects", "--missing=print", "HEAD")
    assert "?" in missing
    git(tmp_path / "clone", "checkout", "--quiet", "main")
    assert files(tmp_path / "clone") == FILES


def test_a_fetch_brings_what_is_new_at_once(own: Mirror, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth=1", own.url, "clone")
    new = commit(own.upstream, {"README.md": b"two\n"})
    git(own.bare, "fetch", "--quiet", str(own.upstream), "main:main")
    git(tmp_path / "clone", "fetch", "--quiet", "--depth=1", "origin", "main")
    assert git(tmp_path / "clone", "rev-parse", "FETCH_HEAD") == new


def test_many_clones_at_once(mirror: Mirror, tmp_path: Path) -> None:
    """More than git processes may run."""

    def clone(number: int) -> dict[str, bytes]:
        git(tmp_path, "clone", "--depth=1", "-b", "main", mirror.url, str(number))
        return files(tmp_path / str(number))

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(clone, range(10))) == [FILES] * 10


@pytest.mark.parametrize("buffer", ["65536", "10000000"], ids=["chunked", "gzip"])
@pytest.mark.parametrize("version", ["0", "2"])
def test_a_long_list_of_wants(own: Mirror, tmp_path: Path, version: str, buffer: str) -> None:
    stream = "".join(
        f"commit refs/heads/b{number}\ncommitter x <x@y> {number} +0000\ndata 0\n\n"
        for number in range(1400)
    )
    git(own.bare, "fast-import", "--quiet", said=stream)
    words = ("-c", f"protocol.version={version}", "-c", f"http.postBuffer={buffer}", "clone")
    trace = tmp_path / "trace"
    git(tmp_path, *words, "--mirror", own.url, "clone", GIT_TRACE_CURL=str(trace))
    refs = git(own.bare, "for-each-ref")
    assert git(tmp_path / "clone", "for-each-ref") == refs
    sent = trace.read_text().lower()
    mark = "transfer-encoding: chunked" if buffer == "65536" else "content-encoding: gzip"
    assert f"=> send header: {mark}" in sent


def test_a_repository_of_another_user(own: Mirror, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder to another user")
    for path in (own.bare, *own.bare.rglob("*")):
        os.chown(path, 65534, 65534)
    git(tmp_path, "clone", "--depth=1", "-b", "main", own.url, "clone")
    assert files(tmp_path / "clone") == FILES


# What is not here


def test_a_branch_that_is_not_here(mirror: Mirror, tmp_path: Path) -> None:
    said = git(tmp_path, "clone", "--depth=1", "-b", "nope", mirror.url, "clone", status=128)
    assert "Remote branch nope not found" in said
    said = git(mirror.upstream, "fetch", mirror.url, "nope", status=128)
    assert "couldn't find remote ref nope" in said


@pytest.mark.parametrize(
    "path",
    ["github.com/bentoml/other", "other.com/bentoml/openllm-models", "github.com/bentoml/.git",
     "github.com/BentoML/openllm-models", "github.com/bentoml/openllm-models.git.git"],
)  # fmt: skip
def test_a_repository_that_is_not_here(mirror: Mirror, tmp_path: Path, path: str) -> None:
    """Git asks for a password when it hears a 401."""
    for answer in (
        mirror.client.get(f"/-/git/{path}/info/refs?service=git-upload-pack"),
        mirror.client.post(f"/-/git/{path}/git-upload-pack", content=b"0000"),
    ):
        assert (answer.status_code, "www-authenticate" in answer.headers) == (404, False)
        assert "This mirror has no git repository" in answer.json()["error"]
    assert "not found" in git(tmp_path, "clone", f"{mirror.base}/-/git/{path}", status=128)


@pytest.mark.parametrize(
    "path",
    ["..%2f..%2fsecret/a/b", "%2e%2e/a/b", "github.com/..%2f../b", "github.com/bentoml/..%2fx",
     "github.com%2fbentoml/openllm-models/x", "github.com/bentoml/a%00b", "github.com/./x",
     "github.com/bentoml/%ff"],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(mirror: Mirror, path: str) -> None:
    for end in ("info/refs?service=git-upload-pack", "git-upload-pack"):
        method = "POST" if end == "git-upload-pack" else "GET"
        answer = mirror.client.request(method, f"/-/git/{path}/{end}")
        assert answer.status_code in (400, 403, 404)


@pytest.mark.parametrize(
    "path",
    ["info/refs", "info/refs?service=", "info/refs?service=x", "HEAD", "objects/info/packs",
     "config", "info/lfs/objects/batch"],
)  # fmt: skip
def test_nothing_else_of_git_is_spoken(mirror: Mirror, path: str) -> None:
    answer = mirror.client.get(f"{REPO}/{path}")
    assert (answer.status_code, "www-authenticate" in answer.headers) == (404, False)
    if path.startswith("info/refs"):
        assert "smart HTTP" in answer.json()["error"]


def test_a_folder_that_is_no_repository_within(own: Mirror) -> None:
    (own.bare / "HEAD").write_bytes(b"junk")
    answer = own.client.get(REFS)
    assert (answer.status_code, "its HEAD is neither" in answer.json()["error"]) == (503, True)
    assert own.client.get("/healthz").status_code == 200


# A repository that came from elsewhere


def _serves(own: Mirror, target: Path) -> bool:
    """Whether a clone is what it is to be."""
    git(target.parent, "clone", "--quiet", "--depth=1", "-b", "main", own.url, str(target))
    return files(target) == FILES


def test_settings_and_hooks_of_a_repository_are_not_obeyed(own: Mirror, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (own.bare / "config").write_text(
        f"[core]\n\tbare = true\n\tfsmonitor = touch {mark}\n\tsshCommand = touch {mark}\n"
        f"\talternateRefsCommand = touch {mark}\n\thooksPath = {own.bare}/hooks\n"
        '[protocol "ext"]\n\tallow = always\n'
        f'[remote "origin"]\n\turl = ext::touch {mark}\n\tpromisor = true\n'
        f"[uploadpack]\n\tpackObjectsHook = touch {mark}\n\thideRefs = refs/heads\n"
    )
    (own.bare / "hooks").mkdir(exist_ok=True)
    for name in ("post-upload-pack", "reference-transaction", "pre-upload-pack"):
        (own.bare / "hooks" / name).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (own.bare / "hooks" / name).chmod(0o755)
    assert _serves(own, tmp_path / "clone")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["config", "config.worktree", "commondir", "hooks", "info"])
def test_a_fifo_holds_no_clone_up(own: Mirror, tmp_path: Path, name: str) -> None:
    shutil.rmtree(own.bare / name, ignore_errors=True)
    (own.bare / name).unlink(missing_ok=True)
    os.mkfifo(own.bare / name)
    assert _serves(own, tmp_path / "clone")


def test_an_include_of_a_device_is_not_read(own: Mirror, tmp_path: Path) -> None:
    (own.bare / "config").write_text("[include]\n\tpath = /dev/zero\n")
    assert _serves(own, tmp_path / "clone")


def _alternates(bare: Path) -> None:
    (bare / "objects" / "info").mkdir(exist_ok=True)
    (bare / "objects" / "info" / "alternates").write_text("/elsewhere/objects\n")


def _linked(name: str) -> Callable[[Path], None]:
    def link(bare: Path) -> None:
        (bare / name).rename(bare.parents[3] / "taken")
        (bare / name).symlink_to(bare.parents[3] / "taken")

    return link


def _moved(bare: Path) -> None:
    bare.rename(bare.parents[4] / "outside.git")
    bare.symlink_to(bare.parents[4] / "outside.git")


UNSAFE: dict[str, tuple[Callable[[Path], object], str]] = {
    "alternates": (_alternates, "reads objects of another repository"),
    "objects": (_linked("objects"), "objects is not a folder"),
    "refs": (_linked("refs"), "refs is not a folder"),
    "packed-refs": (_linked("packed-refs"), "packed-refs is not a regular file"),
    "HEAD": (_linked("HEAD"), "its HEAD is not a regular file"),
    "a ref": (lambda bare: os.mkfifo(bare / "refs" / "heads" / "x"), "is not a regular file"),
    "all of it": (_moved, "a link leads out of the folder git/"),
}


@pytest.mark.parametrize("form", UNSAFE)
def test_a_repository_that_reaches_elsewhere_is_refused(own: Mirror, form: str) -> None:
    change, told = UNSAFE[form]
    change(own.bare)
    for answer in (own.client.get(REFS), own.client.post(PACK, content=b"0000")):
        said = answer.json()["error"]
        assert (answer.status_code, told in said, "operator" in said) == (503, True, True)
        assert str(own.data) not in said


def test_a_view_that_was_changed_is_made_anew(own: Mirror, tmp_path: Path) -> None:
    assert _serves(own, tmp_path / "one")
    (view,) = (own.data / "state" / "git").iterdir()
    (view / "config").write_text("[uploadpack]\n\thideRefs = refs/heads\n")
    (view / "commondir").write_text("/elsewhere\n")
    assert _serves(own, tmp_path / "two")
    assert [one.name for one in (own.data / "state" / "git").iterdir()] == [view.name]
    assert not (view / "commondir").exists()


def test_a_view_that_many_processes_make_at_once(own: Mirror) -> None:
    """As the workers of a server do after its start."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom mirror.openllm.git_view import shared_view\n"
        "folder, root, views = map(Path, sys.argv[1:])\n"
        "print({shared_view(folder, root, views / str(n)).name for n in range(200)})\n"
    )
    root, views = own.data / "git", own.data / "views"
    command = [sys.executable, "-c", program, str(own.bare), str(root), str(views)]
    repository = Path(__file__).parents[2]
    running = [
        subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate()[0] for process in running]
    assert (len(set(told)), [process.returncode for process in running]) == (1, 4 * [0])
    assert all(len(list(one.iterdir())) == 1 for one in views.iterdir())


def test_what_head_names_is_followed(own: Mirror, tmp_path: Path) -> None:
    assert _serves(own, tmp_path / "one")
    (own.bare / "HEAD").write_bytes(b"ref: refs/heads/nightly\n")
    git(tmp_path, "clone", "--quiet", own.url, "two")
    assert git(tmp_path / "two", "branch", "--show-current") == "nightly"


def test_a_repository_that_is_shallow_itself(own: Mirror, tmp_path: Path) -> None:
    shutil.rmtree(own.bare)
    git(
        own.upstream,
        "clone",
        "--quiet",
        "--bare",
        "--depth=1",
        own.upstream.as_uri(),
        str(own.bare),
    )
    git(tmp_path, "clone", "--quiet", own.url, "clone")
    assert files(tmp_path / "clone") == FILES


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The views lie in the state folder, which may be elsewhere."""
    with ExitStack() as stack:
        own = make(tmp_path, stack)
        state = State(tmp_path / "state")
        digests = stack.enter_context(closing(Digests(state)))
        (tmp_path / "served").symlink_to(own.data)
        app = create_app(
            FirstFound([]), state, openllm_files=OpenLLMFiles(tmp_path / "served", digests)
        )
        url = stack.enter_context(run_server(app))
        for path in (own.bare, *own.bare.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
        before = {path: path.stat().st_mtime_ns for path in own.data.rglob("*")}
        git(tmp_path, "clone", "--quiet", "--depth=1", url + REPO, "clone")
        assert files(tmp_path / "clone") == FILES
        assert {path: path.stat().st_mtime_ns for path in own.data.rglob("*")} == before
        for path in (own.bare, *own.bare.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)


def test_git_is_not_installed(own: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for answer in (own.client.get(REFS), own.client.post(PACK, content=b"0000")):
        assert answer.status_code == 503
        assert "git is not installed on the mirror" in answer.json()["error"]


# Writing


def test_a_push_is_refused(mirror: Mirror) -> None:
    said = git(mirror.upstream, "push", mirror.url, "main:other", status=128)
    assert "403" in said
    assert "other" not in git(mirror.bare, "branch", "--list")


@pytest.mark.parametrize("repo", [REPO, "/-/git/github.com/bentoml/other"])
def test_a_push_is_refused_in_words(mirror: Mirror, repo: str) -> None:
    for answer in (
        mirror.client.get(f"{repo}/info/refs?service=git-receive-pack"),
        mirror.client.post(f"{repo}/git-receive-pack", content=b"0000"),
        mirror.client.put(f"{repo}/HEAD", content=b"x"),
    ):
        assert answer.status_code == 403
        assert "read-only mirror" in answer.json()["error"]


# What is said on the wire


def test_an_advertisement(mirror: Mirror) -> None:
    old = mirror.client.get(REFS)
    assert old.headers["content-type"] == "application/x-git-upload-pack-advertisement"
    assert old.headers["cache-control"] == "no-cache"
    assert old.content.startswith(b"001e# service=git-upload-pack\n0000")
    new = mirror.client.get(REFS, headers={"git-protocol": "version=2"})
    assert new.content.startswith(b"000eversion 2\n")


def test_an_advertisement_is_not_that_of_another_version(mirror: Mirror) -> None:
    with ThreadPoolExecutor(8) as threads:
        asked = [{"git-protocol": f"version={number % 3}"} for number in range(24)]
        answers = threads.map(lambda one: mirror.client.get(REFS, headers=one).content, asked)
        assert [b"version 2" in one for one in answers] == [n % 3 == 2 for n in range(24)]


def test_head_has_no_body(mirror: Mirror) -> None:
    answer = mirror.client.head(REFS)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/x-git-upload-pack-advertisement"
    assert mirror.client.get("/healthz").status_code == 200


def test_a_body_that_is_not_gzip(mirror: Mirror) -> None:
    headers = {"content-encoding": "gzip"}
    for body in (b"junk", b"", gzip.compress(b"0000")[:-9], b"\x1f\x8b\x08" + 40 * b"\0"):
        assert mirror.client.post(PACK, content=body, headers=headers).status_code in (200, 400)
    answer = mirror.client.post(PACK, content=b"junk", headers=headers)
    assert (answer.status_code, "gzip" in answer.json()["error"]) == (400, True)


def test_a_body_that_is_too_long(mirror: Mirror) -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024), 1)
    answer = mirror.client.post(PACK, content=bomb, headers={"content-encoding": "gzip"})
    assert (answer.status_code, "longer than" in answer.json()["error"]) == (400, True)
    for size in (9 * 1024 * 1024, 1024 * 1024 + 1):
        answer = mirror.client.post(PACK, content=bytes(size))
        assert (answer.status_code, "longer than" in answer.json()["error"]) == (400, True)
    bomb = gzip.compress(bytes(1024 * 1024 + 1), 1)
    answer = mirror.client.post(PACK, content=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == 400


@pytest.mark.parametrize("body", [b"0000", b"0032want " + 40 * b"0" + b"\n00000009done\n"])
def test_words_that_ask_for_nothing_that_is_here(mirror: Mirror, body: bytes) -> None:
    answer = mirror.client.post(PACK, content=body)
    assert (answer.status_code, b"PACK" in answer.content) == (200, False)


@pytest.mark.parametrize("body", [b"", b"junk", b"ffff", b"0005"])
def test_words_that_git_does_not_understand(mirror: Mirror, body: bytes) -> None:
    answer = mirror.client.post(PACK, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("git does not understand the request: ")


def test_a_repository_that_git_cannot_read(own: Mirror) -> None:
    """Its objects are damaged."""
    want = git(own.bare, "rev-parse", "main")
    for file in (own.bare / "objects").rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.write_bytes(b"junk")
    for answer in (
        own.client.get(REFS),
        own.client.post(PACK, content=f"0032want {want}\n00000009done\n".encode()),
    ):
        assert (answer.status_code, b"PACK" in answer.content) != (200, True)
        assert str(own.data).encode() not in answer.content


def test_the_words_of_a_client_are_no_line_of_the_log(
    mirror: Mirror, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Git complains of them on standard error, which is the server's log."""
    words = "command=evil\n2026-01-01 INFO forged"
    body = f"{len(words) + 4:04x}{words}0000"
    mirror.client.post(PACK, content=body, headers={"git-protocol": "version=2"})
    _until_alone(mirror.data)
    assert "forged" not in capfd.readouterr().err
    (told,) = [one.getMessage() for one in caplog.records if "evil" in one.getMessage()]
    assert "\n" not in told


def _grow(own: Mirror, size: int) -> str:
    """Put random bytes into the repository; what asks for all of it."""
    for folder in (own.upstream, own.bare):
        git(folder, "config", "core.compression", "0")
    commit(own.upstream, {"big.bin": os.urandom(size)})
    git(own.bare, "fetch", "--quiet", str(own.upstream), "main:main")
    want = f"0032want {git(own.bare, 'rev-parse', 'main')}\n00000009done\n"
    return f"POST {PACK} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(want)}\r\n\r\n{want}"


def test_clients_that_stall_hold_no_other_up(own: Mirror, tmp_path: Path) -> None:
    """One more than git processes may run; none of them reads."""
    asked = _grow(own, 12 * 1024 * 1024).encode()
    with ExitStack() as stack:
        for _ in range(9):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", own.client.base_url.port))
            stack.enter_context(client).sendall(asked)
        begun = time.monotonic()
        git(tmp_path, "clone", "--quiet", "--depth=1", own.url, "clone")
        assert time.monotonic() - begun < 15
        assert (tmp_path / "clone" / "big.bin").stat().st_size == 12 * 1024 * 1024
        _until_alone(own.data)


def test_a_client_that_leaves_in_the_middle(own: Mirror) -> None:
    asked = _grow(own, 12 * 1024 * 1024).encode()
    before = _open_files()
    for _ in range(10):  # more than may run at once
        with socket.create_connection(("127.0.0.1", own.client.base_url.port)) as client:
            client.sendall(asked)
            assert b"200 OK" in client.recv(1000)
    _until_alone(own.data)
    assert own.client.get(REFS).status_code == 200
    until(lambda: _open_files() <= before + 1, 10)


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def slow(own: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mirror:
    """A mirror whose git takes a minute, as a child of another process."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "git"
    script.write_text(f"#!/bin/sh\ncd {own.data / 'state'}\nsleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return own


def test_git_ends_when_its_client_leaves(slow: Mirror) -> None:
    head = f"GET {REFS} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", slow.client.base_url.port)) as client:
        client.sendall(head)
        until(lambda: len(_processes(slow.data, b"sleep")) == 1)
    until(lambda: not _processes(slow.data, b"sleep"))


def test_git_that_takes_too_long_is_ended(slow: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.web.git._DEADLINE", 0.5)
    answer = slow.client.get(REFS)
    assert (answer.status_code, "git took longer than" in answer.json()["error"]) == (503, True)
    assert not _processes(slow.data, b"sleep")


def test_who_gets_no_turn_is_told(slow: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.web.git._TIMEOUT_S", 0.5)
    monkeypatch.setattr("mirror.web.git._DEADLINE", 4)
    with ThreadPoolExecutor(9) as threads:
        paths = [f"{REFS}&n={number}" for number in range(9)]
        answers = list(threads.map(slow.client.get, paths))
    assert {answer.status_code for answer in answers} == {503}
    assert sum("busy with other clients of git" in one.json()["error"] for one in answers) >= 1


def _until_alone(data: Path) -> None:
    """Until no git process works on a data folder any more."""
    until(lambda: not _processes(data), 10)


def _processes(data: Path, name: bytes = b"git") -> list[str]:
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdigit():
            try:
                words = (one / "cmdline").read_bytes() + os.fsencode((one / "cwd").readlink())
            except OSError:
                continue
            found += [one.name] if os.fsencode(data) in words and name in words[:20] else []
    return found


# A locked mirror


def _with(url: str, user: str) -> str:
    return url.replace("://", f"://{user}@")


def test_the_token_is_the_password(locked: Mirror, tmp_path: Path) -> None:
    url = _with(locked.url, f"x:{TOKEN}")
    git(tmp_path, "clone", "--depth=1", "-b", "main", url, "clone")
    assert files(tmp_path / "clone") == FILES


def test_the_token_in_the_line_that_leads_to_the_mirror(locked: Mirror, tmp_path: Path) -> None:
    base = _with(locked.base, f"x:{TOKEN}")
    line = f"url.{base}/-/git/github.com/.insteadOf=https://github.com/"
    git(tmp_path, "-c", line, "clone", "--depth=1", f"https://{ADDRESS}", "clone")
    assert files(tmp_path / "clone") == FILES


@pytest.mark.parametrize("user", ["", "x:wrong", "x:", "x:s3cret%20", f"{TOKEN}:x"])
def test_no_clone_without_the_token(locked: Mirror, tmp_path: Path, user: str) -> None:
    url = _with(locked.url, user) if user else locked.url
    said = git(tmp_path, "clone", url, "clone", status=128, GIT_ASKPASS="true")
    assert "Authentication failed" in said


def test_a_locked_mirror_tells_nobody_what_is_here(locked: Mirror) -> None:
    for path in (REFS, "/-/git/github.com/bentoml/other/info/refs?service=git-upload-pack"):
        answer = locked.client.get(path)
        assert (answer.status_code, "Basic" in answer.headers["www-authenticate"]) == (401, True)
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert locked.client.get(path, headers=headers).status_code == 404


def test_where_git_lies_does_not_matter(
    own: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert own.client.get(REFS).content.startswith(b"001e# service")
