"""`hubmirror pull`."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import orjson

from mirror.cli.progress import showing
from mirror.cli.settings import settings
from mirror.config import File, RepoSpec
from mirror.core.errors import ConfigError, HubmirrorError
from mirror.core.units import human, several
from mirror.derived.state import write_atomically
from mirror.maintenance.garbage import prunable, remove_repo, remove_revision
from mirror.store.cache import Cache
from mirror.store.progress import Message, Report
from mirror.sync.completeness import holds, needed
from mirror.sync.pull import Outcome, Pull, PullPlan
from mirror.sync.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mirror.core.repo import Repo
    from mirror.sync.dependencies import Need

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
_LAST_PULL = "last-pull.json"


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO[@REVISION]…]")
@settings("data", "upstream")
@click.option("--include", multiple=True, help="A pattern of files to bring, and no other.")
@click.option("--exclude", multiple=True, help="A pattern of files to leave out.")
@click.option("--dry-run", is_flag=True, help="Show files and bytes, and bring nothing.")
@click.option("--prune", is_flag=True, help="Remove what the configuration lists no more.")
@click.option("--with-needs", is_flag=True, help="Bring repositories that a model names, too.")
@AS_JSON
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
    _check(repos, specs, options)
    cache = Cache.of(data / "hub")
    if options["dry_run"]:
        with _working(cache, upstream, as_json=options["as_json"]) as run:
            status = _show_plans(run, specs, as_json=options["as_json"])
        sys.exit(status)
    with _recorded(cache) as last:
        with _working(cache, upstream, as_json=options["as_json"]) as run:
            outcome = last.outcome = run.run(run.plan(specs))
        _bring_needs(cache, upstream, outcome, **options)
        if not repos:
            with showing(as_json=options["as_json"]) as report:
                _prune(cache, declared, outcome, report, really=options["prune"])
    sys.exit(1 if outcome.failed else 0)


@contextlib.contextmanager
def _working(cache: Cache, upstream: str | None, *, as_json: bool) -> Iterator[Pull]:
    """A pull that shows what it does."""
    with showing(as_json=as_json) as report:
        yield Pull(cache, open_upstream(upstream, report), report)


def _check(repos: tuple[str, ...], specs: Sequence[RepoSpec], options: dict[str, Any]) -> None:
    """Raises ConfigError for words that do not go together."""
    if not specs:
        raise ConfigError(
            "Nothing to pull. Name a repository (hubmirror pull ORG/NAME), or declare some as "
            "[[repo]] in hubmirror.toml."
        )
    if options["prune"] and repos:
        raise ConfigError("--prune goes with what the configuration declares: name no repository.")
    if (options["include"] or options["exclude"]) and not repos:
        raise ConfigError(
            "--include and --exclude go with repositories that are named; those of [[repo]] have "
            "filters of their own."
        )


def open_upstream(url: str | None, report: Report) -> Upstream:
    """A hub whose new tries are told."""

    def retrying(text: str, pause: float) -> None:
        report(Message("warning", f"{text}. Trying again in {pause:.0f} s."))

    return Upstream(url or "", retrying=retrying)


def _bring_needs(
    cache: Cache,
    upstream: str | None,
    outcome: Outcome,
    *,
    as_json: bool,
    with_needs: bool,
    **_: Any,
) -> None:
    """Tell what else a start will need, and bring it where that is wanted."""
    asked: set[Repo] = set()
    while needs := [need for need in outcome.needs if need.repo not in asked]:
        asked |= {need.repo for need in needs}
        absent = [need for need in needs if not holds(cache, need.repo)]
        hint = "" if with_needs else " --with-needs brings it."
        with showing(as_json=as_json) as report:
            for need in absent:
                text = f"A start will need {need.repo} as well ({need.why}).{hint}"
                report(Message("warning", text))
        if not with_needs and not (absent and not as_json and _agrees(absent)):
            return
        with _working(cache, upstream, as_json=as_json) as run:
            chosen = needs if with_needs else absent
            more = run.run(run.plan([RepoSpec(need.repo) for need in chosen]))
        outcome.done += more.done
        outcome.failed += more.failed
        outcome.needs = more.needs


def _agrees(needs: Sequence[Need]) -> bool:
    """Whether the person at the terminal, if there is one, wants them."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    what = "it" if len(needs) == 1 else f"these {len(needs)}"
    return click.confirm(f"Pull {what} as well?", err=True)


