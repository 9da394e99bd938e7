"""`hubmirror bento`: entries that BentoML itself reads, and files that it exchanges with others."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.derived.state import State
from mirror.sources.bento import BentoStore
from tests.carried import hubmirror
from tests.folders import (
    COMMIT,
    FILES,
    MODEL,
    OLDER,
    Content,
    entry,
    make_classic,
    make_managed,
    make_plain,
    repo_dir,
    write,
)
from tests.processes import begin
from tests.waiting import until

pytest.importorskip("bentoml", reason="BentoML is not installed in this environment")

import bentoml
from bentoml._internal.models import ModelContext, ModelStore

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # BentoML's own

TAG = f"org--model:{COMMIT}"
LONG = Repo.parse(f"Org/{60 * 'x'}")
WEIGHTS = "model.safetensors"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one model."""
    make_managed(tmp_path / "data" / "hub")
    return tmp_path / "data"


@pytest.fixture
def home(data: Path) -> Path:
    return data / "bentoml"


def bento(data: Path, *words: str, status: int = 0) -> str:
    """What a command prints."""
    result = hubmirror(data, "bento", *words, status=status)
    return result.stdout.strip() if status == 0 else result.output


def get(home: Path, tag: str = TAG) -> bentoml.Model:
    """The entry as BentoML reads it."""
    return bentoml.models.get(tag, _model_store=ModelStore(home / "models"))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / "model.yaml"
    }


def tags(home: Path) -> list[str]:
    found = (home / "models").glob("*/*/model.yaml")
    return sorted(f"{path.parent.parent.name}:{path.parent.name}" for path in found)


def is_clean(home: Path) -> bool:
    """Whether no work under way was left."""
    return not list(home.glob(".*"))


# Adding


def test_an_entry_is_one_of_bentomls_own(data: Path, home: Path) -> None:
    assert bento(data, "add", "Org/Model") == TAG
    model = get(home)
    assert files(Path(model.path)) == FILES
    assert get(home, "org--model").tag == model.tag == get(home, "org--model:latest").tag
    assert model.info.metadata["_revision"] == COMMIT
    assert model.info.labels == {}
    listed = bentoml.models.list(_model_store=ModelStore(home / "models"))
    assert [str(one.tag) for one in listed] == [TAG]
    assert is_clean(home)


@pytest.mark.parametrize("backend", ["pt", "vllm", "ctranslate"])
def test_an_entry_for_openllm_0_4(data: Path, home: Path, backend: str) -> None:
    """It looks for the tag, and compares the label."""
    tag = bento(data, "add", "Org/Model", "--for", "openllm-0.4", "--backend", backend)
    assert tag == f"{backend}-org--model:{COMMIT}"
    model = get(home, tag)
    assert model.info.labels["backend"] == backend
    assert model.info.labels["architecture"] == "LlamaForCausalLM"
    assert model.info.metadata["_revision"] == COMMIT
    assert model.info.module == "openllm.serialisation.transformers"
    assert model.info.api_version == "v2.1.0"


def test_the_next_command_is_told(data: Path) -> None:
    said = hubmirror(data, "bento", "add", "Org/Model").stderr
    assert f"BENTOML_HOME={data}/bentoml openllm start {TAG}" in said
    said = hubmirror(data, "bento", "add", "Org/Model", "--for", "openllm-0.4").stderr
    assert "openllm start Org/Model" in said


def test_files_are_links_to_those_of_the_mirror(data: Path, home: Path) -> None:
    bento(data, "add", "Org/Model")
    bento(data, "add", "Org/Model", "--for", "openllm-0.4")
    blob = repo_dir(data / "hub") / "blobs" / entry(WEIGHTS, FILES[WEIGHTS]).etag
    assert blob.stat().st_nlink == 3
    assert (Path(get(home).path) / WEIGHTS).stat().st_ino == blob.stat().st_ino


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    folder = Path("/dev/shm") / f"hubmirror-{os.getpid()}-{tmp_path.name}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("/dev/shm cannot be written here")
    if folder.stat().st_dev == tmp_path.stat().st_dev:
        folder.rmdir()
        pytest.skip("/dev/shm is no file system of its own here")
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_files_are_copies_on_another_disk(data: Path, other_disk: Path) -> None:
    bento(data, "add", "Org/Model", "--store", str(other_disk))
    assert files(Path(get(other_disk).path)) == FILES
    assert (Path(get(other_disk).path) / WEIGHTS).stat().st_nlink == 1
    assert is_clean(other_disk)


def test_a_source_serves_what_was_added_without_reading_it(
    data: Path, home: Path, tmp_path: Path
) -> None:
    bento(data, "add", "org/model@main")
    stopped = Digests(State(tmp_path / "state"))
    stopped.close()
    snapshot = BentoStore(home, stopped).snapshot(MODEL, "main")
    assert (snapshot.repo, snapshot.commit_hash) == (MODEL, COMMIT)
    assert {path: one.file for path, one in snapshot.files.items()} == Content().entries


