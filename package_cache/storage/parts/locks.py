"""Locks on names, between processes: one byte of a file for each name.

A lock costs no file of its own, so that a download of a few bytes creates nothing that it must remove again. It is an "open
file description lock": it belongs to the open file, so it dies with its process and is never inherited; a forked child
closes the file and opens its own. Within the process a set does what the kernel does between processes.
"""

import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

from package_cache.storage.system import forget_in_children

_SPACE = (1 << 63) - 2
_FLOCK = struct.Struct("hhqqi0q")
"""`struct flock` of Linux: type, whence, start, length, process."""


class NameLocks:
    """The locks in one file. Safe for any number of threads and processes. Methods raise OSError."""

    _descriptor: int | None = None
    """Known to `__del__` also where a signal ended the process before `__init__` did."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._held: set[int] = set()
        self._shared: dict[int, int] = {}
        forget_in_children(self)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def take(self, name: str) -> bool:
        """Take the lock of a name, unless somebody holds or shares it, here or elsewhere. Never waits."""
        return self.take_hashed(hashed(name))

    def take_hashed(self, digest: str) -> bool:
        """As `take`, by the SHA-256 of the name in hex."""
        place = _place(digest)
        with self._guard:
            if place in self._held or place in self._shared or not self._try(fcntl.F_WRLCK, place):
                return False
            self._held.add(place)
            return True

    def share(self, name: str) -> bool:
        """Share the lock of a name with others that share it, unless somebody holds it. Never waits."""
        place = _place(hashed(name))
        with self._guard:
            users = self._shared.get(place, 0)
            if place in self._held or (not users and not self._try(fcntl.F_RDLCK, place)):
                return False
            self._shared[place] = users + 1
            return True

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
                try:
                    self._free(_place(digest))
                except OSError as error:
                    refused = error
        if refused is not None:
            raise refused

    def _free(self, place: int) -> None:
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

    def is_held(self, name: str) -> bool:
        """Whether somebody else holds or shares the lock of a name. Takes nothing."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _place(hashed(name)), 1, 0)
        with self._guard:
            found = fcntl.fcntl(self._open(), fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def _try(self, kind: int, place: int) -> bool:
        # While something is held, the file is the one that was opened.
        descriptor = self._descriptor if self._held else None
        try:
            fcntl.fcntl(
                self._open() if descriptor is None else descriptor,
                fcntl.F_OFD_SETLK,
                _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0),
            )
        except BlockingIOError:
            return False
        return True

    def _open(self) -> int:
        """The file, made anew if it was removed while nothing in it is held here."""
        if (
            self._descriptor is not None
            and not self._held
            and not self._shared
            and os.fstat(self._descriptor).st_nlink == 0
        ):
            os.close(self._descriptor)
            self._descriptor = None
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def forget(self) -> None:
        """In a forked child: the locks are the parent's, and must end with it."""
        self._guard = threading.Lock()
        self._held = set()
        self._shared = {}
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def hashed(name: str) -> str:
    """What stands for a name: its SHA-256 in hex."""
    return hashlib.sha256(name.encode("utf-8")).hexdigest()


def _place(digest: str) -> int:
    return int(digest[:16], 16) % _SPACE
