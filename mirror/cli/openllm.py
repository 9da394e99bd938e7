"""The commands for OpenLLM 0.6."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirror.cli.openllm_env import FORMATS, constraint, line, variables
from mirror.cli.progress import showing
from mirror.cli.pull import open_upstream
from mirror.cli.settings import PLACE, settings
from mirror.config import SourceSpec
from mirror.core.errors import ConfigError, HubmirrorError
from mirror.core.repo import Repo
from mirror.core.units import human, several
from mirror.openllm import wheels as wheelhouse
from mirror.openllm.bento import Bento, find, tags
from mirror.openllm.closure import Closure, PinnedModel, check_sums
from mirror.openllm.model_repository import BRANCHES, DEFAULT, Address, ModelRepository
from mirror.openllm.wheels import Platform, WantedWheel
from mirror.server.opened_sources import OpenedSources, open_sources
from mirror.server.worker_config import read_token
from mirror.store.cache import Cache
from mirror.store.progress import FileAdvanced, FileBegan, FileDone, Message, Planned, Report
from mirror.sync.pull import Pull, PullPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WHEELS = Repo.parse("wheels")
_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def openllm() -> None:
    """What OpenLLM 0.6 needs: model repositories, models, and wheels."""


@openllm.command()
@click.argument("models", nargs=-1, metavar="[MODEL…]")
@settings("data", "upstream")
@click.option(
    "--repository", default=DEFAULT, show_default=True, help="A model repository: URL or path."
)
@click.option("--branch", "branches", multiple=True, default=BRANCHES, show_default=True)
@click.option("--glibc", default="2.28", show_default=True, help="Of the GPU hosts.")
@click.option("--machine", default="x86_64", show_default=True, help="Of the GPU hosts.")
@click.option("--constraint", "constraints", multiple=True, help="Of the wheels: PACKAGE<VERSION.")
@click.option("--find-links", type=_folder, help="A folder of wheels that you have built.")
@click.option(
    "--trust-index",
    "trusted",
    multiple=True,
    metavar="URL",
    help="An index of packages that a bento may name.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show the closure with sizes, and bring the repository alone."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def pull(models: tuple[str, ...], data: Path, **options: Any) -> None:
    """Bring the model repository, and for each MODEL (`llama3.2:1b`) all that its start needs."""
    address = Address.parse(options["repository"])
    repository = ModelRepository.of(data, address)
    with showing(as_json=options["as_json"]) as report:
        for branch, copied in repository.pull(address.url, options["branches"]).items():
            count = f"HF_ENDPOINT is followed by {several(copied.changed, 'bento')}"
            report(Message("info", f"{repository.name} {branch}: {count}."))
            for text in copied.broken:
                report(Message("warning", f"{text} Until then it stays as it is."))
        _forget_gone(data, repository)
        run = Pull(Cache.of(data / "hub"), open_upstream(options["upstream"], report), report)
        failed = False
        for model in models:
            try:
                bento = find(repository, options["branches"], model)
                platform = Platform(bento.python, options["glibc"], options["machine"])
                failed |= not _pull_model(run, repository, bento, platform, data, options, report)
            except HubmirrorError as exc:
                report(Message("error", f"{model}: {exc}"))
                failed = True
    sys.exit(1 if failed else 0)


def _forget_gone(data: Path, repository: ModelRepository) -> None:
    """Remove what earlier pulls noted of bentos that are on no branch any more."""
    here = {tag for branch in repository.branches() for tag in tags(repository, branch)}
    for closure in Closure.read_all(data, repository.name):
        if closure.tag not in here:
            closure.forget(data)


def _pull_model(
    run: Pull,
    repository: ModelRepository,
    bento: Bento,
    platform: Platform,
    data: Path,
    options: dict[str, Any],
    report: Report,
) -> bool:
    """Bring one model; whether all of it came."""
    specs = bento.specs()
    plans = run.plan(specs)
    wheels = _wheels(bento, platform, options)
    check_sums(data, wheels)
    if options["dry_run"]:
        _show(bento, platform, plans, wheels, wheelhouse.missing(data / "wheels", wheels))
        return len(plans) == len(specs)
    _fetch_wheels(data / "wheels", wheels, report)
    outcome = run.run(plans)
    models = _pinned(bento, plans)
    Closure(repository.name, bento.tag, bento.digest, platform, models, tuple(wheels)).write(data)
    brought = f"{several(len(plans), 'model')}, {several(len(wheels), 'wheel')}"
    report(Message("info", f"{bento.tag}: {brought} for {platform}."))
    return not outcome.failed and len(plans) == len(specs)


def _pinned(bento: Bento, plans: Sequence[PullPlan]) -> tuple[PinnedModel, ...]:
    records = {plan.spec: plan.record for plan in plans}
    pinned = []
    for spec in bento.specs():
        files = records[spec].files.values() if spec in records else ()
        sizes = {file.path: file.size for file in files}
        pinned.append(PinnedModel(spec.repo, spec.revision, sizes))
    return tuple(pinned)


def _wheels(bento: Bento, platform: Platform, options: dict[str, Any]) -> list[WantedWheel]:
    """Those of its environment. OpenLLM installs bentoml first, in whatever version."""
    return wheelhouse.resolve(
        (*bento.requirements, "bentoml"),
        platform,
        newest=bento.newest,
        constraints=options["constraints"],
        find_links=options["find_links"],
        trusted=options["trusted"],
        bento=bento.tag,
    )


def _fetch_wheels(folder: Path, wheels: list[WantedWheel], report: Report) -> None:
    absent = wheelhouse.missing(folder, wheels)
    report(Planned(len(absent), sum(wheel.size for wheel in absent)))
    for wheel in absent:
        report(FileBegan(_WHEELS, wheel.filename, wheel.size))
        advanced = partial(FileAdvanced, _WHEELS, wheel.filename)
        wheelhouse.fetch(folder, wheel, _told(report, advanced))
        report(FileDone(_WHEELS, wheel.filename, wheel.size))


def _told(report: Report, advanced: Callable[[int], FileAdvanced]) -> Callable[[int], None]:
    return lambda count: report(advanced(count))


def _show(
    bento: Bento,
    platform: Platform,
    plans: list[Any],
    wheels: list[WantedWheel],
    absent: list[WantedWheel],
) -> None:
    click.echo(f"{bento.tag} ({bento.branch}) for {platform}")
    for plan in plans:
        size = sum(file.size for file in plan.record.files.values())
        click.echo(
            f"  {plan.record.repo}@{plan.record.commit_hash[:12]}: {human(size)}, "
            f"{human(plan.missing_size)} to fetch"
        )
    for wheel in wheels:
        mark = "+" if wheel in absent else " "
        click.echo(f"  {mark} {human(wheel.size):>10}  {wheel.filename}")
    click.echo(
        f"  wheels: {human(sum(one.size for one in wheels))}, "
        f"{human(sum(one.size for one in absent))} to fetch"
    )


@openllm.command()
@click.argument("url", metavar="MIRROR_URL")
@click.argument("model", required=False)
@settings("data", "token_file")
@click.option("--format", "form", type=click.Choice(FORMATS), default="shell", show_default=True)
@click.option("--ca-file", help="Where the authority's certificate lies on the GPU host.")
@click.option("--glibc", help="Of the GPU host, where MODEL was pulled for several.")
@click.option("--machine", help="Of the GPU host, where MODEL was pulled for several.")
def env(url: str, model: str | None, data: Path, token_file: Path | None, **options: Any) -> None:
    """Print what a GPU host is to set, so that OpenLLM 0.6 finds all of it at MIRROR_URL."""
    url = url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigError("MIRROR_URL begins with http:// or https://.")
    hosts = sorted({one.name.partition("/")[0] for one in ModelRepository.all(data)})
    told = variables(url, hosts or ["github.com"], read_token(token_file), options["ca_file"] or "")
    if model:
        closure = _for_host(data, model, options["glibc"], options["machine"])
        told["UV_CONSTRAINT"] = constraint(told, closure.name)
    for name, value in told.items():
        click.echo(line(options["form"], name, value))


def _for_host(data: Path, model: str, glibc: str | None, machine: str | None) -> Closure:
    """The closure of a model for one platform. Raises ConfigError where there are several."""
    _, brought = _brought(data, model)
    closures = [
        one
        for one in brought
        if glibc in (None, one.platform.glibc) and machine in (None, one.platform.machine)
    ]
    if len(closures) != 1:
        platforms = "; ".join(str(one.platform) for one in brought)
        raise ConfigError(
            f"{model} was pulled for: {platforms}. Name one of them with --glibc and --machine."
        )
    return closures[0]


def _brought(data: Path, model: str) -> tuple[Bento, list[Closure]]:
    """The bento that a model means today, and what pulls brought for it: a closure a platform.

    Raises ConfigError where there is none.
    """
    problem = "no model repository is here"
    for repository in ModelRepository.all(data):
        try:
            bento = find(repository, repository.branches(), model)
        except ConfigError as exc:
            problem = str(exc).rstrip(".")
            continue
        closures = Closure.read_all(data, repository.name, [bento.tag])
        current = [one for one in closures if one.is_of(bento)]
        if current:
            return bento, current
        what = "is another since it was pulled" if closures else "was brought by no pull"
        problem = f"the bento {bento.tag} {what}"
    raise ConfigError(f"{model} cannot start: {problem}. {_ADVICE.format(model)}")


_ADVICE = "Where there is a network, run: hubmirror openllm pull {}"


@openllm.command()
@click.argument("model")
@settings(*PLACE)
def check(model: str, data: Path, state: Path | None, sources: tuple[str, ...]) -> None:
    """Tell whether MODEL can start offline, or the first thing that is missing."""
    place = open_sources(data, state, [SourceSpec.parse(text) for text in sources])
    bento, closures = _brought(data, model)
    for closure in closures:
        if problem := _first_problem(place, data, closure):
            raise ConfigError(
                f"{bento.tag} for {closure.platform} cannot start: {problem} "
                f"{_ADVICE.format(model)}"
            )
        click.echo(f"{bento.tag} can start on {closure.platform}.")
    if bento.branch == "nightly":
        click.echo(f"It is of nightly: openllm serve {model} --repo nightly")
    place.digests.close()


def _first_problem(place: OpenedSources, data: Path, closure: Closure) -> str:
    for model in closure.models:
        try:
            snapshot = place.sources.snapshot(model.repo, model.revision)
        except HubmirrorError as exc:
            return str(exc)
        for path, size in model.files.items():
            stored = snapshot.files.get(path)
            if stored is None or stored.file.size != size:
                return f"{path} of {model.repo} at {snapshot.commit_hash[:12]} is not here."
    for wheel in wheelhouse.missing(data / "wheels", closure.wheels):
        return f"the wheel {wheel.filename} is missing, or is not what was pulled."
    if not closure.constraints(data).is_file():
        return f"openllm/{closure.name}.txt is missing."
    return ""
