"""The commands `verify`, `adopt`, `rm` and `gc`."""

from __future__ import annotations

import glob
import sys
from typing import TYPE_CHECKING, Any

import click
import orjson

from mirror.cli.progress import showing
from mirror.cli.pull import AS_JSON, open_pull, waiting_for
from mirror.cli.settings import PLACE, settings
from mirror.config import File, RepoSpec, SourceSpec
from mirror.core.errors import ConfigError
from mirror.core.repo import Repo, find_commit
from mirror.core.source import Layout
from mirror.core.units import human, several
from mirror.maintenance.adopt import Adopt
from mirror.maintenance.foreign_sources import abandoned_in, remove_from
from mirror.maintenance.garbage import (
    Garbage,
    collect,
    delete_garbage,
    find_garbage,
    remove_entry,
    remove_repo,
    remove_revision,
    unused_facts,
)
from mirror.maintenance.verify import Problem, Verify
from mirror.server.opened_sources import OpenedSources, open_sources
from mirror.sources.bento_entry import entries
from mirror.store.cache import Cache
from mirror.store.progress import Message, Report
from mirror.sync.completeness import wanted_files

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.core.source import Source
    from mirror.sources.repo_dir import RepoDir


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO…]")
@settings(*PLACE, "upstream")
@click.option("--repair", is_flag=True, help="Fetch missing and corrupt files again.")
@AS_JSON
@click.pass_obj
def verify(
    file: File | None,
    /,
    repos: tuple[str, ...],
    data: Path,
    state: Path | None,
    sources: tuple[str, ...],
    **options: Any,
) -> None:
    """Check the digest of every file.

    Reports files that are missing, truncated, corrupt, dangling (a symlink without its blob) or
    stray (a blob of no revision). In a managed cache, corrupt blobs are set aside and not served.
    """
    place = _open(data, state, sources)
    problems: list[Problem] = []
    names = _parse_names(place, repos)
    with showing(as_json=options["as_json"]) as report:
        run = Verify(report)
        for source in place.sources.sources:
            if source.layout is Layout.MANAGED_CACHE and source.root:
                cache = Cache.of(source.root)
                found = run.cache(cache, _folders(cache, names))
                if options["repair"] and any(problem.is_harmful for problem in found):
                    _repair(file, cache, found, options["upstream"], report)
                    found = run.cache(cache, _folders(cache, names))
                problems += found
            elif chosen := _chosen(source, names):
                found = run.source(source, chosen)
                if options["repair"] and found:
                    text = f"{source.label} is served in place. --repair does not change it."
                    report(Message("warning", text))
                problems += found
    place.digests.close()
    _show_problems(problems, as_json=options["as_json"])
    sys.exit(1 if any(problem.is_harmful for problem in problems) else 0)


def _parse_names(place: OpenedSources, repos: tuple[str, ...]) -> set[str]:
    """The keys of the named repositories; an empty set means all. Raises ConfigError for a
    repository that no source has."""
    known = {repo.key for source in place.sources.sources for repo in source.repos()}
    named = [_parse(text) for text in repos]
    for repo in named:
        if repo.key not in known:
            raise ConfigError(f"No source has {repo}. List the repositories with `hubmirror ls`.")
    return {repo.key for repo in named}


def _parse(text: str) -> Repo:
    try:
        return Repo.parse(text)
    except ValueError as exc:
        hint = " This command takes no revision." if "@" in text else ""
        raise ConfigError(f"{text!r} is not a repo_id. Write ORG/NAME.{hint}") from exc


def _folders(cache: Cache, names: set[str]) -> list[RepoDir]:
    return [folder for folder in cache.folders() if not names or folder.repo.key in names]


def _repair(
    file: File | None, cache: Cache, problems: list[Problem], upstream: str | None, report: Report
) -> None:
    """Pull the revisions that have problems again, limited to their wanted files."""
    revisions = {(problem.repo, commit) for problem in problems for commit in problem.revisions}
    specs = []
    for repo, revision in sorted(revisions):
        wanted = wanted_files(cache, repo, revision)
        specs.append(RepoSpec(repo, revision, include=tuple(map(glob.escape, sorted(wanted)))))
    try:
        run = open_pull(file, cache, upstream, report)
        run.run(run.plan(specs))
    except ConfigError as exc:
        report(Message("error", f"Nothing was repaired: {exc}"))


