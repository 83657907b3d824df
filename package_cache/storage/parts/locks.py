"""Locks on names, between processes: one byte of a file for each name.

A lock costs no file of its own, so that a download of a few bytes creates nothing that it must remove again. It is an "open
file description lock": it belongs to the open file, so it dies with its process and is never inherited; a forked child
closes the file and opens its own. Within the process a set does what the kernel does between processes.

The kernel goes through all locks of a file for each one that is taken or given back. So there are several files, and a
thousand locks that are held at once, as of small files that are about to be stored, cost no more than sixty.
"""

import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from package_cache.storage.system import forget_in_children

_FILES = 16
_SPACE = (1 << 63) - 2
_FLOCK = struct.Struct("hhqqi0q")
"""`struct flock` of Linux: type, whence, start, length, process."""


class _File:
    """The locks in one of the files, by their places. The caller holds the guard. Methods raise OSError."""

    __slots__ = ("_descriptor", "_held", "_path", "_shared")

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._held: set[int] = set()
        self._shared: dict[int, int] = {}

    def take(self, place: int) -> bool:
        if place in self._held or place in self._shared or not self._try(fcntl.F_WRLCK, place):
            return False
        self._held.add(place)
        return True

    def share(self, place: int) -> bool:
        users = self._shared.get(place, 0)
        if place in self._held or (not users and not self._try(fcntl.F_RDLCK, place)):
            return False
        self._shared[place] = users + 1
        return True

    def free(self, place: int) -> None:
        # It counts as held until then: it is in the file that was opened, though that was removed meanwhile.
        if place in self._held:
            try:
                self._try(fcntl.F_UNLCK, place)
            finally:
                self._held.remove(place)
        elif self._shared.get(place, 0) > 1:
            self._shared[place] -= 1
        elif place in self._shared:
            try:
                self._try(fcntl.F_UNLCK, place)
            finally:
                del self._shared[place]

    def is_held(self, place: int) -> bool:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        found = fcntl.fcntl(self._opened(), fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Have nothing any more."""
        self._held.clear()
        self._shared.clear()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _try(self, kind: int, place: int) -> bool:
        try:
            fcntl.fcntl(self._opened(), fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        except BlockingIOError:
            return False
        return True

    def _opened(self) -> int:
        """The file, made anew if it was removed while nothing in it is held here."""
        if self._descriptor is not None:
            if self._held or self._shared or os.fstat(self._descriptor).st_nlink:
                return self._descriptor
            self.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(self._path))  # noqa: PTH102, PTH120 - a string
            self._descriptor = os.open(self._path, flags, 0o600)
        return self._descriptor


class NameLocks:
    """The locks in the files of one directory. Safe for any number of threads and processes. Methods raise OSError."""

    _files: tuple[_File, ...] = ()
    """Known to `__del__` also where a signal ended the process before `__init__` did."""

    def __init__(self, path: Path) -> None:
        self._guard = threading.Lock()
        self._files = tuple(_File(f"{path}/{number:x}") for number in range(_FILES))
        forget_in_children(self)

    def __del__(self) -> None:
        for file in self._files:
            file.close()

    def take(self, name: str) -> bool:
        """Take the lock of a name, unless somebody holds or shares it, here or elsewhere. Never waits."""
        return self.take_hashed(hashed(name))

    def take_hashed(self, digest: str) -> bool:
        """As `take`, by the SHA-256 of the name in hex."""
        place = _place(digest)
        with self._guard:
            return self._files[place % _FILES].take(place)

    def share(self, name: str) -> bool:
        """Share the lock of a name with others that share it, unless somebody holds it. Never waits."""
        place = _place(hashed(name))
        with self._guard:
            return self._files[place % _FILES].share(place)

    def free(self, name: str) -> None:
        """Give the lock back, or one share of it."""
        self.free_hashed(hashed(name))

    def free_hashed(self, digest: str) -> None:
        """As `free`, by the SHA-256 of the name in hex."""
        self.free_all((digest,))

    def free_all(self, digests: Iterable[str]) -> None:
        """As `free_hashed`, of many: of all, even where the system refuses one."""
        refused: OSError | None = None
        with self._guard:
            for digest in digests:
                place = _place(digest)
                try:
                    self._files[place % _FILES].free(place)
                except OSError as error:
                    refused = error
        if refused is not None:
            raise refused

    def is_held(self, name: str) -> bool:
        """Whether somebody else holds or shares the lock of a name. Takes nothing."""
        place = _place(hashed(name))
        with self._guard:
            return self._files[place % _FILES].is_held(place)

    def forget(self) -> None:
        """In a forked child: the locks are the parent's, and must end with it."""
        self._guard = threading.Lock()
        for file in self._files:
            file.close()


def hashed(name: str) -> str:
    """What stands for a name: its SHA-256 in hex."""
    return hashlib.sha256(name.encode("utf-8")).hexdigest()


def _place(digest: str) -> int:
    return int(digest[:16], 16) % _SPACE
