"""Unmodified clients, each in an environment of its own, over a real socket.

`make test` runs the oldest and the newest huggingface_hub; `make test-clients` runs them all, and
writes the table of docs/clients.md.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mirror.core.repo import Repo
from mirror.core.tree import lfs_pointer
from tests import folders
from tests.clients.clients import (
    ARIA2,
    CURL,
    DATASETS,
    HF_TRANSFER,
    HUBS,
    NODE,
    TRANSFORMERS,
    Run,
    each,
)
from tests.clients.conftest import OLD_FILES, PARTIAL, ROWS, TOKEN, WHOLE, Mirror
from tests.clients.proxies import run_cut
from tests.folders import COMMIT, OLDER, Content

pytestmark = pytest.mark.timeout(900)  # the first run makes the environments

WEIGHTS = "model.safetensors"


def digests(content: Content) -> dict[str, str]:
    return {path: sha256(body) for path, body in content.files.items()}


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@each("download", *HUBS, NODE, CURL, ARIA2)
def test_weights_arrive(run: Run) -> None:
    told = run("download", "Org/Model", "main", "big.bin")
    assert told["sha256"] == sha256(WHOLE.files["big.bin"])


@each("download", HF_TRANSFER)
def test_weights_arrive_in_parallel_parts(run: Run, huge: Content) -> None:
    told = run("download", "Org/Huge", "main", "huge.bin")
    assert told["sha256"] == sha256(huge.files["huge.bin"])
    assert run.log().count("/huge.bin 206") > 5


@each("download", *HUBS)
def test_a_file_of_an_odd_name_arrives(run: Run) -> None:
    path = "sub dir/deep/\u00fcn\u00ef#100%+?.txt"
    assert run("download", "Org/Model", "main", path)["sha256"] == sha256(WHOLE.files[path])


@each("snapshot", *HUBS)
@pytest.mark.parametrize("content", [WHOLE, PARTIAL], ids=["managed", "foreign"])
def test_a_whole_repository_arrives(run: Run, content: Content) -> None:
    assert run("snapshot", content.repo.repo_id) == digests(content)


@each("snapshot", *HUBS)
def test_the_command_line_downloads_a_repository(run: Run) -> None:
    """Left to itself, it looks once a day for a newer version of itself."""
    assert run("cli", "Org/Model", HF_HUB_DISABLE_UPDATE_CHECK="1") == digests(WHOLE)


@each("snapshot", NODE)
def test_a_whole_repository_arrives_in_javascript(run: Run) -> None:
    assert run("snapshot", PARTIAL.repo.repo_id) == digests(PARTIAL)


@each("info", *HUBS, NODE)
def test_a_repository_is_described(run: Run) -> None:
    told = run("info", "Org/Model")
    assert told["sha"] == COMMIT
    assert told["files"] == {
        path: [file.size, file.lfs_sha256] for path, file in WHOLE.entries.items()
    }
    assert told["listed"] == sorted(WHOLE.files)
    assert told["found"] == ["Org/Model"]


@each("info", *HUBS)
def test_a_tree_and_refs_are_listed(run: Run) -> None:
    told = run("info", "Org/Model")
    assert told["tree"] == {path: len(body) for path, body in WHOLE.files.items()}
    assert told["refs"] == {"refs/heads/main": COMMIT, "refs/tags/v1.0": OLDER}


@each("fs", *HUBS, NODE, CURL)
def test_a_part_of_a_file_is_read(run: Run) -> None:
    told = run("fs", "Org/Model", WEIGHTS, "100", "199")
    assert told["part"] == WHOLE.files[WEIGHTS][100:200].hex()
    assert told["whole"] == sha256(WHOLE.files[WEIGHTS])


@each("fs", NODE)
def test_the_pointer_of_a_file_is_read(run: Run) -> None:
    file = WHOLE.entries[WEIGHTS]
    assert run("raw", "Org/Model", WEIGHTS)["text"] == lfs_pointer(file.etag, file.size).decode()


@each("fs", *HUBS)
def test_a_file_in_a_folder_is_streamed(run: Run) -> None:
    path = "dir with space/\u00fcn\u00ef \u00e7\u00f8d\u00e9.txt"
    assert run("fs", "Org/Partial", path, "4", "7")["part"] == b"name".hex()


@each("fs", *HUBS)
def test_a_file_system_lists(run: Run) -> None:
    told = run("fs", "Org/Model", "README.md", "0", "0")
    assert (told["found"], told["globbed"]) == (sorted(WHOLE.files), ["config.json"])


@each("errors", *HUBS)
@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (("Org/Absent", "main", "config.json"), "RepositoryNotFoundError", "is not in this mirror"),
        (("Org/Model", "nope", "config.json"), "RevisionNotFoundError", "Invalid rev id: nope"),
        (("Org/Model", "main", "nope.json"), "EntryNotFoundError", "Entry not found: nope.json"),
    ],
    ids=["repository", "revision", "file"],
)
def test_what_is_absent_is_named(
    run: Run, asked: tuple[str, str, str], kind: str, message: str
) -> None:
    told = run("error", *asked)
    assert kind in told["kinds"]
    assert message in told["message"]


@each("errors", *HUBS)
def test_a_lost_file_fails_the_download_and_is_named(run: Run) -> None:
    """No file of the weights is left in the client's cache, and no marker that it is absent."""
    errors = run("lost", "Org/Lost")
    assert "503" in "".join(errors)
    assert "model.safetensors" in "".join(errors)
    assert not list(run.home.rglob("model.safetensors"))


