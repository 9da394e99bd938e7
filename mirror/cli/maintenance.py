"""The commands `verify` and `adopt`."""

from __future__ import annotations

import glob
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import orjson

from mirror.cli.progress import showing
from mirror.cli.pull import open_pull
from mirror.cli.settings import AS_JSON, PLACE, settings
from mirror.config.specs import RepoSpec, SourceSpec
from mirror.core.errors import ConfigError
from mirror.core.repo import Repo
from mirror.core.source import Layout
from mirror.core.units import several
from mirror.maintenance.adopt import Adopt
from mirror.maintenance.verify import Problem, Verify
from mirror.server.opened_sources import OpenedSources, open_sources
from mirror.store.cache import Cache
from mirror.store.progress import Message, Report
from mirror.sync.completeness import wanted_files

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.config.file import File
    from mirror.core.source import Source
    from mirror.sources.repo_dir import RepoDir


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO…]")
@settings(*PLACE, "upstream")
@click.option("--repair", is_flag=True, help="Fetch missing and corrupt files again.")
@click.option("--commit", is_flag=True, help="Prove each pulled revision from its commit hash.")
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
    stray (a blob of no revision). Corrupt files are not served; in a managed cache, they are set
    aside.
    """
    place = open_place(data, state, sources)
    problems: list[Problem] = []
    names = _parse_names(place, repos)
    with showing(as_json=options["as_json"]) as report:
        run = Verify(report)
        for source in place.sources.sources:
            if source.layout is Layout.MANAGED_CACHE and source.root:
                cache = Cache.of(source.root)
                check = partial(run.cache, cache, commits=options["commit"])
                found = check(_folders(cache, names))
                if options["repair"] and any(problem.is_harmful for problem in found):
                    _repair(file, cache, found, options["upstream"], report)
                    found = check(_folders(cache, names))
                problems += found
            elif chosen := _chosen(source, names):
                found = run.source(source, chosen, place.state)
                if options["repair"] and found:
                    text = f"{source.label} is served in place. --repair does not change it."
                    report(Message("warning", text))
                problems += found
    place.digests.close()
    if place.scratch and any(problem.kind == "corrupt" for problem in problems):
        click.echo(
            "The state folder is temporary, so a server does not learn which files are corrupt. "
            "Run the command again with the --state of the server.",
            err=True,
        )
    _show_problems(problems, as_json=options["as_json"])
    sys.exit(1 if any(problem.is_harmful for problem in problems) else 0)


def _parse_names(place: OpenedSources, repos: tuple[str, ...]) -> set[str]:
    """The keys of the named repositories; an empty set means all. Raises ConfigError for a
    repository that no source has."""
    known = {repo.key for source in place.sources.sources for repo in source.repos()}
    named = [parse_name(text) for text in repos]
    for repo in named:
        if repo.key not in known:
            raise ConfigError(f"No source has {repo}. List the repositories with `hubmirror ls`.")
    return {repo.key for repo in named}


def parse_name(text: str) -> Repo:
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
    place = open_place(data, state, sources)
    names = _parse_names(place, repos)
    cache = Cache.of(data / "hub")
    failed: list[str] = []
    with showing(as_json=options["as_json"]) as report:
        others = [(source, _chosen(source, names)) for source in other_sources(place, cache)]
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


def other_sources(place: OpenedSources, cache: Cache) -> list[Any]:
    return [
        source
        for source in place.sources.sources
        if not (source.layout is Layout.MANAGED_CACHE and source.root == cache.root)
    ]


def open_place(data: Path, state: Path | None, sources: tuple[str, ...]) -> OpenedSources:
    return open_sources(data, state, [SourceSpec.parse(text) for text in sources], timeout_s=3600)
