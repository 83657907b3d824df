"""Checks of what was stored before the machine started: a bit may have flipped while nobody looked.

A blob is compared with its digest once a boot. A small one is read through before it is served; a large one while it is
served, beside the clients, who do not get the end of what they asked for before that: a damaged file is never whole.
"""

import logging
import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from io import FileIO

from package_cache.engine.fills.reader import TAIL
from package_cache.engine.threads import Run
from package_cache.errors import DamagedBlob, FillError, StoreError
from package_cache.model import Span
from package_cache.storage.blobs import BlobStore, flaw
from package_cache.storage.damage import Damages

logger = logging.getLogger(__name__)

AT_ONCE = 1 << 20
"""Bytes of a blob up to which it is read through before it is served."""
_TOGETHER = 8
"""Blobs that are read through beside their clients at a time."""
_BLOCK = 1 << 18


@dataclass(slots=True)
class _Check:
    """One blob that is read through, for all who are sent it meanwhile."""

    over: threading.Event = field(default_factory=threading.Event)
    damage: str | None = None
    listeners: list[Callable[[], None]] = field(default_factory=list)
    """Called at the end, in the thread that compares."""


class CheckedReader:
    """One client's view of `span` of a blob that is read through meanwhile."""

    def __init__(self, file: FileIO, span: Span, check: _Check) -> None:
        self._file = file
        self._span = span
        self._check = check

    def fileno(self) -> int:
        """The descriptor of the blob, for calls that take one."""
        return self._file.fileno()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when all of it may be sent, or nothing more; from any thread."""
        self._check.listeners.append(listener)
        if self._check.over.is_set():
            listener()

    def visible(self) -> int:
        """Where the bytes end that may be sent now. Raises `FillError` if the blob is damaged."""
        if not self._check.over.is_set():
            return max(self._span.start, self._span.stop - TAIL)
        if self._check.damage is not None:
            raise FillError(self._check.damage, 502)
        return self._span.stop

    def read(self, span: Span | None) -> Generator[bytes, None, None]:
        """The bytes of the span, each as soon as it may be sent. Raises `FillError` if the blob is damaged."""
        at, stop = (span or self._span).start, (span or self._span).stop
        while at < stop:
            end = min(stop, self.visible())
            if at >= end:
                self._check.over.wait()
                continue
            block = os.pread(self.fileno(), min(_BLOCK, end - at), at)
            if not block:
                raise FillError("the stored file became shorter while it was sent", 500)
            at += len(block)
            yield block

    def close(self) -> None:
        """Close the blob."""
        self._file.close()


class Checks:
    """The checks of this process. Safe for any number of threads. `run` gives threads."""

    def __init__(self, blobs: BlobStore, damages: Damages, run: Run) -> None:
        self._blobs = blobs
        self._damages = damages
        self._run = run
        self._guard = threading.Lock()
        self._turns = threading.Semaphore(_TOGETHER)
        self._running: dict[str, _Check] = {}

    def open(self, digest: str, size: int) -> FileIO | None:
        """A blob that was compared with its digest; None if that takes a while. Raises DamagedBlob."""
        if size <= AT_ONCE:
            return self._blobs.open(digest, size)
        file, checked = self._blobs.glance(digest, size)
        if checked:
            return file
        file.close()
        return None

    def row(self, digest: str, size: int) -> bytes | None:
        """A blob that is a row; None if it is a file. Raises DamagedBlob."""
        body = self._blobs.body(digest, size)
        trouble = None if body is None else flaw(body, digest, size)
        if trouble is not None:
            raise DamagedBlob(f"blob {digest} {trouble}")
        return body

    def at_once(self, digest: str, size: int) -> FileIO | bytes:
        """A blob, for who must not wait; of a row, its bytes. Raises StoreError for what is to be looked at closely."""
        return self._blobs.open_at_once(digest, size)

    def whole(self, digest: str, size: int) -> FileIO:
        """A blob, however long it takes to compare it. Raises DamagedBlob."""
        return self._blobs.open(digest, size)

    def small(self, digest: str, size: int) -> bytes | None:
        """A blob that is a row, compared with its digest; None for one that has no row. Raises DamagedBlob."""
        return self._blobs.sound_body(digest, size)

    def begin(self, digest: str, size: int, span: Span) -> FileIO | CheckedReader:
        """A blob at the start of a span of it, or a reader of that while it is compared. Raises DamagedBlob."""
        if size <= AT_ONCE:
            file, checked = self._blobs.open(digest, size), True
        else:
            file, checked = self._blobs.glance(digest, size)
        if checked:
            file.seek(span.start)
            return file
        return CheckedReader(file, span, self._join(file, digest, size))

    def _join(self, file: FileIO, digest: str, size: int) -> _Check:
        """The check of a blob that is under way, or a new one."""
        with self._guard:
            check = self._running.get(digest)
            if check is not None:
                return check
            check = self._running[digest] = _Check()
        own = FileIO(os.dup(file.fileno()))
        try:
            self._run(lambda: self._work(check, own, digest, size))
        except RuntimeError:  # there is no thread for it
            self._work(check, own, digest, size)
        return check

    def _work(self, check: _Check, file: FileIO, digest: str, size: int) -> None:
        """Runs in the thread."""
        damage: str | None = f"the check of blob {digest} ended in a bug"
        try:
            with self._turns:
                self._blobs.check(file, digest, size)
            damage = None
        except DamagedBlob as error:
            damage = str(error)
            self._take_out(file, digest, size)
        finally:
            check.damage = damage
            with self._guard:
                del self._running[digest]
            check.over.set()
            file.close()
            for listener in tuple(check.listeners):
                listener()

    def _take_out(self, file: FileIO, digest: str, size: int) -> None:
        status = os.fstat(file.fileno())
        try:
            self._damages.take_out(digest, size, (status.st_dev, status.st_ino))
        except StoreError as error:
            logger.warning("blob %s is damaged, and cannot be taken out: %s", digest, error)
