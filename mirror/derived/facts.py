"""Facts about a repository from its small files: the card, the config, the weight headers.

The real hub computes the same facts from the same files. A damaged file gives no facts.
"""

from __future__ import annotations

import contextlib
import io
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard, cast

import orjson

from mirror.core.errors import BlobUnreadableError
from mirror.core.repo import RepoType
from mirror.core.safe_yaml import BadYamlError, load
from mirror.derived.weight_headers import READERS, HeaderError, safetensors_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.core.blob import Blob
    from mirror.core.source import Snapshot
    from mirror.derived.state import State

_MAX_JSON = 8 * 1024 * 1024
_MAX_CARD = 512 * 1024
_MAX_SHARDS = 2000
_MAX_METHOD = 40
_MIN_KEPT = 16 * 1024
"""The size of a file, in bytes, from which parsing takes longer than reading the stored result."""

_FRONT_MATTER = re.compile(
    rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL
)

# transformers' Auto classes by the end of an architecture's name, and the task that each is for.
_AUTO_CLASSES: tuple[tuple[str, str, str | None], ...] = (
    ("ForCausalLM", "AutoModelForCausalLM", "text-generation"),
    ("LMHeadModel", "AutoModelForCausalLM", "text-generation"),
    ("ForSequenceClassification", "AutoModelForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "AutoModelForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "AutoModelForQuestionAnswering", "question-answering"),
    ("ForMaskedLM", "AutoModelForMaskedLM", "fill-mask"),
    ("ForSpeechSeq2Seq", "AutoModelForSpeechSeq2Seq", "automatic-speech-recognition"),
    ("ForCTC", "AutoModelForCTC", "automatic-speech-recognition"),
    ("ForImageClassification", "AutoModelForImageClassification", "image-classification"),
    ("ForConditionalGeneration", "AutoModelForSeq2SeqLM", None),
)
_VISION_CLASS = (
    "ForConditionalGeneration",
    "AutoModelForImageTextToText",
    "image-text-to-text",
)
_LIBRARY_MARKS = (
    ("modules.json", "sentence-transformers"),
    ("model_index.json", "diffusers"),
    ("adapter_config.json", "peft"),
    ("config.json", "transformers"),
)
_CARD_TAGS = (
    ("license", "license:"),
    ("datasets", "dataset:"),
    ("base_model", "base_model:"),
    ("task_categories", "task_categories:"),
    ("task_ids", "task_ids:"),
    ("multilinguality", "multilinguality:"),
    ("source_datasets", "source_datasets:"),
    ("size_categories", "size_categories:"),
)
_FORMATS = {".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx", ".bin": "pytorch"}


