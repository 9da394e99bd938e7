"""What the page of a repository shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.repo import RepoType, short_ref
from mirror.core.tree import used_storage
from mirror.derived.facts import card_body
from mirror.pages import memory
from mirror.pages.rendering import MAX_TEXT
from mirror.pages.text import decoded
from mirror.sync.dependencies import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mirror.core.repo import Repo
    from mirror.core.source import Snapshot
    from mirror.derived.facts import Facts
    from mirror.pages.memory import Memory
    from mirror.pages.rendering import Renderer

_MAX_CONFIG = 8 * 1024 * 1024
_MAX_TEMPLATE = 20_000
_MAX_REFS = 500
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Revision:
    """A ref, with the commit that it means."""

    name: str
    commit_hash: str


@dataclass(frozen=True, slots=True)
class Needed:
    """Another repository that this one needs, and whether it is here."""

    repo: Repo
    why: str
    is_here: bool


@dataclass(frozen=True, slots=True)
class Card:
    """The card: segments of HTML, or, if it cannot be rendered, its text. `problem` says why a card
    is not shown, or not whole: `binary`, `long`, `slow`; empty if it is."""

    segments: Sequence[Any] = ()
    text: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Repository:
    """A snapshot with everything that its page shows."""

    facts: Facts
    revisions: Sequence[Revision]
    needed: Sequence[Needed]
    card: Card
    memory: Memory | None
    context_length: int
    size: int

    @property
    def snapshot(self) -> Snapshot:
        return self.facts.snapshot

    @property
    def dtypes(self) -> Mapping[str, int]:
        """The number of parameters by dtype."""
        found = self.facts.safetensors
        return found["parameters"] if found else {}

    @property
    def parameters(self) -> int:
        if found := self.facts.safetensors:
            return int(found["total"])
        return int((self.facts.gguf or {}).get("total", 0)) or self.facts.parameters

    @property
    def chat_template(self) -> str:
        stated = self.facts.config.get("tokenizer_config", {})
        template = stated.get("chat_template") or (self.facts.gguf or {}).get("chat_template")
        return template[:_MAX_TEMPLATE] if isinstance(template, str) else ""

    @property
    def licenses(self) -> list[str]:
        return [tag[8:] for tag in self.facts.tags if tag.startswith("license:")]


def read_repository(
    facts: Facts, refs: Mapping[str, str], renderer: Renderer, is_here: Callable[[Repo], bool]
) -> Repository:
    """Read what the page shows."""
    snapshot = facts.snapshot
    config = _config(facts)
    found = needs(snapshot.repo, snapshot.files, partial(facts.read, most=_MAX_CONFIG))
    gguf = facts.gguf or {}
    return Repository(
        facts,
        [Revision(short_ref(name), commit) for name, commit in sorted(refs.items())[:_MAX_REFS]],
        [Needed(need.repo, need.why, is_here(need.repo)) for need in found],
        read_card(facts, renderer),
        memory.estimate(_weights(facts), config),
        memory.context_length(config) or int(gguf.get("context_length") or 0),
        used_storage(stored.file for stored in snapshot.files.values()),
    )


def read_card(facts: Facts, renderer: Renderer, path: str = CARD) -> Card:
    """Read and render the card, or another Markdown file."""
    stored = facts.snapshot.files.get(path)
    if stored is None:
        return Card()
    text = decoded(facts.read(path, MAX_TEXT))
    if text is None:
        return Card(problem="binary")
    body = card_body(text)
    segments = renderer.card(stored.file.etag, body.encode(errors="replace"))
    if segments is None:
        return Card(text=body, problem="slow")
    return Card(segments, problem="long" if stored.file.size > MAX_TEXT else "")


def _config(facts: Facts) -> dict[str, Any]:
    if facts.snapshot.repo.repo_type is not RepoType.MODEL:
        return {}
    try:
        config = orjson.loads(facts.read("config.json", _MAX_CONFIG))
    except orjson.JSONDecodeError:
        return {}
    return config if isinstance(config, dict) else {}


def _weights(facts: Facts) -> int:
    """The size of the weights in bytes. A repository of gguf files has one file for each type of
    quantisation: the smallest counts."""
    if facts.snapshot.repo.repo_type is not RepoType.MODEL:
        return 0
    if found := facts.safetensors:
        return memory.weight_bytes(found["parameters"])
    files = facts.snapshot.files
    for ending, combine in ((".gguf", min), (".bin", sum)):
        sizes = [one.file.size for path, one in files.items() if path.endswith(ending)]
        if sizes:
            return combine(sizes)
    return 0
