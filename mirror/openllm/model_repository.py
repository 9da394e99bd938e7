"""Fetches OpenLLM's model repositories, and rewrites their bentos to use HF_ENDPOINT.

BentoML's `HuggingFaceModel.from_info` reads HF_ENDPOINT only if the endpoint in bento.yaml is null.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mirror.core import safe_yaml
from mirror.core.errors import ConfigError, UpstreamError
from mirror.core.files import inside
from mirror.core.safe_yaml import BadYamlError
from mirror.core.units import human
from mirror.derived.state import write_atomically
from mirror.openllm import git_view
from mirror.openllm.git_view import UnsafeRepositoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT = "https://github.com/bentoml/openllm-models"
BRANCHES = ("main", "nightly")
_ADDRESS = re.compile(
    r"(?:(?:https?|ssh|git)://(?:[^@/]+@)?|git@)(?P<host>[\w.-]+)(?::\d+)?[/:]"
    r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?"
)
_PART = re.compile(r"(?!\.)[\w.-]{1,100}")
_NO_GIT = "git is not installed. Install it: apt-get install git."
_BAD_YAML = "{} cannot be read: {}. Report it to the author of the bento."
_COMMITTER = "hubmirror <hubmirror@localhost>"
MAX_YAML = 1024 * 1024
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)
_MAX_OUTPUT = 256 * 1024 * 1024
_MAX_STDERR = 64 * 1024
_REGULAR_FILE_MODES = frozenset({"100644", "100664", "100755"})
# Files that git obeys. A repository that hubmirror fetches into must not have them.
_UNSAFE_FILES = (
    "config", "config.worktree", "commondir", "gitdir", "hooks", "info", "worktrees",
    "objects/info/alternates", "objects/info/http-alternates",
)  # fmt: skip
# Variables that make git use another repository.
_REDIRECTS = frozenset({
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR", "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX", "GIT_QUARANTINE_PATH", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE",
    "GIT_TEMPLATE_DIR", "GIT_WORK_TREE",
})  # fmt: skip
_MESSAGE = "Follow HF_ENDPOINT: every Hugging Face endpoint is null\n\nMade from {}.\n"


@dataclass(frozen=True, slots=True)
class Address:
    """The URL or path of a repository, and its path `host/owner/name.git` below `git/`."""

    url: str
    host: str
    owner: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse a URL or a local path.

        A local path is served as `github.com/bentoml/<folder name>`. Raises ConfigError for any
        other text.
        """
        match = _ADDRESS.fullmatch(text)
        if match and not any(part.startswith(".") for part in match.groups()):
            return cls(text, match["host"], match["owner"], match["name"])
        folder = Path(os.path.abspath(text))
        name = folder.name.removesuffix(".git")
        if not folder.is_dir() or not name:
            raise ConfigError(f"{text!r} is neither the URL of a git repository nor a folder.")
        return cls(str(folder), "github.com", "bentoml", name)


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a commit; `oid` is the id of its blob, `size` is in bytes."""

    path: str
    mode: str
    oid: str
    size: int


@dataclass(frozen=True, slots=True)
class RewriteResult:
    """The number of rewritten bentos of a branch, and a message for each unreadable bento."""

    changed: int
    broken: Sequence[str]


class ModelRepository:
    """A bare repository below `git/` of the data folder.

    The branch `upstream-main` is the branch `main` of the upstream repository. The branch `main` is
    the same commit, with a commit on top that rewrites the bentos. The same holds for each branch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, data: Path, address: Address) -> ModelRepository:
        """The repository for an address; it need not exist yet."""
        return cls(data / "git" / address.host / address.owner / f"{address.name}.git")

    @classmethod
    def all(cls, data: Path) -> list[ModelRepository]:
        """The repositories of a data folder. A folder whose name is not valid is skipped."""
        folders = sorted((data / "git").glob("*/*/*.git"))
        return [cls(folder) for folder in folders if all(map(_PART.fullmatch, folder.parts[-3:]))]

    @property
    def name(self) -> str:
        """Its host, owner and name: `github.com/bentoml/openllm-models`."""
        return "/".join(self.folder.parts[-3:]).removesuffix(".git")

    def pull(self, url: str, branches: Sequence[str]) -> dict[str, RewriteResult]:
        """Fetch branches and rewrite their bentos.

        The same upstream commit gives the same commit hash on every host. Raises UpstreamError if
        git cannot fetch or a branch does not exist, and ConfigError if the repository is not safe.
        """
        self._prepare()
        remote_branches = self._remote_branches(url)
        for branch in branches:
            if branch not in remote_branches:
                available = ", ".join(sorted(remote_branches)[:10]) or "none"
                raise UpstreamError(
                    f"{url} has no branch {branch}. Its branches are: {available}. Choose one with "
                    "--branch."
                )
        refspecs = [f"+refs/heads/{name}:refs/heads/upstream-{name}" for name in branches]
        try:
            self._try_git("fetch", "--quiet", "--no-tags", url, *refspecs)
        except subprocess.CalledProcessError as exc:
            raise UpstreamError(f"git cannot fetch {url}: {_last_line(exc)}.") from exc
        results = {branch: self._rewrite(branch) for branch in branches}
        write_atomically(self.folder / "HEAD", f"ref: refs/heads/{branches[0]}\n".encode())
        return results

    def branches(self) -> list[str]:
        """The rewritten branches; the branch of HEAD is the first."""
        row_format = "--format=%(HEAD)%(refname:short)"
        rows = self._git("for-each-ref", row_format, "refs/heads/").decode().splitlines()
        names = [row[1:] for row in sorted(rows, key=lambda row: not row.startswith("*"))]
        return [name for name in names if not name.startswith("upstream-")]

    def files(self, branch: str, suffix: str) -> dict[str, bytes]:
        """The contents of the files of a branch whose path ends with `suffix`, by path.

        A file of more than MAX_YAML bytes is skipped.
        """
        files = self._list_files(f"refs/heads/{branch}", suffix)
        return {file.path: body for file, body in self._contents(files)}

    def read(self, branch: str, path: str) -> bytes | None:
        """The content of a file of a branch; None if it does not exist."""
        revision = f"refs/heads/{branch}"
        if not self._git("ls-tree", "-z", revision, "--", path):
            return None
        return self._git("cat-file", "blob", f"{revision}:{path}")

    def _prepare(self) -> None:
        """Create the repository, or remove unsafe files from it.

        HEAD is written last, because the server serves a repository that has a HEAD.
        """
        if shutil.which("git") is None:
            raise ConfigError(_NO_GIT)
        try:
            self._check_links()
            for name in _UNSAFE_FILES:
                git_view.remove(self.folder / name)
            for name in ("objects", "refs", "refs/heads"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            if not (self.folder / "HEAD").is_file() or (self.folder / "HEAD").is_symlink():
                write_atomically(self.folder / "HEAD", b"ref: refs/heads/main\n")
        except OSError as exc:
            if exc.errno in _OF_THE_DISK:
                raise
            cause = (exc.strerror or "it is damaged").lower()
            raise ConfigError(
                f"The repository {self.name} cannot be created in git/ of the data folder: "
                f"{cause}. Remove the file or folder that has its name, and run the command again."
            ) from exc

    def _check_links(self) -> None:
        """Raise ConfigError if a link leads out of git/, to change nothing outside of it."""
        for name in ("", "objects", "objects/info", "refs"):
            if inside(self.folder / name, self._root) is None:
                raise self._unsafe(f"a link ({name or 'the folder'}) leads out of the folder git/")

    @property
    def _root(self) -> Path:
        return self.folder.parents[2]

    def _unsafe(self, cause: object) -> ConfigError:
        return ConfigError(
            f"The repository {self.name} in git/ of the data folder is not safe to read: {cause}. "
            "Remove it, and fetch it again with `hubmirror openllm pull`."
        )

    def _remote_branches(self, url: str) -> set[str]:
        try:
            rows = self._try_git("ls-remote", "--heads", url).decode()
        except subprocess.CalledProcessError as exc:
            raise UpstreamError(f"git cannot read {url}: {_last_line(exc)}.") from exc
        refs = [line.split("\t")[1] for line in rows.splitlines() if "\t" in line]
        return {ref.removeprefix("refs/heads/") for ref in refs}

    def _rewrite(self, branch: str) -> RewriteResult:
        """Commit the rewritten bentos on top of the upstream commit.

        The commit has the date of the upstream commit, so its commit hash is the same on every
        host. A bento that cannot be read stays unchanged.
        """
        upstream = f"refs/heads/upstream-{branch}"
        tip = self._git("rev-parse", f"{upstream}^{{commit}}").decode().strip()
        date = self._git("show", "-s", "--format=%cd", "--date=raw", tip).decode().strip()
        files = self._list_files(upstream, "/bento.yaml")
        changes = []
        broken = [
            f"{file.path} is longer than {human(MAX_YAML)}. Report it to the author of the bento."
            for file in files
            if file.size > MAX_YAML
        ]
        for file, body in self._contents(files):
            try:
                rewritten = without_endpoint(file.path, body)
            except ConfigError as exc:
                broken.append(str(exc))
                continue
            if rewritten != body:
                mode, path = file.mode.encode(), _quoted(file.path)
                changes.append(b"M %s inline %s\n%s" % (mode, path, _data(rewritten)))
        head = f"commit refs/heads/{branch}\ncommitter {_COMMITTER} {date}\n".encode()
        start = _data(_MESSAGE.format(tip).encode()) + b"from %s\n" % tip.encode()
        if not changes:
            self._git("update-ref", f"refs/heads/{branch}", tip)
            return RewriteResult(0, broken)
        stream = head + start + b"".join(changes) + b"\n"
        self._git("fast-import", "--quiet", "--force", "--date-format=raw", stdin=stream)
        return RewriteResult(len(changes), broken)

    def _list_files(self, revision: str, suffix: str) -> list[_File]:
        """The regular files of a revision whose path ends with `suffix`."""
        rows = self._git("ls-tree", "-r", "-z", "-l", revision)
        files = []
        for row in rows.decode(errors="surrogateescape").split("\0"):
            metadata, _, path = row.partition("\t")
            if path.endswith(suffix):
                mode, _, oid, size = metadata.split()
                if mode in _REGULAR_FILE_MODES and size.isdigit():
                    files.append(_File(path, mode, oid, int(size)))
        return files

    def _contents(self, files: Sequence[_File]) -> Iterator[tuple[_File, bytes]]:
        """Each file of at most MAX_YAML bytes, with its content."""
        files = [file for file in files if file.size <= MAX_YAML]
        request = "".join(f"{file.oid}\n" for file in files)
        output, at = self._git("cat-file", "--batch", stdin=request.encode()), 0
        for file in files:
            start = output.index(b"\n", at) + 1
            if not output[at:start].endswith(b" blob %d\n" % file.size):
                raise self._unsafe(f"the blob {file.oid} is missing")
            yield file, output[start : start + file.size]
            at = start + file.size + 1

    def _git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run git on what is in the folder. Raises ConfigError if the repository is damaged, or not
        safe to read."""
        try:
            return self._try_git(*arguments, stdin=stdin)
        except subprocess.CalledProcessError as exc:
            raise ConfigError(
                f"The repository {self.name} in git/ of the data folder is damaged, or its copy "
                f"still runs: {_last_line(exc)}. Wait for the copy, or remove the repository and "
                "fetch it again with `hubmirror openllm pull`."
            ) from exc

    def _try_git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run git. Raises CalledProcessError, and ConfigError if the repository is not safe."""
        if shutil.which("git") is None:
            raise ConfigError(_NO_GIT)
        try:
            with git_view.temporary_view(self.folder, self._root) as view:
                return _run(["git", "--git-dir", str(view), *arguments], stdin)
        except UnsafeRepositoryError as exc:
            raise self._unsafe(exc) from exc
        except OSError as exc:
            if exc.errno in _OF_THE_DISK:
                raise
            raise self._unsafe((exc.strerror or str(exc)).lower()) from exc


def _run(command: Sequence[str], stdin_body: bytes) -> bytes:
    """Run git, and return its stdout.

    Raises CalledProcessError if git fails, and ConfigError if stdout is longer than _MAX_OUTPUT.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(stdin_body)
        stdin.seek(0)
        with subprocess.Popen(  # noqa: S603
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=_environment()
        ) as process:
            assert process.stdout is not None  # noqa: S101
            body = process.stdout.read(_MAX_OUTPUT + 1)
            if len(body) > _MAX_OUTPUT:
                process.kill()
        stderr.seek(0)
        stderr_body = stderr.read(_MAX_STDERR)
    if len(body) > _MAX_OUTPUT:
        raise ConfigError(
            f"The model repository is too large: the output of git {command[3]} is longer than "
            f"{human(_MAX_OUTPUT)}. Choose another repository with --repository."
        )
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, body, stderr_body)
    return body


def without_endpoint(path: str, body: bytes) -> bytes:
    """A bento.yaml in which the endpoint of each Hugging Face model is null.

    All other bytes stay the same, except in a file with YAML aliases or merge keys, which is
    written anew. `path` is used in messages. Raises ConfigError if the file cannot be read.
    """
    expected = parse(path, body)
    if not _clear_endpoints(expected):
        return body
    try:
        rewritten = _replace_endpoints(body.decode())
        if not _parses_to(rewritten, expected):  # it has aliases or merge keys
            rewritten = yaml.safe_dump(expected, sort_keys=False, allow_unicode=True)
        return rewritten.encode()
    except (yaml.YAMLError, LookupError, RecursionError, TypeError, ValueError) as exc:
        raise ConfigError(_BAD_YAML.format(path, "its endpoints cannot be replaced")) from exc


def parse(path: str, body: bytes) -> Any:
    """Parse a bento.yaml. Raises ConfigError, with its `path`."""
    try:
        body.decode()
        return safe_yaml.load(body, max_bytes=MAX_YAML)
    except BadYamlError as exc:
        raise ConfigError(_BAD_YAML.format(path, exc)) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(_BAD_YAML.format(path, "it is not UTF-8")) from exc


def _parses_to(text: str, expected: Any) -> bool:
    try:
        return bool(safe_yaml.load(text.encode(), max_bytes=2 * MAX_YAML) == expected)
    except BadYamlError:
        return False


def _clear_endpoints(parsed: Any) -> bool:
    """Set the endpoints to None, in place, and return whether there was any."""
    root = parsed if isinstance(parsed, dict) else {}
    services = [item for item in _list(root.get("services")) if isinstance(item, dict)]
    models = [*_list(root.get("models")), *(m for s in services for m in _list(s.get("models")))]
    is_changed = False
    for model in models:
        metadata = model.get("metadata") if isinstance(model, dict) else None
        if not isinstance(metadata, dict) or model.get("registry") != "huggingface":
            continue
        if metadata.get("endpoint") is not None:
            metadata["endpoint"], is_changed = None, True
    return is_changed


def _replace_endpoints(text: str) -> str:
    """Replace the value of each endpoint by `null` in the text.

    It uses PyYAML's loader in Python, whose marks are character offsets and whose depth is limited.
    """
    root = _pairs(yaml.compose(text, Loader=yaml.SafeLoader))
    services = [_pairs(item) for item in _items(root.get("services"))]
    models = [*_items(root.get("models")), *(m for s in services for m in _items(s.get("models")))]
    ranges = set()
    for model in map(_pairs, models):
        endpoint = _pairs(model.get("metadata")).get("endpoint")
        if getattr(model.get("registry"), "value", None) == "huggingface" and endpoint is not None:
            ranges.add((endpoint.start_mark.index, endpoint.end_mark.index))
    for start, end in sorted(ranges, reverse=True):
        value = text[start:end]
        text = f"{text[:start]}null{value[len(value.rstrip()) :]}{text[end:]}"
    return text


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _pairs(node: Any) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: value for key, value in node.value if isinstance(key.value, str)}


def _items(node: Any) -> list[Any]:
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _data(body: bytes) -> bytes:
    """The `data` command of git fast-import."""
    return b"data %d\n%s\n" % (len(body), body)


def _quoted(path: str) -> bytes:
    """A path with the C-style quotes of git fast-import."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'.encode(errors="surrogateescape")


def _environment() -> dict[str, str]:
    """The operator's environment, by which git reaches upstream, with settings for safety added."""
    kept = {name: value for name, value in os.environ.items() if name not in _REDIRECTS}
    settings = {"safe.directory": "*", "fetch.fsckObjects": "true", "gc.auto": "0"}
    count = kept.get("GIT_CONFIG_COUNT", "")
    first = int(count) if re.fullmatch(r"[0-9]{1,4}", count) else 0
    return {
        **kept,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_CONFIG_COUNT": str(first + len(settings)),
        **{f"GIT_CONFIG_KEY_{first + number}": key for number, key in enumerate(settings)},
        **{f"GIT_CONFIG_VALUE_{first + n}": value for n, value in enumerate(settings.values())},
    }


def _last_line(exc: subprocess.CalledProcessError) -> str:
    """The line of git's stderr that names the error; lines with advice follow it."""
    lines: list[str] = exc.stderr.decode(errors="replace").strip().splitlines()
    fatal = [line for line in lines if line.startswith("fatal: ")]
    line = (fatal or lines or [f"status {exc.returncode}"])[0]
    return line.removeprefix("fatal: ").rstrip(".")