@each("errors", NODE, CURL)
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("Org/Absent", "main", "config.json"), "is not in this mirror"),
        (("Org/Model", "nope", "config.json"), "Invalid rev id: nope"),
    ],
    ids=["repository", "revision"],
)
def test_what_is_absent_is_a_404_with_its_reason(
    run: Run, asked: tuple[str, str, str], message: str
) -> None:
    told = run("error", *asked)
    assert "404" in told["kinds"]
    assert message in told["message"]


@each("errors", NODE)
def test_an_absent_file_is_null_in_javascript(run: Run) -> None:
    assert run("error", "Org/Model", "main", "nope.json")["kinds"] == ["null"]


@each("errors", NODE)
def test_a_message_reads_well_in_the_sentence_of_javascript(run: Run) -> None:
    assert "check the spelling. URL: " in run("access", "Org/Absent")["message"]
    assert run("access", "Org/Model")["message"] == ""


@each("errors", ARIA2)
def test_an_absent_file_is_not_found_by_aria2(run: Run) -> None:
    assert run("error", "Org/Model", "main", "nope.json")["kinds"] == ["3"]


@each("errors", *HUBS)
def test_an_absent_file_is_remembered_only_where_that_is_known(run: Run) -> None:
    run("error", "Org/Model", "main", "nope.json")
    run("error", "Org/Partial", "main", "nope.json")
    kept = [path.relative_to(run.home / "hf/hub") for path in run.home.rglob("nope.json")]
    assert [str(path) for path in kept] == [f"models--Org--Model/.no_exist/{COMMIT}/nope.json"]


@each("errors", *HUBS)
def test_a_locked_mirror_asks_for_its_token(run: Run, mirror: Mirror) -> None:
    told = run("error", "Org/Model", "main", "config.json", endpoint=mirror.locked_url)
    assert "GatedRepoError" in told["kinds"]
    assert "This mirror asks for its token" in told["message"]


@each("errors", *HUBS, NODE, CURL, ARIA2)
def test_a_token_opens_a_locked_mirror(run: Run, mirror: Mirror) -> None:
    told = run(
        "download", "Org/Model", "main", "config.json", endpoint=mirror.locked_url,
        HF_TOKEN=TOKEN, HUGGING_FACE_HUB_TOKEN=TOKEN,
    )  # fmt: skip
    assert told["sha256"] == sha256(WHOLE.files["config.json"])


@each("resume", *HUBS, CURL, ARIA2)
def test_a_broken_download_goes_on(run: Run, mirror: Mirror) -> None:
    """Without Xet, by which parts come in any order (`test_xet.py`)."""
    with run_cut(mirror.url, after=15_000_000) as cut:
        told = run("resume", "Org/Model", "big.bin", endpoint=cut.url, HF_HUB_DISABLE_XET="1")
    assert told["sha256"] == sha256(WHOLE.files["big.bin"])
    assert [one for one in cut.ranges if not one.startswith("bytes=0-")]


