"""Renders the templates, and names the static files by their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2

from mirror import __version__
from mirror.core.repo import RepoType, short_ref
from mirror.core.units import human
from mirror.pages.messages import LANGUAGES, html_language, messages

_FOLDER = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
THEMES = ("light", "dark")


@dataclass(frozen=True, slots=True)
class Asset:
    """A static file. Its name contains its digest, so that browsers may keep it for ever."""

    name: str
    media_type: str
    body: bytes


def _assets() -> dict[str, Asset]:
    found = {}
    for path in sorted((_FOLDER / "static").iterdir()):
        body = path.read_bytes()
        digest = hashlib.sha256(body).hexdigest()[:12]
        found[path.name] = Asset(f"{path.stem}.{digest}{path.suffix}", _TYPES[path.suffix], body)
    return found


_BY_FILE = _assets()
ASSETS = {asset.name: asset for asset in _BY_FILE.values()}
"""The static files by the names in their URLs."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What a page depends on beside its subject: who reads it, and under which address.

    `root` is the path of the server's base URL: a proxy can add one. `theme` is empty if the
    system decides. `path` and `query` are those of the page, for links to it in another language.
    """

    language: str = "en"
    theme: str = ""
    base_url: str = ""
    root: str = ""
    path: str = "/"
    query: tuple[tuple[str, str], ...] = ()
    has_session: bool = False

    def link(self, **changes: object) -> str:
        """This page with other parameters; an empty value removes one."""
        kept = [(name, value) for name, value in self.query if name not in changes]
        added = [(name, str(value)) for name, value in changes.items() if value not in ("", None)]
        query = urlencode(kept + added)
        return f"{self.root}{self.path}" + (f"?{query}" if query else "")


def repo_path(repo: Any) -> str:
    """The path of the page of a repository."""
    return f"/{repo}"


def file_path(path: str) -> str:
    """A path inside a repository, or a revision, for a URL."""
    return quote(path)


def revision_path(revision: str) -> str:
    """A revision as one segment of a URL."""
    return quote(revision, safe="")


def count(number: int) -> str:
    """A large number as text: `8.03B`, `135M`."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "human": human,
        "count": count,
        "file_path": file_path,
        "revision_path": revision_path,
        "repo_path": repo_path,
        "short_ref": short_ref,
        "html_language": html_language,
    }
    environment.globals |= {
        "languages": LANGUAGES,
        "repo_types": tuple(RepoType),
        "asset": lambda name: _BY_FILE[name].name,
        "version": __version__,
    }
    return environment


def render(template: str, reader: Reader, **values: Any) -> bytes:
    """A page as HTML."""
    text = (
        _environment()
        .get_template(template)
        .render(reader=reader, t=messages(reader.language), root=reader.root, **values)
    )
    return text.encode(errors="replace")