def _show_problems(problems: list[Problem], *, as_json: bool) -> None:
    for problem in problems:
        repo, kind, text = str(problem.repo), problem.kind, problem.text
        if as_json:
            click.echo(
                orjson.dumps({"repo": repo, "path": problem.path, "kind": kind, "text": text})
            )
        else:
            click.echo(f"{kind:<10}  {repo}  {text}")
    if not as_json:
        harmful = sum(problem.is_harmful for problem in problems)
        click.echo(f"{several(harmful, 'problem')}." if harmful else "No problems found.")


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO…]")
@settings(*PLACE)
@click.option(
    "--as-whole",
    is_flag=True,
    help="Treat a revision as complete if the source has no list of its files: caches of "
    "huggingface_hub before 1.22, and Bento entries of OpenLLM.",
)
@AS_JSON
def adopt(
    repos: tuple[str, ...],
    data: Path,
    state: Path | None,
    sources: tuple[str, ...],
    **options: Any,
) -> None:
    """Add repositories of other sources to the managed cache, by hard link if possible.

    Name the sources with --source.
    """
    if not sources:
        raise ConfigError(
            "There is no source to adopt from. Name one with --source hf-cache:PATH or "
            "--source folder:PATH=ORG/NAME."
        )
    place = _open(data, state, sources)
    names = _parse_names(place, repos)
    cache = Cache.of(data / "hub")
    failed: list[str] = []
    with showing(as_json=options["as_json"]) as report:
        others = [(source, _chosen(source, names)) for source in _other_sources(place, cache)]
        if not any(chosen for _, chosen in others):
            report(Message("info", "The sources have no repositories to adopt."))
        for source, chosen in others:
            if chosen:
                adoption = Adopt(cache, report, as_whole=options["as_whole"])
                failed += adoption.run(source, chosen)
    place.digests.close()
    sys.exit(1 if failed else 0)


def _chosen(source: Source, names: set[str]) -> list[Repo]:
    """The named repositories of a source; all of them if `names` is empty."""
    return [repo for repo in source.repos() if not names or repo.key in names]


def _other_sources(place: OpenedSources, cache: Cache) -> list[Any]:
    return [
        source
        for source in place.sources.sources
        if not (source.layout is Layout.MANAGED_CACHE and source.root == cache.root)
    ]


def _cache(data: Path) -> Cache:
    """The managed cache of a data folder. Raises ConfigError if the folder does not exist."""
    if not data.is_dir():
        raise ConfigError(f"The data folder {data} does not exist. Name another with --data.")
    return Cache.of(data / "hub")


@click.command()
@click.argument("target", metavar="REPO[@REVISION]")
@settings(*PLACE)
def rm(target: str, data: Path, state: Path | None, sources: tuple[str, ...]) -> None:
    """Remove a repository or one revision.

    It is removed from the data folder, or, if it is not there, from the first other source that
    has it.
    """
    text, at, revision = target.partition("@")
    repo = _parse(text)
    cache, home = _cache(data), data / "bentoml"
    folder = cache.folder(repo)
    is_managed = folder.path.is_dir()
    stored = [entry for entry in entries(home) if entry.holds(repo, revision)]
    if not is_managed and not stored:
        others = _other_sources(_open(data, state, sources), cache)
        _remove_from_others(others, target, repo, revision)
        return
    if is_managed and (not at or _has_revision(folder, revision) or not stored):
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


def _remove_from_others(sources: list[Any], target: str, repo: Repo, revision: str) -> None:
    for source in sources:
        freed = remove_from(source, repo, revision)
        if freed is not None:
            click.echo(f"Removed {target} from {source.label}: {human(freed)} freed.")
            return
    raise ConfigError(
        f"{target} is neither in the data folder nor in a cache or Bento store of --source. List "
        "the repositories with `hubmirror ls`. hubmirror does not remove plain folders: remove the "
        "folder and its declaration yourself."
    )


def _has_revision(folder: RepoDir, revision: str) -> bool:
    return find_commit(revision, folder.refs(), folder.recorded_commits()) is not None


@click.command()
@settings(*PLACE)
@click.option("--dry-run", is_flag=True, help="List the garbage, and remove nothing.")
def gc(data: Path, state: Path | None, sources: tuple[str, ...], *, dry_run: bool) -> None:
    """Remove old revisions, blobs of no revision, and unfinished work; in the state folder, facts
    that were not used for 30 days.

    In other sources (--source), no revision is removed, and no file that changed within a day.
    """
    cache = _cache(data)
    managed: list[Garbage] = find_garbage(cache)
    place = _open(data, state, sources)
    others, facts = _other_sources(place, cache), unused_facts(place.state)
    foreign = [item for source in others for item in abandoned_in(source)]
    for item in (*managed, *foreign):
        click.echo(f"{human(item.size):>10}  {item.text}")
    if facts:
        size = human(sum(item.size for item in facts))
        click.echo(f"{size:>10}  {several(len(facts), 'fact')} in the state folder, not used")
    rest = (*foreign, *facts)
    if dry_run:
        click.echo(f"{human(sum(item.size for item in (*managed, *rest)))} could be freed.")
    else:
        click.echo(f"{human(collect(cache, managed) + sum(map(delete_garbage, rest)))} freed.")


def _open(data: Path, state: Path | None, sources: tuple[str, ...]) -> OpenedSources:
    return open_sources(data, state, [SourceSpec.parse(text) for text in sources], timeout_s=3600)
