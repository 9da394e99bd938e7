"""The commands that look after what is here, in every kind of source."""

from __future__ import annotations

import glob
import sys
from typing import TYPE_CHECKING, Any

import click
import orjson

from mirror.cli.progress import showing
from mirror.cli.pull import AS_JSON, open_upstream, waiting_for
from mirror.cli.settings import PLACE, settings
from mirror.config import RepoSpec, SourceSpec
from mirror.core.errors import ConfigError
from mirror.core.repo import Repo, find_commit
from mirror.core.units import human, several
from mirror.maintenance.adopt import Adopt
from mirror.maintenance.foreign_sources import abandoned_in, remove_from
from mirror.maintenance.garbage import (
    Garbage,
    collect,
    delete_garbage,
    remove_entry,
    remove_repo,
    remove_revision,
    unused_facts,
    waste,
)
from mirror.maintenance.verify import Problem, Verify
from mirror.server.run import OpenedSources, open_sources
from mirror.sources.bento_entry import entries
from mirror.sources.hf_cache import HfCache
from mirror.store.cache import Cache
from mirror.store.progress import Message, Report
from mirror.sync.completeness import wanted_files
from mirror.sync.pull import Pull

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.core.source import Source
    from mirror.sources.repo_dir import RepoDir


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO…]")
@settings(*PLACE, "upstream")
@click.option("--repair", is_flag=True, help="Fetch what is missing or corrupt again.")
@AS_JSON
def verify(
    repos: tuple[str, ...], data: Path, state: Path | None, sources: tuple[str, ...], **options: Any
) -> None:
    """Read every file again, and report what is missing, truncated, corrupt, dangling or stray.

    What is corrupt in a managed cache is set aside, and not served again.
    """
    place = _open(data, state, sources)
    problems: list[Problem] = []
    names = _names(place, repos)
    with showing(as_json=options["as_json"]) as report:
        run = Verify(report)
        for source in place.sources.sources:
            if isinstance(source, HfCache) and source.managed:
                cache = Cache.of(source.root)
                found = run.cache(cache, _folders(cache, names))
                if options["repair"] and any(problem.harms for problem in found):
                    _repair(cache, found, options["upstream"], report)
                    found = run.cache(cache, _folders(cache, names))
                problems += found
            elif chosen := _chosen(source, names):
                found = run.source(source, chosen)
                if options["repair"] and found:
                    text = f"{source.label} is served in place: --repair changes nothing in it."
                    report(Message("warning", text))
                problems += found
    place.digests.close()
    _show_problems(problems, as_json=options["as_json"])
    sys.exit(1 if any(problem.harms for problem in problems) else 0)


def _names(place: OpenedSources, repos: tuple[str, ...]) -> set[str]:
    """The keys of the repositories that were named; none means all. Raises ConfigError for one that
    no source holds."""
    here = {repo.key for source in place.sources.sources for repo in source.repos()}
    named = [_parse(text) for text in repos]
    for repo in named:
        if repo.key not in here:
            raise ConfigError(f"No source holds {repo}. `hubmirror ls` shows what is here.")
    return {repo.key for repo in named}


def _parse(text: str) -> Repo:
    try:
        return Repo.parse(text)
    except ValueError as exc:
        hint = " A revision cannot be named here." if "@" in text else ""
        raise ConfigError(f"{text!r} is no repo id. Write ORG/NAME.{hint}") from exc


def _folders(cache: Cache, names: set[str]) -> list[RepoDir]:
    return [one for one in cache.folders() if not names or one.repo.key in names]


def _repair(cache: Cache, problems: list[Problem], upstream: str | None, report: Report) -> None:
    """Pull the revisions again that something is wrong with, and no file that they did not want."""
    revisions = {(problem.repo, one) for problem in problems for one in problem.revisions}
    specs = []
    for repo, revision in sorted(revisions):
        wanted = wanted_files(cache, repo, revision)
        specs.append(RepoSpec(repo, revision, include=tuple(map(glob.escape, sorted(wanted)))))
    try:
        run = Pull(cache, open_upstream(upstream, report), report)
        run.run(run.plan(specs))
    except ConfigError as exc:
        report(Message("error", f"Nothing was repaired: {exc}"))


