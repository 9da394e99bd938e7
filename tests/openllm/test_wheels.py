"""Wheels for another machine: chosen by uv from a small index, and proven when they are fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from mirror.core.errors import ConfigError, UpstreamError
from mirror.openllm.requirements import check, lines_of
from mirror.openllm.wheels import Platform, WantedWheel, fetch, missing, resolve
from tests.wheels import (
    DAY,
    make_wheel,
    needs_uv,
    run_index,
    serving_openllm_files,
    sha256,
    uv_set_to,
)

pytestmark = needs_uv

HOST = Platform("3.11")
LATER = "2025-06-01T00:00:00+00:00"
WEEK = timedelta(days=7)


def fill(folder: Path) -> dict[str, str]:
    """A folder of wheels, and when some were published."""
    make_wheel(folder, "tiny-a", "1.0")
    new = make_wheel(folder, "tiny-a", "2.0")
    make_wheel(folder, "tiny-b", requires=["tiny-a>=1", "tiny-w ; sys_platform == 'win32'"])
    for tag in (
        "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
        "cp311-cp311-manylinux_2_34_x86_64", "cp311-cp311-manylinux_2_17_aarch64",
        "cp312-cp312-manylinux_2_28_x86_64", "cp311-cp311-win_amd64",
        "cp311-cp311-musllinux_1_2_x86_64",
    ):  # fmt: skip
        make_wheel(folder, "native", tag=tag)
    make_wheel(folder, "stable", tag="cp38-abi3-manylinux1_x86_64")
    make_wheel(folder, "windows", tag="cp311-cp311-win_amd64")
    make_wheel(folder, "fresh", tag="cp311-cp311-manylinux_2_39_x86_64")
    make_wheel(folder, "python-twelve", python=">=3.12")
    return {new.name: LATER}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What an index offers, which uv is set to."""
    folder = tmp_path_factory.mktemp("index")
    with uv_set_to(folder, tmp_path_factory.mktemp("cache"), fill(folder)):
        yield folder


def names(wheels: list[WantedWheel]) -> list[str]:
    return [wheel.filename for wheel in wheels]


# Choosing


def test_wheels_come_with_what_they_need(folder: Path) -> None:
    wheels = resolve(["tiny-b"], HOST)
    assert names(wheels) == ["tiny_a-2.0-py3-none-any.whl", "tiny_b-1.0-py3-none-any.whl"]
    for wheel in wheels:
        path = folder / wheel.filename
        assert (wheel.size, wheel.sha256) == (path.stat().st_size, sha256(path))
        assert wheel.url.endswith(wheel.filename)
    assert [wheel.pin for wheel in wheels] == ["tiny-a==2.0", "tiny-b==1.0"]


