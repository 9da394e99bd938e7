"""OpenLLM's model repositories, with a copy in which every bento follows HF_ENDPOINT.

BentoML's `HuggingFaceModel.from_info` asks the endpoint that a bento.yaml names, and HF_ENDPOINT
only where it names none.
"""

from __future__ import annotations

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
_NO_GIT = "git is not installed here: apt-get install git."
_BAD_YAML = "{} cannot be read: {}. Tell who made it."
_WHO = "hubmirror <hubmirror@localhost>"
MAX_YAML = 1024 * 1024
_MAX_OUTPUT = 256 * 1024 * 1024
_MAX_TOLD = 64 * 1024
_OF_A_FILE = frozenset({"100644", "100664", "100755"})
# What git reads of a repository, and a repository that is pulled into does not have.
_NOT_OURS = (
    "config", "config.worktree", "commondir", "gitdir", "hooks", "info", "worktrees",
    "objects/info/alternates", "objects/info/http-alternates",
)  # fmt: skip
# Variables that would have git work on another repository.
_REDIRECTS = frozenset({
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR", "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX", "GIT_QUARANTINE_PATH", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE",
    "GIT_TEMPLATE_DIR", "GIT_WORK_TREE",
})  # fmt: skip
_MESSAGE = "Follow HF_ENDPOINT: every Hugging Face endpoint is null\n\nMade from {}.\n"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a repository is fetched from, and the path below `git/` under which it is served."""

    url: str
    host: str
    owner: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """A URL; a local path stands for a repository of that name on github.com's bentoml.

        Raises ConfigError.
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
    """A file of a commit; `name` is that of its object."""

    path: str
    mode: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Copied:
    """How many bentos a copy changed, and what is wrong with those that could not be read."""

    changed: int
    broken: Sequence[str]


