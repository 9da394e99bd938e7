"""The commands that fill a managed cache and look after it."""

from __future__ import annotations

import glob
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import orjson

from mirror.cli.settings import PLACE, settings
from mirror.cli.show import showing
from mirror.config import File, RepoSpec, SourceSpec
from mirror.errors import ConfigError
from mirror.fill.adopt import Adopt
from mirror.fill.blobs import Cache
from mirror.fill.elsewhere import abandoned_in, remove_from
from mirror.fill.events import Noted, Report
from mirror.fill.pull import Outcome, Plan, Pull, needed, wanted_files
from mirror.fill.remove import (
    Waste,
    collect,
    discard,
    prunable,
    remove_entry,
    remove_repo,
    remove_revision,
    waste,
)
from mirror.fill.upstream import Upstream
from mirror.fill.verify import Problem, Verify
from mirror.repos import Repo, find_commit
from mirror.server import Place, open_place
from mirror.sizes import human
from mirror.sources.bento import entries
from mirror.sources.hf_cache import HfCache
from mirror.state import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.source import Source
    from mirror.sources.layout import RepoDir

_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
_LAST_PULL = "last-pull.json"


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO[@REVISION]…]")
@settings("data")
@click.option("--upstream", envvar="HUBMIRROR_UPSTREAM", help="The hub [default: HF_ENDPOINT].")
@click.option("--include", multiple=True, help="A pattern of files to bring, and no other.")
@click.option("--exclude", multiple=True, help="A pattern of files to leave out.")
@click.option("--dry-run", is_flag=True, help="Show files and bytes, and bring nothing.")
@click.option("--prune", is_flag=True, help="Remove what the configuration lists no more.")
@click.option("--with-needs", is_flag=True, help="Bring repositories that a model names, too.")
@_as_json
@click.pass_obj
def pull(
    file: File | None,
    /,
    repos: tuple[str, ...],
    data: Path,
    upstream: str | None,
    **options: Any,
) -> None:
    """Bring revisions from a hub into the managed cache; by default those of [[repo]].

    REPO is ORG/NAME, datasets/ORG/NAME or spaces/ORG/NAME.
    """
    declared = file.repos if file else ()
    filters = options["include"], options["exclude"]
    specs = [RepoSpec.parse(text, *filters) for text in repos] or list(declared)
    if not specs:
        raise ConfigError(
            "Nothing to pull. Name a repository (hubmirror pull ORG/NAME), or declare some as "
            "[[repo]] in hubmirror.toml."
        )
    if options["prune"] and repos:
        raise ConfigError("--prune goes with what the configuration declares: name no repository.")
    cache = Cache.of(data / "hub")
    started = datetime.now(UTC)
    with showing(as_json=options["as_json"]) as report:
        hub = Upstream(upstream or "", retrying=lambda *why: report(_retry(*why)))
        run = Pull(cache, hub, report)
        plans = run.plan(specs)
        if options["dry_run"]:
            _show_plans(plans, as_json=options["as_json"])
            sys.exit(1 if len(plans) < len(specs) else 0)
        outcome = run.run(plans)
        while options["with_needs"] and outcome.needs:
            more = run.run(run.plan([RepoSpec(need.repo) for need in outcome.needs]))
            left = more.needs if more.done else []
            outcome = Outcome(outcome.done + more.done, outcome.failed, left)
        for need in outcome.needs:
            text = f"A start will need {need.repo} as well ({need.why}). --with-needs brings it."
            report(Noted("warning", text))
        if not repos:
            _prune(cache, declared, report, really=options["prune"])
    _keep_last(cache, started, outcome)
    sys.exit(1 if outcome.failed else 0)


def _retry(text: str, pause: float) -> Noted:
    return Noted("warning", f"{text}. Trying again in {pause:.0f} s.")


def _show_plans(plans: list[Plan], *, as_json: bool) -> None:
    for plan in plans:
        record, missing = plan.record, {file.path for file in plan.missing}
        if as_json:
            rows = [
                {"path": file.path, "size": file.size, "missing": file.path in missing}
                for file in record.files.values()
            ]
            row = {"repo": str(record.repo), "commit_hash": record.commit_hash, "files": rows}
            click.echo(orjson.dumps(row))
            continue
        click.echo(f"{record.repo} at {record.commit_hash}")
        for file in record.files.values():
            mark = "+" if file.path in missing else " "
            click.echo(f"  {mark} {human(file.size):>10}  {file.path}")
    if not as_json:
        files, size = sum(len(plan.missing) for plan in plans), sum(p.missing_size for p in plans)
        click.echo(f"To fetch: {files} files, {human(size)}.")


def _prune(cache: Cache, declared: tuple[RepoSpec, ...], report: Report, *, really: bool) -> None:
    wanted = needed(cache, [spec.repo for spec in declared])
    for folder, revision in prunable(cache, declared):
        if not revision and str(folder.repo).lower() in wanted:
            continue
        name = f"{folder.repo}@{revision}" if revision else str(folder.repo)
        if not really:
            report(Noted("warning", f"{name} is declared no more. --prune removes it."))
        elif revision:
            remove_revision(cache, folder, revision)
            report(Noted("info", f"{name} was removed."))
        else:
            remove_repo(cache, folder)
            report(Noted("info", f"{name} was removed."))


