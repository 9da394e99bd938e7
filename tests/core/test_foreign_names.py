"""Names that operating systems and copying tools give, and names that only resemble them."""

from __future__ import annotations

import pytest

from mirror.core.foreign_names import is_foreign, is_system_file, unfinished_path

SYSTEM = [
    "._model.safetensors", "._.DS_Store", ".DS_Store", "Thumbs.db", "thumbs.db", "desktop.ini",
    "Desktop.ini", "@eaDir", ".nfs000000000123abcd00000001", ".fuse_hidden0000001200000003",
    "System Volume Information", "$RECYCLE.BIN", ".Trash-1000", "lost+found", ".Spotlight-V100",
]  # fmt: skip
UNFINISHED = {
    ".model.safetensors.aB3dEf": "model.safetensors",
    "sub/.config.json.Zz9Yy8": "sub/config.json",
    ".rsync-partial/model.bin": "model.bin",
    "sub/.~tmp~/model.bin": "sub/model.bin",
    "model.gguf.crdownload": "model.gguf",
    "model.gguf.part": "model.gguf",
    "model.gguf.aria2": "model.gguf",
    "model.gguf.filepart": "model.gguf",
}
REAL = [
    ".gitattributes", ".gitignore", ".env.sample", ".eslintrc.config", "README.md", "model.part1",
    "thumbs.dbx", "nfs.txt", "desktop.ini.md", "_.txt", ".cache", "part", ".part", "a.tmp",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
def test_files_of_operating_systems(name: str) -> None:
    assert is_system_file(name)
    assert is_foreign(f"sub/{name}")


@pytest.mark.parametrize(("path", "final"), UNFINISHED.items())
def test_temporary_names_of_copying_tools(path: str, final: str) -> None:
    assert unfinished_path(path) == final
    assert is_foreign(path)


@pytest.mark.parametrize("name", REAL)
def test_names_of_repositories(name: str) -> None:
    assert not is_foreign(name)
