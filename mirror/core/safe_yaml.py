"""A reader for untrusted YAML.

Aliases can expand exponentially, libyaml recurses into nested collections in C, and numbers in
base 60 (`1:1:1`) take quadratic time. So a small file can use gigabytes or minutes, or crash the
process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from mirror.core.units import human

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LONG = 100
_NUMBER = re.compile(r"[-+0-9_:.]+")
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# The exceptions of PyYAML for a broken file. If a tag does not match its value, PyYAML also raises
# builtin exceptions.
_RAISED = (
    yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


class BadYamlError(ValueError):
    """The text is not valid YAML, or exceeds the limits."""


def load(
    body: bytes,
    *,
    max_bytes: int,
    max_nodes: int = 100_000,
    max_depth: int = 64,
    aliases: bool = True,
) -> Any:
    """Parse a text that has one YAML document, with the safe loader.

    The limits apply to the document after each alias is replaced by its value. Raises
    BadYamlError.
    """
    if len(body) > max_bytes:
        raise BadYamlError(f"it is longer than {human(max_bytes)}")
    try:
        _check(body, _Count(max_nodes, max_depth, aliases=aliases))
        return yaml.load(body, _LOADER)  # noqa: S506  (a safe loader)
    except BadYamlError:
        raise
    except _RAISED as exc:
        raise BadYamlError("it is not valid YAML") from exc


@dataclass(slots=True)
class _Open:
    """A collection that has not ended yet: the number of nodes before it, and the depth of the
    collections in it."""

    anchor: str | None
    before: int
    height: int = 1


@dataclass(slots=True)
class _Count:
    """Counts the nodes and the depth of a document after its aliases are replaced."""

    max_nodes: int
    max_depth: int
    aliases: bool
    nodes: int = 0
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The number of nodes and the height of the value of each anchor."""

    def start(self, anchor: str | None) -> None:
        self.stack.append(_Open(anchor, self.nodes))
        self._add(1, 0)

    def end(self) -> None:
        closed = self.stack.pop()
        if closed.anchor:
            self.anchors[closed.anchor] = (self.nodes - closed.before, closed.height)
        if self.stack:
            self.stack[-1].height = max(self.stack[-1].height, closed.height + 1)

    def scalar(self, anchor: str | None) -> None:
        self._add(1, 0)
        if anchor:
            self.anchors[anchor] = (1, 0)

    def alias(self, anchor: str | None) -> None:
        if not self.aliases:
            raise BadYamlError("it has aliases")
        if any(collection.anchor == anchor for collection in self.stack):
            raise BadYamlError("an alias refers to a collection that contains it")
        self._add(*self.anchors.get(anchor or "", (1, 0)))

    def _add(self, nodes: int, height: int) -> None:
        self.nodes += nodes
        if self.stack:
            self.stack[-1].height = max(self.stack[-1].height, height + 1)
        if self.nodes > self.max_nodes:
            raise BadYamlError(f"it has more than {self.max_nodes} values")
        if len(self.stack) + height > self.max_depth:
            raise BadYamlError(f"it is nested more than {self.max_depth} levels deep")


def _check(body: bytes, count: _Count) -> None:
    for event in yaml.parse(body, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            count.start(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            count.end()
        elif isinstance(event, yaml.AliasEvent):
            count.alias(event.anchor)
        elif isinstance(event, yaml.ScalarEvent):
            _check_number(event)
            count.scalar(event.anchor)


def _check_number(event: yaml.ScalarEvent) -> None:
    if len(event.value) < _LONG:
        return
    is_plain = event.tag is None and event.implicit[0]
    if event.tag in _NUMBER_TAGS or (is_plain and _NUMBER.fullmatch(event.value)):
        raise BadYamlError(f"it has a number of {len(event.value)} characters")
