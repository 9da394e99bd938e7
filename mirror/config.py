"""The configuration: the list of settings, and the parser of the configuration file.

The value of a setting comes from its flag, else from `HUBMIRROR_<NAME>`, else from its table in the
file, else from its default.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.core.errors import ConfigError
from mirror.core.repo import ALL_VERSIONS, COMMIT_HASH, PLURALS, Repo, RepoType
from mirror.core.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DEFAULT_FILE = Path("hubmirror.toml")
DEFAULT_DATA = Path("data")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `default` is None if it has none. In the file, it is `key` in `table`. `option`
    is the name of its flag and its variable, if that is not `name`."""

    name: str
    help: str
    type: type = str
    default: Any = None
    several: bool = False
    table: str = "serve"
    option: str = ""

    @property
    def key(self) -> str:
        return self.name.removeprefix(f"{self.table}_")

    @property
    def flag(self) -> str:
        flag = f"--{(self.option or self.name).replace('_', '-')}"
        return f"{flag}/--no-{flag[2:]}" if self.type is bool else flag

    @property
    def variable(self) -> str:
        return f"HUBMIRROR_{(self.option or self.name).upper()}"

    def check(self, value: Any, path: Path) -> None:
        """Raises ConfigError if a value in the file has a wrong type."""
        one = self.type if self.type in (int, bool) else str
        values = value if self.several else [value]
        if not isinstance(values, list) or any(type(each) is not one for each in values):
            what = f"a list of {one.__name__}" if self.several else one.__name__
            raise ConfigError(f"{self.key} in {path} is {value!r}, and must be {what}.")


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("data", "The folder to serve; its hub/ is a managed cache.", Path, DEFAULT_DATA),
        Setting("state", "The folder for derived facts [default: .hubmirror in data].", Path),
        Setting("upstream", "The hub to pull from [default: HF_ENDPOINT].", table="pull"),
        Setting(
            "allowed_signers",
            "A file with the keys that may sign a bundle.",
            Path,
            table="bundle",
        ),
        Setting(
            "proxy_upstream",
            "The hub to fetch from what is missing (pull-through).",
            table="proxy",
            option="upstream",
        ),
        Setting(
            "fresh",
            "Seconds for which a branch is not looked up upstream again.",
            int,
            60,
            table="proxy",
        ),
        Setting(
            "cache_size",
            "The largest size of the managed cache, as 500G or 2T [default: no limit].",
            table="proxy",
        ),
        Setting(
            "finish",
            "Which fetches run to their end: always, or while-asked by a client.",
            str,
            "always",
            table="proxy",
        ),
        Setting(
            "forward_token",
            "Ask upstream with the client's token, and serve private repositories to those whom "
            "upstream lets in.",
            bool,
            default=False,
            table="proxy",
        ),
        Setting("host", "The address to listen on.", str, "127.0.0.1"),
        Setting("port", "The port to listen on; 0 takes a free one.", int, 8400),
        Setting(
            "workers",
            "Processes that serve [default: one for each core, at most 4].",
            int,
            min(os.cpu_count() or 1, 4),
        ),
        Setting("public_url", "The URL of this server, if the Host header does not have it."),
        Setting(
            "trusted_proxies",
            "An address or network whose X-Forwarded-* headers are believed.",
            default=("127.0.0.0/8", "::1"),
            several=True,
        ),
        Setting("accel", "The proxy in front that sends the large files: nginx."),
        Setting("token_file", "A file with the one token that clients must send.", Path),
        Setting("tls", "Serve https as well, under the names.", bool, default=False),
        Setting("tls_port", "The port of https.", int, 8443),
        Setting(
            "names", "A name in the certificate of https: huggingface.co.", several=True, default=()
        ),
        Setting(
            "ca", "The folder of the private certificate authority.", Path, Path("hubmirror-ca")
        ),
        Setting("log_format", "The format of log lines: text or json.", str, "text"),
        Setting(
            "xet",
            "Offer large files to clients by Xet.",
            bool,
            default=True,
        ),
        Setting(
            "xet_min_size",
            "The smallest file, in bytes, that is offered by Xet.",
            int,
            20_000_000,
            table="xet",
        ),
    )
}

_SERVICE_VARIABLE = re.compile(
    r"HUBMIRROR(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|"
    r"PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")

