"""The repositories that a push or a bundle is limited to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.core.errors import CarryError
from mirror.store.progress import Message
from mirror.sync.completeness import needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.core.repo import Repo
    from mirror.sources.repo_dir import RepoDir
    from mirror.store.cache import Cache
    from mirror.store.progress import Report


def chosen_folders(cache: Cache, repos: Sequence[Repo], report: Report) -> list[RepoDir]:
    """The folders of the repositories.

    Warns of the repositories that the chosen ones need to start, and that are not chosen. Raises
    CarryError if the cache does not have one of them.
    """
    folders = [cache.folder(repo) for repo in repos]
    for folder in folders:
        if not folder.recorded_commits():
            raise CarryError(
                f"{folder.repo} is not in the data folder. List its repositories with `hubmirror "
                "ls`."
            )
    wanted = needed(cache, repos) - {repo.key for repo in repos}
    for other in cache.folders():
        if other.repo.key in wanted:
            text = f"A chosen model needs {other.repo} to start. Name this repository too."
            report(Message("warning", text))
    return folders
