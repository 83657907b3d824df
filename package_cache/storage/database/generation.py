"""Generation words: how one process learns at once that another changed what the registry says.

A file of 8-byte words, mapped into every process that shares a cache. A key belongs to one word; whoever changed the key
writes a value into it that was never there before, after the change is committed. What was remembered under another value
is out of date. There are many more words than hot files, so that a busy cache does not forget files that did not change.
"""

import mmap
import os
import zlib
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.model import Key

WORDS = 65536
_SIZE = WORDS * 8


class Generation:
    """The words in one file. Reading one costs no system call.

    With `only_read` they are those that there are, if they can be read; else none ever changes.
    """

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        if only_read:
            self.words = _words_to_read(path)
            return
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Not ftruncate: on a full disk the first write into a hole of a mapping ends the process (SIGBUS).
                os.posix_fallocate(descriptor, 0, _SIZE)
                self._map = mmap.mmap(descriptor, _SIZE)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(f"cannot map {path}: {error.strerror}") from error
        self.words = memoryview(self._map).cast("Q")
        """The current values, by `word`."""

    @staticmethod
    def word(key: Key) -> int:
        """The word a key belongs to."""
        return zlib.crc32(key.encode("utf-8")) % WORDS

    def bump(self, key: Key) -> None:
        """Tell every process that the key changed."""
        self.words[self.word(key)] = _fresh()

    def bump_all(self) -> None:
        """Tell every process that any key may have changed."""
        self._map[:] = os.urandom(_SIZE)


def _words_to_read(path: Path) -> memoryview:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return memoryview(bytes(_SIZE)).cast("Q")
    try:
        return memoryview(mmap.mmap(descriptor, _SIZE, access=mmap.ACCESS_READ)).cast("Q")
    except (OSError, ValueError):
        return memoryview(bytes(_SIZE)).cast("Q")
    finally:
        os.close(descriptor)


def _fresh() -> int:
    """A value that no word had before; counting up would need a lock between processes."""
    return int.from_bytes(os.urandom(8), "little")
