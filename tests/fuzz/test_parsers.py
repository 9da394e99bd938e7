"""Bytes of strangers: every parser returns, or raises the error that it documents, and soon."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.config.file import File
from mirror.core.errors import (
    CarryError,
    ConfigError,
    RequestError,
    UnavailableError,
)
from mirror.core.record import ManifestError, Record, parse_tree, render_tree
from mirror.core.repo import COMMIT_HASH, Repo
from mirror.core.source import LocalFile, Snapshot
from mirror.core.tree import Tree, lfs_pointer
from mirror.derived.digests import Digests
from mirror.derived.facts import Facts
from mirror.derived.state import State
from mirror.derived.weight_headers import HeaderError, gguf_facts, safetensors_parameters
from mirror.sources.bento import BentoStore
from mirror.sources.bento_entry import entries as bento_entries
from mirror.sources.plain import PlainFiles
from mirror.sources.repo_dir import RepoDir
from mirror.sources.scan import LfsRule
from mirror.transfer.bundle_manifest import Manifest
from mirror.web.file_response import parse_range
from mirror.web.routes import ROUTER
from mirror.web.routing import Match
from tests.attacks.test_bundles import seal
from tests.carried import hubmirror, put_grown
from tests.folders import COMMIT, MODEL, Content, entry, make_record, make_safetensors, write
from tests.fuzz.mutation import FACTOR, ODD_STRINGS, count, mutate, mutate_bytes

LIMIT = 1.0  # seconds of this process, for one case
SEEDS = st.integers(0, 2**32)


def fuzzed(usual: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=count(usual),
        deadline=None,
        database=None,
        derandomize=FACTOR <= 1,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def soon(call: Callable[[], Any], *documented: type[Exception]) -> Any:
    """What the call returns; None where it raises what it documents."""
    started = time.process_time()
    try:
        with _little_memory():
            return call()
    except documented:
        return None
    finally:
        took = time.process_time() - started
        assert took < LIMIT, f"it took {took:.1f} s"


@contextmanager
def _little_memory() -> Iterator[None]:
    """What asks for a GiB more than there is in use now gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


RECORD = json.loads(
    make_record(
        Content(),
        refs=("refs/heads/main", "refs/tags/v1", "refs/pr/1"),
        left_out={"more.bin": entry("more.bin", b"more")},
        info={
            "id": "Org/Model",
            "tags": ["a", "b"],
            "downloads": 5,
            "cardData": {"license": "mit"},
        },
    ).render()
)
TREE = json.loads(render_tree(Content().entries.values()))


def _check_record(body: bytes) -> None:
    record = soon(lambda: Record.parse(body), ManifestError)
    if record is not None:
        assert Record.parse(record.render()) == record
        assert all(COMMIT_HASH.fullmatch(file.blob_id) for file in record.files.values())
        assert all(type(file.size) is int and file.size >= 0 for file in record.files.values())
        soon(lambda: Tree(record.files).entries(recursive=True))


@given(SEEDS)
@fuzzed(300)
def test_records(seed: int) -> None:
    _check_record(_json(mutate(random.Random(seed), RECORD)))


@given(SEEDS)
@fuzzed(100)
def test_records_of_any_bytes(seed: int) -> None:
    _check_record(mutate_bytes(random.Random(seed), _json(RECORD)))