TABLES = ("serve", "xet", "pull", "bundle", "proxy")
LISTS = ("source", "repo", "upstream")
_PATTERN_RULES = tuple(
    f"{verb}_{what}" for what in ("repos", "types", "files") for verb in ("allow", "deny")
)
RULES = (*_PATTERN_RULES, "max_file_size", "whole_only")

KINDS = {
    "managed": "an HF cache that pull fills: complete revisions only",
    "hf-cache": "any other HF cache, served as far as it goes",
    "folder": "a plain folder, served as one repository",
    "bento": "a BentoML model store: each entry as the repository that it came from",
}


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A declared source: its kind, its folder, and for a plain folder its repository."""

    kind: str
    path: Path
    repo: Repo | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"{self.kind!r} is not a kind of source. The kinds are: {', '.join(KINDS)}."
            )
        if (self.kind == "folder") != (self.repo is not None):
            raise ConfigError(
                f"Source {self}: a folder needs a repo id (folder:PATH=ORG/NAME), "
                "and the other kinds know their own."
            )

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f"={self.repo}" if self.repo else "")

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """`hf-cache:PATH`, `managed:PATH`, `bento:PATH` or
        `folder:PATH=[datasets/|spaces/|kernels/]ORG/NAME`."""
        kind, colon, rest = text.partition(":")
        path, equals, repo_id = rest.rpartition("=") if kind == "folder" else (rest, "", "")
        if not colon or not path:
            raise ConfigError(
                f"{text!r} declares no source. Write hf-cache:PATH, bento:PATH or "
                "folder:PATH=ORG/NAME."
            )
        return cls(kind, _folder(path), parse_repo(repo_id) if equals else None)


@dataclass(frozen=True, slots=True)
class RepoSpec:
    """A revision to pull, with huggingface_hub's patterns for its files. An empty revision becomes
    `main`, or for a kernel all its versions. With `commit_hash`, this commit is pulled, whatever
    `revision` means upstream; the mirror has it as `revision`."""

    repo: Repo
    revision: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    commit_hash: str = ""

    def __post_init__(self) -> None:
        if not self.revision:
            is_kernel = self.repo.repo_type is RepoType.KERNEL
            object.__setattr__(self, "revision", ALL_VERSIONS if is_kernel else "main")

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def is_all_versions(self) -> bool:
        """Whether it stands for one revision for each version of a kernel."""
        return (self.repo.repo_type, self.revision) == (RepoType.KERNEL, ALL_VERSIONS)

    @classmethod
    def parse(
        cls,
        text: str,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        repo_type: str = "model",
    ) -> RepoSpec:
        """`[datasets/|spaces/|kernels/]ORG/NAME[@REVISION]`; `repo_type` is the type of a name
        without a prefix."""
        repo_id, _, revision = text.partition("@")
        has_prefix = repo_id.partition("/")[0] in PLURALS
        repo = parse_repo(repo_id if has_prefix else f"{_prefix(repo_type)}{repo_id}")
        return cls(repo, revision, tuple(include), tuple(exclude))


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """The hub of the repositories that one of the patterns matches. It gets the token of its own
    token file, and no other."""

    match: tuple[str, ...]
    url: str
    token_file: Path | None = None


@dataclass(frozen=True, slots=True)
class File:
    """The content of a configuration file: settings by name, sources, revisions to pull, upstreams
    in the order in which they are tried, and the rules of `[proxy]` by name. `requests` are paths
    of the mirror beside the hub that a recorded command asked for."""

    settings: Mapping[str, Any]
    sources: tuple[SourceSpec, ...]
    repos: tuple[RepoSpec, ...] = ()
    upstreams: tuple[UpstreamSpec, ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[str, ...] = ()
    path: Path = DEFAULT_FILE

    @classmethod
    def read(cls, path: Path) -> File:
        """Read a file. Raises ConfigError, also for an unknown key."""
        try:
            data = tomllib.loads(path.read_text())
        except OSError as exc:
            raise ConfigError(
                f"The configuration file {path} cannot be read: {exc.strerror}."
            ) from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ConfigError(f"The configuration file {path} is not TOML: {exc}.") from exc
        _refuse_unknown(data, (*TABLES, *LISTS, "requests"), f"in {path}")
        sources, repos, upstreams = (data.get(name, []) for name in LISTS)
        if not all(isinstance(entries, list) for entries in (sources, repos, upstreams)):
            raise ConfigError(
                f"{path}: source, repo and upstream are lists. Write [[source]], [[repo]] and "
                "[[upstream]]."
            )
        settings: dict[str, Any] = {}
        for table in TABLES:
            settings |= _settings(data.get(table, {}), table, path)
        return cls(
            settings,
            tuple(_source(entry, path) for entry in sources),
            tuple(_repo_spec(entry, path) for entry in repos),
            tuple(_upstream(entry, path) for entry in upstreams),
            _rules(data.get("proxy", {}), path),
            _strings("requests", data.get("requests", []), f"in {path}"),
            path,
        )


def read_token(file: Path | None) -> str:
    """The token that the file holds; empty if there is no file. Raises ConfigError."""
    if file is None:
        return ""
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The token file {file} cannot be read.") from exc
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"The token file {file} must hold one token on one line.")
    return token


def _settings(values: Any, table: str, path: Path) -> dict[str, Any]:
    """The settings of a table, by name."""
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {table} is a table, [{table}].")
    known = {setting.key: setting for setting in SETTINGS.values() if setting.table == table}
    others = RULES if table == "proxy" else ()
    _refuse_unknown(values, (*known, *others), f"in [{table}] of {path}")
    given = {key: value for key, value in values.items() if key in known}
    for key, value in given.items():
        known[key].check(value, path)
    return {known[key].name: value for key, value in given.items()}


def refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    """Raises ConfigError for a `HUBMIRROR_*` variable that looks like a misspelt setting.

    Other programs have such variables too: Kubernetes sets several for a Service of this name, and
    the compose file reads `HUBMIRROR_IMAGE`. They are ignored.
    """
    known = {setting.variable for setting in SETTINGS.values()}
    known |= {"HUBMIRROR_CONFIG", "HUBMIRROR_SOURCE"}
    for name, value in environ.items():
        if name in known or not name.startswith("HUBMIRROR_"):
            continue
        if not _SERVICE_VARIABLE.fullmatch(name) and not is_service_address(value):
            _refuse_misspelt(name, known)


def is_service_address(value: str) -> bool:
    """Whether Kubernetes, and not the operator, set the variable, for example
    `HUBMIRROR_PORT=tcp://10.0.0.7:80`."""
    return _SERVICE_ADDRESS.fullmatch(value) is not None


def _refuse_misspelt(name: str, known: Iterable[str]) -> None:
    short = name.removeprefix("HUBMIRROR_")
    settings = {one.removeprefix("HUBMIRROR_"): one for one in known}
    nearest = difflib.get_close_matches(short, settings, 1) or [
        one for one in settings if short.startswith(f"{one}_")
    ]
    if nearest:
        raise ConfigError(
            f"{name} in the environment is not a setting. Did you mean {settings[nearest[0]]}? "
            "Otherwise unset it, or choose another name."
        )


def _refuse_unknown(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in keys:
        if key not in known:
            raise ConfigError(f"Unknown key {key!r} {where}. Known are: {', '.join(known)}.")


def _source(entry: Any, path: Path) -> SourceSpec:
    if not isinstance(entry, dict):
        raise ConfigError(f"A source of {path} is not a table. Write [[source]].")
    _refuse_unknown(entry, ("kind", "path", "repo_id", "repo_type"), f"in [[source]] of {path}")
    for key in ("kind", "path"):
        if not isinstance(entry.get(key), str):
            raise ConfigError(f"A [[source]] of {path} lacks its {key}.")
    repo = None
    if "repo_id" in entry:
        repo = parse_repo(f"{_prefix(entry.get('repo_type', 'model'))}{entry['repo_id']}")
    return SourceSpec(entry["kind"], _folder(entry["path"]), repo)


def _repo_spec(entry: Any, path: Path) -> RepoSpec:
    if not isinstance(entry, dict):
        raise ConfigError(f"A repo of {path} is not a table. Write [[repo]].")
    known = ("repo_id", "repo_type", "revision", "commit_hash", "include", "exclude")
    _refuse_unknown(entry, known, f"in [[repo]] of {path}")
    if not isinstance(entry.get("repo_id"), str):
        raise ConfigError(f"A [[repo]] of {path} lacks its repo_id.")
    repo = parse_repo(f"{_prefix(entry.get('repo_type', 'model'))}{entry['repo_id']}")
    patterns = [entry.get(key, []) for key in ("include", "exclude")]
    revision = entry.get("revision", "")
    if not isinstance(revision, str) or not all(map(_is_list_of_str, patterns)):
        raise ConfigError(
            f"[[repo]] {repo} of {path}: revision is a string, include and exclude are lists of "
            "strings."
        )
    commit_hash = entry.get("commit_hash", "")
    if commit_hash != "" and not COMMIT_HASH.fullmatch(str(commit_hash)):
        raise ConfigError(f"[[repo]] {repo} of {path}: commit_hash is a commit hash of 40 digits.")
    include, exclude = map(tuple, patterns)
    return RepoSpec(repo, revision, include, exclude, commit_hash)


def _upstream(entry: Any, path: Path) -> UpstreamSpec:
    if not isinstance(entry, dict):
        raise ConfigError(f"An upstream of {path} is not a table. Write [[upstream]].")
    _refuse_unknown(entry, ("match", "url", "token_file"), f"in [[upstream]] of {path}")
    match, url, token_file = (entry.get(key) for key in ("match", "url", "token_file"))
    if not _is_list_of_str(match) or not match or not url or not isinstance(url, str):
        raise ConfigError(
            f"An [[upstream]] of {path} needs match, a list of patterns of repositories, and url."
        )
    if token_file is not None and not isinstance(token_file, str):
        raise ConfigError(f"token_file in [[upstream]] of {path} must be a path.")
    return UpstreamSpec(tuple(match), url, _folder(token_file) if token_file else None)


def _rules(values: Any, path: Path) -> dict[str, Any]:
    """The rules of `[proxy]`, by name; `values` is a table that `_settings` has checked."""
    where = f"in [proxy] of {path}"
    values = {name: value for name, value in values.items() if name in RULES}
    if type(values.get("whole_only", False)) is not bool:
        raise ConfigError(f"whole_only {where} must be true or false.")
    rules: dict[str, Any] = values | {
        name: _strings(name, values[name], where) for name in _PATTERN_RULES if name in values
    }
    for repo_type in (*rules.get("allow_types", ()), *rules.get("deny_types", ())):
        _prefix(repo_type)
    if "max_file_size" in rules:
        try:
            rules["max_file_size"] = parse_size(str(rules["max_file_size"]))
        except ValueError as exc:
            raise ConfigError(f"max_file_size {where}: {exc}") from exc
    return rules


def _strings(name: str, value: Any, where: str) -> tuple[str, ...]:
    if not _is_list_of_str(value):
        raise ConfigError(f"{name} {where} must be a list of strings.")
    return tuple(value)


def size_limit(text: str | None) -> int:
    """The value of `cache_size` in bytes; 0 is no limit. Raises ConfigError."""
    if not text:
        return 0
    try:
        return parse_size(text)
    except ValueError as exc:
        raise ConfigError(f"cache_size: {exc}") from exc


def hub_url(text: str) -> str:
    """The URL of a hub, without a slash at its end. Raises ConfigError if it is not an HTTP URL."""
    if not re.match(r"https?://[^/]", text):
        raise ConfigError(
            f"The upstream {text!r} does not begin with http:// or https://. Correct --upstream, "
            "HF_ENDPOINT or the url of its [[upstream]]."
        )
    return text.rstrip("/")


def _folder(text: str) -> Path:
    """A path with `~` expanded to a home folder. Raises ConfigError for an unknown user."""
    try:
        return Path(text).expanduser()
    except RuntimeError as exc:
        raise ConfigError(f"{text!r} names the home of a user who is not known here.") from exc


def _is_list_of_str(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _prefix(repo_type: str) -> str:
    try:
        return RepoType(repo_type).url_prefix
    except ValueError as exc:
        raise ConfigError(
            f"{repo_type!r} is not a repo_type. Write model, dataset, space or kernel."
        ) from exc


def parse_repo(text: str) -> Repo:
    """`[datasets/|spaces/]ORG/NAME`. Raises ConfigError."""
    try:
        return Repo.parse(text)
    except ValueError as exc:
        raise ConfigError(
            f"{text!r} is not a repo id. Write ORG/NAME, or datasets/ORG/NAME."
        ) from exc
