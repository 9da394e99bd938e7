"""`.gitattributes`: the filter of each path is what `git check-attr` says."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from mirror.core.repo import Repo
from mirror.derived.digests import Digests
from mirror.sources.folder import Folder
from mirror.sources.git_attributes import AttributesFile, GitAttributes
from tests.folders import MODEL, write

CASES: dict[str, dict[str, bytes]] = {
    "a pattern without a slash": {"": b"*.bin filter=lfs\n"},
    "the last line wins": {"": b"*.bin filter=lfs\na.bin -filter\n"},
    "unspecified again": {"": b"*.bin filter=lfs\na.bin !filter\n"},
    "set without a value": {"": b"*.bin filter\n"},
    "the last attribute of a line wins": {
        "": b"a.bin filter=lfs -filter\nb.bin -filter filter=lfs\n"
    },
    "negated patterns are ignored": {"": b"*.bin filter=lfs\n!a.bin filter=lfs\n!* -filter\n"},
    "an escaped exclamation mark": {"": b"\\!x filter=lfs\n"},
    "the root alone": {"": b"/a.bin filter=lfs\n"},
    "a slash in the middle": {"": b"sub/*.bin filter=lfs\n"},
    "any folder first": {"": b"**/deep/*.bin filter=lfs\n"},
    "any folder between": {"": b"sub/**/b.bin filter=lfs\n"},
    "all below": {"": b"sub/** filter=lfs\n"},
    "folders have no attributes": {"": b"sub/ filter=lfs\nsub filter=lfs\n"},
    "an asterisk stops at a slash": {"": b"s*/b.bin filter=lfs\n/* filter=lfs\n"},
    "brackets": {"": b"[ab].bin filter=lfs\n[!a-c]* filter=lfs\n[[:digit:]]* filter=lfs\n"},
    "quotes": {"": b'"a b.txt" filter=lfs\n"\\303\\274" filter=lfs\n'},
    "bytes": {"": "? filter=lfs\n?? filter=x\nü -filter\n".encode()},
    "macros": {"": b"[attr]weights filter=lfs -text\n*.bin weights\na.bin -filter\n"},
    "a macro that is not set": {"": b"[attr]weights filter=lfs\n*.bin -weights\n"},
    "macros of a subfolder are ignored": {"sub": b"[attr]weights filter=lfs\n* weights\n"},
    "a subfolder": {"": b"*.bin filter=lfs\n", "sub": b"*.bin -filter\n"},
    "a subfolder's subfolder": {"sub": b"* -filter\n", "sub/deep": b"/b.bin filter=lfs\n"},
    "the subfolder says nothing": {"": b"*.bin filter=lfs\n", "sub": b"*.bin -text\n"},
    "unspecified by a subfolder": {"": b"*.bin filter=lfs\n", "sub": b"*.bin !filter\n"},
    "an invalid name": {"": b"*.bin filter=lfs b@d\n* filter=x\n"},
    "a comment, blanks and CRLF": {"": b"  # *.bin -filter\r\n\t *.bin\tfilter=lfs \r\n\r\n"},
    "a byte order mark": {"": b"\xef\xbb\xbf*.bin filter=lfs\n"},
    "a long line": {"": b"*.bin filter=lfs\na.bin -filter" + 2048 * b" " + b"\n"},
    "no pattern": {"": b"filter=lfs\n\0* filter=lfs\n"},
}
PATHS = (
    "a.bin", "b.bin", "c.bin", "!x", "x", "7", "a b.txt", "ü", "sub/a.bin", "sub/b.bin",
    "sub/deep/b.bin", "sub/deep/er/b.bin", "deep/a.bin", "other/sub/b.bin", "s/b.bin",
)  # fmt: skip


def _git(folder: Path, files: Mapping[str, bytes], paths: Iterable[str]) -> dict[str, str]:
    subprocess.run(["git", "init", "-q", folder], check=True)
    for name, body in files.items():
        write(folder / name / ".gitattributes", body)
    said = subprocess.run(
        ["git", "-C", folder, "check-attr", "-z", "--stdin", "filter"],
        input=b"".join(path.encode() + b"\0" for path in paths),
        env=os.environ | {"GIT_ATTR_NOSYSTEM": "1", "XDG_CONFIG_HOME": str(folder)},
        check=True,
        capture_output=True,
    ).stdout.decode()
    words = said.split("\0")
    return dict(zip(words[0::3], words[2::3], strict=False))


def _ours(files: Mapping[str, bytes], paths: Iterable[str]) -> dict[str, str]:
    rules = GitAttributes({name: AttributesFile.parse(body) for name, body in files.items()})
    found = {path: rules.filter_of(path) for path in paths}
    return {path: "unspecified" if value is None else value for path, value in found.items()}


@pytest.mark.parametrize("files", CASES.values(), ids=CASES.keys())
def test_the_filter_is_that_of_git(tmp_path: Path, files: dict[str, bytes]) -> None:
    assert _ours(files, PATHS) == _git(tmp_path, files, PATHS)


SEGMENTS = (
    "*", "*.bin", "a", "b", "model*", "**", "?", "[ab]", "[!a]*", "[[:alpha:]]*", "*.b*n", r"\*",
    r"a\b", "[a-c]x", "ü", "??", "*a*b", "[]a]", "[^]]", "[", "[a", "a]", "[a-", "[!", "***", "*?",
    "[a/b]", "[z-a]", r"[\]a]", r"[a\-c]", "[b-]",
)  # fmt: skip
NAMES = (
    "a", "b", "c", "ax", "bx", "model.bin", "x y", "ü", "a.bin", "*", "]", "aab", "ab", "-", "[",
    "z",
)  # fmt: skip
WORDS = (
    "filter=lfs", "-filter", "!filter", "filter", "filter=x", "lfs", "-lfs", "!lfs", "wide",
    "-text diff", "bad!name", "filter=", "=x", "-filter=lfs",
)  # fmt: skip


def _line(pick: random.Random) -> str:
    pattern = "/".join(pick.choice(SEGMENTS) for _ in range(pick.choice([1, 1, 1, 2, 3])))
    pattern = pick.choice(["", "", "", "/", "!"]) + pattern + pick.choice(["", "", "", "/"])
    return f"{pattern} {' '.join(pick.choices(WORDS, k=pick.choice([1, 2])))}"


@pytest.mark.parametrize("seed", range(20))
def test_odd_patterns_match_as_in_git(tmp_path: Path, seed: int) -> None:
    pick = random.Random(seed)
    macros = ["[attr]lfs filter=lfs diff=lfs", "[attr]wide lfs -text"]
    files = {
        name: "\n".join(macros + [_line(pick) for _ in range(6)]).encode()
        for name in ("", "a", "a/b")
    }
    paths = {"/".join(pick.choices(NAMES, k=pick.choice([1, 2, 3]))) for _ in range(60)}
    paths |= {f"a/b/{name}" for name in NAMES}
    assert _ours(files, sorted(paths)) == _git(tmp_path, files, sorted(paths))


def test_a_folder_follows_the_files_of_its_subfolders(tmp_path: Path, digests: Digests) -> None:
    root = tmp_path / "plain"
    for path in ("a.bin", "sub/a.bin", "sub/deep/a.bin"):
        write(root / path, b"x")
    write(root / ".gitattributes", b"*.bin filter=lfs\n")
    write(root / "sub" / ".gitattributes", b"*.bin -filter\n")
    plain = Folder(root, Repo.parse("Org/Model"), digests, ttl_s=0)

    def lfs() -> set[str]:
        files = plain.snapshot(MODEL, "main").files
        return {path for path, stored in files.items() if stored.file.lfs_sha256}

    assert lfs() == {"a.bin"}
    write(root / "sub" / "deep" / ".gitattributes", b"a.bin filter=lfs\n")
    assert lfs() == {"a.bin", "sub/deep/a.bin"}


def test_without_a_file_at_the_root_git_decides_by_content(
    tmp_path: Path, digests: Digests
) -> None:
    root = tmp_path / "plain"
    for path in ("a.bin", "sub/a.bin", "sub/b.bin"):
        write(root / path, b"\0")
    write(root / "sub" / ".gitattributes", b"a.bin -filter\n")
    files = Folder(root, Repo.parse("Org/Model"), digests, ttl_s=0).snapshot(MODEL, "main").files
    assert {path for path, one in files.items() if one.file.lfs_sha256} == {"a.bin", "sub/b.bin"}
