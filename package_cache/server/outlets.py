"""Where lines of a log go: a file, or whatever is at the other end of a descriptor. Nobody waits for who reads there.

A pipe whose reader hangs takes nothing once it is full, and a terminal on which somebody pressed ^S does not either. A
service that waited for it would stand still, so lines that are not taken are dropped and counted, as HAProxy does it. The
descriptor itself is left as it is: it is shared with other programs, which may rely on it to make them wait.
"""

import io
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, Protocol, TextIO, cast

_WAIT_SECONDS = 0.02
"""How long a reader that is busy is waited for. One that took nothing meanwhile is waited for no more until it does."""
_PIECE = select.PIPE_BUF
"""Bytes that a pipe takes together or not at all, so that the lines of several processes do not mix."""
_FILE_PIECE = 1 << 20


class Outlet:
    """Writes lines to a descriptor. Safe for any number of threads, and for signal handlers."""

    def __init__(self, descriptor: int) -> None:
        self._guard = threading.RLock()
        self._way = _way_to(descriptor)
        self._size = _FILE_PIECE if stat.S_ISREG(os.fstat(descriptor).st_mode) else _PIECE
        self._rest = b""
        """What is to come before all else: a line has begun with what was taken."""
        self._hangs = False

    def write(self, lines: Iterable[bytes]) -> int:
        """Write lines, each with its end; how many were taken. Raises OSError where that is not for want of a reader."""
        with self._guard:
            deadline, taken = time.monotonic() + _WAIT_SECONDS, 0
            if not self._push(deadline):
                return 0
            for piece, count in self._pieces(lines):
                self._rest = piece
                try:
                    is_over = self._push(deadline)
                finally:
                    begun = len(self._rest) < len(piece)
                    self._rest = self._rest if begun else b""
                taken += count if begun else 0
                if not is_over:
                    break
            return taken

    def _pieces(self, lines: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
        """Lines together, as many as may be written at once, and how many they are. A longer one stands alone."""
        lines = tuple(lines)
        if lines and sum(map(len, lines)) <= self._size:
            yield b"".join(lines), len(lines)
            return
        together: list[bytes] = []
        size = 0
        for line in lines:
            if together and size + len(line) > self._size:
                yield b"".join(together), len(together)
                together, size = [], 0
            together.append(line)
            size += len(line)
        if together:
            yield b"".join(together), len(together)

    def _push(self, deadline: float) -> bool:
        """Write what is to come; whether all of it was taken."""
        while self._rest:
            try:
                self._rest = self._rest[self._way.put(self._rest) :]
                self._hangs = False
            except BlockingIOError:
                left = deadline - time.monotonic()
                self._hangs = self._hangs or left <= 0 or not _takes(self._way.descriptor, left)
                if self._hangs:
                    return False
        return True

    def close(self) -> None:
        """Leave the descriptor, which stays open."""
        self._way.close()


class _Way(Protocol):
    """How bytes get to a descriptor. `put` says how many were taken, and raises BlockingIOError if there is no room."""

    descriptor: int

    def put(self, data: bytes) -> int: ...

    def close(self) -> None: ...


class _Direct:
    """To a file, or to what was opened so that nobody waits."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def put(self, data: bytes) -> int:
        return os.write(self.descriptor, data)

    def close(self) -> None:
        """Nothing was opened."""


class _Reopened(_Direct):
    """To a pipe or a terminal, opened once more: whether one waits for it is agreed upon for each time it was opened."""

    def __init__(self, descriptor: int) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        super().__init__(os.open(f"/proc/self/fd/{descriptor}", flags))

    def close(self) -> None:
        os.close(self.descriptor)


class _Careful(_Direct):
    """To a pipe that may not be opened once more, such as that of another user: only when it has room."""

    def put(self, data: bytes) -> int:
        if not _takes(self.descriptor, 0.0):
            raise BlockingIOError
        return os.write(self.descriptor, data[:_PIECE])


class _Sent(_Direct):
    """To a socket."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._socket = socket.socket(fileno=os.dup(descriptor))

    def put(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._socket.close()


def _way_to(descriptor: int) -> _Way:
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(kind):
        return _Sent(descriptor)
    if stat.S_ISREG(kind) or not os.get_blocking(descriptor):
        return _Direct(descriptor)
    try:
        return _Reopened(descriptor)
    except OSError:
        return _Careful(descriptor)


def _takes(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


class _Lines(io.RawIOBase):
    """Takes whatever is written, and passes it on as far as somebody takes it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._outlet = Outlet(descriptor)
        self._dropped = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        lines = bytes(data).splitlines(keepends=True)
        missing = [b"package-cache: %d lines were dropped here, as nobody took them\n" % self._dropped]
        told = missing if self._dropped else []
        try:
            taken = self._outlet.write([*told, *lines])
        except OSError:  # there is nobody left to be told
            taken = 0
        self._dropped = (0 if taken else self._dropped) if told else 0
        self._dropped += len(lines) - max(0, taken - len(told))
        return len(data)


def unfailing(descriptor: int, encoding: str = "utf-8") -> TextIO:
    """A stream that writes to a descriptor, and neither fails nor makes anybody wait."""
    return io.TextIOWrapper(cast("IO[bytes]", _Lines(descriptor)), encoding, "backslashreplace", line_buffering=True)