def test_the_same_entry_twice(data: Path, home: Path) -> None:
    bento(data, "add", "Org/Model")
    made = Path(get(home).path).stat()
    assert bento(data, "add", "Org/Model") == TAG
    assert Path(get(home).path).stat().st_ino == made.st_ino


def test_an_entry_grows_with_its_revision(data: Path, home: Path) -> None:
    """A pull with fewer filters brought more of it."""
    make_managed(data / "hub", Content({"config.json": b"{}"}, OLDER))
    bento(data, "add", f"Org/Model@{OLDER}")
    make_managed(data / "hub", Content({"config.json": b"{}", "w.bin": b"w"}, OLDER))
    tag = bento(data, "add", f"Org/Model@{OLDER}")
    assert set(files(Path(get(home, tag).path))) == {"config.json", "w.bin"}
    assert is_clean(home)


@pytest.mark.parametrize("change", ["gone", "longer", "same size"])
def test_an_entry_that_was_changed_is_written_again(data: Path, home: Path, change: str) -> None:
    bento(data, "add", "Org/Model")
    weights = Path(get(home).path) / WEIGHTS
    weights.unlink()
    if change != "gone":
        size = len(FILES[WEIGHTS]) + (change == "longer")
        write(weights, size * b"x")
    bento(data, "add", "Org/Model")
    assert files(Path(get(home).path)) == FILES
    assert is_clean(home)


def test_an_entry_of_another_revision_or_backend_is_written_again(data: Path, home: Path) -> None:
    tag = bento(data, "add", f"Org/Model@{COMMIT}")
    bento(data, "add", "Org/Model")
    model: Any = get(home, tag)
    assert model.info.metadata["hubmirror"]["revision"] == "main"


def test_an_entry_of_a_part_says_so(data: Path) -> None:
    part = Content({"config.json": b"{}"}, OLDER)
    make_managed(data / "hub", part, left_out={"w.bin": entry("w.bin", b"w")})
    said = hubmirror(data, "bento", "add", f"Org/Model@{OLDER}").stderr
    assert "The entry lacks 1 file of the upstream revision" in said
    assert "The first is w.bin" in said


def test_an_entry_that_openllm_imported_stands_in_nobodys_way(data: Path, home: Path) -> None:
    """Its true repository may be any that falls on the tag."""
    make_managed(data / "hub", Content(repo=Repo.parse("Org/My_Model")))
    store = ModelStore(home / "models")
    (home / "models").mkdir(parents=True)
    with bentoml.models.create(f"pt-org--my-model:{OLDER}", _model_store=store, module="m",
                               context=ModelContext("x", {}), signatures={}):  # fmt: skip
        pass
    tag = bento(data, "add", "Org/My_Model", "--for", "openllm-0.4", "--backend", "pt")
    assert tags(home) == sorted([tag, f"pt-org--my-model:{OLDER}"])


def test_openllm_0_4_looks_for_no_other_name(data: Path, home: Path) -> None:
    words = ("--for", "openllm-0.4", "--backend", "pt")
    said = bento(data, "add", "Org/Model", *words, "--tag", "short", status=1)
    assert "Use --tag with openllm-0.5 only" in said
    make_managed(data / "hub", Content(repo=LONG))
    said = bento(data, "add", str(LONG), *words, status=1)
    assert "has 68 characters, and BentoML accepts 63" in said
    assert "serve the model with 0.5" in said
    assert not home.exists()


def test_latest_is_what_was_added_last(data: Path, home: Path) -> None:
    make_managed(data / "hub", Content({"config.json": b"{}"}, OLDER), refs=("refs/tags/v1",))
    bento(data, "add", "Org/Model@v1")
    assert str(get(home, "org--model").tag) == f"org--model:{OLDER}"
    for revision, tag in (("main", TAG), ("v1", f"org--model:{OLDER}"), ("main", TAG)):
        bento(data, "add", f"Org/Model@{revision}")
        assert str(get(home, "org--model").tag) == tag
    assert tags(home) == sorted([TAG, f"org--model:{OLDER}"])


def test_from_any_source(data: Path, home: Path, tmp_path: Path) -> None:
    make_classic(tmp_path / "cache", Content(repo=Repo.parse("Org/Foreign")))
    make_plain(tmp_path / "plain")
    sources = ("--source", f"hf-cache:{tmp_path}/cache", "--source",
               f"folder:{tmp_path}/plain=Org/Plain")  # fmt: skip
    assert bento(data, "add", "Org/Foreign", *sources) == f"org--foreign:{COMMIT}"
    tag = bento(data, "add", "Org/Plain", *sources)
    assert files(Path(get(home, tag).path)).keys() == {*FILES, ".gitattributes"}


