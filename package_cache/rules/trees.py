"""Plain trees of package files: which file a path has in one, and which names are of no finished file.

A tree has the paths that clients ask for, decoded.
"""

import re
from urllib.parse import unquote

from package_cache.rules.repositories.layouts import Structure

DISTFILES = "distfiles"
LAYOUT = "layout.conf"
"""The file in a folder of distfiles that says how they are laid out."""
CHECKOUTS = frozenset({"git3-src", "cvs-src", "svn-src", "hg-src", "bzr-src", "darcs-src"})
"""Folders beside distfiles in which live ebuilds keep what they check out."""
UNFINISHED = frozenset({"partial"})
"""Folders of downloads that are not finished."""
CONTROL = ".aria2"
"""Beside a file of aria2 that is not finished: its name and this."""
_LONGEST = 255
"""Bytes that a name may have on every file system."""

_SET_ASIDE = (
    (re.compile(r"\.__download__"), "Portage has not finished it"),
    (re.compile(r"\._checksum_failure_\."), "Portage did not find it good"),
    (re.compile(r"\.(?:part|partial|aria2)$"), "a download that is not finished"),
    (re.compile(r"(?:^lock|\.lck|\.portage_lockfile)$"), "a lock"),
)


def set_aside(name: str, size: int) -> str | None:
    """Why a file of that name and size in bytes is none to be kept; None if it is one."""
    if size == 0 and name.endswith(".lock"):
        return "a lock"
    return next((reason for pattern, reason in _SET_ASIDE if pattern.search(name)), None)


def is_layout(path: str) -> bool:
    """Whether a path is that of what a mirror says of its layout."""
    return path.endswith(f"/{DISTFILES}/{LAYOUT}")


def names_of(path: str) -> tuple[str, ...]:
    """Folders and name of the file that a path has in a tree, decoded. Raises ValueError with why it has none.

    `path` is percent-encoded in normal form.
    """
    if path.endswith("/"):
        raise ValueError("it is the page of a folder")
    names = tuple(unquote(name) for name in path[1:].split("/"))
    for name in names:
        if not name or name.startswith(".") or "/" in name:
            raise ValueError("it has no plain path: a part is empty, hidden, or has a slash in itself")
        if len(name.encode()) > _LONGEST:
            raise ValueError(f"a part of its path is longer than {_LONGEST} bytes")
    return names


def distfiles_of(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The folder of distfiles that a file is in; None if it is in none, or in a folder within it."""
    return names[:-1] if DISTFILES in names[:-1] and names.index(DISTFILES) == len(names) - 2 else None


def laid_out(names: tuple[str, ...], structure: Structure) -> tuple[str, ...]:
    """The same file where its folder has this structure."""
    return (*names[:-1], *structure.path(names[-1]).split("/"))
