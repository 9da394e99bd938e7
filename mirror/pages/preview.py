"""The beginning of a file in a form that people read: text, tables, headers of weights, images."""

from __future__ import annotations

import contextlib
import csv
import struct
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.errors import BlobUnreadableError
from mirror.pages.repository import Card, read_card
from mirror.pages.text import decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mirror.core.blob import Blob
    from mirror.core.tree import RepoFile
    from mirror.derived.facts import Facts
    from mirror.pages.rendering import Renderer

_MAX_CODE = 128 * 1024
_MAX_SHOWN = 256 * 1024
_MAX_HEADER = 4 * 1024 * 1024
_MAX_ROWS = 50
_MAX_TENSORS = 1000
_MAX_COLUMNS = 60
_MAX_CELL = 200
_MAX_IMAGE = 20_000_000
_IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under the names of their columns. `total` is the number of all rows, if it is
    known; `rows` may be fewer."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What is shown of a file. `kind` is `text`, `code`, `card`, `table`, `tensors`, `image` or
    `none`. `is_cut` says whether the file is longer than what is shown."""

    kind: str = "none"
    text: str = ""
    table: Table | None = None
    card: Card | None = None
    is_cut: bool = False


def preview(facts: Facts, file: RepoFile, renderer: Renderer) -> Preview:
    """The preview of a file, of kind `none` if there is none for its format or it is damaged."""
    name = file.path.lower()
    if name.endswith(_IMAGES):
        return Preview("image" if file.size <= _MAX_IMAGE else "none")
    if name.endswith(".md"):
        return Preview("card", card=read_card(facts, renderer, file.path))
    for endings, read in _READERS:
        if name.endswith(endings):
            with contextlib.suppress(*_DAMAGED):
                return read(facts, file)
            break
    return _text(facts, file, renderer)


_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, struct.error, csv.Error, OSError,
            BlobUnreadableError)  # fmt: skip


def _text(facts: Facts, file: RepoFile, renderer: Renderer) -> Preview:
    body = facts.read(file.path, _MAX_SHOWN)
    text = decoded(body)
    if text is None:
        return Preview()
    is_cut = file.size > len(body)
    if len(body) <= _MAX_CODE and not is_cut:
        name = file.path.rpartition("/")[2]
        code = renderer.code(file.etag, name, text.encode(errors="replace"))
        if code is not None:
            return Preview("code", text=code)
    return Preview("text", text=text, is_cut=is_cut)


def _tensors(facts: Facts, file: RepoFile) -> Preview:
    """The header of a safetensors file."""
    with contextlib.closing(facts.snapshot.files[file.path].open()) as blob:
        header = _header(blob)
    rows = [
        [name, str(tensor["dtype"]), " × ".join(map(str, tensor["shape"][:16]))]
        for name, tensor in islice(header.items(), _MAX_TENSORS)
        if name != "__metadata__"
    ]
    total = len(header) - ("__metadata__" in header)
    table = Table(("tensor", "dtype", "shape"), [_cells(row) for row in rows], total)
    return Preview("tensors", table=table, is_cut=total > len(rows))


def _header(blob: Blob) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", blob.pread(0, 8))
    if length > _MAX_HEADER:
        raise ValueError("the header is too long")
    header = orjson.loads(blob.pread(8, length))
    if not isinstance(header, dict):
        raise TypeError("the header is not an object")
    return header


def _gguf(facts: Facts, file: RepoFile) -> Preview:
    found = facts.gguf_of(file.path)
    if not found:
        return Preview()
    rows = [_cells([name, value]) for name, value in found.items()]
    return Preview("table", table=Table(("name", "value"), rows))


def _delimited(delimiter: str) -> Callable[[Facts, RepoFile], Preview]:
    def read(facts: Facts, file: RepoFile) -> Preview:
        rows = csv.reader(_lines(facts, file), delimiter=delimiter)
        columns = next(rows, [])
        if not columns:
            raise ValueError("there is no row")
        shown = [_cells(row) for row in islice(rows, _MAX_ROWS)]
        return Preview("table", table=Table(_cells(columns), shown), is_cut=True)

    return read


def _json_lines(facts: Facts, file: RepoFile) -> Preview:
    rows = [orjson.loads(line) for line in islice(_lines(facts, file), _MAX_ROWS) if line.strip()]
    columns = list(dict.fromkeys(name for row in rows for name in row))[:_MAX_COLUMNS]
    if not columns:
        raise ValueError("there is no row")
    cells = [_cells([_json_cell(row.get(name)) for name in columns]) for row in rows]
    return Preview("table", table=Table(_cells(columns), cells), is_cut=True)


def _json_cell(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _lines(facts: Facts, file: RepoFile) -> Iterable[str]:
    """The whole lines at the beginning of a file."""
    body = facts.read(file.path, _MAX_SHOWN)
    text = decoded(body)
    if text is None:
        raise ValueError("it is not a text")
    lines = text.splitlines()
    return lines[:-1] if file.size > len(body) else lines


def _cells(values: Iterable[object]) -> list[str]:
    return [_shorten(str(value)) for value in islice(values, _MAX_COLUMNS)]


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}…"


_READERS: tuple[tuple[tuple[str, ...], Callable[[Facts, RepoFile], Preview]], ...] = (
    ((".safetensors",), _tensors),
    ((".gguf",), _gguf),
    ((".csv",), _delimited(",")),
    ((".tsv",), _delimited("\t")),
    ((".jsonl", ".ndjson"), _json_lines),
)
