"""Bodies that still arrive, each as one client has it: from a part that grows, or from a window of what is not kept."""

import math
import os
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, Self

from package_cache.engine.fills.failures import UNSTORABLE
from package_cache.errors import FillError
from package_cache.model import Span
from package_cache.storage.parts.leases import Journal
from package_cache.storage.system import Descriptor

TAIL = 65536
"""Bytes at the end of a file that readers do not get before the whole is verified."""
SHOWN = -1
"""The number of what is shown before there is a part."""
WINDOW = 1 << 18
"""Bytes that may be here and not with the client; as many more as a source sends in one block."""
_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fill is: what its journal says, and the bytes of its part."""

    journal: Journal
    size: int

    @property
    def visible(self) -> int:
        """Bytes that readers may have: all once verified, before that all but the tail."""
        if self.journal.digest is not None:
            return self.journal.size or 0
        total = self.journal.head.size if self.journal.head else None
        return min(self.size, max(0, total - TAIL)) if total is not None else max(0, self.size - TAIL)

    def tells_more_than(self, before: "Progress") -> bool:
        """Whether somebody who waits for an answer, or for more of it, can go on now and could not before."""
        mine, other = self.journal, before.journal
        if self.visible != before.visible or mine.failed is not other.failed or mine.done != other.done:
            return True
        return mine.confirmed != other.confirmed or mine.digest != other.digest


class Growing(Protocol):
    """What is read; see `fill.Fill`."""

    @property
    def patience(self) -> float:
        """Seconds after which who waits is to look again."""
        ...

    def progress(self) -> Progress:
        """How far it is now."""
        ...

    def wait(self, seen: Progress, until: float = math.inf) -> Progress:
        """Block until there is more to tell than `seen`, or until a time of the monotonic clock."""
        ...

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when there is more."""
        ...

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        ...

    def moved(self, number: int) -> tuple[Descriptor, int] | None:
        """Where a reader of that number goes on, and that one's number; None if there is nothing."""
        ...


class ReplacedError(FillError):
    """The part a reader reads is not the file any more: a source has another one, and the fill began again."""


class LeftError(Exception):
    """The client wants no more."""


class Window:
    """What was received from the byte `start` on, and is not with its client yet: of a body that is not kept.

    One thread puts bytes in, and waits while there are many; another one takes them out. So a client that reads slowly
    makes its source wait, and takes no more memory than its window.
    """

    def __init__(self, start: int) -> None:
        self._changed = threading.Condition()
        self._data = bytearray()
        self._at = start
        """The place of the first byte that is held."""
        self._wanted = start
        """What comes before that is not wanted."""
        self._error: FillError | None = None
        self._is_whole = False
        self._closed = False
        self._listeners: list[Callable[[], None]] = []
        self._before: FillReader | None = None

    # -- for the thread that receives

    def _receive(self, data: bytes) -> None:
        """Keep what came, and wait until there is room for more. Raises LeftError."""
        with self._changed:
            self._data += data
            self._drop(self._wanted)
            listeners = self._told()
        for listener in listeners:
            listener()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._data) < WINDOW)
            if self._closed:
                raise LeftError

    def _end(self, error: FillError | None) -> None:
        """All is here and right, or nothing more will come."""
        with self._changed:
            self._is_whole, self._error = error is None, error
            listeners = self._told()
        for listener in listeners:
            listener()

    def _told(self) -> tuple[Callable[[], None], ...]:
        """Called with the condition held."""
        self._changed.notify_all()
        return tuple(self._listeners)

    def _drop(self, at: int) -> None:
        """Forget what comes before a place. Called with the condition held."""
        size = min(max(0, at - self._at), len(self._data))
        if size:
            del self._data[:size]
            self._at += size

    # -- for the client

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when there is more; from the thread that receives, so it must be quick."""
        with self._changed:
            self._listeners.append(listener)

    def _held_back(self, _have: int) -> int:
        """How many bytes at the end the client may not have yet, of so many. Called with the condition held."""
        return 0

    def visible_from(self, at: int) -> int:
        """Where what may be sent from a place on ends; what comes before is with the client, and is forgotten.

        Raises `FillError` where there will be nothing.
        """
        with self._changed:
            return self._visible_from(at)

    def _visible_from(self, at: int) -> int:
        """Called with the condition held."""
        self._wanted = at
        self._drop(at)
        self._changed.notify_all()
        have = self._at + len(self._data)
        end = max(self._at, have - self._held_back(have))
        if end <= at and self._error is not None:
            raise self._error.with_traceback(None)
        return end

    def is_whole(self) -> bool:
        """Whether all of it may be sent: `visible_from` tells its size then."""
        return self._is_whole

    def take(self, at: int, count: int) -> bytes:
        """Bytes from a place on which may be sent."""
        with self._changed:
            return bytes(self._data[at - self._at : at - self._at + count])

    def read(self, span: Span | None, start: int = 0) -> Generator[bytes, None, None]:
        """The bytes of `span`, or all from `start` on, each as soon as it may be sent. Raises `FillError`."""
        at, stop = (span.start, span.stop) if span else (start, math.inf)
        while at < stop:
            with self._changed:
                while (end := self._visible_from(at)) <= at and not self._is_whole:
                    self._changed.wait()
            if end <= at:
                return
            block = self.take(at, int(min(_BLOCK, stop - at, end - at)))
            at += len(block)
            yield block

    def instead_of(self, reader: "FillReader") -> Self:
        """Have a reader, whose client goes on here, be closed together with this."""
        self._before = reader
        return self

    def leave(self) -> "FillReader | None":
        """Close it; the reader whose client went on here, which stays open."""
        before, self._before = self._before, None
        self.close()
        return before

    def close(self) -> None:
        """Nothing more is wanted. May be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._before is not None:
            self._before.close()


