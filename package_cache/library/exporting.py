"""Puts what the proxy has into a plain tree: the newest version of each file, at the path that clients ask for it by.

Package files go first: where `/x` and `/x/y` are both here, a tree can have one of them only, and an index never names a
package that is still to come. What is there already and right is left alone.

A file is put into the directory whole or not at all, and never anywhere else: folders are entered one by one, not through
symbolic links, and a file has another name until all of it is there.
"""

import errno
import fcntl
import io
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import unquote

from package_cache.errors import ArgumentError, DamagedBlob, OnlyRead, StoreError
from package_cache.model import Entry, Freshness, Target
from package_cache.rules.http.fields import parse_date
from package_cache.rules.repositories.layouts import (
    FLAT,
    LAYOUT,
    Structure,
    distfiles_of,
    is_layout,
    laid_out,
    layout_text,
    names_of,
    parse_layout,
)
from package_cache.rules.repositories.routes import Routes
from package_cache.storage.blobs import hash_file, is_stamp
from package_cache.storage.cache_directory import CacheDirectory
from package_cache.storage.inventory import Inventory

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_TEMPORARY = ".package-cache-export"
_FICLONE = 0x40049409
_CHUNK = 1 << 20
_FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors that every other file would meet too."""
_IMPOSSIBLE = frozenset(
    {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS}
)
"""Errors of the kernel where a file cannot be linked or share its bytes."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Way(StrEnum):
    """How a file of the cache gets into a tree: sharing its bytes, as another name of it, or as a copy."""

    REFLINK = "reflink"
    LINK = "link"
    COPY = "copy"


class Unplaceable(Exception):
    """A file that cannot be put where it belongs, and why; others can."""


