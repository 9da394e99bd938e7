"""`hubmirror pull`: its options, its messages, and `last-pull.json`."""

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
from mirror.core.repo import RepoType
from mirror.core.units import human, several
from mirror.derived.state import write_atomically
from mirror.maintenance.garbage import prunable, remove_repo, remove_revision
from mirror.store.cache import Cache
from mirror.store.progress import Message, Report
from mirror.sync.completeness import has_complete_revision, needed
from mirror.sync.pull import Outcome, Pull, PullPlan
from mirror.sync.rules import Rules
from mirror.sync.upstream import Upstream
from mirror.sync.upstreams import Upstreams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mirror.core.repo import Repo
    from mirror.sync.dependencies import Need

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
_LAST_PULL = "last-pull.json"


@click.command()
@click.argument("repos", nargs=-1, metavar="[REPO[@REVISION]…]")
@settings("data", "upstream")
@click.option(
    "--repo-type",
    type=click.Choice([one.value for one in RepoType]),
    default=RepoType.MODEL.value,
    help="The type of a REPO without a prefix [default: model].",
)
@click.option("--include", multiple=True, help="Pull only files that match this pattern.")
@click.option("--exclude", multiple=True, help="Omit files that match this pattern.")
@click.option("--dry-run", is_flag=True, help="Show files and sizes, and pull nothing.")
@click.option("--prune", is_flag=True, help="Remove revisions that are not declared.")
@click.option("--with-needs", is_flag=True, help="Also pull the repositories that a model needs.")
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
    """Pull revisions from a hub into the managed cache.

    REPO is ORG/NAME, or datasets/ORG/NAME, spaces/ORG/NAME or kernels/ORG/NAME. The default
    REVISION is main; of a kernel, all its branches v1, v2, … Without REPO, all [[repo]] of the
    configuration are pulled.
    """
    declared = file.repos if file else ()
    how = options["include"], options["exclude"], options["repo_type"]
    specs = [RepoSpec.parse(text, *how) for text in repos] or list(declared)
    _check(repos, specs, options)
    cache = Cache.of(data / "hub")
    if options["dry_run"]:
        with _working(file, cache, upstream, as_json=options["as_json"]) as run:
            status = _show_plans(run, specs, as_json=options["as_json"])
        sys.exit(status)
    with _recorded(cache) as last:
        with _working(file, cache, upstream, as_json=options["as_json"]) as run:
            outcome = last.outcome = run.run(run.plan(specs))
        _pull_needs(file, cache, upstream, outcome, **options)
        if not repos:
            with showing(as_json=options["as_json"]) as report:
                _prune(cache, declared, outcome, report, remove=options["prune"])
    sys.exit(1 if outcome.failed else 0)


@contextlib.contextmanager
def _working(
    file: File | None, cache: Cache, upstream: str | None, *, as_json: bool
) -> Iterator[Pull]:
    """A pull that shows its progress."""
    with showing(as_json=as_json) as report:
        yield open_pull(file, cache, upstream, report)


def _check(repos: tuple[str, ...], specs: Sequence[RepoSpec], options: dict[str, Any]) -> None:
    """Raises ConfigError if there is nothing to pull, or for options that exclude each other."""
    if not specs:
        raise ConfigError(
            "There is nothing to pull. Name a repository (hubmirror pull ORG/NAME), or declare "
            "repositories as [[repo]] in hubmirror.toml."
        )
    if options["prune"] and repos:
        raise ConfigError(
            "--prune applies to the repositories of the configuration. Run `hubmirror pull "
            "--prune` without repository names."
        )
    if (options["include"] or options["exclude"]) and not repos:
        raise ConfigError(
            "--include and --exclude apply only to repositories on the command line. Set the "
            "filters of [[repo]] in hubmirror.toml."
        )


def open_pull(file: File | None, cache: Cache, upstream: str | None, report: Report) -> Pull:
    """A pull with the upstreams and the rules of the configuration file. It reports retries as
    warnings. `upstream` is the URL of the default hub."""

    def retrying(cause: str, pause_s: float) -> None:
        report(Message("warning", f"{cause}. Retry in {pause_s:.0f} s."))

    default = Upstream(upstream or "", retrying=retrying)
    upstreams = Upstreams(default, file.upstreams if file else (), retrying=retrying)
    return Pull(cache, upstreams, report, Rules.of(file))


