"""The values of settings, parsed: repositories, sizes, URLs, paths and token files."""

from __future__ import annotations

import re
from pathlib import Path

from mirror.core.errors import ConfigError
from mirror.core.repo import Repo, RepoType
from mirror.core.units import parse_size


def parse_repo(text: str) -> Repo:
    """`[datasets/|spaces/]ORG/NAME`. Raises ConfigError."""
    try:
        return Repo.parse(text)
    except ValueError as exc:
        raise ConfigError(
            f"{text!r} is not a repo id. Write ORG/NAME, or datasets/ORG/NAME."
        ) from exc


def type_prefix(repo_type: str) -> str:
    try:
        return RepoType(repo_type).url_prefix
    except ValueError as exc:
        raise ConfigError(
            f"{repo_type!r} is not a repo_type. Write model, dataset, space or kernel."
        ) from exc


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


def expanded(text: str) -> Path:
    """A path with `~` expanded to a home folder. Raises ConfigError for an unknown user."""
    try:
        return Path(text).expanduser()
    except RuntimeError as exc:
        raise ConfigError(f"{text!r} names the home of a user who is not known here.") from exc


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
