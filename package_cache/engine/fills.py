"""Fills: one download of one key, whoever waits for it, in however many threads and processes.

The process that gets the lease leads: a thread of its own downloads, never a client's. Everyone else reads the growing
part. Readers in the leading process are woken by it, readers elsewhere poll; either way they see the same two things, the
journal and the size of the part. When a leader dies the kernel frees its lease, and a reader's process takes over where
it stopped. `Fills` guards its table with one lock, each `Fill` its state with a condition; no I/O but polling happens
under either.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from package_cache.errors import FillError, PackageCacheError, StoreError
from package_cache.model import Key, Span
from package_cache.storage.parts import Failed, Journal, Lease, PartStore, Watch

logger = logging.getLogger(__name__)

TAIL = 65536
"""Bytes at the end of a file that readers do not get before the whole is verified."""
POLL = 0.004
"""Seconds between two looks at another process's fill."""
ORPHAN = 0.05
"""Seconds without news after which a reader tests whether the leader still lives."""
STUCK = 45.0
"""Seconds without a sign of life from a leader that holds its lease, after which readers give up."""
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


Lead = Callable[["Fill", Lease], None]
"""Downloads with the lease, reporting through `Fill.publish`; must end the journal and give the lease back."""


class Fill:
    """A running download, seen from this process. It lives as long as somebody uses it: a client, or the leading thread."""

    def __init__(self, key: Key, lead: Lead, left: Callable[["Fill"], None]) -> None:
        self.key = key
        self._lead = lead
        self._left = left
        self._users = 0
        self._changed = threading.Condition()
        self._progress = Progress(Journal(), 0)
        self._part: int | None = None
        self._part_number = 0
        self._watch: Watch | None = None
        self._leading = False
        self._news = time.monotonic()
        self._beat = 0.0
        self._listeners: list[Callable[[], None]] = []

    def enter(self) -> bool:
        """Count one more user; False if the fill is over, so that another must be begun."""
        with self._changed:
            if self._progress.journal.done or self._users == 0:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        """Count one user less; the last one closes the fill."""
        with self._changed:
            self._users -= 1
            if self._users > 0:
                return
            self._replace_part(None, 0)
            if self._watch is not None:
                self._watch.close()
                self._watch = None

    @property
    def idle(self) -> bool:
        """Whether nobody uses the fill any more."""
        with self._changed:
            return self._users == 0

    def lead(self, lease: Lease) -> None:
        """Download in a thread of this process."""
        with self._changed:
            self._users += 1
            self._start_leading(lease)

    def _start_leading(self, lease: Lease) -> None:
        self._leading = True
        self._users += 1
        threading.Thread(target=self._run, args=(lease,), name=f"fill {self.key}", daemon=True).start()

    def _run(self, lease: Lease) -> None:
        try:
            self._lead(self, lease)
        except PackageCacheError as error:
            logger.error("the download of %s failed: %s", self.key, error)
            self._abandon(lease, str(error))
        except Exception:
            logger.exception("the download of %s ended in a bug", self.key)
            self._abandon(lease, "the download ended in an internal error")
        finally:
            self._left(self)

    def _abandon(self, lease: Lease, reason: str) -> None:
        failure = Failed(500, reason)
        journal = Journal(done=True, failed=failure)
        try:
            lease.failed(failure, keep=False)
        except (PackageCacheError, OSError) as error:
            logger.warning("cannot clean up after %s: %s", self.key, error)
        self._set(Progress(journal, 0))

    def follow(self, watch: Watch) -> None:
        """Read what another process downloads."""
        with self._changed:
            self._users += 1
            self._watch = watch
            self._poll()

    def publish(self, lease: Lease) -> None:
        """Show readers in this process what the leader wrote."""
        journal, part = lease.journal, lease.part
        with self._changed:
            if part is not None and journal.number != self._part_number:
                self._replace_part(os.dup(part.fileno()), journal.number)
        size = part.size if part is not None else self._progress.size
        self._set(Progress(journal, size))

    def _set(self, progress: Progress) -> None:
        with self._changed:
            self._progress = progress
            self._news = time.monotonic()
            self._changed.notify_all()
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever this process's leader publishes; from the leading thread, so it must be quick."""
        with self._changed:
            if listener not in self._listeners:
                self._listeners.append(listener)

    def progress(self) -> Progress:
        """How far the fill is now."""
        with self._changed:
            self._poll()
            return self._progress

    def wait(self, seen: Progress) -> Progress:
        """Block until there is more to tell than `seen`."""
        with self._changed:
            while True:
                self._poll()
                if self._progress != seen:
                    return self._progress
                self._changed.wait(1.0 if self._leading else POLL)

    def _poll(self) -> None:
        """Look at another process's fill; called with the condition held."""
        if self._leading or self._watch is None or self._progress.journal.done:
            return
        try:
            journal = self._watch.refresh()
            if journal.number != self._part_number and journal.head is not None:
                self._replace_part(self._watch.open_part(), journal.number)
            size = os.fstat(self._part).st_size if self._part is not None else 0
            progress = Progress(journal, size)
            if progress != self._progress or self._watch.beat != self._beat:
                self._beat = self._watch.beat
                self._progress, self._news = progress, time.monotonic()
                self._changed.notify_all()
            elif time.monotonic() - self._news > STUCK:
                failure = Failed(504, "the process that downloads this file does not go on")
                self._progress = Progress(Journal(done=True, failed=failure), 0)
            elif time.monotonic() - self._news > ORPHAN:
                lease = self._watch.take_over()
                if lease is not None:
                    logger.info("taking over the download of %s, whose process ended", self.key)
                    self._start_leading(lease)
        except (StoreError, OSError, ValueError) as error:
            failure = Failed(500, f"the running download cannot be followed: {error}")
            self._progress = Progress(Journal(done=True, failed=failure), 0)

    def _replace_part(self, descriptor: int | None, number: int) -> None:
        if self._part is not None:
            os.close(self._part)
        self._part, self._part_number = descriptor, number

    def reader(self, number: int, left: Callable[[], None]) -> "FillReader | None":
        """A reader of the part of that number, if it is still the current one. `left` is called when it is closed."""
        with self._changed:
            if self._part is None or self._part_number != number:
                return None
            return FillReader(self, number, os.dup(self._part), left)