def _pull_needs(
    file: File | None,
    cache: Cache,
    upstream: str | None,
    outcome: Outcome,
    *,
    as_json: bool,
    with_needs: bool,
    **_: Any,
) -> None:
    """Report the repositories that the pulled models need, and pull them if requested."""
    handled: set[Repo] = set()
    while needs := [need for need in outcome.needs if need.repo not in handled]:
        handled |= {need.repo for need in needs}
        absent = [need for need in needs if not has_complete_revision(cache, need.repo)]
        hint = "" if with_needs else " Pull it with --with-needs."
        with showing(as_json=as_json) as report:
            for need in absent:
                text = f"A pulled repository {need}.{hint}"
                report(Message("warning", text))
        if not with_needs and not (absent and not as_json and _confirm(absent)):
            return
        with _working(file, cache, upstream, as_json=as_json) as run:
            chosen = needs if with_needs else absent
            more = run.run(run.plan([RepoSpec(need.repo) for need in chosen]))
        outcome.done += more.done
        outcome.failed += more.failed
        outcome.needs = more.needs


def _confirm(needs: Sequence[Need]) -> bool:
    """Ask the operator on a terminal whether to pull the repositories; False without a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    objects = "it" if len(needs) == 1 else f"these {len(needs)}"
    return click.confirm(f"Pull {objects} too?", err=True)


def _show_plans(run: Pull, specs: Sequence[RepoSpec], *, as_json: bool) -> int:
    """Show the files to fetch; returns the exit status."""
    plans = run.plan(specs)
    for plan in plans:
        _show_plan(plan, as_json=as_json)
    sizes = run.to_fetch(plans)
    if not as_json:
        files = sum(file.etag in sizes for plan in plans for file in plan.missing)
        click.echo(f"To fetch: {several(files, 'file')}, {human(sum(sizes.values()))}.")
    if problem := run.lack_of_space(plans):
        click.echo(problem, err=True)
    return 1 if problem or run.failed else 0


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
        click.echo(
            "  It was served with fewer files. Clients that have its list do not see new files."
        )
    for file in record.files.values():
        mark = "+" if file.path in missing else " "
        click.echo(f"  {mark} {human(file.size):>10}  {file.path}")


def _prune(
    cache: Cache, declared: Sequence[RepoSpec], outcome: Outcome, report: Report, *, remove: bool
) -> None:
    """Report revisions that are not declared, and remove them if `remove` is true and no pull
    failed: a failed pull may mean a misspelled name in the configuration."""
    wanted = needed(cache, [spec.repo for spec in declared])
    for folder, revision in list(prunable(cache, declared)):
        if not revision and folder.repo.key in wanted:
            continue
        name = f"{folder.repo}@{revision}" if revision else str(folder.repo)
        if not remove:
            report(Message("warning", f"{name} is not declared. Remove it with --prune."))
        elif outcome.failed:
            text = f"{name} is not declared, but is kept, because a pull failed."
            report(Message("warning", text))
        else:
            waiting = waiting_for(folder.repo, report)
            if revision:
                remove_revision(cache, folder, revision, waiting)
            else:
                remove_repo(cache, folder, waiting)
            report(Message("info", f"{name} was removed."))


def waiting_for(repo: Repo, report: Report) -> Callable[[], None]:
    """A callback that reports that another process has the lock of a repository."""
    return lambda: report(Message("info", f"Waiting for a pull of {repo} to finish."))


@dataclass(slots=True)
class _LastPull:
    """The content of `last-pull.json`, which monitoring reads."""

    started_at: datetime
    outcome: Outcome | None = None
    error: str = "The pull is still running or was killed."

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
    """Write `last-pull.json` at the start, as not finished, and at the end of a run."""
    last = _LastPull(datetime.now(UTC))
    last.write(cache, None)
    try:
        yield last
        last.error = ""
    except HubmirrorError as exc:
        last.error = str(exc)
        raise
    except KeyboardInterrupt:
        last.error = "The pull was interrupted."
        raise
    except BaseException as exc:
        last.error = f"The pull failed: {exc!r}"
        raise
    finally:
        try:
            last.write(cache, datetime.now(UTC))
        except OSError as exc:
            click.echo(f"{_LAST_PULL} cannot be written: {exc.strerror}.", err=True)