def test_a_model_without_a_config(data: Path, home: Path) -> None:
    for number, config in enumerate(
        [None, b"{", b"[]", b'{"architectures": {"a": 1}}', b'{"architectures": "Word"}',
         b'{"architectures": [], "model_type": 5}']
    ):  # fmt: skip
        repo = Repo.parse(f"Org/M{number}")
        body = {"config.json": config} if config is not None else {"a": b"b"}
        make_managed(data / "hub", Content(body, repo=repo))
        tag = bento(data, "add", str(repo), "--for", "openllm-0.4")
        assert get(home, tag).info.labels["backend"] == "vllm"


def test_a_repository_that_is_not_here(data: Path, home: Path) -> None:
    assert "Org/None is not in this mirror" in bento(data, "add", "Org/None", status=1)
    assert "Invalid rev id: v9" in bento(data, "add", "Org/Model@v9", status=1)
    assert "is not a repo id" in bento(data, "add", "a/b/c", status=1)
    assert not home.exists()


# Names


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Org/My_Model", "Org/My-Model"), ("org/model-a", "org/model_a"),
        ("Org/Data", "datasets/Org/Data"),
    ],
)  # fmt: skip
def test_two_repositories_that_fall_on_one_tag(
    data: Path, home: Path, first: str, second: str
) -> None:
    for text in (first, second):
        make_managed(data / "hub", Content(repo=Repo.parse(text)))
    tag = bento(data, "add", first)
    said = bento(data, "add", second, status=1)
    assert all(name in said for name in (first, second, tag.partition(":")[0], "--tag"))
    assert tags(home) == [tag]
    assert bento(data, "add", second, "--tag", "another") == f"another:{COMMIT}"


def test_a_name_that_is_too_long(data: Path, home: Path) -> None:
    make_managed(data / "hub", Content(repo=LONG))
    said = bento(data, "add", str(LONG), status=1)
    assert "has 65 characters, and BentoML accepts 63" in said
    assert not home.exists()
    assert bento(data, "add", str(LONG), "--tag", 63 * "x") == f"{63 * 'x'}:{COMMIT}"


@pytest.mark.parametrize(
    "tag", ["some tag!", "a:b", "a/b", "../../evil", "-a", "a-", ".", "\u00fc"]
)
def test_a_tag_that_bentoml_does_not_take(data: Path, home: Path, tag: str) -> None:
    said = bento(data, "add", "Org/Model", "--tag", tag, status=1)
    assert f"{tag} is not a valid BentoML tag" in said
    assert not home.exists() or (tags(home) == [] and is_clean(home))


def test_a_tag_in_capitals_is_bentomls_in_small_letters(data: Path, home: Path) -> None:
    assert bento(data, "add", "Org/Model", "--tag", "MyModel") == f"mymodel:{COMMIT}"
    assert files(Path(get(home, "mymodel").path)) == FILES


def test_a_repository_with_a_file_that_is_bentomls_own(data: Path, home: Path) -> None:
    content = Content({"model.yaml": b"a: b\n", "config.json": b"{}"}, repo=Repo.parse("Org/Yaml"))
    make_managed(data / "hub", content)
    said = bento(data, "add", "Org/Yaml", status=1)
    assert "Org/Yaml cannot be an entry of a Bento store: it has a file model.yaml" in said
    assert tags(home) == []


# Crashes


def test_a_crash_leaves_no_half_entry(data: Path, home: Path, tmp_path: Path) -> None:
    content = Content({f"{number}.txt": b"%d" % number for number in range(600)},
                      repo=Repo.parse("Org/Many"))  # fmt: skip
    make_managed(data / "hub", content)
    running = begin(tmp_path / "log", "bento", "add", "Org/Many", "--data", str(data))
    until(lambda: bool(list(home.glob(".hubmirror-*/*/*/1?.txt"))), interval=0.001)
    assert running.kill()
    assert tags(home) == []
    assert not is_clean(home)
    assert '"source":"bento' not in hubmirror(data, "ls", "--json").stdout
    tag = bento(data, "add", "Org/Many")
    assert files(Path(get(home, tag).path)) == content.files


# Exchanging


@pytest.fixture
def exported(data: Path, tmp_path: Path) -> Path:
    bento(data, "add", "Org/Model")
    return Path(bento(data, "export", TAG, str(tmp_path / "out.bentomodel")))