class FillReader:
    """One client's view of the growing part."""

    def __init__(self, fill: Fill, number: int, descriptor: int, left: Callable[[], None]) -> None:
        self._fill = fill
        self._number = number
        self._descriptor: int | None = descriptor
        self._left = left

    def fileno(self) -> int:
        """The descriptor of the part, for calls that take one."""
        if self._descriptor is None:
            raise FillError("the reader is closed", 502)
        return self._descriptor

    def visible(self) -> int:
        """Bytes that may be sent now. Raises `FillError` if the download failed, or began another part."""
        progress = self._fill.progress()
        self._check(progress.journal)
        return progress.visible

    def read(self, span: Span | None) -> Generator[bytes, None, None]:
        """The bytes of `span`, or of the whole where its length is not known yet, each as soon as it may be shown.

        Raises `FillError` if the download fails: what was read before is then not the whole.
        """
        at = span.start if span else 0
        progress = self._fill.progress()
        while True:
            self._check(progress.journal)
            end = min(progress.visible, span.stop) if span else progress.visible
            while at < end:
                block = os.pread(self.fileno(), min(_BLOCK, end - at), at)
                if not block:
                    raise FillError("the part became shorter than its reader knew it", 502)
                at += len(block)
                yield block
            if (span and at >= span.stop) or (not span and progress.journal.digest is not None):
                return
            progress = self._fill.wait(progress)

    def _check(self, journal: Journal) -> None:
        if journal.failed is not None:
            raise FillError(journal.failed.reason, journal.failed.status)
        if journal.number != self._number:
            raise FillError("the file changed at its source while it was sent", 502)

    def close(self) -> None:
        """Give the descriptor back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
            self._left()


class Fills:
    """The fills this process leads or follows, one a key."""

    def __init__(self, parts: PartStore) -> None:
        self._parts = parts
        self._guard = threading.Lock()
        self._running: dict[Key, Fill] = {}

    def join(self, key: Key, lead: Lead) -> tuple[Fill, bool]:
        """The fill of a key, begun with `lead` if nobody runs it; and whether it was running already.

        The caller is counted as a user until `leave`. Raises StoreError if the disk refuses.
        """
        with self._guard:
            fill = self._running.get(key)
            if fill is not None and fill.enter():
                return fill, True
            while True:
                fill = Fill(key, lead, self.leave)
                lease = self._parts.claim(key)
                if lease is not None:
                    self._running[key] = fill
                    fill.lead(lease)
                    return fill, False
                watch = self._parts.watch(key)
                if watch is not None:
                    fill.follow(watch)
                    self._running[key] = fill
                    return fill, True

    def leave(self, fill: Fill) -> None:
        """Count one user less of a fill."""
        fill.leave()
        with self._guard:
            if self._running.get(fill.key) is fill and fill.idle:
                del self._running[fill.key]
