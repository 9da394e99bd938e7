"""Facts from the headers of weight files: safetensors parameter counts, gguf metadata.

Only headers are read. A damaged header raises HeaderError; then the response lacks this fact.
"""

from __future__ import annotations

import math
import os
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

# A parse step blocks all other threads of the interpreter: 4 MB block them for 20 ms. A header of
# 4 MB describes about 30,000 tensors.
_MAX_HEADER = 4 * 1024 * 1024
_MAX_METADATA = 64 * 1024 * 1024
_MAX_STRING = 16 * 1024 * 1024
_MAX_ENTRIES = 10_000
_MAX_TENSORS = 100_000
_MAX_ITEMS = 2_000_000
_MAX_RANK = 16
_MAX_VALUES = 10**15
_MAX_DTYPES = 100


class HeaderError(ValueError):
    """The header is damaged or of an unknown version."""


def safetensors_header(file: BinaryIO) -> dict[str, Any]:
    """The header of a safetensors file, as it is in the file."""
    (length,) = struct.unpack("<Q", _read(file, 8))
    if length > _MAX_HEADER:
        raise HeaderError(f"a header of {length} bytes")
    try:
        header = orjson.loads(_read(file, length))
    except orjson.JSONDecodeError as exc:
        raise HeaderError(f"not a safetensors header: {exc!r}") from exc
    if not isinstance(header, dict):
        raise HeaderError("not a safetensors header")
    return header


def safetensors_parameters(file: BinaryIO) -> dict[str, int]:
    """Number of parameters by dtype (`BF16`, `F32`, …), as the hub's `safetensors.parameters`."""
    header = safetensors_header(file)
    try:
        counts: dict[str, int] = {}
        for name, tensor in header.items():
            if name != "__metadata__":
                dtype = str(tensor["dtype"])[:20]
                counts[dtype] = counts.get(dtype, 0) + _product(tensor["shape"])
                if len(counts) > _MAX_DTYPES:
                    raise HeaderError("an impossible number of dtypes")
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise HeaderError(f"not a safetensors header: {exc!r}") from exc
    return counts


def gguf_facts(file: BinaryIO) -> dict[str, Any]:
    """The hub's `gguf` object: total parameters, architecture, context length, chat template.

    Also `file_type`, the number of the quantisation (llama.cpp `llama_ftype`).
    """
    metadata, tensors = _gguf_metadata(file)
    total = sum(_tensor(file)[1] for _ in range(tensors))
    if total > _MAX_VALUES:
        raise HeaderError("an impossible number of parameters")
    architecture = str(metadata.get("general.architecture", ""))
    facts = {
        "total": total,
        "architecture": architecture,
        "context_length": metadata.get(f"{architecture}.context_length"),
        "chat_template": metadata.get("tokenizer.chat_template"),
        "bos_token": _token(metadata, "tokenizer.ggml.bos_token_id"),
        "eos_token": _token(metadata, "tokenizer.ggml.eos_token_id"),
        "file_type": metadata.get("general.file_type"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def gguf_tensors(file: BinaryIO) -> tuple[Any, list[tuple[int, int, int]]]:
    """The alignment of the data after the header, and the type, number of values and offset in the
    data of each tensor. Reads the whole header, and nothing after it."""
    metadata, tensors = _gguf_metadata(file)
    return metadata.get("general.alignment"), [_tensor(file) for _ in range(tensors)]


def _gguf_metadata(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The metadata, and the number of the tensors that are described after it."""
    magic, version = struct.unpack("<4sI", _read(file, 8))
    if magic != b"GGUF" or version not in (2, 3):
        raise HeaderError("not a gguf file of version 2 or 3")
    tensors, entries = struct.unpack("<QQ", _read(file, 16))
    if tensors > _MAX_TENSORS or entries > _MAX_ENTRIES:
        raise HeaderError("an impossible number of entries")
    metadata = {}
    for _ in range(entries):
        if file.tell() > _MAX_METADATA:
            raise HeaderError("metadata too long to be kept")
        key = _string(file)
        metadata[key] = _value(file, struct.unpack("<I", _read(file, 4))[0])
    return metadata, tensors


def _token(metadata: dict[str, Any], key: str) -> str | None:
    tokens, index = metadata.get("tokenizer.ggml.tokens"), metadata.get(key)
    if isinstance(tokens, list) and isinstance(index, int) and 0 <= index < len(tokens):
        return str(tokens[index])
    return None


def _tensor(file: BinaryIO) -> tuple[int, int, int]:
    """The type, the number of values and the offset of a tensor."""
    _string(file)
    (dimensions,) = struct.unpack("<I", _read(file, 4))
    if dimensions > _MAX_RANK:
        raise HeaderError("an impossible number of dimensions")
    sizes = struct.unpack(f"<{dimensions}Q", _read(file, 8 * dimensions))
    kind, offset = struct.unpack("<IQ", _read(file, 12))
    return kind, _product(sizes), offset


def _product(sizes: Any) -> int:
    """The number of values in a shape. Raises HeaderError if no file can hold them."""
    if not isinstance(sizes, list | tuple) or len(sizes) > _MAX_RANK:
        raise HeaderError("an impossible shape")
    if any(type(size) is not int or not 0 <= size <= _MAX_VALUES for size in sizes):
        raise HeaderError("an impossible shape")
    count = math.prod(sizes)
    if count > _MAX_VALUES:
        raise HeaderError("an impossible shape")
    return count


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _read(file, 8))
    if length > _MAX_STRING:
        raise HeaderError(f"a string of {length} bytes")
    return _read(file, length).decode(errors="replace")


_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9


def _value(file: BinaryIO, kind: int) -> Any:
    if kind in _NUMBERS:
        return struct.unpack(f"<{_NUMBERS[kind]}", _read(file, struct.calcsize(_NUMBERS[kind])))[0]
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        return _array(file)
    raise HeaderError(f"a value of unknown type {kind}")


def _array(file: BinaryIO) -> list[Any] | None:
    """The strings of an array of strings. Numbers are skipped, because no fact needs them."""
    kind, length = struct.unpack("<IQ", _read(file, 12))
    if length > _MAX_ITEMS or kind == _ARRAY:
        raise HeaderError("an array too long or too deep")
    if kind == _STRING:
        return _strings(file, length)
    if kind not in _NUMBERS:
        raise HeaderError(f"an array of unknown type {kind}")
    file.seek(length * struct.calcsize(_NUMBERS[kind]), os.SEEK_CUR)
    return None


def _strings(file: BinaryIO, length: int) -> list[str]:
    found = []
    for _ in range(length):
        if file.tell() > _MAX_METADATA:
            raise HeaderError("metadata too long to be kept")
        found.append(_string(file))
    return found


def _read(file: BinaryIO, length: int) -> bytes:
    body = file.read(length)
    if len(body) != length:
        raise HeaderError("the file ends in its header")
    return body


READERS: dict[str, Callable[[BinaryIO], dict[str, Any]]] = {
    "safetensors": safetensors_parameters,
    "gguf": gguf_facts,
}