@pytest.mark.parametrize(
    ("platform", "tag"),
    [
        (HOST, "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"),
        (Platform("3.11", "2.17"), "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"),
        (Platform("3.11", "2.39"), "cp311-cp311-manylinux_2_34_x86_64"),
        (Platform("3.11", "2.28", "aarch64"), "cp311-cp311-manylinux_2_17_aarch64"),
        (Platform("3.11.7"), "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"),
        (Platform("3.12"), "cp312-cp312-manylinux_2_28_x86_64"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("folder")
def test_the_wheel_of_a_platform(platform: Platform, tag: str) -> None:
    assert names(resolve(["native"], platform)) == [f"native-1.0-{tag}.whl"]


@pytest.mark.usefixtures("folder")
def test_a_wheel_for_every_python_of_a_platform() -> None:
    assert names(resolve(["stable"], HOST)) == ["stable-1.0-cp38-abi3-manylinux1_x86_64.whl"]


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("windows", HOST), ("fresh", HOST), ("python-twelve", HOST), ("not-here", HOST),
        ("windows", Platform("3.11", "2.28", "aarch64")),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_a_wheel_that_is_missing_is_named(name: str, platform: Platform) -> None:
    with pytest.raises(ConfigError, match=name) as failure:
        resolve(["tiny-a", name], platform)
    assert str(platform) in str(failure.value)


@pytest.mark.usefixtures("folder")
def test_requirements_mean_what_they_meant_on_a_day() -> None:
    made = datetime.fromisoformat(DAY)
    assert names(resolve(["tiny-a"], HOST, published_before=made + WEEK))[0].startswith(
        "tiny_a-1.0-"
    )
    assert names(resolve(["tiny-a"], HOST, published_before=made + 9 * WEEK))[0].startswith(
        "tiny_a-2.0-"
    )
    with pytest.raises(ConfigError, match="tiny-a"):
        resolve(["tiny-a"], HOST, published_before=made - WEEK)


@pytest.mark.usefixtures("folder")
def test_constraints_choose_a_version() -> None:
    (_, pinned) = resolve(["tiny-b"], HOST, constraints=["tiny-a<2", "not-here==1"])[::-1]
    assert pinned.pin == "tiny-a==1.0"


@pytest.mark.usefixtures("folder")
def test_requirements_that_contradict() -> None:
    with pytest.raises(ConfigError, match=r"finds no wheels for Python 3\.11 on x86_64.*tiny-a"):
        resolve(["tiny-a==1.0", "tiny-a==2.0"], HOST)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("not a requirement!", "is not a package name"),
        ("-r nowhere.txt", "is not a package name"),
        ("-c nowhere.txt", "is not a package name"), ("-e .", "is not a package name"),
        ("./tiny-a", "is not a package name"), ("file:///tiny-a", "is not a package name"),
        ("git+https://host.example/a/b", "is not a package name"),
        ("--find-links /tmp", "is not a package name"), ("-f /tmp", "is not a package name"),
        ("--trusted-host host.example", "is not a package name"),
        ("--no-binary :all:", "is not a package name"),
        ("tiny-a --config-settings=x=y", "is not a package name"),
        ("tiny-a --hash=md5:0123", "is not a package name"),
        ("tiny-a  # from here", None),
        ("tiny-a @ nonsense:x", "a package from a URL"),
        ("tiny-a @ https://host.example/tiny_a-1.0-py3-none-any.whl", "a package from a URL"),
        ("tiny-a @ git+https://host.example/a/b", "a package from a URL"),
        ("--extra-index-url http://127.0.0.1:9/s", "--trust-index 'http://127.0.0.1:9/s'"),
        ("--extra-index-url=http://127.0.0.1:9/simple", "add an index"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_lines_that_are_more_than_names_and_versions(line: str, told: str | None) -> None:
    if told is None:
        assert names(resolve([line], HOST)) == ["tiny_a-2.0-py3-none-any.whl"]
        return
    with pytest.raises(ConfigError) as failure:
        resolve(["tiny-a", line], HOST, bento="a:1")
    said = str(failure.value)
    assert said.startswith("The requirements of the bento a:1 ")
    assert told in said
    assert line in said


def test_the_hashes_of_a_line_are_handed_on(folder: Path) -> None:
    right = sha256(folder / "tiny_a-1.0-py3-none-any.whl")
    lines = ["tiny-a==1.0 \\", f"--hash=sha256:{right} \\", f"--hash=sha256:{64 * '1'}  # x"]
    asked = check("a:1", lines, ())
    assert asked.lines == (f"tiny-a==1.0 --hash=sha256:{right} --hash=sha256:{64 * '1'}",)
    assert names(resolve(lines, HOST)) == ["tiny_a-1.0-py3-none-any.whl"]


@pytest.mark.parametrize("option", ["--index-url", "-i", "--extra-index-url"])
def test_an_index_that_the_operator_trusts_is_asked(
    folder: Path, tmp_path: Path, option: str
) -> None:
    assert folder
    make_wheel(tmp_path / "other", "tiny-other")
    with run_index(tmp_path / "other") as url:
        lines = [f"{option} {url}", "tiny-other"]
        with pytest.raises(ConfigError, match=r"add an index|finds no wheels for"):
            resolve(lines, HOST, trusted=["http://127.0.0.1:9/"])
        assert names(resolve(lines, HOST, trusted=[url.rstrip("/")])) == [
            "tiny_other-1.0-py3-none-any.whl"
        ]


@pytest.mark.parametrize("option", ["--index-url ", "--index-url=", "-i "])
def test_an_index_that_is_to_replace_the_own_one_is_not_asked(folder: Path, option: str) -> None:
    """As bentos of 2025 begin."""
    assert folder
    line = f"{option}http://127.0.0.1:9/simple"
    assert names(resolve([line, "tiny-a"], HOST)) == ["tiny_a-2.0-py3-none-any.whl"]


def test_the_index_that_uv_is_set_to_may_be_named(folder: Path) -> None:
    assert folder
    url = os.environ["UV_DEFAULT_INDEX"]
    assert names(resolve([f"--index-url {url}", "tiny-a"], HOST)) == ["tiny_a-2.0-py3-none-any.whl"]


@pytest.mark.parametrize("body", [b"a\n" * 10_001, b"a" * 65_537], ids=["many", "long"])
def test_requirements_without_an_end(body: bytes) -> None:
    with pytest.raises(ConfigError, match="The requirements of the bento a:1 have more than"):
        lines_of("a:1", body)


WORDS = st.text("ab1 =<>!~;@#:/\\-.[]'\"\n\u0661", max_size=30)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=4))
def test_no_line_is_too_odd(lines: list[str]) -> None:
    try:
        asked = check("a:1", lines_of("a:1", "\n".join(lines).encode()), ())
    except ConfigError:
        return
    for line in asked.lines:
        assert Requirement(line).url is None


@pytest.mark.usefixtures("folder")
def test_wheels_that_were_chosen_before_are_chosen_again() -> None:
    pins = [wheel.pin for wheel in resolve(["tiny-b"], HOST, constraints=["tiny-a<2"])]
    assert [wheel.pin for wheel in resolve(["tiny-b"], HOST, constraints=pins)] == pins


def test_an_index_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9"):
        resolve(["tiny-a"], HOST)


def test_a_mirror_is_an_index_for_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").symlink_to(folder)
    with serving_openllm_files(tmp_path) as client:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{client.base_url.join('/-/simple/')}")
        wheels = resolve(["tiny-b"], HOST)
        assert [wheel.pin for wheel in wheels] == ["tiny-a==2.0", "tiny-b==1.0"]
        for wheel in wheels:
            fetch(tmp_path / "fetched", wheel, _ignored)
    assert missing(tmp_path / "fetched", wheels) == []


def test_a_wheel_that_somebody_built(folder: Path, tmp_path: Path) -> None:
    assert folder
    with pytest.raises(ConfigError, match=r"tiny-own(.|\n)*build one .* --find-links"):
        resolve(["tiny-own"], HOST)
    built = make_wheel(tmp_path / "built", "tiny-own", requires=["tiny-a<2"])
    wheels = resolve(["tiny-own"], HOST, find_links=tmp_path / "built")
    assert [wheel.pin for wheel in wheels] == ["tiny-a==1.0", "tiny-own==1.0"]
    for wheel in wheels:
        fetch(tmp_path / "wheels", wheel, _ignored)
    assert (tmp_path / "wheels" / built.name).read_bytes() == built.read_bytes()


# Fetching


def _ignored(_: int) -> None:
    """For tests that count no bytes."""


@pytest.fixture
def wanted(folder: Path) -> WantedWheel:
    (wheel,) = resolve(["tiny-a==1.0"], HOST)
    return wheel


def test_a_wheel_is_fetched_once(wanted: WantedWheel, folder: Path, tmp_path: Path) -> None:
    counts: list[int] = []
    target = tmp_path / "data" / "wheels"
    assert missing(target, [wanted]) == [wanted]
    fetch(target, wanted, counts.append)
    assert (target / wanted.filename).read_bytes() == (folder / wanted.filename).read_bytes()
    assert sum(counts) == wanted.size
    assert missing(target, [wanted]) == []


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body[:-1] + b"x"])
def test_a_wheel_that_is_not_what_it_was_is_missing(
    wanted: WantedWheel, folder: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    body = (folder / wanted.filename).read_bytes()
    (tmp_path / wanted.filename).write_bytes(change(body))
    assert missing(tmp_path, [wanted]) == [wanted]
    fetch(tmp_path, wanted, _ignored)
    assert sha256(tmp_path / wanted.filename) == wanted.sha256


def test_wrong_bytes_leave_nothing(wanted: WantedWheel, tmp_path: Path) -> None:
    wrong = replace(wanted, sha256=64 * "0")
    with pytest.raises(UpstreamError, match=rf"{wanted.filename} does not have the sha256"):
        fetch(tmp_path / "wheels", wrong, _ignored)
    assert list((tmp_path / "wheels").iterdir()) == []


def test_wrong_bytes_leave_what_was_there(wanted: WantedWheel, tmp_path: Path) -> None:
    (tmp_path / wanted.filename).write_bytes(b"PK")
    with pytest.raises(UpstreamError):
        fetch(tmp_path, replace(wanted, sha256=64 * "0"), _ignored)
    assert [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()] == [b"PK"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x.whl", "{}/gone.whl", "file:///nowhere/x.whl", "http://[/", "x"]
)
def test_what_cannot_be_fetched(wanted: WantedWheel, tmp_path: Path, url: str) -> None:
    lost = replace(wanted, url=url.format(wanted.url.rpartition("/")[0]))
    with pytest.raises(
        UpstreamError, match=rf"{wanted.filename} cannot be downloaded: .*Run the command again"
    ):
        fetch(tmp_path / "wheels", lost, _ignored)
    assert list((tmp_path / "wheels").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [{"filename": "../tiny_a-1.0-py3-none-any.whl"}, {"filename": "x.txt"}, {"filename": 5},
     {"sha256": "x"}, {"sha256": 64 * "A"}, {"sha256": None}, {"size": -1}, {"size": "5"},
     {"size": True}, {"pin": "tiny-a"}, {"pin": "tiny-a==1\n-i http://x"}],
    ids=str,
)  # fmt: skip
def test_what_no_wheel_can_be(wanted: WantedWheel, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"wheel|sha256|version"):
        replace(wanted, **change)


def test_more_bytes_than_the_index_told(wanted: WantedWheel, tmp_path: Path) -> None:
    counts: list[int] = []
    with pytest.raises(UpstreamError, match="does not have the sha256"):
        fetch(tmp_path / "wheels", replace(wanted, size=1, sha256=64 * "0"), counts.append)
    assert names_in(tmp_path / "wheels") == []


def test_a_link_in_the_place_of_what_is_being_fetched(wanted: WantedWheel, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "wheels").mkdir()
    partial = tmp_path / "wheels" / f".{wanted.filename}.partial"
    partial.symlink_to(tmp_path / "secret")
    fetch(tmp_path / "wheels", wanted, _ignored)
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert missing(tmp_path / "wheels", [wanted]) == []


def test_a_wheel_outside_of_the_folder_is_missing(wanted: WantedWheel, tmp_path: Path) -> None:
    fetch(tmp_path / "other", wanted, _ignored)
    (tmp_path / "wheels").mkdir()
    link = tmp_path / "wheels" / wanted.filename
    link.symlink_to(tmp_path / "other" / wanted.filename)
    assert missing(tmp_path / "wheels", [wanted]) == [wanted]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# Platforms


def test_a_platform_in_words() -> None:
    assert str(HOST) == "Python 3.11 on x86_64 with glibc 2.28"
    assert HOST.uv_name == "x86_64-manylinux_2_28"


def test_the_tags_of_a_platform() -> None:
    tags = list(map(str, HOST.tags()))
    assert tags[0] == "cp311-cp311-manylinux_2_28_x86_64"
    assert "cp311-abi3-manylinux_2_5_x86_64" in tags
    assert "py3-none-any" in tags
    for other in ("cp312-cp312-", "manylinux_2_29_", "musllinux", "aarch64", "win", "macosx"):
        assert not any(other in tag for tag in tags)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("glibc", "x"),
        ("glibc", "2"),
        ("python", "x"),
        ("python", "3"),
        ("machine", "pdp11"),
        ("glibc", "2.28.1"),
        ("python", f"3.{5000 * '1'}"),
        ("machine", "../x"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_platform_that_is_none(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(value[:50])):
        resolve(["tiny-a"], replace(HOST, **{name: value}))