class ModelRepository:
    """A bare repository: `main` and `nightly` are our copies, `upstream-main` is what they were
    made from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, data: Path, address: Address) -> ModelRepository:
        """Where the repository of an address is kept."""
        return cls(data / "git" / address.host / address.owner / f"{address.name}.git")

    @classmethod
    def all(cls, data: Path) -> list[ModelRepository]:
        """Those that a data folder holds, under names that an address may have."""
        found = sorted((data / "git").glob("*/*/*.git"))
        return [cls(one) for one in found if all(map(_PART.fullmatch, one.parts[-3:]))]

    @property
    def name(self) -> str:
        """Its address: `github.com/bentoml/openllm-models`."""
        return "/".join(self.folder.parts[-3:]).removesuffix(".git")

    def pull(self, url: str, branches: Sequence[str]) -> dict[str, Copied]:
        """Fetch the branches, and make the copies.

        The same commit gives the same copy, anywhere. Raises UpstreamError where git cannot fetch,
        or a branch is not there.
        """
        self._make()
        there = self._branches_of(url)
        for branch in branches:
            if branch not in there:
                raise UpstreamError(
                    f"{url} has no branch {branch}. "
                    f"It has: {', '.join(sorted(there)[:10]) or 'no branch at all'}. "
                    "Name those that you want with --branch."
                )
        specs = [f"+refs/heads/{one}:refs/heads/upstream-{one}" for one in branches]
        try:
            self._git("fetch", "--quiet", "--no-tags", url, *specs)
        except subprocess.CalledProcessError as exc:
            raise UpstreamError(f"git cannot fetch {url}: {_last_line(exc)}.") from exc
        copied = {branch: self._copy(branch) for branch in branches}
        write_atomically(self.folder / "HEAD", f"ref: refs/heads/{branches[0]}\n".encode())
        return copied

    def branches(self) -> list[str]:
        """The branches that OpenLLM may ask for, that of HEAD first."""
        form = "--format=%(HEAD)%(refname:short)"
        rows = self._git("for-each-ref", form, "refs/heads/").decode().splitlines()
        names = sorted(rows, key=lambda row: not row.startswith("*"))
        return [name[1:] for name in names if not name[1:].startswith("upstream-")]

    def files(self, branch: str, ending: str) -> dict[str, bytes]:
        """The files of a branch whose path ends so, by path; none that is longer than MAX_YAML."""
        listed = self._listed(f"refs/heads/{branch}", ending)
        return {file.path: body for file, body in self._bodies(listed)}

    def read(self, branch: str, path: str) -> bytes | None:
        """One file of a branch."""
        try:
            return self._git("cat-file", "blob", f"refs/heads/{branch}:{path}")
        except subprocess.CalledProcessError:
            return None

    def _make(self) -> None:
        """Make the folder, or remove from it what is not ours. HEAD comes last: a server offers
        what has one."""
        if shutil.which("git") is None:
            raise ConfigError(_NO_GIT)
        try:
            self._check_place()
            for name in _NOT_OURS:
                git_view.remove(self.folder / name)
            for name in ("objects", "refs", "refs/heads"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            if not (self.folder / "HEAD").is_file() or (self.folder / "HEAD").is_symlink():
                write_atomically(self.folder / "HEAD", b"ref: refs/heads/main\n")
        except OSError as exc:
            cause = (exc.strerror or "it is damaged").lower()
            raise ConfigError(
                f"The repository {self.name} cannot be made in git/ of the data folder: {cause}. "
                "Move what is in its place, and run it again."
            ) from exc

    def _check_place(self) -> None:
        """Raises ConfigError where a link leads out of git/, so that nothing is changed there."""
        for name in ("", "objects", "objects/info", "refs"):
            if inside(self.folder / name, self._root) is None:
                raise self._refused(f"a link ({name or 'the folder'}) leads out of the folder git/")

    @property
    def _root(self) -> Path:
        return self.folder.parents[2]

    def _refused(self, cause: object) -> ConfigError:
        return ConfigError(
            f"The repository {self.name} in git/ of the data folder is not read: {cause}. Remove "
            "it, and bring it by `hubmirror openllm pull`."
        )

    def _branches_of(self, url: str) -> set[str]:
        try:
            listed = self._git("ls-remote", "--heads", url).decode()
        except subprocess.CalledProcessError as exc:
            raise UpstreamError(f"git cannot read {url}: {_last_line(exc)}.") from exc
        refs = [line.split("\t")[1] for line in listed.splitlines() if "\t" in line]
        return {ref.removeprefix("refs/heads/") for ref in refs}

    def _copy(self, branch: str) -> Copied:
        """Commit, upon upstream's own commit, what changes; with its date, so that the id is the
        same wherever it is made. What cannot be read stays as it is."""
        upstream = f"refs/heads/upstream-{branch}"
        tip = self._git("rev-parse", f"{upstream}^{{commit}}").decode().strip()
        date = self._git("show", "-s", "--format=%cd", "--date=raw", tip).decode().strip()
        listed = self._listed(upstream, "/bento.yaml")
        changes, broken = (
            [],
            [
                f"{file.path} is longer than {human(MAX_YAML)}. Tell who made it."
                for file in listed
                if file.size > MAX_YAML
            ],
        )
        for file, body in self._bodies(listed):
            try:
                new = without_endpoint(file.path, body)
            except ConfigError as exc:
                broken.append(str(exc))
                continue
            if new != body:
                mode, path = file.mode.encode(), _quoted(file.path)
                changes.append(b"M %s inline %s\n%s" % (mode, path, _data(new)))
        head = f"commit refs/heads/{branch}\ncommitter {_WHO} {date}\n".encode()
        start = _data(_MESSAGE.format(tip).encode()) + b"from %s\n" % tip.encode()
        if not changes:
            self._git("update-ref", f"refs/heads/{branch}", tip)
            return Copied(0, broken)
        stream = head + start + b"".join(changes) + b"\n"
        self._git("fast-import", "--quiet", "--force", "--date-format=raw", stdin=stream)
        return Copied(len(changes), broken)

    def _listed(self, revision: str, ending: str) -> list[_File]:
        """The files whose path ends so; no symbolic link, and no submodule."""
        rows = self._git("ls-tree", "-r", "-z", "-l", revision)
        found = []
        for row in rows.decode(errors="surrogateescape").split("\0"):
            meta, _, path = row.partition("\t")
            if path.endswith(ending):
                mode, _, name, size = meta.split()
                if mode in _OF_A_FILE and size.isdigit():
                    found.append(_File(path, mode, name, int(size)))
        return found

    def _bodies(self, files: Sequence[_File]) -> Iterator[tuple[_File, bytes]]:
        """The content of each that is no longer than MAX_YAML."""
        files = [file for file in files if file.size <= MAX_YAML]
        wanted = "".join(f"{file.name}\n" for file in files)
        answer, at = self._git("cat-file", "--batch", stdin=wanted.encode()), 0
        for file in files:
            start = answer.index(b"\n", at) + 1
            if not answer[at:start].endswith(b" blob %d\n" % file.size):
                raise self._refused(f"it has no object {file.name}")
            yield file, answer[start : start + file.size]
            at = start + file.size + 1

    def _git(self, *words: str, stdin: bytes = b"") -> bytes:
        if shutil.which("git") is None:
            raise ConfigError(_NO_GIT)
        try:
            with git_view.temporary(self.folder, self._root) as view:
                return _run(["git", "--git-dir", str(view), *words], stdin)
        except UnsafeRepositoryError as exc:
            raise self._refused(exc) from exc
        except OSError as exc:
            raise self._refused((exc.strerror or str(exc)).lower()) from exc


def _run(command: Sequence[str], said: bytes) -> bytes:
    """What git writes. Raises CalledProcessError, and ConfigError where it is too much."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(said)
        stdin.seek(0)
        with subprocess.Popen(  # noqa: S603
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=_environment()
        ) as process:
            assert process.stdout is not None  # noqa: S101
            body = process.stdout.read(_MAX_OUTPUT + 1)
            if len(body) > _MAX_OUTPUT:
                process.kill()
        stderr.seek(0)
        told = stderr.read(_MAX_TOLD)
    if len(body) > _MAX_OUTPUT:
        raise ConfigError(
            f"The model repository is too large: git {command[3]} tells more than "
            f"{human(_MAX_OUTPUT)}. Name another one with --repository."
        )
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, body, told)
    return body