class Facts:
    """Facts about one snapshot; each is computed at the first access."""

    def __init__(self, snapshot: Snapshot, state: State) -> None:
        self.snapshot = snapshot
        self._state = state

    @cached_property
    def card(self) -> dict[str, Any]:
        """The YAML front matter of README.md, as JSON values."""
        return self._derived("card", "README.md", _MAX_CARD, _parse_card)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The fields of `config.json` and `tokenizer_config.json` that the hub's API returns."""
        special = self._derived(
            "tokenizer", "tokenizer_config.json", _MAX_JSON, _parse_tokenizer_config
        )
        shown: dict[str, Any] = self._model_config["shown"]
        return shown | ({"tokenizer_config": special} if special else {})

    @cached_property
    def _model_config(self) -> dict[str, Any]:
        found = self._derived("config", "config.json", _MAX_JSON, _parse_config)
        shown = found.get("shown")
        return {
            "shown": shown if isinstance(shown, dict) else {}, "vision": found.get("vision") is True
        }  # fmt: skip

    @cached_property
    def transformers_info(self) -> dict[str, str]:
        """`auto_model` and `pipeline_tag`, by the first architecture's name."""
        architectures = self.config.get("architectures")
        name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
        classes = _AUTO_CLASSES
        if self._model_config["vision"]:
            classes = (_VISION_CLASS, *classes)
        for ending, auto_model, task in classes:
            if name.endswith(ending):
                return {"auto_model": auto_model} | ({"pipeline_tag": task} if task else {})
        return {"auto_model": "AutoModel"} if name else {}

    @cached_property
    def library_name(self) -> str | None:
        if isinstance(named := self.card.get("library_name"), str):
            return named
        files = self.snapshot.files
        return next((library for mark, library in _LIBRARY_MARKS if mark in files), None)

    @cached_property
    def pipeline_tag(self) -> str | None:
        if isinstance(named := self.card.get("pipeline_tag"), str):
            return named
        if self.library_name == "sentence-transformers":
            return "sentence-similarity"
        return self.transformers_info.get("pipeline_tag")

    @cached_property
    def tags(self) -> list[str]:
        """In the hub's forms: `transformers`, `safetensors`, `en`, `license:mit`, …"""
        tags: dict[str, None] = {}
        if self.snapshot.repo.repo_type is RepoType.MODEL:
            formats = {_FORMATS.get(path[path.rfind(".") :]) for path in self.snapshot.files}
            tags |= dict.fromkeys(
                tag for tag in (self.library_name, *sorted(filter(None, formats))) if tag
            )
            tags |= dict.fromkeys(_strings([self.config.get("model_type"), self.pipeline_tag]))
            if "auto_map" in self.config:
                tags["custom_code"] = None
        tags |= dict.fromkeys(_strings(self.card.get("tags")))
        start = "language:" if self.snapshot.repo.repo_type is RepoType.DATASET else ""
        tags |= dict.fromkeys(f"{start}{one}" for one in _strings(self.card.get("language")))
        for key, start in _CARD_TAGS:
            tags |= dict.fromkeys(f"{start}{value}" for value in _strings(self.card.get(key)))
        return list(tags)

    @cached_property
    def quantisation(self) -> str:
        """How the weights are quantised: `gptq`, `fp8`, `gguf`, …; empty if they are not."""
        stated = self.config.get("quantization_config")
        method = stated.get("quant_method") if isinstance(stated, dict) else None
        if isinstance(method, str):
            return method[:_MAX_METHOD].lower()
        return "gguf" if any(path.endswith(".gguf") for path in self.snapshot.files) else ""

    @cached_property
    def parameters(self) -> int:
        """The number of parameters that upstream gave with the repository; 0 if it gave none."""
        for name in ("safetensors", "gguf"):
            stated = self.snapshot.info.get(name)
            total = stated.get("total") if isinstance(stated, dict) else None
            if type(total) is int and 0 < total < 2**63:
                return total
        return 0

    @cached_property
    def safetensors(self) -> dict[str, Any] | None:
        """Parameter counts of the weights at the root of the repository."""
        names = [path for path in self.snapshot.files if path.endswith(".safetensors")]
        counts: dict[str, int] = {}
        for name in sorted(name for name in names if "/" not in name)[:_MAX_SHARDS]:
            for dtype, count in (self._header("safetensors", name) or {}).items():
                counts[dtype] = counts.get(dtype, 0) + count
        return {"parameters": counts, "total": sum(counts.values())} if counts else None

    @cached_property
    def gguf(self) -> dict[str, Any] | None:
        """The metadata of the first gguf file."""
        names = sorted(path for path in self.snapshot.files if path.endswith(".gguf"))
        return self.gguf_of(names[0]) if names else None

    def gguf_of(self, path: str) -> dict[str, Any] | None:
        return self._header("gguf", path)

    def safetensors_header(self, path: str) -> dict[str, Any]:
        """The header of a file of the snapshot. Raises HeaderError, and BlobUnreadableError."""
        stored = self.snapshot.find(path)
        with contextlib.closing(stored.open()) as blob, _BlobReader(blob) as file:
            return safetensors_header(cast("BinaryIO", file))

    def read(self, path: str, most: int) -> bytes:
        """The first `most` bytes of a file; empty if it is absent, unreadable or not on this host:
        facts must not cause a download."""
        stored = self.snapshot.files.get(path)
        try:
            if stored is None or stored.local_path is None:
                return b""
            with contextlib.closing(stored.open()) as blob:
                return blob.pread(0, min(most, blob.size))
        except (OSError, BlobUnreadableError):
            return b""

    def _header(self, kind: str, path: str) -> dict[str, Any] | None:
        """The facts of the header of a weight file; None if it has none or is damaged."""
        stored = self.snapshot.files[path]
        kept = self._state.get(f"headers/{kind}", stored.file.etag)
        if _is_header(kind, kept):
            return kept or None
        if stored.local_path is None:
            return None
        try:
            with contextlib.closing(stored.open()) as blob, _BlobReader(blob) as file:
                facts = READERS[kind](cast("BinaryIO", file))
        except HeaderError:
            facts = {}
        except (OSError, BlobUnreadableError):
            return None
        self._state.put(f"headers/{kind}", stored.file.etag, facts)
        return facts or None

    def _derived(
        self, kind: str, path: str, max_bytes: int, parse: Callable[[bytes], dict[str, Any]]
    ) -> dict[str, Any]:
        """The parsed content of a small file; empty if the file is absent or damaged. If parsing
        takes long, the result is stored in the state folder under the digest of the file."""
        stored = self.snapshot.files.get(path)
        if stored is None:
            return {}
        is_kept = stored.file.size >= _MIN_KEPT and not stored.problem
        if is_kept and isinstance(kept := self._state.get(f"facts/{kind}", stored.file.etag), dict):
            return kept
        body = self.read(path, max_bytes)
        found = parse(body)
        if is_kept and body:
            self._state.put(f"facts/{kind}", stored.file.etag, found)
        return found


