"""Binary streams over a file: a window onto some of its bytes, and bytes that can only be made from first to last.

Both can be read and sought like files, and both keep alive what they read from. They are raw: wrap them with
`buffered`. They know nothing of archives.
"""

import io
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from package_cache.errors import BrokenArchive

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 16
"""Bytes read, and bytes inflated, at a time."""


def buffered(stream: io.RawIOBase) -> io.BufferedReader:
    """A binary file on a stream: it has lines, and closes the stream when it is closed or goes out of use."""
    return io.BufferedReader(stream, CHUNK)


def chunks(stream: io.RawIOBase) -> Iterator[bytes]:
    """What is left of a stream, piece by piece."""
    return iter(lambda: stream.read(CHUNK) or b"", b"")


class _Stream(io.RawIOBase):
    """What both kinds of stream have in common."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readall(self) -> bytes:
        return b"".join(chunks(self))


class Window(_Stream):
    """`size` bytes of a seekable file, from `start` on. `name` is for messages.

    The file's own position is set before each read, so any number of windows can look at one file; not from several
    threads. Closing the window closes the file only if it is `owned`. Reading raises BrokenArchive where the file ends
    early.
    """

    def __init__(self, file: BinaryIO, start: int, size: int, name: str, *, owned: bool = False) -> None:
        self._file = file
        self._start = start
        self.size = size
        """Bytes."""
        self._name = name
        self._owned = owned
        self._position = 0

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Reads as much as there is room for, up to the end of the window."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), self.size - self._position)
        if count <= 0:
            return 0
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        if not data:
            raise BrokenArchive(f"{self._name} is cut short: {self.size - self._position} bytes are missing")
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Goes to a position, even beyond the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise io.UnsupportedOperation(f"cannot seek to {base + offset}, before the beginning")
        self._position = base + offset
        return self._position

    def close(self) -> None:
        """Closes it, and the file if it is owned."""
        if self._owned and not self.closed:
            self._file.close()
        super().close()


class Forward(_Stream):
    """Bytes that are made chunk by chunk; to go back means to `begin` again.

    A chunk is handed out when the next one has been made, so that a check at the end comes before the last bytes. After an
    error the next read begins again too: it fails in the same way, and never looks like the end. `owned` is closed with it.
    """

    def __init__(self, begin: Callable[[], Iterator[bytes]], *, owned: BinaryIO | None = None) -> None:
        self._begin = begin
        self._owned = owned
        self._chunks: Iterator[bytes] | None = None
        self._next = b""
        self._rest = memoryview(b"")
        self._position = 0
        self.size: int | None = None
        """Bytes in all; None until the end has been reached once."""

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Reads what is left of the chunk at hand, or the next one."""
        if self._chunks is None:
            self.seek(self._position)
        if not self._rest and not self._advance():
            return 0
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._pass(count)
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Goes to a position, or to the end if that comes first. Costs the making of what lies between."""
        if whence == os.SEEK_END and self.size is None:
            self._go(None)
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size or 0}[whence]
        if base + offset < 0:
            raise io.UnsupportedOperation(f"cannot seek to {base + offset}, before the beginning")
        self._go(base + offset)
        return self._position

    def close(self) -> None:
        """Closes it, and what it owns."""
        if self._owned is not None and not self.closed:
            self._owned.close()
        super().close()

    def _go(self, target: int | None) -> None:
        """Passes what lies before `target`, or everything. Where that fails the position is as before."""
        before = self._position
        try:
            if self._chunks is None or (target is not None and target < self._position):
                self._restart()
            while target is None or self._position < target:
                if not self._rest and not self._advance():
                    break
                self._pass(len(self._rest) if target is None else min(len(self._rest), target - self._position))
        except BaseException:
            self._chunks, self._position = None, before
            raise

    def _pass(self, count: int) -> None:
        self._rest = self._rest[count:]
        self._position += count

    def _restart(self) -> None:
        self._rest, self._position = memoryview(b""), 0
        self._chunks = self._begin()
        self._next = self._make()

    def _advance(self) -> bool:
        """Has the next chunk made; False at the end."""
        if not self._next:
            self.size = self._position
            return False
        following = self._make()
        self._rest, self._next = memoryview(self._next), following
        return True

    def _make(self) -> bytes:
        assert self._chunks is not None
        try:
            return next(self._chunks, b"")
        except BaseException:
            self._chunks = None  # an iterator that has raised would now seem to have ended
            raise