def test_what_is_exported_is_imported_elsewhere(
    data: Path, home: Path, exported: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert exported == tmp_path / "out.bentomodel"
    assert bento(data, "import", str(exported), "--store", str(other)) == TAG
    assert files(Path(get(other).path)) == FILES
    assert get(other).info.metadata == get(home).info.metadata
    assert get(other, "org--model").tag == get(other).tag
    assert is_clean(other)


def test_bentoml_imports_what_was_exported(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    store = ModelStore(tmp_path / "theirs")
    model = bentoml.models.import_model(str(exported), _model_store=store)
    assert str(model.tag) == TAG
    assert files(Path(model.path)) == FILES


def test_what_bentoml_exported_is_imported(data: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    store = ModelStore(tmp_path / "theirs")
    with bentoml.models.create("their--model:v1", signatures={}, _model_store=store) as model:
        write(Path(model.path) / "config.json", b"{}")
    file = bentoml.models.export_model("their--model:v1", str(tmp_path), _model_store=store)
    assert bento(data, "import", file) == "their--model:v1"
    listed = hubmirror(data, "ls", "--json").stdout
    assert '"repo_id":"their/model"' in listed
    assert "derived from the tag their--model:v1" in listed


@pytest.mark.parametrize("out", ["out.bentomodel", ".", "a b#c?%20", "", "name"])
def test_where_an_export_is_written(data: Path, exported: Path, tmp_path: Path, out: str) -> None:
    """Relative paths begin here."""
    exported.unlink()
    (tmp_path / "a b#c?%20").mkdir()
    before = set(Path("/").iterdir())
    written = Path(bento(data, "export", "org--model", *([out] if out else [])))
    for stray in set(Path("/").glob("*.bentomodel")) - before:
        stray.unlink()
    folder = tmp_path / out if out in (".", "a b#c?%20") else tmp_path
    assert written.is_absolute()
    assert written.parent == folder.resolve()
    assert written.is_file()


def test_an_import_of_a_file_that_is_here(data: Path, exported: Path, tmp_path: Path) -> None:
    assert bento(data, "import", exported.name, "--store", "other") == TAG
    assert tags(tmp_path / "other") == [TAG]


@pytest.mark.parametrize("tag", ["none", "none:v1", "org--model:v1", "Org/Model", "a b", ""])
def test_a_tag_that_cannot_be_exported(data: Path, exported: Path, tag: str) -> None:
    said = bento(data, "export", tag, str(exported.parent / "new.bentomodel"), status=1)
    assert f"{tag} cannot be exported: " in said
    assert f"The store has: {TAG}." in said
    assert not (exported.parent / "new.bentomodel").exists()


def test_an_unknown_repository_is_the_operators_own_to_add(data: Path) -> None:
    said = bento(data, "add", "Org/Nope", status=1)
    assert "Org/Nope is not in this mirror. Add it, or check the spelling." in said
    assert "operator" not in said


def test_an_export_to_a_folder_that_is_not_there(data: Path, exported: Path) -> None:
    said = bento(data, "export", TAG, str(exported.parent / "no" / "new.bentomodel"), status=1)
    assert "cannot be exported: " in said


def test_an_import_of_what_is_here(data: Path, exported: Path) -> None:
    said = bento(data, "import", str(exported), status=1)
    assert f"{TAG} is already in the store. Remove it first." in said


def _archive(path: Path, *members: tuple[str, bytes | None], mode: str = "w:xz") -> bytes:
    """A file that BentoML might have exported; a member without a body is a link to /etc."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, body in members:
            info = tarfile.TarInfo(name)
            if body is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc"
            info.size = len(body or b"")
            archive.addfile(info, io.BytesIO(body or b""))
    return path.read_bytes()


DAMAGES: dict[str, Any] = {
    "nothing": lambda _, __: b"",
    "junk": lambda _, __: 4000 * b"junk",
    "cut": lambda whole, _: whole[: len(whole) // 2],
    "another format": lambda _, path: _archive(path, ("model.yaml", b""), mode="w:gz"),
    "no model": lambda _, path: _archive(path, ("a", b"b")),
    "broken model": lambda _, path: _archive(path, ("model.yaml", b"a: [")),
    "no name": lambda _, path: _archive(path, ("model.yaml", b"version: v1\n")),
    "an evil name": lambda _, path: _archive(path, ("model.yaml", b"name: ../../x\nversion: v\n")),
    "outside": lambda _, path: _archive(path, ("model.yaml", b""), ("../../../pwned", b"x")),
    "a link": lambda _, path: _archive(path, ("model.yaml", b""), ("etc", None)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_imported(
    data: Path, exported: Path, tmp_path: Path, damage: str
) -> None:
    file, other = tmp_path / "new.bentomodel", tmp_path / "deep" / "other"
    file.write_bytes(DAMAGES[damage](exported.read_bytes(), file))
    said = bento(data, "import", str(file), "--store", str(other), status=1)
    assert f"{file} is not a valid .bentomodel file: " in said
    assert tags(other) == []
    assert is_clean(other)
    assert not list(tmp_path.rglob("pwned"))
