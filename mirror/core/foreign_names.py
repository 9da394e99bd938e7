"""Names of files that operating systems and copying tools leave in folders.

Such a file is not a file of the repository in whose folder it is. One list serves every kind of
source, and `verify`.
"""

from __future__ import annotations

import re

# macOS; Windows; Synology, QNAP and other file servers; KDE and Linux desktops; NFS, FUSE and SMB
# names of files that were deleted while they were open.
_SYSTEM = re.compile(
    r"\._.*|\.ds_store|\.appledouble|\.localized|\.apdisk|\.fseventsd|\.spotlight-v100"
    r"|\.temporaryitems|\.trashes|\.documentrevisions-v100|icon\r"
    r"|thumbs\.db|ehthumbs(?:_vista)?\.db|desktop\.ini|\$recycle\.bin|system volume information"
    r"|@eadir|@tmp|#recycle|#snapshot|\.@__thumb|@recycle|\.snapshot"
    r"|\.directory|\.trash-\d+|lost\+found"
    r"|\.nfs[0-9a-f]{8,}|\.fuse_hidden[0-9a-f]{8,}|\.smbdelete.*",
    re.DOTALL,
)
# The rest of the name is that of the finished file. rsync adds a dot and six random characters.
_RSYNC = re.compile(r"\.(?P<name>.+)\.(?=.{0,5}[A-Z0-9])[A-Za-z0-9]{6}", re.DOTALL)
_BROWSER = re.compile(
    r"(?P<name>.+)\.(?:crdownload|opdownload|part|partial|filepart|incomplete|aria2|!ut)",
    re.DOTALL | re.IGNORECASE,
)
# rsync --partial-dir and --delay-updates keep unfinished files in such folders.
_RSYNC_FOLDERS = frozenset({".rsync-partial", ".~tmp~"})


def is_system_file(name: str) -> bool:
    """Whether an operating system or a file server makes files or folders of this name."""
    return _SYSTEM.fullmatch(name.lower()) is not None


def unfinished_name(name: str) -> str:
    """The name that a file gets when its copy or download is finished; empty if the name is not
    the temporary name of a copying tool or a browser."""
    match = _RSYNC.fullmatch(name) or _BROWSER.fullmatch(name)
    return match["name"] if match else ""


def unfinished_path(path: str) -> str:
    """`unfinished_name` for the path of a file, also in the folders of unfinished files that rsync
    makes."""
    parent, _, name = path.rpartition("/")
    above, slash, folder = parent.rpartition("/")
    if folder in _RSYNC_FOLDERS:
        return f"{above}{slash}{name}"
    final = unfinished_name(name)
    return f"{parent}/{final}".removeprefix("/") if final else ""


def is_foreign(path: str) -> bool:
    """Whether a path is not that of a repository: a part of it is the name of a file of an
    operating system, or it is the path of an unfinished file."""
    return any(map(is_system_file, path.split("/"))) or bool(unfinished_path(path))
