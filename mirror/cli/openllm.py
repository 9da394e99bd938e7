"""The commands for OpenLLM 0.6."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from mirror.cli.settings import PLACE, settings
from mirror.cli.show import showing
from mirror.config import SourceSpec
from mirror.errors import ConfigError, HubmirrorError
from mirror.fill import wheels as wheelhouse
from mirror.fill.blobs import Cache
from mirror.fill.events import FileAdvanced, FileBegan, FileDone, Noted, Planned, Report
from mirror.fill.filters import Filters
from mirror.fill.git import BRANCHES, DEFAULT, Address, ModelRepository
from mirror.fill.openllm import Bento, Closure, find
from mirror.fill.pull import Pull
from mirror.fill.upstream import Upstream
from mirror.fill.wheels import Platform, WantedWheel
from mirror.repos import Repo
from mirror.server import Place, open_place
from mirror.sizes import human

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_WHEELS = Repo.parse("wheels")
# Python's ssl, uv and hf_xet; requests and old pip; git; curl; node.
_TRUST = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
_FORMATS = ("shell", "dotenv", "docker", "systemd")


@click.group()
def openllm() -> None:
    """What OpenLLM 0.6 needs: model repositories, models, and wheels."""


@openllm.command()
@click.argument("models", nargs=-1, metavar="[MODEL…]")
@settings("data")
@click.option(
    "--repository", default=DEFAULT, show_default=True, help="A model repository: URL or path."
)
@click.option("--branch", "branches", multiple=True, default=BRANCHES, show_default=True)
@click.option("--upstream", envvar="HUBMIRROR_UPSTREAM", help="The hub [default: HF_ENDPOINT].")
@click.option("--glibc", default="2.28", show_default=True, help="Of the GPU hosts.")
@click.option("--machine", default="x86_64", show_default=True, help="Of the GPU hosts.")
@click.option("--constraint", "constraints", multiple=True, help="Of the wheels: PACKAGE<VERSION.")
@click.option(
    "--dry-run", is_flag=True, help="Show the closure with sizes, and bring the repository alone."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def pull(models: tuple[str, ...], data: Path, **options: Any) -> None:
    """Bring the model repository, and for each MODEL (`llama3.2:1b`) all that its start needs."""
    address = Address.parse(options["repository"])
    repository = ModelRepository.of(data, address)
    with showing(as_json=options["as_json"]) as report:
        for branch, count in repository.pull(address.url, options["branches"]).items():
            report(Noted("info", f"{address.name} {branch}: {count} bentos follow HF_ENDPOINT."))
        run = Pull(Cache.of(data / "hub"), Upstream(options["upstream"] or ""), report)
        failed = False
        for model in models:
            bento = find(repository, options["branches"], model)
            platform = Platform(bento.python, options["glibc"], options["machine"])
            failed |= not _pull_model(run, bento, platform, data, options, report)
    sys.exit(1 if failed else 0)


def _pull_model(
    run: Pull, bento: Bento, platform: Platform, data: Path, options: dict[str, Any], report: Report
) -> bool:
    """Bring one model; whether all of it came."""
    specs = bento.specs()
    plans = run.plan(specs)
    wheels = _wheels(bento, platform, options["constraints"])
    if options["dry_run"]:
        _show(bento, platform, plans, wheels, wheelhouse.missing(data / "wheels", wheels))
        return len(plans) == len(specs)
    _fetch_wheels(data / "wheels", wheels, report)
    outcome = run.run(plans)
    aliases = tuple(bento.aliases)
    Closure(bento.tag, bento.branch, aliases, platform, tuple(specs), tuple(wheels)).write(data)
    report(Noted("info", f"{bento.tag}: {len(plans)} models, {len(wheels)} wheels for {platform}."))
    return not outcome.failed and len(plans) == len(specs)


def _wheels(bento: Bento, platform: Platform, constraints: tuple[str, ...]) -> list[WantedWheel]:
    """Those of its environment. OpenLLM installs bentoml first, in whatever version."""
    requirements = (*bento.requirements, "bentoml")
    return wheelhouse.resolve(requirements, platform, newest=bento.newest, constraints=constraints)


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
@settings("data")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="shell", show_default=True)
@click.option("--ca-file", help="Where the authority's certificate lies on the GPU host.")
def env(url: str, model: str | None, data: Path, form: str, ca_file: str | None, **_: Any) -> None:
    """Print what a GPU host is to set, so that OpenLLM 0.6 finds all of it at MIRROR_URL."""
    url = url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigError("MIRROR_URL begins with http:// or https://.")
    chosen = [one for one in Closure.read_all(data) if model and one.answers_to(model)]
    if model and not chosen:
        raise ConfigError(f"No pull brought {model}. Run: hubmirror openllm pull {model}")
    hosts = sorted(path.name for path in (data / "git").glob("*") if path.is_dir())
    told = variables(url, hosts or ["github.com"])
    if chosen:
        told["UV_CONSTRAINT"] = f"{url}/-/constraints/{chosen[0].name}.txt"
    told |= dict.fromkeys(_TRUST if ca_file else (), ca_file or "")
    for name, value in told.items():
        click.echo(_line(form, name, value))


def variables(url: str, hosts: Sequence[str]) -> dict[str, str]:
    """The environment of a GPU host; each was needed by a closed run of OpenLLM 0.6.30. `hosts` are
    those of the model repositories."""
    rewritten = {"GIT_CONFIG_COUNT": str(len(hosts))}
    for number, host in enumerate(hosts):
        rewritten[f"GIT_CONFIG_KEY_{number}"] = f"url.{url}/-/git/{host}/.insteadOf"
        rewritten[f"GIT_CONFIG_VALUE_{number}"] = f"https://{host}/"
    return {
        "HF_ENDPOINT": url,
        # BentoML refuses to start a bento whose HF_TOKEN is empty; any will do.
        "HF_TOKEN": "hubmirror",
        **rewritten,
        "UV_DEFAULT_INDEX": f"{url}/-/simple/",
        "UV_PYTHON_DOWNLOADS": "never",
        "BENTOML_DO_NOT_TRACK": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _line(form: str, name: str, value: str) -> str:
    if form == "shell":
        return f"export {name}='{value}'"
    if form == "systemd":
        return f'Environment="{name}={value}"'
    if form == "docker":
        return f"-e {name}={value}"
    return f"{name}={value}"


@openllm.command()
@click.argument("model")
@settings(*PLACE)
def check(model: str, data: Path, state: Path | None, sources: tuple[str, ...]) -> None:
    """Tell whether MODEL can start offline, or the first thing that is missing."""
    place = open_place(data, state, [SourceSpec.parse(text) for text in sources])
    closures = [one for one in Closure.read_all(data) if one.answers_to(model)]
    if not closures:
        raise ConfigError(f"No pull brought {model}. Run: hubmirror openllm pull {model}")
    for closure in closures:
        problem = _first_problem(place, data, closure)
        if problem:
            raise ConfigError(
                f"{closure.tag} for {closure.platform} cannot start: {problem} "
                f"Where there is a network, run: hubmirror openllm pull {closure.tag}"
            )
        click.echo(f"{closure.tag} can start on {closure.platform}.")
    place.digests.close()


def _first_problem(place: Place, data: Path, closure: Closure) -> str:
    if not any(_has_bento(folder, closure) for folder in (data / "git").glob("*/*/*.git")):
        return f"no model repository here has its bento on {closure.branch}."
    for spec in closure.specs:
        try:
            snapshot = place.sources.snapshot(spec.repo, spec.revision)
        except HubmirrorError as exc:
            return str(exc)
        for path in filter(Filters(spec.include, spec.exclude), snapshot.absent):
            return f"{path} of {spec} is not here: {snapshot.absent[path]}"
    for wheel in wheelhouse.missing(data / "wheels", closure.wheels):
        return f"the wheel {wheel.filename} is missing, or not whole."
    return ""


def _has_bento(folder: Path, closure: Closure) -> bool:
    name, _, version = closure.tag.partition(":")
    repository = ModelRepository(folder)
    path = f"bentoml/bentos/{name}/{version}/bento.yaml"
    return repository.read(closure.branch, path) is not None
