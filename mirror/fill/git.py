"""OpenLLM's model repositories, with a copy in which every bento follows HF_ENDPOINT.

BentoML's `HuggingFaceModel.from_info` asks the endpoint that a bento.yaml names, and HF_ENDPOINT
only where it names none.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mirror.errors import ConfigError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT = "https://github.com/bentoml/openllm-models"
BRANCHES = ("main", "nightly")
_ADDRESS = re.compile(
    r"(?:(?:https?|ssh|git)://(?:[^@/]+@)?|git@)(?P<host>[\w.-]+)(?::\d+)?[/:]"
    r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?"
)
_NO_GIT = "git is not installed here: apt-get install git."
_WHO = "hubmirror <hubmirror@localhost>"
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
        """Those that a data folder holds."""
        return [cls(folder) for folder in sorted((data / "git").glob("*/*/*.git"))]

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
        self._git("symbolic-ref", "HEAD", f"refs/heads/{branches[0]}")
        return copied

    def branches(self) -> list[str]:
        """The branches that OpenLLM may ask for, that of HEAD first."""
        form = "--format=%(HEAD)%(refname:short)"
        rows = self._git("for-each-ref", form, "refs/heads/").decode().splitlines()
        names = sorted(rows, key=lambda row: not row.startswith("*"))
        return [name[1:] for name in names if not name[1:].startswith("upstream-")]

    def files(self, branch: str, ending: str) -> dict[str, bytes]:
        """The files of a branch whose path ends so, by path."""
        return {path: body for path, _, body in self._files(f"refs/heads/{branch}", ending)}

    def read(self, branch: str, path: str) -> bytes | None:
        """One file of a branch."""
        try:
            return self._git("cat-file", "blob", f"refs/heads/{branch}:{path}")
        except subprocess.CalledProcessError:
            return None

    def _make(self) -> None:
        if (self.folder / "HEAD").is_file():
            return
        if shutil.which("git") is None:
            raise ConfigError(_NO_GIT)
        staged = self.folder.with_name(f".{self.folder.name}.{uuid.uuid4().hex[:8]}")
        staged.parent.mkdir(parents=True, exist_ok=True)
        command = ["git", "init", "--quiet", "--bare", "--initial-branch=main", str(staged)]
        subprocess.run(command, check=True, env=_environment())  # noqa: S603
        shutil.rmtree(staged / "hooks", ignore_errors=True)
        staged.replace(self.folder)

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
        changes, broken = [], []
        for path, mode, body in self._files(upstream, "/bento.yaml"):
            try:
                new = without_endpoint(path, body)
            except ConfigError as exc:
                broken.append(str(exc))
                continue
            if new != body:
                changes.append(b"M %s inline %s\n%s" % (mode, _quoted(path), _data(new)))
        head = f"commit refs/heads/{branch}\ncommitter {_WHO} {date}\n".encode()
        start = _data(_MESSAGE.format(tip).encode()) + b"from %s\n" % tip.encode()
        if not changes:
            self._git("update-ref", f"refs/heads/{branch}", tip)
            return Copied(0, broken)
        stream = head + start + b"".join(changes) + b"\n"
        self._git("fast-import", "--quiet", "--force", "--date-format=raw", stdin=stream)
        return Copied(len(changes), broken)

    def _files(self, revision: str, ending: str) -> Iterator[tuple[str, bytes, bytes]]:
        """Path, mode and content of the files that end so."""
        listed = self._git("ls-tree", "-r", "-z", revision)
        rows = listed.decode(errors="surrogateescape").split("\0")
        found = [row.split("\t", 1) for row in rows if row.endswith(ending)]
        wanted = "".join(f"{meta.split()[2]}\n" for meta, _ in found)
        answer, at = self._git("cat-file", "--batch", stdin=wanted.encode()), 0
        for meta, path in found:
            end = answer.index(b"\n", at)
            size = int(answer[at:end].split()[2])
            yield path, meta.split()[0].encode(), answer[end + 1 : end + 1 + size]
            at = end + 1 + size + 1

    def _git(self, *words: str, stdin: bytes = b"") -> bytes:
        if shutil.which("git") is None:
            raise ConfigError(_NO_GIT)
        command = ["git", "--git-dir", str(self.folder), *words]
        done = subprocess.run(  # noqa: S603
            command, input=stdin, check=True, capture_output=True, env=_environment()
        )
        return done.stdout


def without_endpoint(path: str, body: bytes) -> bytes:
    """A bento.yaml with the endpoint of each Hugging Face model null, and else byte for byte the
    same where YAML lets it be. Raises ConfigError where it cannot be read."""
    with readable(path):
        text = body.decode()
        wanted = yaml.safe_load(text)
        if not _forget_endpoints(wanted):
            return body
        new = _spliced(text)
        if yaml.safe_load(new) != wanted:  # it has aliases, or merges one table into another
            new = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
        return new.encode()


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns what PyYAML raises for a broken file into a ConfigError: any builtin error too, where a
    tag does not fit its value."""
    try:
        yield
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError,
            TypeError, ValueError) as exc:  # fmt: skip
        raise ConfigError(f"{path} is no YAML that can be read. Tell who made it.") from exc


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
    settings = {"safe.directory": "*", "fetch.fsckObjects": "true", "gc.auto": "0"}
    pairs = list(settings.items())
    return {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": str(len(pairs)),
        **{f"GIT_CONFIG_KEY_{number}": key for number, (key, _) in enumerate(pairs)},
        **{f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in enumerate(pairs)},
    }


def _last_line(exc: subprocess.CalledProcessError) -> str:
    """What git says is wrong; advice follows it."""
    lines: list[str] = exc.stderr.decode(errors="replace").strip().splitlines()
    fatal = [line for line in lines if line.startswith("fatal: ")]
    line = (fatal or lines or [f"status {exc.returncode}"])[0]
    return line.removeprefix("fatal: ").rstrip(".")