Rescue = Callable[["FillReader", int], Window]
"""The rest of a body, from a place on, for a reader that cannot go on. Raises FillError."""


class ElsewhereError(FillError):
    """A body cannot go on where it is read; its `successor` may."""


class UnstorableError(ElsewhereError):
    """The download failed for the disk's sake; the source may go on."""


class FillReader:
    """One client's view of the growing part."""

    def __init__(self, fill: Growing, number: int, descriptor: Descriptor, left: Callable[[], None]) -> None:
        self.fill = fill
        self._number = number
        self._descriptor: Descriptor | None = descriptor
        self._left = left
        self._listener: Callable[[], None] | None = None
        self._visible = 0
        """As of the last look."""
        self.rescue: Rescue | None = None
        """Where the rest is to be had if the download fails for the disk's sake alone."""

    def fileno(self) -> int:
        """The descriptor of the part, for calls that take one."""
        if self._descriptor is None:
            raise FillError("the reader is closed", 502)
        return self._descriptor.fileno()

    @property
    def number(self) -> int:
        """That of the part."""
        return self._number

    def kept(self) -> Descriptor:
        """The part, for one more user."""
        if self._descriptor is None:
            raise FillError("the reader is closed", 502)
        return self._descriptor.share()

    def successor(self, at: int) -> Window:
        """Where the client goes on from a place, after an `ElsewhereError`; it holds this reader then. Raises FillError."""
        if self.rescue is None:
            raise FillError("the download cannot go on", 502)
        return self.rescue(self, at).instead_of(self)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when there is more, until this is closed; from any thread, so it must be quick."""
        self._listener = listener
        self.fill.listen(listener)

    def visible(self, enough: float = math.inf) -> int:
        """Bytes that may be sent now, as far as there are not `enough` of them. Raises `FillError` if the download failed,
        or began another part."""
        if self._visible < enough:
            progress = self.fill.progress()
            self._check(progress.journal)
            self._visible = progress.visible
        return self._visible

    def is_whole(self) -> bool:
        """Whether all of it may be sent: `visible` is its size then."""
        return self.fill.progress().journal.digest is not None

    def read(self, span: Span | None, start: int = 0) -> Generator[bytes, None, None]:
        """The bytes of `span`, or all from `start` on where the length is not known yet, each as soon as it may be shown.

        Raises `FillError` if the download fails: what was read before is then not the whole. Raises `ReplacedError` if
        it goes on with other bytes.
        """
        at = span.start if span else start
        progress = self.fill.progress()
        while True:
            try:
                self._check(progress.journal)
            except UnstorableError:
                if self.rescue is None:
                    raise
                with closing(self.rescue(self, at)) as rest:
                    yield from rest.read(Span(at, span.stop) if span else None, at)
                return
            end = min(progress.visible, span.stop) if span else progress.visible
            while at < end:
                block = os.pread(self.fileno(), min(_BLOCK, end - at), at)
                if not block:
                    raise FillError("the part became shorter than its reader knew it", 502)
                at += len(block)
                yield block
            if (span and at >= span.stop) or (not span and progress.journal.digest is not None):
                return
            progress = self.fill.wait(progress)

    def _check(self, journal: Journal) -> None:
        if journal.number != self._number and not self._is_at(journal.number):
            raise ReplacedError("the file changed at its source while it was sent", 502)
        if journal.done and journal.failed is None and journal.digest is None:
            raise ReplacedError("the process that downloaded the file ended when it was stored already", 502)
        # What is verified stays so, though it could not be stored.
        if journal.failed is not None and journal.digest is None:
            kind = UnstorableError if journal.failed.status == UNSTORABLE else FillError
            raise kind(journal.failed.reason, journal.failed.status)

    def _is_at(self, number: int) -> bool:
        """Whether what was shown goes on in the part of that number, which is the reader's then; or there is none yet."""
        moved = self.fill.moved(self._number)
        if moved is None or self._descriptor is None:
            return False
        part, self._number = moved
        self._descriptor.close()
        self._descriptor = part
        return self._number in (number, SHOWN)

    def close(self) -> None:
        """Give the descriptor back."""
        descriptor, self._descriptor = self._descriptor, None
        if self._listener is not None:
            self.fill.unlisten(self._listener)
        if descriptor is not None:
            descriptor.close()
            self._left()