CASES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a size that is no number": lambda one: one["files"]["config.json"].update(size=float("1e308")),
    "a size that is endless": lambda one: one["files"]["config.json"].update(size="9" * 5000),
    "a negative size": lambda one: one["files"]["config.json"].update(size=-5),
    "a size that is true": lambda one: one["files"]["config.json"].update(size=True),
    "a deep path": lambda one: one["files"].update({"a/" * 1400 + "b": one["files"]["empty.txt"]}),
    "a file that is a folder, too": lambda one: one["files"].update(
        {"config.json/x": one["files"]["empty.txt"]}
    ),
    "no time": lambda one: one.update(pulled_at="0001-01-01T00:00:00+14:00"),
    "a time without a zone": lambda one: one.update(pulled_at="2026-01-01"),
    "a ref that leaves": lambda one: one.update(refs=["refs/heads/../../x"]),
    "refs that are a text": lambda one: one.update(refs="refs/heads/main"),
    "digits of another script": lambda one: one["files"]["model.safetensors"].update(
        lfs_sha256=64 * "\u0661"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_records_that_were_found_once(name: str) -> None:
    record = json.loads(_json(RECORD))
    CASES[name](record)
    _check_record(_json(record))


@pytest.mark.parametrize("ref", ["refs/heads/../../x", "refs/heads//x", "refs/heads/", "x", "/x"])
def test_a_record_names_no_ref_that_is_none(ref: str) -> None:
    with pytest.raises(ManifestError):
        Record.parse(_json(RECORD | {"refs": [ref]}))


@given(SEEDS)
@fuzzed(200)
def test_trees(seed: int) -> None:
    chosen = random.Random(seed)
    body = _json(mutate(chosen, TREE))
    files = soon(lambda: parse_tree(mutate_bytes(chosen, body) if seed % 4 == 0 else body),
                 ManifestError)  # fmt: skip
    if files is not None:
        soon(lambda: Tree(files).entries(recursive=True))


@given(SEEDS)
@fuzzed(300)
def test_safetensors_headers(seed: int) -> None:
    chosen = random.Random(seed)
    tensors = {"__metadata__": {"format": "pt"}}
    tensors |= {
        f"t{number}": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}  # type: ignore[dict-item]
        for number in range(3)
    }
    body = _json(mutate(chosen, tensors))
    whole = len(body).to_bytes(8, "little") + body
    if chosen.random() < 0.3:
        whole = mutate_bytes(chosen, make_safetensors({"a": ("F32", [4, 4])}))
    counts = soon(lambda: safetensors_parameters(io.BytesIO(whole)), HeaderError)
    assert counts is None or orjson.dumps(counts)


_SHAPES: tuple[Any, ...] = (
    [2**64 - 1] * 20 + [1.5], [1e308] * 3, [1e308, 0], [True], ["a", 3], [[1], 2], [0, 2**64 - 1],
    "ab", {"1": 2}, None, 5, [2**63] * 20_000, [3 * 10**9, "a"], [3 * 10**8, [1]], [-1, -1],
    [None], [],
)  # fmt: skip


