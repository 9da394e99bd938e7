"""Decides where the links and images of a card lead: nowhere outside this mirror."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from mirror.core.repo import Repo, RepoType, is_repo_id
from mirror.pages.card import ANCHOR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.core.source import Snapshot

_HUB = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_TYPES = {repo_type.plural: repo_type for repo_type in RepoType}
_VIEWS = frozenset({"blob", "tree", "resolve", "raw"})
_MAX_SHOWN = 300


@dataclass(frozen=True, slots=True)
class CardLinks:
    """Resolves the links in the card of a snapshot. `folder` is the folder of the card."""

    snapshot: Snapshot
    root: str
    is_here: Callable[[Repo], bool]
    t: Callable[..., str]
    folder: str = ""

    def html(self, segments: Sequence[Any]) -> str:
        """The card as HTML."""
        parts: list[str] = []
        endings: list[str] = []
        for segment in segments:
            match segment:
                case str():
                    parts.append(segment)
                case ["a", str(url)]:
                    start, end = self._anchor(url)
                    endings.append(end)
                    parts.append(start)
                case ["/a"]:
                    parts.append(endings.pop() if endings else "")
                case ["img", str(url), str(text)]:
                    parts.append(self._image(url, text))
        return "".join(parts)

    def _anchor(self, url: str) -> tuple[str, str]:
        if target := self._target(url):
            return f'<a href="{escape(target)}">', "</a>"
        if not url:
            return "", ""
        return '<span class="outside">', f" {_address(url)}</span>"

    def _image(self, url: str, text: str) -> str:
        if path := self._path(url):
            target = f"{self._base('resolve')}/{quote(path)}"
            alt = text or path.rpartition("/")[2]
            return f'<img src="{escape(target)}" alt="{escape(alt)}" loading="lazy">'
        label = escape(f"[{text or self.t('image')}]", quote=False)
        return f'<span class="outside">{label} {_address(url)}</span>'

    def _target(self, url: str) -> str:
        """The address in this mirror that a link leads to; empty if there is none."""
        if url.startswith("#"):
            return f"#{ANCHOR}{quote(unquote(url[1:].lower()))}" if len(url) > 1 else ""
        if path := self._path(url):
            return f"{self._base('blob')}/{quote(path)}"
        parts = _split(url)
        if parts and parts.scheme in ("http", "https") and parts.hostname in _HUB:
            return self._hub_target(parts.path)
        return ""

    def _hub_target(self, path: str) -> str:
        segments = [unquote(part) for part in path.split("/") if part]
        repo_type = _TYPES.get(segments[0]) if segments else None
        if repo_type:
            segments.pop(0)
        for count in (2, 1):
            repo_id, rest = "/".join(segments[:count]), segments[count:]
            if len(segments) >= count and is_repo_id(repo_id) and (not rest or rest[0] in _VIEWS):
                repo = Repo(repo_type or RepoType.MODEL, repo_id)
                if self.is_here(repo):
                    tail = "".join(f"/{quote(part, safe='')}" for part in rest)
                    return f"{self.root}/{repo}{tail}"
        return ""

    def _path(self, url: str) -> str:
        """The path of a file of the snapshot that a relative URL names; else empty."""
        parts = _split(url)
        if parts is None or parts.scheme or parts.netloc or not parts.path:
            return ""
        path = posixpath.normpath(posixpath.join(self.folder, unquote(parts.path.lstrip("/"))))
        return path if path in self.snapshot.files else ""

    def _base(self, view: str) -> str:
        return f"{self.root}/{self.snapshot.repo}/{view}/{self.snapshot.commit_hash}"


def _split(url: str) -> Any | None:
    try:
        return urlsplit(re.sub(r"\s", "", url))
    except ValueError:
        return None


def _address(url: str) -> str:
    shown = url if len(url) <= _MAX_SHOWN else f"{url[:_MAX_SHOWN]}…"
    return f'<span class="address">({escape(shown, quote=False)})</span>'