def _show_problems(problems: list[Problem], *, as_json: bool) -> None:
    for one in problems:
        if as_json:
            row = {"repo": str(one.repo), "path": one.path, "kind": one.kind, "text": one.text}
            click.echo(orjson.dumps(row))
        else:
            click.echo(f"{one.kind:<10}  {one.repo}  {one.text}")
    if not as_json:
        harms = sum(problem.harms for problem in problems)
        click.echo(f"{several(harms, 'problem')}." if harms else "All is as it should be.")


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO…]")
@settings(*PLACE)
@click.option(
    "--as-whole",
    is_flag=True,
    help="Take revisions as whole of which nobody here knows all files: those of caches of "
    "huggingface_hub before 1.22, and of Bento entries that OpenLLM wrote.",
)
@AS_JSON
def adopt(
    repos: tuple[str, ...],
    data: Path,
    state: Path | None,
    sources: tuple[str, ...],
    **options: Any,
) -> None:
    """Make repositories of other sources (--source) managed ones, by hard link where possible."""
    if not sources:
        raise ConfigError("Name what to adopt: --source hf-cache:PATH or folder:PATH=ORG/NAME.")
    place = _open(data, state, sources)
    names = _names(place, repos)
    cache = Cache.of(data / "hub")
    failed: list[str] = []
    with showing(as_json=options["as_json"]) as report:
        others = [(source, _chosen(source, names)) for source in _others(place, cache)]
        if not any(chosen for _, chosen in others):
            report(Message("info", "The sources hold nothing to adopt."))
        for source, chosen in others:
            if chosen:
                adoption = Adopt(cache, report, as_whole=options["as_whole"])
                failed += adoption.run(source, chosen)
    place.digests.close()
    sys.exit(1 if failed else 0)


def _chosen(source: Source, names: set[str]) -> list[Repo]:
    """The repositories of a source that were named; all of them where none was."""
    return [repo for repo in source.repos() if not names or repo.key in names]


def _others(place: OpenedSources, cache: Cache) -> list[Any]:
    return [
        source
        for source in place.sources.sources
        if not (isinstance(source, HfCache) and source.managed and source.root == cache.root)
    ]


def _cache(data: Path) -> Cache:
    """The managed cache of a data folder that must be there."""
    if not data.is_dir():
        raise ConfigError(f"The data folder {data} is not there. Name another with --data.")
    return Cache.of(data / "hub")


@click.command()
@click.argument("target", metavar="REPO[@REVISION]")
@settings(*PLACE)
def rm(target: str, data: Path, state: Path | None, sources: tuple[str, ...]) -> None:
    """Remove a repository, or one revision of it, from the data folder; where it is not there,
    from the first other source that holds it."""
    text, at, revision = target.partition("@")
    repo = _parse(text)
    cache, home = _cache(data), data / "bentoml"
    folder = cache.folder(repo)
    is_here = folder.path.is_dir()
    stored = [entry for entry in entries(home) if entry.holds(repo, revision)]
    if not is_here and not stored:
        _remove_elsewhere(_others(_open(data, state, sources), cache), target, repo, revision)
        return
    if is_here and (not at or _knows(folder, revision) or not stored):
        with showing(as_json=False) as report:
            waiting = waiting_for(repo, report)
            freed = (
                remove_revision(cache, folder, revision, waiting)
                if at
                else remove_repo(cache, folder, waiting)
            )
        click.echo(f"Removed {target}: {human(freed)} freed.")
    for entry in stored:
        remove_entry(home, entry)
        click.echo(f"Removed {entry.tag} from the Bento store.")


def _remove_elsewhere(sources: list[Any], target: str, repo: Repo, revision: str) -> None:
    for source in sources:
        freed = remove_from(source, repo, revision)
        if freed is not None:
            click.echo(f"Removed {target} from {source.label}: {human(freed)} freed.")
            return
    raise ConfigError(
        f"{target} is neither in the data folder nor in a cache or store that is served in place: "
        "`hubmirror ls` shows what is. A plain folder is its owner's: remove it yourself, and its "
        "declaration."
    )


def _knows(folder: RepoDir, revision: str) -> bool:
    return find_commit(revision, folder.refs(), folder.recorded_commits()) is not None


@click.command()
@settings(*PLACE)
@click.option("--dry-run", is_flag=True, help="Show what would go.")
def gc(data: Path, state: Path | None, sources: tuple[str, ...], *, dry_run: bool) -> None:
    """Remove what nothing needs: old revisions, blobs of none, and unfinished work. In sources that
    others fill, every revision stays, and what changed within a day. In the state folder, facts go
    that nobody used for 30 days."""
    cache = _cache(data)
    found: list[Garbage] = waste(cache)
    place = _open(data, state, sources)
    others, facts = _others(place, cache), unused_facts(place.state)
    abandoned = [one for source in others for one in abandoned_in(source)]
    for one in (*found, *abandoned):
        click.echo(f"{human(one.size):>10}  {one.text}")
    if facts:
        size = human(sum(one.size for one in facts))
        click.echo(f"{size:>10}  {several(len(facts), 'fact')} in the state folder, long unused")
    rest = (*abandoned, *facts)
    if dry_run:
        click.echo(f"{human(sum(one.size for one in (*found, *rest)))} could be freed.")
    else:
        click.echo(f"{human(collect(cache, found) + sum(map(delete_garbage, rest)))} freed.")


def _open(data: Path, state: Path | None, sources: tuple[str, ...]) -> OpenedSources:
    return open_sources(data, state, [SourceSpec.parse(text) for text in sources], timeout_s=3600)