def _show_plans(run: Pull, specs: Sequence[RepoSpec], *, as_json: bool) -> int:
    """Show what would be fetched; the exit status."""
    plans = run.plan(specs)
    for plan in plans:
        _show_plan(plan, as_json=as_json)
    wanted = run.to_fetch(plans)
    if not as_json:
        files = sum(file.etag in wanted for plan in plans for file in plan.missing)
        click.echo(f"To fetch: {several(files, 'file')}, {human(sum(wanted.values()))}.")
    if problem := run.lack_of_space(plans):
        click.echo(problem, err=True)
    return 1 if problem or len(plans) < len(specs) else 0


def _show_plan(plan: PullPlan, *, as_json: bool) -> None:
    record, missing = plan.record, {file.path for file in plan.missing}
    if as_json:
        rows = [
            {"path": file.path, "size": file.size, "missing": file.path in missing}
            for file in record.files.values()
        ]
        row = {"repo": str(record.repo), "commit_hash": record.commit_hash, "files": rows}
        click.echo(orjson.dumps(row))
        return
    click.echo(f"{record.repo} at {record.commit_hash}")
    if plan.widens:
        click.echo("  It was served with fewer files: clients that listed it will not see the new.")
    for file in record.files.values():
        mark = "+" if file.path in missing else " "
        click.echo(f"  {mark} {human(file.size):>10}  {file.path}")


def _prune(
    cache: Cache, declared: Sequence[RepoSpec], outcome: Outcome, report: Report, *, really: bool
) -> None:
    """Report what is declared no more, and remove it if that is asked for and all else went well:
    what failed may be declared under a wrong name."""
    wanted = needed(cache, [spec.repo for spec in declared])
    for folder, revision in list(prunable(cache, declared)):
        if not revision and folder.repo.key in wanted:
            continue
        name = f"{folder.repo}@{revision}" if revision else str(folder.repo)
        if not really:
            report(Message("warning", f"{name} is declared no more. --prune removes it."))
        elif outcome.failed:
            report(Message("warning", f"{name} is declared no more. It stays, since pulls failed."))
        else:
            waiting = waiting_for(folder.repo, report)
            if revision:
                remove_revision(cache, folder, revision, waiting)
            else:
                remove_repo(cache, folder, waiting)
            report(Message("info", f"{name} was removed."))


def waiting_for(repo: Repo, report: Report) -> Callable[[], None]:
    """What says that somebody else works on a repository."""
    return lambda: report(Message("info", f"A pull works on {repo}; waiting for it."))


@dataclass(slots=True)
class _LastPull:
    """What a monitor reads of a run."""

    started_at: datetime
    outcome: Outcome | None = None
    error: str = "It has not ended yet, or was ended by force."

    def write(self, cache: Cache, finished_at: datetime | None) -> None:
        errors = [*(self.outcome.failed if self.outcome else ()), self.error]
        body = {
            "started_at": self.started_at.isoformat(),
            "finished_at": finished_at.isoformat() if finished_at else None,
            "ok": not any(errors),
            "revisions": len(self.outcome.done) if self.outcome else 0,
            "errors": [error for error in errors if error],
        }
        text = orjson.dumps(body, option=orjson.OPT_INDENT_2)
        cache.work_dir.mkdir(exist_ok=True)
        write_atomically(cache.work_dir / _LAST_PULL, text)


@contextlib.contextmanager
def _recorded(cache: Cache) -> Iterator[_LastPull]:
    """Keep how a run ends, whatever ends it; until then it has not gone well."""
    last = _LastPull(datetime.now(UTC))
    last.write(cache, None)
    try:
        yield last
        last.error = ""
    except HubmirrorError as exc:
        last.error = str(exc)
        raise
    except KeyboardInterrupt:
        last.error = "It was interrupted."
        raise
    except BaseException as exc:
        last.error = f"It failed: {exc!r}"
        raise
    finally:
        try:
            last.write(cache, datetime.now(UTC))
        except OSError as exc:
            click.echo(f"{_LAST_PULL} cannot be written: {exc.strerror}.", err=True)