class TargetDirectory:
    """The directory that is exported to, within a with-block; made if it is missing. Methods raise StoreError for its disk.

    `cache` is the directory of the cache, into which nothing is ever put.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self._root = root
        if root.resolve().is_relative_to(cache.resolve()):
            raise ArgumentError(f"{root} is within the cache: give another directory")
        status = cache.stat()
        self._cache = (status.st_dev, status.st_ino)

    def __enter__(self) -> Self:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._base = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"cannot use {self._root}: {error.strerror}") from error
        try:
            fcntl.flock(self._base, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._base)
            raise StoreError(f"another export to {self._root} is at work") from None
        except OSError:  # a network file system need not have locks of directories
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self._clear()
        os.close(self._base)

    def _clear(self) -> None:
        """Remove the unfinished file of an export that was killed."""
        with suppress(FileNotFoundError):
            os.unlink(_TEMPORARY, dir_fd=self._base)

    def read(self, names: Sequence[str]) -> bytes | None:
        """The bytes of a small file; None if there is none. Raises Unplaceable."""
        try:
            with self._opened(names) as file:
                return file.read(_CHUNK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unplaceable(f"{'/'.join(names)} there cannot be read: {error.strerror}") from error

    def find(self, names: Sequence[str]) -> os.stat_result | None:
        """The status of the regular file that is there; None if nothing is. Raises Unplaceable for anything else."""
        try:
            with self._inside(names[:-1], make=False) as folder:
                status = os.stat(names[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unplaceable(f"its place cannot be looked at: {error.strerror}") from error
        if stat.S_ISDIR(status.st_mode):
            raise Unplaceable("a folder has its name there")
        if not stat.S_ISREG(status.st_mode):
            raise Unplaceable("what has its name there is not a regular file")
        return status

    def digest(self, names: Sequence[str], size: int) -> str:
        """The SHA-256 in hex of the first `size` bytes of what is there. Raises Unplaceable."""
        try:
            with self._opened(names) as file:
                return hash_file(file.fileno(), size).hexdigest()
        except OSError as error:
            raise Unplaceable(f"what is there cannot be read: {error.strerror}") from error

    def put(self, names: Sequence[str], blob: io.FileIO, path: Path, ways: Sequence[Way], modified: float) -> Way:
        """Put a blob there, replacing what is, by the first of the ways that is possible; which one that was.

        `modified` is the time of a copy, in seconds of the epoch. Raises Unplaceable.
        """
        return self._put(names, lambda: self._first(blob, path, ways, modified))

    def write(self, names: Sequence[str], data: bytes) -> None:
        """Put a small file there, replacing what is. Raises Unplaceable."""

        def make() -> None:
            with self._new() as file:
                file.write(data)

        self._put(names, make)

    def _put(self, names: Sequence[str], make: Callable[[], _T]) -> _T:
        """Put there what `make` makes under the temporary name."""
        try:
            with self._inside(names[:-1], make=True) as folder:
                self._clear()
                made = make()
                os.rename(_TEMPORARY, names[-1], src_dir_fd=self._base, dst_dir_fd=folder)
        except OSError as error:
            if error.errno in _FATAL:
                raise StoreError(f"cannot write to {self._root}: {error.strerror}") from error
            raise Unplaceable(f"it cannot be written: {error.strerror}") from error
        return made

    def _first(self, blob: io.FileIO, path: Path, ways: Sequence[Way], modified: float) -> Way:
        for way in ways:
            self._clear()
            try:
                if way is Way.LINK:
                    os.link(path, _TEMPORARY, dst_dir_fd=self._base, follow_symlinks=False)
                else:
                    self._copy(blob, modified, share=way is Way.REFLINK)
            except OSError as error:
                if way is Way.COPY or error.errno not in _IMPOSSIBLE:
                    raise
            else:
                return way
        raise StoreError(
            f"{self._root} cannot have files of the cache by {ways[-1]}: it is on another file system, or on one"
            f" that cannot do that, or the files belong to another user; leave --{ways[-1]} away"
        )

    def _copy(self, blob: io.FileIO, modified: float, *, share: bool) -> None:
        with self._new() as file:
            if share:
                fcntl.ioctl(file.fileno(), _FICLONE, blob.fileno())
            else:
                blob.seek(0)
                while block := blob.read(_CHUNK):
                    view = memoryview(block)
                    while view:
                        view = view[file.write(view) :]
            with suppress(OSError):  # without it, the file is known again by its bytes
                os.utime(file.fileno(), (modified, modified))
            os.fsync(file.fileno())

    def _new(self) -> io.FileIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return io.FileIO(os.open(_TEMPORARY, flags, 0o644, dir_fd=self._base), "w")

    @contextmanager
    def _opened(self, names: Sequence[str]) -> Iterator[io.FileIO]:
        with self._inside(names[:-1], make=False) as folder:
            descriptor = os.open(names[-1], _READ, dir_fd=folder)
        with io.FileIO(descriptor) as file:
            yield file

    @contextmanager
    def _inside(self, names: Sequence[str], *, make: bool) -> Iterator[int]:
        """A descriptor of a folder. Raises OSError, Unplaceable."""
        folder = os.dup(self._base)
        try:
            for name in names:
                following = _entered(folder, name, make=make)
                os.close(folder)
                folder = following
                status = os.fstat(folder)
                if (status.st_dev, status.st_ino) == self._cache:
                    raise Unplaceable("its folder is the cache itself")
            yield folder
        finally:
            os.close(folder)


def _entered(folder: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _ENTER, dir_fd=folder)
    except NotADirectoryError:
        raise Unplaceable(f"{name} is no folder there, but a file or a symbolic link") from None
    except FileNotFoundError:
        if not make:
            raise
    os.mkdir(name, 0o755, dir_fd=folder)
    return os.open(name, _ENTER, dir_fd=folder)


@dataclass(frozen=True, slots=True)
class Omitted:
    """A file that is not in the tree, and why."""

    key: str
    reason: str


@dataclass
class Exported:
    """What was done so far; `size` is of what was put there, in bytes."""

    put: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    size: int = 0
    here: int = 0
    refused: list[Omitted] = field(default_factory=list)
    skipped: list[Omitted] = field(default_factory=list)


class Exporter:
    """Fills one directory. Raises StoreError where nothing can be put there.

    `prefix` is left out of the paths there, and only what is below it is exported. `structure` is the layout of distfiles;
    if it is None, the layout.conf there decides. Of the `ways` for package files the first possible one is taken.
    """

    def __init__(
        self,
        stores: CacheDirectory,
        routes: Routes,
        target: TargetDirectory,
        prefix: str,
        structure: Structure | None,
        ways: Sequence[Way],
    ) -> None:
        self._routes = routes
        self._inventory = Inventory(stores.registry.database)
        self._blobs = stores.blobs
        self._target = target
        self._prefix, self._structure_wanted, self._ways = prefix, structure, ways
        self._above = tuple(unquote(name) for name in prefix.split("/")[1:])
        # An index that changes keeps its name: with the date of blobs, servers would call each version unchanged.
        self._ways_of_index = [way for way in ways if way is not Way.LINK] or [Way.REFLINK, Way.COPY]
        self._structures: dict[tuple[str, ...], Structure] = {}
        self.done = Exported()

    def run(self, glob: str | None, step: Callable[[], object]) -> None:
        """Put there what matches; `step` is called after each."""
        for entry, lasting in chain(self._entries(glob, lasting=True), self._entries(glob, lasting=False)):
            try:
                self._export(entry, lasting=lasting)
            except (Unplaceable, DamagedBlob) as error:
                self.done.refused.append(Omitted(entry.key, str(error)))
            step()

    def _entries(self, glob: str | None, *, lasting: bool) -> Iterator[tuple[Entry, bool]]:
        """Either the package files or the indexes."""
        below = f"{self._prefix}/"
        for entry in self._inventory.entries(f"{below}*" if glob is None else glob):
            target, _ = self._routes.of_key(entry.key)
            fresh = self._routes.policy(target).at(target).freshness(entry.representation.get("content-type"))
            if entry.key.startswith(below) and (fresh.how is Freshness.IMMUTABLE) is lasting:
                yield entry, lasting

    def _export(self, entry: Entry, *, lasting: bool) -> None:
        target, accept = self._routes.of_key(entry.key)
        if is_layout(target.path):
            return  # the tree has its own
        try:
            if accept is not None or target.query is not None:
                raise ValueError("it depends on more than its path")
            if entry.representation.get("content-encoding") not in (None, "", "identity"):
                raise ValueError("its bytes are in a content coding, which a tree cannot say")
            names = self._names(target)
        except ValueError as error:
            logger.info("%s is left out: %s", entry.key, error)
            self.done.skipped.append(Omitted(entry.key, str(error)))
            return
        ways = self._ways if lasting else self._ways_of_index
        if Way.LINK in ways or Way.COPY not in ways:
            ways = self._as_file(entry, ways)
        with self._blobs.holding([entry.digest]), self._blobs.open(entry.digest, entry.size) as blob:
            if self._is_there(entry, names, blob, lasting=lasting):
                self.done.here += 1
                return
            way = self._target.put(names, blob, self._blobs.path(entry.digest), ways, _date(entry))
        self.done.put[way] += 1
        self.done.size += entry.size

    def _as_file(self, entry: Entry, ways: Sequence[Way]) -> Sequence[Way]:
        """Store the blob as a file, which can be linked or share its bytes; the ways that are possible without one."""
        try:
            self._blobs.as_file(entry.digest, entry.size)
        except OnlyRead:
            if Way.COPY not in ways:
                raise
            return [Way.COPY]
        return ways

    def _names(self, target: Target) -> tuple[str, ...]:
        """Where in the tree a file belongs. Raises ValueError, with why, if nowhere."""
        home, names = names_of(target.home) if target.home else (), names_of(target.path)
        folder = distfiles_of(names) if self._routes.repository(target).may_have_distfiles else None
        if folder is not None and (*home, *folder)[: len(self._above)] == self._above:
            names = laid_out(names, self._structure((*home, *folder)[len(self._above) :]))
        return (*home, *names)[len(self._above) :]

    def _structure(self, folder: tuple[str, ...]) -> Structure:
        """How distfiles are laid out in a folder of the tree, whose layout.conf says so from then on."""
        if folder not in self._structures:
            self._structures[folder] = self._agreed((*folder, LAYOUT))
        return self._structures[folder]

    def _agreed(self, names: tuple[str, ...]) -> Structure:
        wanted, data = self._structure_wanted, self._target.read(names)
        if data is None:
            self._target.write(names, layout_text([wanted or FLAT]).encode())
            return wanted or FLAT
        try:
            known = [one for one in parse_layout(data.decode()) if one.by_name]
        except ValueError as error:
            raise StoreError(f"{'/'.join(names)} in that directory cannot be understood: {error}") from error
        if wanted is None and known:
            return known[0]
        if wanted in known:
            return wanted
        said = ", ".join(map(str, known)) or "nothing that is known here"
        raise StoreError(f"{'/'.join(names)} in that directory says {said}, not {wanted or FLAT}: choose another directory")

    def _is_there(self, entry: Entry, names: tuple[str, ...], blob: io.FileIO, *, lasting: bool) -> bool:
        """Whether a file is there already. Raises Unplaceable for a package file with other bytes: it is kept."""
        there = self._target.find(names)
        if there is None:
            return False
        if os.path.samestat(there, os.fstat(blob.fileno())):
            return Way.LINK in self._ways
        if there.st_size == entry.size:
            # Size and time are enough to know a package file again; an index may keep both and change.
            if lasting and not is_stamp(there.st_mtime_ns) and int(there.st_mtime) == int(_date(entry)):
                return True
            if self._target.digest(names, entry.size) == entry.digest:
                return True
        if lasting:
            raise Unplaceable("it is there with other bytes; remove it to have it from here")
        return False


def _date(entry: Entry) -> float:
    """When the file was last changed, as its source said; else when it came. In seconds of the epoch."""
    date = parse_date(entry.representation.get("last-modified"))
    return date if date is not None and date >= 0 else entry.representation.received
