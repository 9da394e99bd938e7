"""The query of a listing: which repositories it selects, and in which order.

A filter that the mirror cannot apply is an error, never ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror.core.errors import RequestError
from mirror.core.repo import RepoType

if TYPE_CHECKING:
    from mirror.web.request import HubRequest

_FILTERS = ("search", "author", "filter", "tags", "gated", "sort", "direction")
_OF_MODELS = ("library", "pipeline_tag", "num_parameters")
_FORM = ("limit", "cursor", "full", "expand", "cardData", "config")
_LISTS = tuple(f"{name}[]" for name in ("filter", "tags", "library", "expand"))
_UNKNOWN_HERE = {
    "apps": "which applications run a model",
    "inference": "which models a provider runs",
    "inference_provider": "which models a provider runs",
    "linked": "what a Space uses",
    "datasets": "what a Space uses",
    "models": "what a Space uses",
}
_SORTS = {
    "downloads": "downloads",
    "likes": "likes",
    "lastModified": "lastModified",
    "last_modified": "lastModified",
    "createdAt": "createdAt",
    "created_at": "createdAt",
    "trendingScore": "trendingScore",
    "trending_score": "trendingScore",
}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_COUNT = r"(\d{1,6}(?:\.\d{1,6})?)([KMBT]?)"
_RANGE = re.compile(rf"(?:min:{_COUNT})?,?(?:max:{_COUNT})?", re.IGNORECASE)
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_MAX_CURSOR = 18


@dataclass(frozen=True, slots=True)
class ListingQuery:
    """What a client asks a listing for. All words are in lower case."""

    search: tuple[str, ...]
    author: str
    tags: tuple[str, ...]
    pipeline_tag: str
    gated: bool | None
    parameters: tuple[float, float] | None
    sort: str | None
    is_descending: bool

    @classmethod
    def parse(cls, request: HubRequest) -> ListingQuery:
        """Raises RequestError for a filter or a value that the mirror does not understand."""
        _check_names(request)
        query = request.query
        for name in ("limit", "cursor"):
            text = query.get(name, "0")
            if not (text.isascii() and text.isdigit() and len(text) <= _MAX_CURSOR):
                raise RequestError(
                    f"{name}={text[:80]!r} is not a number. A cursor is valid only for the mirror "
                    "that returned it."
                )
        tags = [tag for name in ("filter", "tags", "library") for tag in request.several(name)]
        return cls(
            search=tuple(word.lower() for word in query.getlist("search")),
            author=query.get("author", "").lower(),
            tags=tuple(tag.lower() for tag in tags),
            pipeline_tag=query.get("pipeline_tag", ""),
            gated=_one_of("gated", query.get("gated", "").lower(), _FLAGS),
            parameters=_range(query.get("num_parameters", "")),
            sort=_one_of("sort", query.get("sort", ""), _SORTS),
            is_descending=_one_of("direction", query.get("direction", ""), {"-1": True, "1": False})
            is not False,
        )

    @property
    def reads_rows(self) -> bool:
        """Whether the selection depends on more than the repo id."""
        return bool(self.tags or self.pipeline_tag or self.sort or self.gated is not None)

    def is_named(self, repo_id: str) -> bool:
        """Whether a repo id matches `search` and `author`."""
        name = repo_id.lower()
        is_author = not self.author or name.rpartition("/")[0] == self.author
        return is_author and all(word in name for word in self.search)

    def matches(self, row: dict[str, Any]) -> bool:
        """Whether a row of the listing matches the other filters, except `num_parameters`."""
        has = {str(tag).lower() for tag in row.get("tags") or []}
        return (
            (not self.pipeline_tag or row.get("pipeline_tag") == self.pipeline_tag)
            and (self.gated is None or bool(row.get("gated")) is self.gated)
            and all(tag in has for tag in self.tags)
        )

    def has_size(self, info: dict[str, Any]) -> bool:
        """Whether a model has a number of parameters in the range; a model of an unknown size has
        not."""
        if self.parameters is None:
            return True
        weights = info.get("safetensors") or info.get("gguf") or {}
        total = weights.get("total")
        low, high = self.parameters
        return isinstance(total, int) and low <= total <= high

    def sort_key(self, row: dict[str, Any]) -> Any:
        is_date = self.sort in ("lastModified", "createdAt")
        return row.get(self.sort or "") or ("" if is_date else 0)


def _check_names(request: HubRequest) -> None:
    is_model = request.match.repo_type is RepoType.MODEL
    filters = (*_FILTERS, *(_OF_MODELS if is_model else ()))
    for key in set(request.query):
        name = key.removesuffix("[]") if key in _LISTS else key
        if name in _UNKNOWN_HERE:
            raise RequestError(
                f"This mirror cannot filter by {name}: it does not know {_UNKNOWN_HERE[name]}. "
                "Send the request without it."
            )
        if name not in (*filters, *_FORM):
            raise RequestError(
                f"{name[:80]!r} is not a filter of this listing. It has: {', '.join(filters)}."
            )


def _one_of(name: str, value: str, known: dict[str, Any]) -> Any:
    if not value:
        return None
    if value not in known:
        raise RequestError(f"{name}={value[:80]!r} is not known. Known are: {', '.join(known)}.")
    return known[value]


def _range(text: str) -> tuple[float, float] | None:
    """The least and the greatest number of parameters: `min:6B,max:128B`."""
    if not text:
        return None
    found = _RANGE.fullmatch(text)
    if not found or not (found[1] or found[3]):
        raise RequestError(
            f"num_parameters={text[:80]!r} is not a range. Write min:6B,max:128B, or one of both."
        )
    low = float(found[1]) * _UNITS[found[2].upper()] if found[1] else 0.0
    high = float(found[3]) * _UNITS[found[4].upper()] if found[3] else float("inf")
    return low, high