@pytest.mark.parametrize("shape", _SHAPES, ids=range(len(_SHAPES)))
def test_safetensors_headers_that_are_odd(shape: Any) -> None:
    body = _json({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    whole = len(body).to_bytes(8, "little") + body
    counts = soon(lambda: safetensors_parameters(io.BytesIO(whole)), HeaderError)
    assert counts is None or orjson.dumps(counts)


def _gguf(chosen: random.Random) -> bytes:
    def string(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text

    entries = [
        string(b"general.architecture") + struct.pack("<I", 8) + string(b"llama"),
        string(b"llama.context_length") + struct.pack("<II", 4, 4096),
        string(b"tokenizer.ggml.tokens")
        + struct.pack("<IIQ", 9, 8, 2)
        + string(b"a")
        + string(b"b"),
        string(b"tokenizer.ggml.bos_token_id") + struct.pack("<II", 4, 1),
        string(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + bytes(8),
        string(b"general.file_type") + struct.pack("<Id", 12, chosen.choice((1.0, float("nan")))),
    ]
    tensors = [string(b"t") + struct.pack("<IQQIQ", 2, 3, 4, 0, 0)]
    chosen.shuffle(entries)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(entries))
    return head + b"".join(entries) + b"".join(tensors)


@given(SEEDS)
@fuzzed(500)
def test_gguf_headers(seed: int) -> None:
    chosen = random.Random(seed)
    body = mutate_bytes(chosen, _gguf(chosen))
    facts = soon(lambda: gguf_facts(io.BytesIO(body)), HeaderError)
    assert facts is None or isinstance(facts["total"], int)
    assert facts is None or orjson.dumps(facts)


@pytest.mark.parametrize("count_of_items", [2**20, 9_999_999, 2**63])
def test_a_gguf_header_that_promises_much_and_holds_little(count_of_items: int) -> None:
    head = struct.pack("<4sIQQ", b"GGUF", 3, count_of_items, count_of_items)
    soon(lambda: gguf_facts(io.BytesIO(head + bytes(100))), HeaderError)
    zeros = head + bytes(30_000_000)
    soon(lambda: gguf_facts(io.BytesIO(zeros)), HeaderError)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parsers")


CARD = b"""license: mit
language: [en, zh]
tags:
- tiny
- 'quoted: yes'
datasets: {a: 1, b: [2, 3]}
model-index:
- name: x
  results: [{metrics: [{value: 0.5, type: 'acc'}]}]
date: 2026-01-02
time: 2026-01-02T03:04:05Z
number: 1_000
sexagesimal: 1:30:00
text: |
  lines
  of text
"""
_YAML_PARTS = (
    b"&a ", b"*a", b"!!python/object/apply:os.system [x]", b"!!binary x", b"!!set {a}", b"? ",
    b": ",
    b"[" * 100, b"{" * 100, b"- " * 100, b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"---\n", b"...\n",
    b"%YAML 1.1\n", b"!!timestamp 2026-99-99", b".inf", b".nan", b"0x", b"1:1:1:1", b"<<: ",
    b"1e999",
    b"!!int x", b"!!float x", b"9" * 500, b"\xc2\x85", b"2026-01-02T03:04:05.123456789+99:99", b"~",
    b"!!omap [a: 1]", b"!!pairs [a: 1]", b"!!null x", b"0o7", b"0b2", b"!<tag:yaml.org,2002:int> a",
    b"'", b'"\\ud800"', b'"\\x', b"> ", b"|2", b"#", b"@", b"`", b"!!int '1:1'", b"=",
    b"9999-99-99",
)  # fmt: skip
CARDS = (
    CARD, b"a: !!int 0x", b"a: !!timestamp x", b"a: !!float ''", b"? [a]\n: b", b"? {a: b}\n: c",
    b"a: !!bool maybe", b"a: !!int ''", b"a: 0001-01-01T00:00:00+14:00", b"a: !!binary '='",
    b"a: 2026-02-30", b"<<: 1", b"<<: [1]", b"=: 1", b"!!set {[a]}", b"a: !!str {b: c}",
    b'a: "\\ud800"', b"a: !!int 1:" + b"1:" * 60 + b"1", b"a: " + b"[" * 63 + b"]" * 63,
    b"".join(b"k%d: {<<: {a: 1}}\n" % number for number in range(3000)),
    b"{" + b",".join(b"a%d" % number for number in range(50_000)) + b"}",
)  # fmt: skip


def _facts(scratch: Path, files: dict[str, bytes]) -> Facts:
    stored = {}
    for path, body in files.items():
        write(scratch / "facts" / path, body)
        stored[path] = LocalFile(entry(path, body), str(scratch / "facts" / path))
    snapshot = Snapshot(
        repo=MODEL, commit_hash=COMMIT, files=stored, last_modified=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return Facts(snapshot, State(scratch / "state"))


def _check_facts(scratch: Path, files: dict[str, bytes]) -> None:
    facts = _facts(scratch, files)
    for name in ("card", "config", "transformers_info", "library_name", "pipeline_tag", "tags"):
        told = soon(lambda name=name: getattr(facts, name))  # type: ignore[misc]
        assert orjson.dumps(told)


@given(SEEDS)
@fuzzed(250)
def test_cards(scratch: Path, seed: int) -> None:
    matter = mutate_bytes(random.Random(seed), CARD, _YAML_PARTS)
    _check_facts(scratch, {"README.md": b"---\n" + matter + b"\n---\n"})


@pytest.mark.parametrize("matter", CARDS, ids=range(len(CARDS)))
def test_cards_that_are_odd(scratch: Path, matter: bytes) -> None:
    _check_facts(scratch, {"README.md": b"---\n" + matter + b"\n---\n"})


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "auto_map": {"AutoModel": "a.B"},
    "quantization_config": {"bits": 4},
    "vision_config": {},
}
TOKENIZER = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ x }}"}


@given(SEEDS)
@fuzzed(150)
def test_configs(scratch: Path, seed: int) -> None:
    chosen = random.Random(seed)
    files = {
        "config.json": _json(mutate(chosen, CONFIG)),
        "tokenizer_config.json": _json(mutate(chosen, TOKENIZER)),
    }
    _check_facts(scratch, files)


_WORDS = (
    "api", "models", "datasets", "spaces", "resolve", "raw", "tree", "revision", "refs", "v2", "v1",
    "-", "cas", "git", "simple", "blocks", "reconstructions", "manifests", "blobs", COMMIT, "main",
    "Org", "Model", "telemetry", "resolve-cache", "paths-info", "xet-read-token", "info",
)  # fmt: skip


@given(
    st.lists(
        st.one_of(
            st.sampled_from([word.encode() for word in _WORDS]),
            st.sampled_from([one.encode(errors="surrogatepass") for one in ODD_STRINGS]),
            st.binary(max_size=8),
            st.sampled_from([b"%2F", b"%", b"%ff", b"%00", b"%2e%2e", b"a%2F..%2Fb", b"%C3%BC"]),
        ),
        max_size=12,
    )
)
@fuzzed(500)
def test_urls(segments: list[bytes]) -> None:
    match = soon(lambda: ROUTER.match(b"/" + b"/".join(segments)), RequestError)
    assert match is None or isinstance(match, Match)
    if match is not None:
        parts = [part for one in (match.repo_id, *match.params) for part in one.split("/")]
        assert not any(part == ".." or "\0" in part for part in parts)


_NUMBERS = st.sampled_from(["", "0", "1", "5", "99", "100", "-1", " 2 ", "9" * 25, "9" * 5000, "x"])
_RANGES = st.one_of(
    st.builds("{}{}-{}{}".format, st.sampled_from(["bytes=", "BYTES= ", "bytes=\t", "items=", ""]),
              _NUMBERS, _NUMBERS, st.sampled_from(["", "\t", ",1-2", ",", " x"])),
    st.text(max_size=40),
    st.just("bytes=\u0661-\u0662"),
)  # fmt: skip


@given(_RANGES, st.sampled_from([0, 1, 2, 100, 2**40]))
@fuzzed(500)
def test_ranges(header: str, size: int) -> None:
    span = soon(lambda: parse_range(header, size), ValueError)
    if span is not None:
        assert 0 <= span.offset < size
        assert 0 < span.count <= size - span.offset


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    put_grown(folder / "data", 0)
    hubmirror(folder / "data", "bundle", "create", str(folder / "disk"), "--split", "1M")
    return folder / "disk"


@given(SEEDS)
@fuzzed(200)
def test_bundle_manifests(bundle: Path, scratch: Path, seed: int) -> None:
    chosen = random.Random(seed)
    whole = (bundle / "manifest.json").read_bytes()
    file = scratch / "disk" / "manifest.json"
    if seed % 5 == 0:
        write(file, mutate_bytes(chosen, whole))
    else:
        write(file, whole)
        with suppress(TypeError, KeyError, AttributeError, orjson.JSONDecodeError):
            seal(file.parent, lambda manifest: _replace(manifest, mutate(chosen, manifest)))
    manifest = soon(lambda: Manifest.read(file.parent), CarryError)
    if manifest is not None:
        assert orjson.dumps([item.row() for item in manifest.items])


def _replace(manifest: dict[str, Any], other: dict[str, Any]) -> None:
    manifest.clear()
    manifest.update(other)


SETTINGS_FILE = b"""[serve]
data = "data"
port = 8400
names = ["huggingface.co"]
tls = true
[xet]
min_size = 20
[[source]]
kind = "folder"
path = "plain"
repo_id = "Org/Plain"
[[repo]]
repo_id = "Org/Data"
repo_type = "dataset"
revision = "main"
include = ["*.json"]
"""
_TOML_PARTS = (
    b"[serve]\n", b"[[serve]]\n", b"[[source]]\n", b"repo = 1\n", b"source = []\n", b"port = 1.5\n",
    b"a.b.c = 1\n", b'""=1\n', b"[" * 500, b"kind = []\n", b"repo_type = []\n", b"repo_id = 5\n",
    b"{",
    b"path = 1979-05-27\n", b"inf", b"nan", b"'''", b'"\\U0000D800"', b"\xff", b"\0",
    b"repo_id = ''\n",
    b"repo_type = 'x'\n", b"repo_type = {}\n", b"path = '\\u0000'\n",
    b"path = '~nobody-at-all/x'\n",
    b"include = [[]]\n", b"[serve.port]\n", b"port = 99999999999999999999999\n",
)  # fmt: skip
_FILES = (
    b"[[source]]\nkind = 'folder'\npath = 'a'\nrepo_type = []\nrepo_id = 'a'\n",
    b"[[source]]\nkind = 'folder'\npath = '~nobody-at-all/x'\nrepo_id = 'a'\n",
    b"[[repo]]\nrepo_id = 'a'\nrepo_type = {}\n",
    b"[[repo]]\nrepo_id = 'datasets/a/b'\nrepo_type = 'dataset'\n",
    b"a = " + b"[" * 3000 + b"]" * 3000,
    b"[" + b"a." * 5000 + b"a]",
    b"[serve]\ndata = '\\u0000'\n",
    b'[serve]\nname = "\\uD800"\n',
)


def _read_config(scratch: Path, body: bytes) -> None:
    write(scratch / "hubmirror.toml", body)
    soon(lambda: File.read(scratch / "hubmirror.toml"), ConfigError)


@given(SEEDS)
@fuzzed(200)
def test_configuration_files(scratch: Path, seed: int) -> None:
    _read_config(scratch, mutate_bytes(random.Random(seed), SETTINGS_FILE, _TOML_PARTS))


@pytest.mark.parametrize("body", _FILES, ids=range(len(_FILES)))
def test_configuration_files_that_are_odd(scratch: Path, body: bytes) -> None:
    _read_config(scratch, body)


POINTER = lfs_pointer(64 * "a", 5)


def _read_plain(scratch: Path, body: bytes, digests: Digests) -> None:
    write(scratch / "plain" / "model.bin", body)
    read = partial(PlainFiles.read, scratch / "plain", "Org/Model", digests)
    files = soon(read, UnavailableError)
    assert files is None or all(stored.file.size >= 0 for stored in files.files.values())


@given(SEEDS)
@fuzzed(100)
def test_lfs_pointers(scratch: Path, seed: int) -> None:
    parts = (b"size -1\n", b"size 1e9\n", b"9" * 100, b"\r\n", b"oid sha256:", b"x\n")
    with closing(Digests(State(scratch / "state"))) as digests:
        _read_plain(scratch, mutate_bytes(random.Random(seed), POINTER, parts), digests)


@pytest.mark.parametrize("size", ["9" * 90, "0", "00005"])
def test_lfs_pointers_of_odd_sizes(scratch: Path, size: str) -> None:
    with closing(Digests(State(scratch / "state"))) as digests:
        _read_plain(scratch, POINTER.replace(b"size 5", f"size {size}".encode()), digests)


ATTRIBUTES = b"""# weights
*.safetensors filter=lfs diff=lfs merge=lfs -text
/models/**/*.bin filter=lfs
[attr]binary -diff
"a file with spaces" filter=lfs
*.[ch] filter=lfs
"""
_PATTERNS = (
    b"[", b"[!", b"[a-", b"*" * 200, b"**/" * 100, b"?", b"\\", b"\0", b"\xff", b"\x1c", b"\x85",
    b"!",
    b"* filter=lfs\n", b"a" * 5000 + b" filter=lfs\n", b"*a" * 60 + b"b filter=lfs\n",
    b"[[:alpha:]]",
    b"\xe2\x80\xa8", b"filter=lfs\n", b" filter=lfs\n",
)  # fmt: skip


def _match_attributes(scratch: Path, body: bytes) -> None:
    write(scratch / "attributes" / ".gitattributes", body)
    write(scratch / "attributes" / "x", b"\0x")
    rule = soon(lambda: LfsRule.of(str(scratch / "attributes"), [".gitattributes"]))
    for path in ("model.safetensors", "a/b/c.bin", "a" * 200, "\u00fc [x]"):
        kind = soon(lambda path=path: rule.kind(path, str(scratch / "attributes/x"), 5))  # type: ignore[misc]
        assert kind in ("sha256", "git-sha1")


@given(SEEDS)
@fuzzed(150)
def test_git_attributes(scratch: Path, seed: int) -> None:
    _match_attributes(scratch, mutate_bytes(random.Random(seed), ATTRIBUTES, _PATTERNS))


def test_git_attributes_that_backtrack(scratch: Path) -> None:
    _match_attributes(scratch, b"*a" * 60 + b"*b filter=lfs\n")
    _match_attributes(scratch, b"/" + b"*a" * 60 + b"*/b filter=lfs\n")
    _match_attributes(scratch, b"*.x filter=lfs\n" * 20_000)


MODEL_YAML = b"""name: org--model
version: abc
creation_time: '2026-01-02T03:04:05+00:00'
labels: {backend: vllm}
metadata:
  _revision: c0ffee0000000000000000000000000000000000
  hubmirror:
    repo_id: Org/Model
    repo_type: model
    commit_hash: c0ffee0000000000000000000000000000000000
    revision: main
    whole: true
    files:
      config.json: {size: 2, blob_id: 9e26dfeeb6e641a33dae4961196235bdb965b21b}
"""
_MODELS = (
    MODEL_YAML, b"creation_time: 0001-01-01T00:00:00+14:00\n",
    MODEL_YAML.replace(b"size: 2", b"size: .inf"), MODEL_YAML.replace(b"size: 2", b"size: .nan"),
    MODEL_YAML.replace(b"revision: main", b"revision: ../../x"),
    MODEL_YAML.replace(b"revision: main", b"revision: [main]"),
    MODEL_YAML.replace(b"repo_type: model", b"repo_type: [model]"),
    MODEL_YAML.replace(b"config.json", b"../../../../etc/passwd"),
    MODEL_YAML.replace(b"config.json", b"1"), MODEL_YAML.replace(b"labels: {", b"labels: {1: 2, "),
    MODEL_YAML.replace(b"Org/Model", b"[Org]"), b"metadata: {hubmirror: {repo_id: 5}}",
)  # fmt: skip


def _read_store(scratch: Path, body: bytes, number: int) -> None:
    version = scratch / f"bento-{number}" / "models" / "org--model" / "abc"
    write(version / "config.json", b"{}")
    write(version / "model.yaml", body)
    store = scratch / f"bento-{number}"
    soon(lambda: bento_entries(store))
    with closing(Digests(State(scratch / "state"))) as digests:
        source = BentoStore(store, digests, ttl_s=0)
        for repo in source.repos():
            soon(lambda repo=repo: source.refs(repo), UnavailableError)  # type: ignore[misc]
            soon(lambda repo=repo: source.snapshot(repo, "HEAD"), UnavailableError)  # type: ignore[misc]


@given(SEEDS)
@fuzzed(80)
def test_model_yaml(scratch: Path, seed: int) -> None:
    body = mutate_bytes(random.Random(seed), MODEL_YAML, _YAML_PARTS)
    _read_store(scratch, body, seed % 7)


@pytest.mark.parametrize("number", range(len(_MODELS)))
def test_model_yaml_that_is_odd(scratch: Path, number: int) -> None:
    _read_store(scratch, _MODELS[number], 100 + number)


@given(SEEDS)
@fuzzed(100)
def test_refs(scratch: Path, seed: int) -> None:
    chosen = random.Random(seed)
    name = chosen.choice(("main", "refs/pr/1", "a b", "c0ffee", ".hidden", "x.lock", "refs/x/y"))
    body = mutate_bytes(chosen, COMMIT.encode(), (b"\n", b"ref: refs/heads/x", b"\0", b" " * 2000))
    write(scratch / "cache" / MODEL.folder_name / "refs" / name, body)
    folder = RepoDir(scratch / "cache", MODEL, scratch / "cache" / MODEL.folder_name)
    refs = soon(folder.refs)
    assert all(commit == "" or COMMIT_HASH.fullmatch(commit) for commit in refs.values())


@given(st.one_of(st.text(max_size=60), st.sampled_from(ODD_STRINGS)))
@fuzzed(300)
def test_repository_ids(text: str) -> None:
    repo = soon(lambda: Repo.parse(text), ValueError)
    if repo is not None:
        assert os.sep not in repo.folder_name
        assert not repo.folder_name.startswith(".")
    soon(lambda: Repo.from_folder_name(text))
