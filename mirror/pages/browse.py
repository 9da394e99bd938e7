"""What is here: the repositories of a type, searched, filtered, sorted and in pages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from mirror.core.repo import Repo, RepoType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mirror.derived.catalog import Catalog
    from mirror.derived.row_file import Entry

PAGE = 30
FILTERS = ("task", "library", "size", "quantisation", "license", "author")
_MAX_WORDS = 200
_MAX_OPTIONS = 200
_MAX_GONE = 1000
_GB = 10**9
SIZES = (
    ("1", 0, _GB), ("10", _GB, 10 * _GB), ("50", 10 * _GB, 50 * _GB),
    ("200", 50 * _GB, 200 * _GB), ("more", 200 * _GB, 2**63),
)  # fmt: skip
"""Classes of size: a name, and the limits in bytes."""


@dataclass(frozen=True, slots=True)
class Item:
    """A repository in the list."""

    repo: Repo
    values: Mapping[str, tuple[str, ...]]
    """The values of each filter."""
    size: int
    parameters: int
    updated: str
    downloads: int
    search: str
    is_waiting: bool

    def first(self, name: str) -> str:
        return next(iter(self.values[name]), "")


def _item(entry: Entry) -> Item:
    row: dict[str, Any] = orjson.loads(entry.row) if entry.row else {}
    tags = [str(tag) for tag in row.get("tags") or []]
    task, library = str(row.get("pipeline_tag") or ""), str(row.get("library_name") or "")
    if entry.repo.repo_type is RepoType.DATASET:
        task = next((tag[16:] for tag in tags if tag.startswith("task_categories:")), "")
    licenses = tuple(tag[8:] for tag in tags if tag.startswith("license:"))
    size = next(name for name, least, most in SIZES if least <= entry.size < most)
    values = {
        "task": (task,) if task else (),
        "library": (library,) if library else (),
        "size": (size,) if entry.row else (),
        "quantisation": (entry.quantisation,) if entry.quantisation else (),
        "license": licenses,
        "author": (entry.repo.author,) if entry.repo.author else (),
    }
    return Item(
        entry.repo, values, entry.size, entry.parameters, str(row.get("lastModified") or "")[:10],
        int(row.get("downloads") or 0), " ".join([entry.repo.repo_id, *tags]).lower(),
        not entry.row,
    )  # fmt: skip


_SORTS: Mapping[str, tuple[Callable[[Item], Any], bool]] = {
    "name": (lambda item: item.repo.repo_id.lower(), False),
    "updated": (lambda item: item.updated, True),
    "size": (lambda item: item.size, True),
    "small": (lambda item: item.size, False),
    "downloads": (lambda item: item.downloads, True),
}
SORTS = tuple(_SORTS)


@dataclass(frozen=True, slots=True)
class Query:
    """What a person asks for. Unknown values find nothing, or are the default."""

    words: str = ""
    chosen: tuple[tuple[str, str], ...] = ()
    sort: str = "name"
    page: int = 1

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Query:
        page = given.get("page", "")
        sort = given.get("sort", "")
        return cls(
            given.get("q", "")[:_MAX_WORDS],
            tuple((name, given[name][:_MAX_WORDS]) for name in FILTERS if given.get(name)),
            sort if sort in _SORTS else "name",
            int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 7 else 1,
        )

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of the URL, without the page."""
        named = {"q": self.words, **dict(self.chosen), "sort": self.sort}
        return {name: text for name, text in named.items() if text and text != "name"}


@dataclass(frozen=True, slots=True)
class Found:
    """A page of the result. `options` are the values of each filter with their counts."""

    query: Query
    items: Sequence[Item]
    total: int
    all: int
    page: int
    pages: int
    options: Mapping[str, Sequence[tuple[str, int]]]


class Index:
    """The repositories of the catalog, parsed once for each entry."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._parsed: dict[str, tuple[Entry, Item]] = {}
        self._lists: dict[RepoType, tuple[list[Entry], list[Item]]] = {}

    def items(self, repo_type: RepoType) -> list[Item]:
        """Every repository of a type, in the order of the catalog. The list is made again when the
        catalog has looked again."""
        entries = self._catalog.entries(repo_type)
        known = self._lists.get(repo_type)
        if known is not None and known[0] is entries:
            return known[1]
        if len(self._parsed) > 2 * sum(self.counts().values()) + _MAX_GONE:
            self._parsed = {}
        items = [self._item(entry) for entry in entries]
        self._lists[repo_type] = (entries, items)
        return items

    def counts(self) -> dict[RepoType, int]:
        """How many repositories of each type are here."""
        return {repo_type: len(self._catalog.entries(repo_type)) for repo_type in RepoType}

    def find(self, repo_type: RepoType, query: Query) -> Found:
        """The page of repositories that match."""
        items = self.items(repo_type)
        words = query.words.lower().split()
        named = [item for item in items if all(word in item.search for word in words)]
        found = [
            item
            for item in named
            if all(value in item.values[name] for name, value in query.chosen)
        ]
        key, is_reversed = _SORTS[query.sort]
        found.sort(key=key, reverse=is_reversed)
        pages = max(1, -(-len(found) // PAGE))
        page = min(query.page, pages)
        shown = found[(page - 1) * PAGE : page * PAGE]
        return Found(query, shown, len(found), len(items), page, pages, _options(named, query))

    def is_here(self, repo: Repo) -> bool:
        """Whether the repository can be read."""
        kept = self._parsed.get(repo.key)
        if kept is None:
            self.items(repo.repo_type)
            kept = self._parsed.get(repo.key)
        return kept is not None and bool(kept[0].row)

    def _item(self, entry: Entry) -> Item:
        key = entry.repo.key
        kept = self._parsed.get(key)
        if kept is None or kept[0] is not entry:
            kept = self._parsed[key] = (entry, _item(entry))
        return kept[1]


def _options(items: Iterable[Item], query: Query) -> dict[str, list[tuple[str, int]]]:
    """The values of each filter, the most frequent first; those that are chosen always."""
    counters: dict[str, Counter[str]] = {name: Counter() for name in FILTERS}
    for item in items:
        for name, counter in counters.items():
            counter.update(item.values[name])
    options = {}
    for name, counter in counters.items():
        for chosen, value in query.chosen:
            if chosen == name:
                counter.setdefault(value, 0)
        options[name] = counter.most_common(_MAX_OPTIONS)
    order = {name: index for index, (name, _, _) in enumerate(SIZES)}
    options["size"].sort(key=lambda option: order.get(option[0], -1))
    return options
