"""YAML of a stranger: what is read, and what is refused before it costs anything."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.core.safe_yaml import BadYamlError, load

MOST = 1024 * 1024


def read(text: str, **limits: Any) -> object:
    return load(text.encode(), max_bytes=MOST, **limits)


@pytest.mark.parametrize(
    "text", ["", "a: 1\n", "- a\n- [1, 2.5, ~]\n", "a: &x [1]\nb: *x\n",
             "a: &x 1\nb: {<<: {c: *x}}", f"a: '{200 * '1'}'\n", "a: 2025-05-01\n", "a: 1:30\n"],
)  # fmt: skip
def test_a_document_is_read_as_pyyaml_reads_it(text: str) -> None:
    assert read(text) == yaml.safe_load(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab:1 -\u00fc", max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=9,
)


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_what_pyyaml_writes_is_read(value: object) -> None:
    text = yaml.safe_dump(value)
    assert read(text) == yaml.safe_load(text)


def bomb(levels: int, form: str) -> str:
    """Each level stands for the one before, nine times."""
    lines = ["a0: &a0 {x: 1}"]
    for number in range(1, levels):
        others = ", ".join(9 * [f"*a{number - 1}"])
        lines.append(f"a{number}: &a{number} " + form.format(others))
    return "\n".join(lines)


REFUSED = {
    "aliases that multiply": (bomb(30, "[{}]"), "more than 100000 values"),
    "merges that multiply": (bomb(30, "{{<<: [{}]}}"), "more than 100000 values"),
    "a collection in itself": ("a: &a [*a]", "contains it"),
    "lists": ("[" * 65 + "]" * 65, "64 levels"),
    "lists without an end": ("[" * 200_000, "64 levels"),
    "tables": ("{a: " * 200_000, "64 levels"),
    "depth by aliases": (
        "".join(f"a{n}: &a{n} [*a{n - 1}]\n" if n else "a0: &a0 [1]\n" for n in range(70)),
        "64 levels",
    ),
    "a number in base 60": ("a: " + "1:" * 60_000 + "1", "a number of 120001 characters"),
    "one with a tag": ("a: !!int '" + "1: " * 60_000 + "1'", "a number of"),
    "one of other digits": ("a: !!int '" + "\u0661:" * 60_000 + "1'", "a number of"),
    "a float in base 60": ("a: !!float '" + "1:" * 60_000 + "1.5'", "a number of"),
    "many values": ("- a\n" * 100_001, "more than 100000 values"),
    "many bytes": ("a" * (MOST + 1), "longer than"),
    "no yaml": ("a: [", "not valid YAML"),
    "an unknown alias": ("a: *b", "not valid YAML"),
    "an object": ("a: !!python/object/apply:os.getpid []", "not valid YAML"),
    "a bool that is none": ("a: !!bool x", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_refused(form: str) -> None:
    text, told = REFUSED[form]
    begun = time.monotonic()
    with pytest.raises(BadYamlError, match=told):
        read(text)
    assert time.monotonic() - begun < 5


def test_limits_are_those_that_are_given() -> None:
    assert read("[[1]]", max_depth=2, max_nodes=3) == [[1]]
    for limits in ({"max_depth": 1}, {"max_nodes": 2}):
        with pytest.raises(BadYamlError):
            read("[[1]]", **limits)
    with pytest.raises(BadYamlError, match="it has aliases"):
        load(b"[&a 1, *a]", max_bytes=MOST, aliases=False)


def test_no_depth_ends_the_process() -> None:
    """In a process of its own: libyaml's loader recurses in C."""
    program = (
        "from mirror.core.safe_yaml import BadYamlError, load\n"
        "for body in (b'[' * 900_000, b'{a: ' * 250_000):\n"
        "    try: load(body, max_bytes=1 << 20)\n"
        "    except BadYamlError as exc: print(exc)\n"
    )
    command = [sys.executable, "-c", program]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert (done.returncode, done.stdout.count("levels")) == (0, 2)
