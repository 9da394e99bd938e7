"""The configuration file, `hubmirror.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.config.settings import SETTINGS
from mirror.config.specs import RepoSpec, SourceSpec, UpstreamSpec
from mirror.config.values import expanded, parse_repo, type_prefix
from mirror.core.errors import ConfigError
from mirror.core.repo import COMMIT_HASH
from mirror.core.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_FILE = Path("hubmirror.toml")
TABLES = ("serve", "xet", "pull", "bundle", "proxy")
LISTS = ("source", "repo", "upstream")
_PATTERN_RULES = tuple(
    f"{verb}_{what}" for what in ("repos", "types", "files") for verb in ("allow", "deny")
)
RULES = (*_PATTERN_RULES, "max_file_size", "whole_only")


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


def _source(entry: Any, path: Path) -> SourceSpec:
    if not isinstance(entry, dict):
        raise ConfigError(f"A source of {path} is not a table. Write [[source]].")
    _refuse_unknown(entry, ("kind", "path", "repo_id", "repo_type"), f"in [[source]] of {path}")
    for key in ("kind", "path"):
        if not isinstance(entry.get(key), str):
            raise ConfigError(f"A [[source]] of {path} lacks its {key}.")
    repo = None
    if "repo_id" in entry:
        repo = parse_repo(f"{type_prefix(entry.get('repo_type', 'model'))}{entry['repo_id']}")
    return SourceSpec(entry["kind"], expanded(entry["path"]), repo)


def _repo_spec(entry: Any, path: Path) -> RepoSpec:
    if not isinstance(entry, dict):
        raise ConfigError(f"A repo of {path} is not a table. Write [[repo]].")
    known = ("repo_id", "repo_type", "revision", "commit_hash", "include", "exclude")
    _refuse_unknown(entry, known, f"in [[repo]] of {path}")
    if not isinstance(entry.get("repo_id"), str):
        raise ConfigError(f"A [[repo]] of {path} lacks its repo_id.")
    repo = parse_repo(f"{type_prefix(entry.get('repo_type', 'model'))}{entry['repo_id']}")
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
    return UpstreamSpec(tuple(match), url, expanded(token_file) if token_file else None)


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
        type_prefix(repo_type)
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


def _refuse_unknown(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in keys:
        if key not in known:
            raise ConfigError(f"Unknown key {key!r} {where}. Known are: {', '.join(known)}.")


def _is_list_of_str(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
