"""Locks on names, between processes: one byte of a file for each name.

A lock costs no file of its own, so that a download of a few bytes creates nothing that it must remove again. It belongs to
the open file (an "open file description lock"), and so dies with its process, and is never inherited: a forked child closes
the file and opens its own. Within the process a set does what the kernel does between processes.
"""

import fcntl
import hashlib
import os
import struct
import threading
from pathlib import Path
from weakref import ref

_SPACE = (1 << 63) - 2
_FLOCK = "hhqqi0q"
"""`struct flock` of Linux: type, whence, start, length, process."""


class NameLocks:
    """The locks in one file. Safe for any number of threads and processes. Methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._held: set[int] = set()
        self._descriptor: int | None = None
        _forget_in_children(ref(self))

    def take(self, name: str) -> bool:
        """Take the lock of a name, unless somebody holds it, here or elsewhere. Never waits."""
        place = _place(name)
        with self._guard:
            if place in self._held:
                return False
            try:
                self._set(fcntl.F_WRLCK, place)
            except BlockingIOError:
                return False
            self._held.add(place)
            return True

    def free(self, name: str) -> None:
        """Give the lock back."""
        place = _place(name)
        with self._guard:
            if place in self._held:
                self._held.discard(place)
                self._set(fcntl.F_UNLCK, place)

    def _set(self, kind: int, place: int) -> None:
        fcntl.fcntl(self._open(), fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0))

    def _open(self) -> int:
        """The file, made anew if it was removed while nothing in it is held here."""
        if self._descriptor is not None and not self._held and os.fstat(self._descriptor).st_nlink == 0:
            os.close(self._descriptor)
            self._descriptor = None
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def forget(self) -> None:
        """In a forked child: the locks are the parent's, and must end with it."""
        self._guard = threading.Lock()
        self._held = set()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _place(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big") % _SPACE


def _forget_in_children(locks: "ref[NameLocks]") -> None:
    def after() -> None:
        alive = locks()
        if alive is not None:
            alive.forget()

    os.register_at_fork(after_in_child=after)