class _BlobReader(io.BufferedIOBase):
    """A blob as a file that is read from its beginning, through a buffer."""

    _BUFFER = 256 * 1024

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._position = 0
        self._start = 0
        self._buffer = b""

    def read(self, size: int | None = -1, /) -> bytes:
        count = self._blob.size - self._position if size is None or size < 0 else size
        start = self._position - self._start
        body = self._buffer[start : start + count] if start >= 0 else b""
        if len(body) < count:
            self._start = self._position
            self._buffer = self._blob.pread(self._position, max(count, self._BUFFER))
            body = self._buffer[:count]
        self._position += len(body)
        return body

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset if whence == io.SEEK_SET else self._position + offset
        return self._position

    def tell(self) -> int:
        return self._position


def _is_header(kind: str, kept: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a fact from the state folder has the form that a header reader returns."""
    if not isinstance(kept, dict):
        return False
    if kind == "safetensors":
        return all(type(count) is int and count >= 0 for count in kept.values())
    return type(kept.get("total", 0)) is int


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _parse_config(body: bytes) -> dict[str, Any]:
    config = _json(body)
    names = ("architectures", "model_type", "auto_map", "quantization_config")
    shown = {name: config[name] for name in names if name in config}
    return {"shown": _sendable(shown), "vision": "vision_config" in config}


def _parse_tokenizer_config(body: bytes) -> dict[str, Any]:
    tokenizer = _json(body)
    names = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
    return _sendable({name: tokenizer[name] for name in names if tokenizer.get(name) is not None})


def card_body(text: str) -> str:
    """The Markdown of a card, without its front matter."""
    match = _FRONT_MATTER.match(text.encode(errors="replace"))
    return text.encode(errors="replace")[match.end() :].decode() if match else text


def _parse_card(body: bytes) -> dict[str, Any]:
    match = _FRONT_MATTER.match(body)
    try:
        return _sendable(load(match[1], max_bytes=_MAX_CARD, aliases=False)) if match else {}
    except BadYamlError:
        return {}


def _sendable(value: Any) -> dict[str, Any]:
    """The value after a round trip through JSON; empty if that fails or it is not an object."""
    try:
        safe = orjson.loads(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))
    except (orjson.JSONEncodeError, orjson.JSONDecodeError, RecursionError):
        return {}
    return safe if isinstance(safe, dict) else {}


def _strings(value: Any) -> Iterator[str]:
    """The strings in a field of a card. The field can be a string, a list, or another type."""
    values = value if isinstance(value, list) else [value]
    yield from (item for item in values if isinstance(item, str))
