"""The commands `rm` and `gc`."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import click
import orjson

from mirror.cli.maintenance import open_place, other_sources, parse_name
from mirror.cli.progress import showing
from mirror.cli.pull import waiting_for
from mirror.cli.settings import AS_JSON, PLACE, settings
from mirror.config.values import size_limit
from mirror.core.errors import ConfigError
from mirror.core.files import folder_size
from mirror.core.repo import find_commit
from mirror.core.units import human, several
from mirror.maintenance.foreign_sources import abandoned_in, removal_from
from mirror.maintenance.garbage import (
    Garbage,
    Removal,
    collect,
    delete_garbage,
    find_garbage,
    removal,
    remove_entry,
    unused_facts,
)
from mirror.openllm.closure import pinned_specs
from mirror.pull_through.eviction import Eviction, evict, plan_eviction
from mirror.sources.bento_entry import entries
from mirror.store.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirror.config.file import File
    from mirror.core.repo import Repo
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.progress import Report


@click.command()
@click.argument("target", metavar="REPO[@REVISION]")
@settings(*PLACE)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask on a terminal.")
@AS_JSON
def rm(
    target: str,
    data: Path,
    state: Path | None,
    sources: tuple[str, ...],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove a repository or one revision. On a terminal, the command asks first.

    It is removed from the data folder, or, if it is not there, from the first other source that
    has it.
    """
    text, _, revision = target.partition("@")
    repo, cache = parse_name(text), _cache(data)
    with showing(as_json=False) as report:
        found = _in_data(cache, data / "bentoml", repo, revision, report)
    if not found:
        others = other_sources(open_place(data, state, sources), cache)
        candidates = (removal_from(source, repo, revision) for source in others)
        found = [next(filter(None, candidates), None) or _fail(target)]
    if not (dry_run or yes or as_json) and not _confirm(found, is_pinned=_is_pinned(data, repo)):
        sys.exit(1)
    for one in found:
        freed = one.size if dry_run else one.remove()
        if as_json:
            row = {"text": one.text, "size": freed, "removed": not dry_run}
            click.echo(orjson.dumps(row))
        elif dry_run:
            click.echo(f"Would remove {one.text}: {human(freed)}.")
        else:
            click.echo(f"Removed {one.text}: {human(freed)} freed.")


def _cache(data: Path) -> Cache:
    """The managed cache of a data folder. Raises ConfigError if the folder does not exist."""
    if not data.is_dir():
        raise ConfigError(f"The data folder {data} does not exist. Name another with --data.")
    return Cache.of(data / "hub")


def _in_data(cache: Cache, home: Path, repo: Repo, revision: str, report: Report) -> list[Removal]:
    """What the data folder has of a repository: in the managed cache, and in its Bento store."""
    folder = cache.folder(repo)
    stored = [entry for entry in entries(home) if entry.holds(repo, revision)]
    found = [
        Removal(
            f"{entry.tag} from the Bento store",
            folder_size(entry.folder),
            partial(remove_entry, home, entry),
        )
        for entry in stored
    ]
    is_here = not revision or not stored or _has_revision(folder, revision)
    if folder.path.is_dir() and is_here:
        found.insert(0, removal(cache, folder, revision, waiting_for(repo, report)))
    return found


def _has_revision(folder: RepoDir, revision: str) -> bool:
    return find_commit(revision, folder.refs(), folder.recorded_commits()) is not None


def _fail(target: str) -> Removal:
    raise ConfigError(
        f"{target} is neither in the data folder nor in a cache or Bento store of --source. List "
        "the repositories with `hubmirror ls`. hubmirror does not remove plain folders: remove the "
        "folder and its declaration yourself."
    )


def _is_pinned(data: Path, repo: Repo) -> bool:
    return any(spec.repo.key == repo.key for spec in pinned_specs(data))


def _confirm(found: Sequence[Removal], *, is_pinned: bool) -> bool:
    """Ask the operator on a terminal; True without a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    if is_pinned:
        click.echo("A model that `hubmirror openllm pull` brought needs this repository.", err=True)
    names = " and ".join(f"{one.text} ({human(one.size)})" for one in found)
    return click.confirm(f"Remove {names}?", err=True)


@click.command()
@settings(*PLACE, "cache_size")
@click.option("--dry-run", is_flag=True, help="List the garbage, and remove nothing.")
@AS_JSON
@click.pass_obj
def gc(
    file: File | None,
    /,
    data: Path,
    state: Path | None,
    sources: tuple[str, ...],
    *,
    dry_run: bool,
    as_json: bool,
    cache_size: str | None,
) -> None:
    """Remove old revisions, blobs of no revision, and unfinished work; in the state folder, facts
    that were not used for 30 days.

    With --cache-size, also remove the revisions that were not read for the longest time, until the
    cache is not larger. Pinned repositories stay (`hubmirror pin`).

    Revisions that are declared, or that `hubmirror openllm pull` brought, are kept. In other
    sources (--source), no revision is removed, and no file that changed within a day.
    """
    cache = _cache(data)
    managed = find_garbage(cache, [*(file.repos if file else ()), *pinned_specs(data)])
    place = open_place(data, state, sources)
    facts = unused_facts(place.state)
    rest = [item for source in other_sources(place, cache) for item in abandoned_in(source)]
    limit, declared = size_limit(cache_size), [spec.repo for spec in file.repos] if file else []
    evicted = plan_eviction(cache, limit, declared) if limit else Eviction(0, 0, ())
    leaving = [Garbage(one.text, one.size, one.folder.path) for one in evicted.revisions]
    _show_garbage([*managed, *rest, *leaving], facts, as_json=as_json)
    if dry_run:
        size = evicted.freed + sum(item.size for item in (*managed, *rest, *facts))
    else:
        size = collect(cache, managed) + sum(map(delete_garbage, (*rest, *facts)))
        size += evict(cache, limit, declared) if limit else 0
    if as_json:
        click.echo(orjson.dumps({"size": size, "removed": not dry_run}))
    else:
        click.echo(f"{human(size)} could be freed." if dry_run else f"{human(size)} freed.")


def _show_garbage(found: Sequence[Garbage], facts: Sequence[Garbage], *, as_json: bool) -> None:
    rows = [(item.text, item.size) for item in found]
    if facts:
        text = f"{several(len(facts), 'fact')} in the state folder, not used"
        rows.append((text, sum(item.size for item in facts)))
    for text, size in rows:
        if as_json:
            click.echo(orjson.dumps({"text": text, "size": size}))
        else:
            click.echo(f"{human(size):>10}  {text}")