def without_endpoint(path: str, body: bytes) -> bytes:
    """A bento.yaml with the endpoint of each Hugging Face model null, and else byte for byte the
    same where YAML lets it be. Raises ConfigError where it cannot be read."""
    wanted = parse(path, body)
    if not _forget_endpoints(wanted):
        return body
    try:
        text = body.decode()
        new = _spliced(text)
        if not _is_so(new, wanted):  # it has aliases, or merges one table into another
            new = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
        return new.encode()
    except (yaml.YAMLError, LookupError, RecursionError, TypeError, ValueError) as exc:
        raise ConfigError(_BAD_YAML.format(path, "it cannot be changed")) from exc


def parse(path: str, body: bytes) -> Any:
    """What a bento.yaml says. Raises ConfigError, naming its path."""
    try:
        body.decode()
        return safe_yaml.load(body, max_bytes=MAX_YAML)
    except BadYamlError as exc:
        raise ConfigError(_BAD_YAML.format(path, exc)) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(_BAD_YAML.format(path, "it is not UTF-8")) from exc


def _is_so(text: str, wanted: Any) -> bool:
    try:
        return bool(safe_yaml.load(text.encode(), max_bytes=2 * MAX_YAML) == wanted)
    except BadYamlError:
        return False


def _forget_endpoints(told: Any) -> bool:
    """Make the endpoints null, in place; whether there was any."""
    root = told if isinstance(told, dict) else {}
    services = [one for one in _list(root.get("services")) if isinstance(one, dict)]
    models = [*_list(root.get("models")), *(m for s in services for m in _list(s.get("models")))]
    is_changed = False
    for model in models:
        metadata = model.get("metadata") if isinstance(model, dict) else None
        if not isinstance(metadata, dict) or model.get("registry") != "huggingface":
            continue
        if metadata.get("endpoint") is not None:
            metadata["endpoint"], is_changed = None, True
    return is_changed


def _spliced(text: str) -> str:
    """The text with `null` in the place of each endpoint's value. The pure loader's marks count
    characters as Python does, and its depth is bounded."""
    root = _pairs(yaml.compose(text, Loader=yaml.SafeLoader))
    services = [_pairs(one) for one in _items(root.get("services"))]
    models = [*_items(root.get("models")), *(m for s in services for m in _items(s.get("models")))]
    places = set()
    for model in map(_pairs, models):
        endpoint = _pairs(model.get("metadata")).get("endpoint")
        if getattr(model.get("registry"), "value", None) == "huggingface" and endpoint is not None:
            places.add((endpoint.start_mark.index, endpoint.end_mark.index))
    for start, end in sorted(places, reverse=True):
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
    return b"data %d\n%s\n" % (len(body), body)


def _quoted(path: str) -> bytes:
    """A path in fast-import's C style."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'.encode(errors="surrogateescape")


def _environment() -> dict[str, str]:
    """The operator's own settings stay in force, by which git reaches upstream, and ours follow."""
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
    """What git says is wrong; advice follows it."""
    lines: list[str] = exc.stderr.decode(errors="replace").strip().splitlines()
    fatal = [line for line in lines if line.startswith("fatal: ")]
    line = (fatal or lines or [f"status {exc.returncode}"])[0]
    return line.removeprefix("fatal: ").rstrip(".")
