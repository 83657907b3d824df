"""A tree of files: the path of a file is the path that it is asked for by, its date is Last-Modified.

Package-cache 0.2 kept one; the `DISTDIR` of a Gentoo system and a mirror on disk are others.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import TypeAlias
from urllib.parse import quote

from package_cache.errors import ArgumentError, BadRequest
from package_cache.library.importing import OlderItem, Refused, Skipped
from package_cache.model import Fields, Freshness, Preset, Target
from package_cache.rules.http.fields import format_date
from package_cache.rules.http.targets import key_of
from package_cache.rules.repositories.layouts import CHECKOUTS, CONTROL, DISTFILES, LAYOUT, UNFINISHED, is_layout, set_aside
from package_cache.rules.repositories.routes import Routes
from package_cache.storage.blobs import is_stamp

Entry: TypeAlias = "os.DirEntry[str] | Refused | Skipped"


class _NotWanted(Exception):
    """A file that is not to be imported, and why."""


class FileTree:
    """All plain files below a directory, but for hidden ones. `prefix` comes before their paths; `cache` is left out.

    `routes` tells to which repository they belong.
    """

    def __init__(self, root: Path, cache: Path, routes: Routes, prefix: str) -> None:
        self._routes = routes
        self._root = root
        self._real = os.path.realpath(root)
        self._cache = cache
        self._prefix = prefix
        self.title = f"a tree of files at {self._prefix}" if self._prefix else "a tree of files"

    def count(self) -> int:
        """How many files there are."""
        return sum(1 for _ in self._files(self._root))

    def is_empty(self) -> bool:
        """Whether there is no file at all."""
        return next(self._files(self._root), None) is None

    def __iter__(self) -> Iterator[OlderItem | Refused | Skipped]:
        for entry in self._files(self._root):
            yield entry if isinstance(entry, Refused | Skipped) else self._find(entry)

    def _files(self, directory: Path) -> Iterator[Entry]:
        """What is below a directory and is no directory itself, in the order of names."""
        open_ones = [iter(self._listed(directory))]
        while open_ones:
            entry = next(open_ones[-1], None)
            if entry is None:
                open_ones.pop()
            elif isinstance(entry, Refused | Skipped) or not entry.is_dir(follow_symlinks=False):
                yield entry
            elif not self._is_cache(entry.path):
                open_ones.append(iter(self._listed(Path(entry.path))))

    def _listed(self, directory: Path) -> list[Entry]:
        try:
            with os.scandir(directory) as entries:
                found = sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            return [Refused(self._name(directory), f"it cannot be listed: {error.strerror}")]
        names = {one.name for one in found}
        return [self._sifted(one, names) for one in found]

    def _sifted(self, entry: "os.DirEntry[str]", beside: set[str]) -> Entry:
        """The entry, unless its name or the files beside it say that it is not to be imported."""
        reason = None
        if entry.is_dir(follow_symlinks=False):
            if entry.name in CHECKOUTS:
                reason = "what live ebuilds have checked out"
            elif entry.name in UNFINISHED:
                reason = "downloads that are not finished"
        elif entry.name + CONTROL in beside:
            reason = "aria2 has not finished it"
        return entry if reason is None else Skipped(self._name(Path(entry.path)), reason)

    def _is_cache(self, path: str) -> bool:
        try:
            return self._cache.samefile(path)
        except OSError:
            return False

    def _find(self, entry: "os.DirEntry[str]") -> OlderItem | Refused | Skipped:
        name = self._name(Path(entry.path))
        try:
            return self._read(entry, name)
        except _NotWanted as error:
            return Skipped(name, str(error))
        except BadRequest as error:
            return Refused(name, f"its name cannot be asked for: {error}")
        except OSError as error:
            return Refused(name, f"it cannot be read: {error.strerror}")

    def _read(self, entry: "os.DirEntry[str]", name: str) -> OlderItem | Refused:
        target, path = self._target(Path(entry.path)), self._followed(entry)
        status = path.lstat()
        reason = set_aside(entry.name, status.st_size) or set_aside(path.name, status.st_size)
        if S_ISDIR(status.st_mode):
            reason = "a symbolic link to a folder, whose files have paths of their own"
        elif is_layout(target.path):
            reason = "what a mirror says of its own layout"
        if reason is not None:
            raise _NotWanted(reason)
        if status.st_size == 0:
            return Refused(name, "it is empty, as downloads that failed leave it")
        return OlderItem(
            name,
            key_of(target),
            None,
            file=path,
            fields=_fields(status),
            source=f"file://{quote(os.fsencode(path))}",
            received=min(status.st_ctime, time.time()),
            lasting=self._routes.policy(target).at(target).fresh.how is Freshness.IMMUTABLE,
        )

    def _followed(self, entry: "os.DirEntry[str]") -> Path:
        """The file itself, where a symbolic link leads to one within the tree."""
        if not entry.is_symlink():
            return Path(entry.path)
        path = Path(os.path.realpath(entry.path))
        if not path.is_relative_to(self._real):
            raise _NotWanted("a symbolic link that leads out of the tree")
        return path

    def _target(self, path: Path) -> Target:
        parts = (quote(os.fsencode(part), safe="") for part in path.relative_to(self._root).parts)
        return self._routes.named(f"{self._prefix}/{'/'.join(parts)}")

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))


def _fields(status: os.stat_result) -> Fields:
    # The date that a cache gives its own files says nothing of them, nor does one to come.
    if is_stamp(status.st_mtime_ns) or not 0 <= status.st_mtime <= time.time():
        return ()
    return (("Last-Modified", format_date(status.st_mtime)),)


def prefix_of(routes: Routes, place: Path, said: str | None) -> str:
    """What keys have before the paths of a tree: what a person `said`, a path or URL, in normal form without a final slash.

    If nothing was said, a tree of distfiles, as its name or a layout.conf tells, is that of the repository of Gentoo.
    Raises ArgumentError.
    """
    if said is None:
        if place.absolute().name != DISTFILES and not (place / LAYOUT).is_file():
            return ""
        homes = [one.home for one in routes.repositories if one.preset is Preset.GENTOO]
        return f"{homes[0] if len(homes) == 1 else ''}/{DISTFILES}"
    try:
        target = routes.named(said if "://" in said else "/" + said.strip("/"))
    except BadRequest as error:
        raise ArgumentError(f"{said!r} cannot be the beginning of a path: {error}") from error
    if target.query is not None:
        raise ArgumentError(f"{said!r} cannot be the beginning of a path: it has a query")
    return target.text.rstrip("/")