@each("resume", HF_TRANSFER)
def test_a_broken_part_of_a_download_goes_on(run: Run, mirror: Mirror, huge: Content) -> None:
    with run_cut(mirror.url, after=8_000_000) as cut:
        told = run("resume", "Org/Huge", "huge.bin", endpoint=cut.url)
    assert cut.done
    assert told["sha256"] == sha256(huge.files["huge.bin"])


@each("revisions", *HUBS, NODE, CURL, ARIA2)
@pytest.mark.parametrize(
    ("repo", "revision"),
    [
        ("Org/Model", "refs/pr/1"),
        ("Org/Model", OLDER),
        ("Org/Model", OLDER[:7]),
        ("Org/Partial", "refs/pr/1"),
        ("Org/Partial", "v1.0"),
    ],
    ids=["pull request", "commit", "short commit", "foreign pull request", "foreign tag"],
)
def test_a_revision_is_found(run: Run, repo: str, revision: str) -> None:
    told = run("download", repo, revision, "config.json")
    assert told["sha256"] == sha256(OLD_FILES["config.json"])


@each("login", *HUBS, NODE)
def test_any_token_logs_in(run: Run) -> None:
    assert run("login", "hf_any")["name"] == "hubmirror"


@each("upload", *HUBS, NODE, CURL)
def test_an_upload_is_refused_in_words(run: Run) -> None:
    told = run("upload", "Org/Model")
    assert "HfHubHTTPError" in told["kinds"] or "403" in told["kinds"]
    assert "This server is a read-only mirror; uploads are disabled" in told["message"]


@each("download", *TRANSFORMERS)
def test_transformers_loads_what_is_in_the_folder(run: Run, mirror: Mirror) -> None:
    (folder,) = (mirror.managed / "models--hubmirror--demo" / "snapshots").iterdir()
    assert run("load", "hubmirror/demo", "main") == run("load", str(folder), "main")


@each("revisions", *TRANSFORMERS)
def test_transformers_loads_a_commit(run: Run, mirror: Mirror) -> None:
    (folder,) = (mirror.managed / "models--hubmirror--demo" / "snapshots").iterdir()
    assert run("load", "hubmirror/demo", folder.name) == run("load", str(folder), "main")


@each("errors", *TRANSFORMERS)
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("Org/Absent", "main", ""), "is not a local folder and is not a valid model identifier"),
        (("hubmirror/demo", "nope", ""), "nope is not a valid git identifier"),
    ],
)
def test_transformers_explains_what_is_absent(
    run: Run, asked: tuple[str, str, str], message: str
) -> None:
    assert message in run("error", *asked)["message"]


@each("download", *DATASETS)
def test_datasets_loads_all_rows(run: Run) -> None:
    assert run("load", "Org/Data", "main", "whole")["rows"] == ROWS


@each("fs", *DATASETS)
def test_datasets_streams_parquet(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    rows = run("parquet", str(tmp_path / "train.parquet"))
    content = Content(
        {"train.parquet": (tmp_path / "train.parquet").read_bytes()},
        repo=Repo.parse(f"datasets/Org/{run.client.name}"),
    )
    folders.make_managed(mirror.managed, content)
    assert run("load", content.repo.repo_id, "main", "streamed") == rows


@each("fs", *DATASETS)
def test_datasets_streams_all_rows(run: Run) -> None:
    assert run("load", "Org/Data", "main", "streamed")["rows"] == ROWS


@each("revisions", *DATASETS)
@pytest.mark.parametrize("revision", ["refs/pr/1", OLDER])
def test_datasets_loads_a_revision(run: Run, revision: str) -> None:
    assert run("load", "Org/Data", revision, "whole")["rows"] == ROWS[:1]


@each("errors", *DATASETS)
def test_datasets_names_what_is_absent(run: Run) -> None:
    assert "Org/Absent" in run("error", "Org/Absent", "main", "")["message"]
