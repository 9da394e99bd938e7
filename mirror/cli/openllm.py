"""The commands `hubmirror openllm`, for OpenLLM 0.6."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirror.cli.openllm_env import FORMATS, constraints_url, format_variable, variables
from mirror.cli.progress import showing
from mirror.cli.pull import open_pull
from mirror.cli.settings import PLACE, settings
from mirror.config.specs import SourceSpec
from mirror.config.values import read_token
from mirror.core.errors import ConfigError, HubmirrorError, operator_text
from mirror.core.repo import Repo
from mirror.core.units import human, several
from mirror.openllm import wheels as wheelhouse
from mirror.openllm.bento import Bento, find_bento, tags
from mirror.openllm.closure import Closure, PinnedModel, check_conflicts
from mirror.openllm.model_repository import BRANCHES, DEFAULT, Address, ModelRepository
from mirror.openllm.readiness import first_problem
from mirror.openllm.wheels import Platform, WantedWheel
from mirror.server.opened_sources import open_sources
from mirror.store.cache import Cache
from mirror.store.progress import FileAdvanced, FileBegan, FileDone, Message, Planned, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.config.file import File
    from mirror.sync.pull import Pull, PullPlan

_WHEELS = Repo.parse("wheels")
_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def openllm() -> None:
    """Pull and check what OpenLLM 0.6 needs: model repositories, models and wheels."""


@openllm.command()
@click.argument("models", nargs=-1, metavar="[MODEL…]")
@settings("data", "upstream")
@click.option(
    "--repository",
    default=DEFAULT,
    show_default=True,
    help="The URL or path of a model repository.",
)
@click.option("--branch", "branches", multiple=True, default=BRANCHES, show_default=True)
@click.option("--glibc", default="2.28", show_default=True, help="glibc version of the GPU hosts.")
@click.option("--machine", default="x86_64", show_default=True, help="Processor of the GPU hosts.")
@click.option("--constraint", "constraints", multiple=True, help="For the wheels: PACKAGE<VERSION.")
@click.option("--find-links", type=_folder, help="A folder with wheels that you built.")
@click.option(
    "--trust-index",
    "trusted",
    multiple=True,
    metavar="URL",
    help="A package index that a bento is allowed to add.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show the closure with sizes. Only pull the model repository."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_obj
def pull(file: File | None, /, models: tuple[str, ...], data: Path, **options: Any) -> None:
    """Pull the model repository, and everything that OpenLLM needs to start each MODEL.

    MODEL is the name of a bento, such as llama3.2:1b.
    """
    address = Address.parse(options["repository"])
    repository = ModelRepository.of(data, address)
    with showing(as_json=options["as_json"]) as report:
        for branch, result in repository.pull(address.url, options["branches"]).items():
            rewritten = f"{several(result.changed, 'bento')} rewritten to use HF_ENDPOINT"
            report(Message("info", f"{repository.name} {branch}: {rewritten}."))
            for text in result.broken:
                report(Message("warning", f"{text} The bento stays unchanged."))
        _remove_old_closures(data, repository)
        run = open_pull(file, Cache.of(data / "hub"), options["upstream"], report)
        failed = False
        for model in models:
            try:
                bento = find_bento(repository, options["branches"], model)
                platform = Platform(bento.python, options["glibc"], options["machine"])
                failed |= not _pull_model(run, repository, bento, platform, data, options, report)
            except HubmirrorError as exc:
                report(Message("error", f"{model}: {exc}"))
                failed = True
    sys.exit(1 if failed else 0)


def _remove_old_closures(data: Path, repository: ModelRepository) -> None:
    """Remove the closures of bentos that no branch has any more."""
    current_tags = {tag for branch in repository.branches() for tag in tags(repository, branch)}
    for closure in Closure.read_all(data, repository.name):
        if closure.tag not in current_tags:
            closure.remove(data)


def _pull_model(
    run: Pull,
    repository: ModelRepository,
    bento: Bento,
    platform: Platform,
    data: Path,
    options: dict[str, Any],
    report: Report,
) -> bool:
    """Pull one model, and return whether it is complete."""
    specs = bento.specs()
    plans = run.plan(specs)
    wheels = _wheels(bento, platform, options)
    check_conflicts(data, wheels)
    if options["dry_run"]:
        _show(bento, platform, plans, wheels, wheelhouse.missing(data / "wheels", wheels))
        return len(plans) == len(specs)
    _fetch_wheels(data / "wheels", wheels, report)
    outcome = run.run(plans)
    models = _pinned_models(bento, plans)
    Closure(repository.name, bento.tag, bento.digest, platform, models, tuple(wheels)).write(data)
    counts = f"{several(len(plans), 'model')}, {several(len(wheels), 'wheel')}"
    report(Message("info", f"{bento.tag}: pulled {counts} for {platform}."))
    return not outcome.failed and len(plans) == len(specs)


def _pinned_models(bento: Bento, plans: Sequence[PullPlan]) -> tuple[PinnedModel, ...]:
    records = {plan.spec: plan.record for plan in plans}
    pinned = []
    for spec in bento.specs():
        files = records[spec].files.values() if spec in records else ()
        sizes = {file.path: file.size for file in files}
        pinned.append(PinnedModel(spec.repo, spec.revision, sizes))
    return tuple(pinned)


def _wheels(bento: Bento, platform: Platform, options: dict[str, Any]) -> list[WantedWheel]:
    """The wheels of its virtual environment. OpenLLM also installs bentoml, in any version."""
    return wheelhouse.resolve(
        (*bento.requirements, "bentoml"),
        platform,
        published_before=bento.published_before,
        constraints=options["constraints"],
        find_links=options["find_links"],
        trusted=options["trusted"],
        bento=bento.tag,
    )


def _fetch_wheels(folder: Path, wheels: list[WantedWheel], report: Report) -> None:
    missing = wheelhouse.missing(folder, wheels)
    report(Planned(len(missing), sum(wheel.size for wheel in missing)))
    for wheel in missing:
        report(FileBegan(_WHEELS, wheel.filename, wheel.size))
        advanced = partial(FileAdvanced, _WHEELS, wheel.filename)
        wheelhouse.fetch(folder, wheel, _reporting(report, advanced))
        report(FileDone(_WHEELS, wheel.filename, wheel.size))


def _reporting(report: Report, advanced: Callable[[int], FileAdvanced]) -> Callable[[int], None]:
    return lambda count: report(advanced(count))


def _show(
    bento: Bento,
    platform: Platform,
    plans: list[Any],
    wheels: list[WantedWheel],
    missing: list[WantedWheel],
) -> None:
    click.echo(f"{bento.tag} ({bento.branch}) for {platform}")
    for plan in plans:
        size = sum(file.size for file in plan.record.files.values())
        click.echo(
            f"  {plan.record.repo}@{plan.record.commit_hash[:12]}: {human(size)}, "
            f"{human(plan.missing_size)} to fetch"
        )
    for wheel in wheels:
        mark = "+" if wheel in missing else " "
        click.echo(f"  {mark} {human(wheel.size):>10}  {wheel.filename}")
    click.echo(
        f"  wheels: {human(sum(wheel.size for wheel in wheels))}, "
        f"{human(sum(wheel.size for wheel in missing))} to fetch"
    )


@openllm.command()
@click.argument("url", metavar="MIRROR_URL")
@click.argument("model", required=False)
@settings("data", "token_file")
@click.option(
    "--format", "output_format", type=click.Choice(FORMATS), default="shell", show_default=True
)
@click.option("--ca-file", help="Path of the authority's certificate on the GPU host.")
@click.option("--glibc", help="glibc version of the GPU host, if MODEL was pulled for several.")
@click.option("--machine", help="Processor of the GPU host, if MODEL was pulled for several.")
def env(url: str, model: str | None, data: Path, token_file: Path | None, **options: Any) -> None:
    """Print the environment variables that make OpenLLM 0.6 on a GPU host use MIRROR_URL."""
    url = url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigError("MIRROR_URL must begin with http:// or https://.")
    hosts = sorted({repository.name.partition("/")[0] for repository in ModelRepository.all(data)})
    token, ca_file = read_token(token_file), options["ca_file"] or ""
    environment = variables(url, hosts or ["github.com"], token, ca_file)
    if model:
        closure = _closure_for_host(data, model, options["glibc"], options["machine"])
        environment["UV_CONSTRAINT"] = constraints_url(environment, closure.name)
    for name, value in environment.items():
        click.echo(format_variable(options["output_format"], name, value))


def _closure_for_host(data: Path, model: str, glibc: str | None, machine: str | None) -> Closure:
    """The closure of a model for a platform. Raises ConfigError unless exactly one matches."""
    _, closures = _current_closures(data, model)
    matches = [
        closure
        for closure in closures
        if glibc in (None, closure.platform.glibc) and machine in (None, closure.platform.machine)
    ]
    if len(matches) != 1:
        platforms = "; ".join(str(closure.platform) for closure in closures)
        raise ConfigError(
            f"{model} was pulled for: {platforms}. Choose one of them with --glibc and --machine."
        )
    return matches[0]


def _current_closures(data: Path, model: str) -> tuple[Bento, list[Closure]]:
    """The bento that `model` currently means, and its closures, one for each platform.

    Raises ConfigError if there is no bento or no closure.
    """
    problem = "this mirror has no model repository"
    for repository in ModelRepository.all(data):
        try:
            bento = find_bento(repository, repository.branches(), model)
        except ConfigError as exc:
            problem = operator_text(exc).rstrip(".")
            continue
        closures = Closure.read_all(data, repository.name, [bento.tag])
        current = [one for one in closures if one.is_of(bento)]
        if current:
            return bento, current
        state = "has changed since it was pulled" if closures else "was not pulled"
        problem = f"the bento {bento.tag} {state}"
    raise ConfigError(f"{model} cannot start: {problem}. {_ADVICE.format(model)}")


_ADVICE = "On a host with internet access, run: hubmirror openllm pull {}"


@openllm.command()
@click.argument("model")
@settings(*PLACE)
def check(model: str, data: Path, state: Path | None, sources: tuple[str, ...]) -> None:
    """Check whether OpenLLM can start MODEL offline, or print the first missing file."""
    opened = open_sources(data, state, [SourceSpec.parse(text) for text in sources])
    bento, closures = _current_closures(data, model)
    for closure in closures:
        if problem := first_problem(opened.sources, data, closure, operator_text):
            raise ConfigError(
                f"{bento.tag} for {closure.platform} cannot start: {problem} "
                f"{_ADVICE.format(model)}"
            )
        click.echo(f"{bento.tag} can start on {closure.platform}.")
    if bento.branch == "nightly":
        click.echo(f"The bento is on the branch nightly: openllm serve {model} --repo nightly")
    opened.digests.close()
