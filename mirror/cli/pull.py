"""`hubmirror pull`: its options, its messages, and `last-pull.json`."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import orjson

from mirror.cli.progress import showing
from mirror.cli.settings import AS_JSON, settings
from mirror.config.settings import DEFAULT_DATA
from mirror.config.specs import RepoSpec
from mirror.core.errors import ConfigError, HubmirrorError
from mirror.core.repo import RepoType
from mirror.core.units import human, several
from mirror.derived.state import write_atomically
from mirror.maintenance.undeclared import undeclared
from mirror.openllm.closure import pinned_specs
from mirror.store.cache import Cache
from mirror.store.progress import Message, Report
from mirror.sync.completeness import has_complete_revision
from mirror.sync.pull import Outcome, Pull, PullPlan
from mirror.sync.rules import Rules
from mirror.sync.upstream import Upstream
from mirror.sync.upstreams import Upstreams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mirror.config.file import File
    from mirror.core.repo import Repo
    from mirror.sync.dependencies import Need

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
@click.option("--prune", is_flag=True, help="Remove what is not declared.")
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
    _check_data(data)
    declared = file.repos if file else ()
    specs = [_named(text, options, declared) for text in repos] or list(declared)
    _check(repos, specs, options)
    cache, pinned = Cache.of(data / "hub"), [*declared, *pinned_specs(data)]
    if options["dry_run"]:
        with _working(file, cache, upstream, as_json=options["as_json"]) as run:
            status = _show_plans(run, specs, as_json=options["as_json"])
        if not repos:
            _show_undeclared(cache, pinned, as_json=options["as_json"], remove=options["prune"])
        sys.exit(status)
    with _recorded(cache) as last:
        with _working(file, cache, upstream, as_json=options["as_json"]) as run:
            outcome = last.outcome = run.run(run.plan(specs))
        _pull_needs(file, cache, upstream, outcome, **options)
        if not repos:
            with showing(as_json=options["as_json"]) as report:
                has_failed = bool(outcome.failed)
                _prune(cache, pinned, report, remove=options["prune"], has_failed=has_failed)
    sys.exit(1 if outcome.failed else 0)


def _check_data(data: Path) -> None:
    """Raises ConfigError for a folder that does not exist and is not the default: it may be a
    spelling error, or the mount point of a disk that is away."""
    if not data.is_dir() and data != DEFAULT_DATA:
        raise ConfigError(
            f"The data folder {data} does not exist. If its disk is mounted and the path is right, "
            f"create it: mkdir -p {data}"
        )


def _named(text: str, options: dict[str, Any], declared: Sequence[RepoSpec]) -> RepoSpec:
    """A revision that is named on the command line. Without filters there, it has the filters of
    the configuration."""
    include, exclude = options["include"], options["exclude"]
    spec = RepoSpec.parse(text, include, exclude, options["repo_type"])
    key = (spec.repo.key, spec.revision)
    same = (one for one in declared if (one.repo.key, one.revision) == key)
    return spec if include or exclude else next(same, spec)


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
    cache: Cache, declared: Sequence[RepoSpec], report: Report, *, remove: bool, has_failed: bool
) -> None:
    """Report what is not declared, and remove it if `remove` is true and no pull failed: a failed
    pull may mean a misspelled name in the configuration."""
    for found in list(undeclared(cache, declared, partial(waiting_for, report=report))):
        name = f"{found.text} ({human(found.size)})"
        if not remove:
            report(Message("warning", f"Not declared: {name}. Remove it with --prune."))
        elif has_failed:
            text = f"Not declared, but kept, because a pull failed: {name}."
            report(Message("warning", text))
        else:
            report(Message("info", f"Removed {found.text}: {human(found.remove())} freed."))


def _show_undeclared(
    cache: Cache, declared: Sequence[RepoSpec], *, as_json: bool, remove: bool
) -> None:
    """What `_prune` would report or remove."""
    for found in undeclared(cache, declared, partial(waiting_for, report=lambda _: None)):
        if as_json:
            click.echo(orjson.dumps({"undeclared": found.text, "size": found.size}))
        else:
            verb = "Would remove" if remove else "Not declared:"
            click.echo(f"{verb} {found.text} ({human(found.size)}).")


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