def _keep_last(cache: Cache, started: datetime, outcome: Outcome) -> None:
    """What a monitor reads: when the last run began and ended, and what failed."""
    body = {
        "started_at": started.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
        "ok": not outcome.failed,
        "revisions": len(outcome.done),
        "errors": outcome.failed,
    }
    write_atomically(cache.workshop / _LAST_PULL, orjson.dumps(body, option=orjson.OPT_INDENT_2))


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO…]")
@settings(*PLACE)
@click.option("--repair", is_flag=True, help="Fetch what is missing or corrupt again.")
@click.option("--upstream", envvar="HUBMIRROR_UPSTREAM", help="The hub [default: HF_ENDPOINT].")
@_as_json
def verify(
    repos: tuple[str, ...], data: Path, state: Path | None, sources: tuple[str, ...], **options: Any
) -> None:
    """Read every file again, and report what is missing, truncated, corrupt, dangling or stray.

    What is corrupt in a managed cache is set aside, and not served again.
    """
    place = _open(data, state, sources)
    problems: list[Problem] = []
    _check_named(place, repos)
    with showing(as_json=options["as_json"]) as report:
        run = Verify(report)
        for source in place.sources.sources:
            if isinstance(source, HfCache) and source.managed:
                cache = Cache.of(source.root)
                found = run.cache(cache, _chosen_folders(cache, repos))
                if options["repair"] and any(problem.harms for problem in found):
                    _repair(cache, found, Upstream(options["upstream"] or ""), report)
                    found = run.cache(cache, _chosen_folders(cache, repos))
                problems += found
            elif chosen := _chosen(source, repos):
                problems += run.source(source, chosen)
    place.digests.close()
    _show_problems(problems, as_json=options["as_json"])
    sys.exit(1 if any(problem.harms for problem in problems) else 0)


def _check_named(place: Place, repos: tuple[str, ...]) -> None:
    """Raises ConfigError for a repository that no source holds."""
    here = {str(repo) for source in place.sources.sources for repo in source.repos()}
    for name in repos:
        if name not in here:
            raise ConfigError(f"No source holds {name}. `hubmirror ls` shows what is here.")


def _chosen_folders(cache: Cache, repos: tuple[str, ...]) -> list[Any]:
    folders = cache.folders()
    return [one for one in folders if not repos or str(one.repo) in repos]


def _repair(cache: Cache, problems: list[Problem], hub: Upstream, report: Report) -> None:
    """Pull the revisions again that something is wrong with, and no file that they did not want."""
    revisions = {(problem.repo, one) for problem in problems for one in problem.revisions}
    specs = []
    for repo, revision in sorted(revisions):
        wanted = wanted_files(cache, repo, revision)
        specs.append(RepoSpec(repo, revision, include=tuple(map(glob.escape, sorted(wanted)))))
    run = Pull(cache, hub, report)
    run.run(run.plan(specs))


def _show_problems(problems: list[Problem], *, as_json: bool) -> None:
    for one in problems:
        if as_json:
            row = {"repo": str(one.repo), "path": one.path, "kind": one.kind, "text": one.text}
            click.echo(orjson.dumps(row))
        else:
            click.echo(f"{one.kind:<10}  {one.repo}  {one.text}")
    if not as_json:
        harms = sum(problem.harms for problem in problems)
        click.echo(f"{harms} problems." if harms else "All is as it should be.")


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO…]")
@settings(*PLACE)
@_as_json
def adopt(
    repos: tuple[str, ...],
    data: Path,
    state: Path | None,
    sources: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Make repositories of other sources (--source) managed ones, by hard link where possible."""
    if not sources:
        raise ConfigError("Name what to adopt: --source hf-cache:PATH or folder:PATH=ORG/NAME.")
    cache = Cache.of(data / "hub")
    place = _open(data, state, sources)
    failed: list[str] = []
    _check_named(place, repos)
    with showing(as_json=as_json) as report:
        others = [(source, _chosen(source, repos)) for source in _others(place, cache)]
        if not any(chosen for _, chosen in others):
            report(Noted("info", "The sources hold nothing to adopt."))
        for source, chosen in others:
            if chosen:
                failed += Adopt(cache, report).run(source, chosen)
    place.digests.close()
    sys.exit(1 if failed else 0)


def _chosen(source: Source, names: tuple[str, ...]) -> list[Repo]:
    """The repositories of a source that were named; all of them where none was."""
    return [repo for repo in source.repos() if not names or str(repo) in names]


def _others(place: Place, cache: Cache) -> list[Any]:
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
    try:
        repo = Repo.parse(text)
    except ValueError as exc:
        raise ConfigError(f"{text!r} is no repo id. Write ORG/NAME.") from exc
    cache, home = _cache(data), data / "bentoml"
    folder = cache.folder(repo)
    stored = [entry for entry in entries(home) if entry.holds(repo, revision)]
    if not folder.recorded() and not stored:
        _remove_elsewhere(_others(_open(data, state, sources), cache), target, repo, revision)
        return
    is_here = folder.recorded() and (not at or _knows(folder, revision) or not stored)
    if is_here:
        freed = remove_revision(cache, folder, revision) if at else remove_repo(cache, folder)
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
    others fill, every revision stays, and what changed within a day."""
    cache = _cache(data)
    found: list[Waste] = waste(cache)
    others = _others(_open(data, state, sources), cache)
    abandoned = [one for source in others for one in abandoned_in(source)]
    for one in (*found, *abandoned):
        click.echo(f"{human(one.size):>10}  {one.text}")
    if dry_run:
        click.echo(f"{human(sum(one.size for one in (*found, *abandoned)))} could be freed.")
    else:
        click.echo(f"{human(collect(cache, found) + sum(map(discard, abandoned)))} freed.")


def _open(data: Path, state: Path | None, sources: tuple[str, ...]) -> Place:
    return open_place(data, state, [SourceSpec.parse(text) for text in sources], patience=3600)
