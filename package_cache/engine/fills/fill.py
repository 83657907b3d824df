"""Fills: one download of one key, whoever waits for it, in however many threads and processes.

The process that gets the lease leads: a thread of its own downloads, never a client's. Everyone else reads the growing
part. Readers in the leading process are woken by it, readers elsewhere poll; either way they see the same two things, the
journal and the size of the part. When a leader dies the kernel frees its lease, and a reader's process takes over where
it stopped. `Fills` guards its table with one lock, under which nothing waits; each `Fill` its state with a condition.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial

from package_cache.engine.fills.line import BUSY, DOWNLOADS, Line, Run, Turn
from package_cache.engine.fills.storing import UNSTORABLE
from package_cache.engine.fills.threads import Threads
from package_cache.errors import FillError, PackageCacheError, StoreError
from package_cache.model import Key, Span
from package_cache.storage.parts.descriptor import Descriptor
from package_cache.storage.parts.journals import Failed, Journal
from package_cache.storage.parts.leases import Lease, PartStore, Watch

logger = logging.getLogger(__name__)

TAIL = 65536
"""Bytes at the end of a file that readers do not get before the whole is verified."""
POLL = 0.004
"""Seconds between two looks at another process's fill."""
ORPHAN = 0.05
"""Seconds without news after which a reader tests whether the leader still lives."""
STUCK = 45.0
"""Seconds without a sign of life from a leader that holds its lease, after which readers give up."""
_ENDING = 1.0
"""Seconds that a leader has from the last line of its journal to the end of its lease."""
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
        return self.visible != before.visible or mine.failed is not other.failed or mine.done != other.done


Lead = Callable[["Fill", Lease], bool]
"""Downloads with the lease, reporting through `Fill.publish`. Returns True once the lease is given back; False if that is
left to whoever stores the file, who calls `Fill.conclude`."""


class Fill:
    """A running download, seen from this process. It lives as long as somebody uses it: a client, or the leading thread."""

    def __init__(self, key: Key, lead: Lead, client: str, fills: "Fills") -> None:
        self.key = key
        self._lead = lead
        self._client = client
        self._fills = fills
        self._users = 1
        self._changed = threading.Condition()
        self._progress = Progress(Journal(), 0)
        self._part: Descriptor | None = None
        self._part_number = 0
        self._watch: Watch | None = None
        self._leading = False
        self._over = False
        self._news = time.monotonic()
        self._beat = 0.0
        self._listeners: list[Callable[[], None]] = []

    # -- who uses it

    def enter(self) -> bool:
        """Count one more user; False if the fill is over, so that another must be begun."""
        with self._changed:
            if self._progress.journal.done or self._users == 0:
                return False
            self._users += 1
            return True

    def leave(self) -> bool:
        """Count one user less; True if that was the last one, and the fill is closed."""
        with self._changed:
            self._users -= 1
            if self._users > 0:
                return False
            self._replace_part(None, 0)
            if self._watch is not None:
                self._watch.close()
                self._watch = None
            return True

    # -- the leading thread

    def lead(self, lease: Lease, run: Run) -> None:
        """Download in a thread of this process, which `run` provides."""
        turn = Turn(self._client, partial(self._run, lease), lambda: self._users > 1, partial(self._give_way, lease))
        with self._changed:
            self._leading = True
            self._users += 1
            try:
                self._fills.line.enter(turn, run)
            except RuntimeError as error:
                self._users -= 1
                self._abandon(lease, f"no thread for a download: {error}")

    def _give_way(self, lease: Lease, *, forced: bool) -> bool:
        """End before the beginning, for want of a place; unless `forced`, only if nobody waits. Whether it did."""
        with self._changed:
            if self._users > 1 and not forced:
                return False
            self._abandon(lease, BUSY, 503, keep=True)
        self._end_leading()
        return True

    def _run(self, lease: Lease) -> None:
        over = True
        try:
            over = self._lead(self, lease)
        except StoreError as error:
            self._abandon(lease, str(error), UNSTORABLE)
        except Exception:
            logger.exception("the download of %s ended in a bug", self.key)
            self._abandon(lease, "the download ended in an internal error")
        finally:
            if over:
                self._end_leading()

    def conclude(self, lease: Lease, error: StoreError | None) -> None:
        """The file that `lead` left to somebody is stored, or could not be."""
        try:
            if error is not None:
                raise error
            lease.done()
            self.publish(lease)
        except StoreError as trouble:
            self._abandon(lease, str(trouble), UNSTORABLE)
        finally:
            self._end_leading()

    def _end_leading(self) -> None:
        with self._changed:
            before, self._over = self._over, True
        if not before:
            self._fills.leave(self)

    def _abandon(self, lease: Lease, reason: str, status: int = 500, *, keep: bool = False) -> None:
        failure = Failed(status, reason)
        try:
            lease.failed(failure, keep=keep)
        except (PackageCacheError, OSError) as error:
            logger.warning("cannot clean up after %s: %s", self.key, error)
        with self._changed:
            self._set(replace(self._progress, journal=replace(lease.journal, done=True, failed=failure)))
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()

    def publish(self, lease: Lease) -> None:
        """Show readers in this process what the leader wrote."""
        journal, part = lease.journal, lease.part
        with self._changed:
            if part is not None and journal.number != self._part_number:
                self._replace_part(part.descriptor.share(), journal.number)
            before = self._progress
            self._set(Progress(journal, part.size if part is not None else before.size))
            listeners = tuple(self._listeners) if self._progress.tells_more_than(before) else ()
        for listener in listeners:
            listener()

    def _set(self, progress: Progress) -> None:
        """Called with the condition held."""
        self._progress = progress
        self._news = time.monotonic()
        self._changed.notify_all()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever this process's leader publishes; from the leading thread, so it must be quick."""
        with self._changed:
            if listener not in self._listeners:
                self._listeners.append(listener)

    # -- the readers

    def fail(self, reason: str) -> None:
        """Tell readers that the download could not begin, or cannot be followed."""
        with self._changed:
            journal = replace(self._progress.journal, done=True, failed=Failed(UNSTORABLE, reason))
            self._set(replace(self._progress, journal=journal))

    def follow(self, watch: Watch) -> None:
        """Read what another process downloads."""
        with self._changed:
            self._watch = watch
            self._poll()

    def progress(self) -> Progress:
        """How far the fill is now."""
        with self._changed:
            self._poll()
            return self._progress

    def wait(self, seen: Progress, until: float = math.inf) -> Progress:
        """Block until there is more to tell than `seen`, or the monotonic clock shows `until`."""
        with self._changed:
            while True:
                self._poll()
                left = until - time.monotonic()
                if self._progress != seen or left <= 0:
                    return self._progress
                self._changed.wait(min(left, 1.0 if self._leading else POLL))

    def _poll(self) -> None:
        """Look at another process's fill; called with the condition held."""
        if self._leading or self._watch is None or self._progress.journal.done:
            return
        try:
            journal = self._watch.refresh()
            if journal.number != self._part_number and journal.head is not None:
                self._replace_part(self._watch.open_part(), journal.number)
            size = os.fstat(self._part.fileno()).st_size if self._part is not None else 0
            progress = Progress(journal, size)
            quiet = time.monotonic() - self._news
            if progress != self._progress or self._watch.beat != self._beat:
                self._beat = self._watch.beat
                self._set(progress)
            elif quiet > STUCK:
                self.fail("the process that downloads this file does not go on")
            elif quiet > ORPHAN or not self._watch.has_journal:
                self._take_over(self._watch)
        except (StoreError, OSError, ValueError) as error:
            self.fail(f"the running download cannot be followed: {error}")

    def _take_over(self, watch: Watch) -> None:
        lease = watch.take_over()
        if lease is not None:
            logger.info("taking over the download of %s, whose process ended", self.key)
            self.lead(lease, self._fills.threads.run)

    def _replace_part(self, descriptor: Descriptor | None, number: int) -> None:
        if self._part is not None:
            self._part.close()
        self._part, self._part_number = descriptor, number

    def reader(self, number: int) -> "FillReader | None":
        """A reader of the part of that number, if it is still the current one. It counts as a user until it is closed."""
        with self._changed:
            if self._part is None or self._part_number != number:
                return None
            self._users += 1
            return FillReader(self, number, self._part.share(), partial(self._fills.leave, self))


class ReplacedError(FillError):
    """The part a reader reads is not the file any more: a source has another one, and the fill began again."""


Rescue = Callable[["FillReader", Span | None, int], Generator[bytes, None, None]]
"""Yields the bytes of a span from a place on, for a reader that cannot."""


class UnstorableError(FillError):
    """The download failed for the disk's sake; the source may go on."""


class FillReader:
    """One client's view of the growing part."""

    def __init__(self, fill: Fill, number: int, descriptor: Descriptor, left: Callable[[], None]) -> None:
        self.fill = fill
        self._number = number
        self._descriptor: Descriptor | None = descriptor
        self._left = left
        self.rescue: Rescue | None = None
        """Where the rest is to be had if the download fails for the disk's sake alone."""

    def fileno(self) -> int:
        """The descriptor of the part, for calls that take one."""
        if self._descriptor is None:
            raise FillError("the reader is closed", 502)
        return self._descriptor.fileno()

    def visible(self) -> int:
        """Bytes that may be sent now. Raises `FillError` if the download failed, or began another part."""
        progress = self.fill.progress()
        self._check(progress.journal)
        return progress.visible

    def read(self, span: Span | None) -> Generator[bytes, None, None]:
        """The bytes of `span`, or of the whole where its length is not known yet, each as soon as it may be shown.

        Raises `FillError` if the download fails: what was read before is then not the whole. Raises `ReplacedError` if
        it goes on with other bytes.
        """
        at = span.start if span else 0
        progress = self.fill.progress()
        while True:
            try:
                self._check(progress.journal)
            except UnstorableError:
                if self.rescue is None:
                    raise
                yield from self.rescue(self, span, at)
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
        if journal.number != self._number:
            raise ReplacedError("the file changed at its source while it was sent", 502)
        if journal.done and journal.failed is None and journal.digest is None:
            raise ReplacedError("the process that downloaded the file ended when it was stored already", 502)
        # What is verified stays so, though it could not be stored.
        if journal.failed is not None and journal.digest is None:
            kind = UnstorableError if journal.failed.status == UNSTORABLE else FillError
            raise kind(journal.failed.reason, journal.failed.status)

    def close(self) -> None:
        """Give the descriptor back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            descriptor.close()
            self._left()


class Fills:
    """The fills this process leads or follows, one a key."""

    def __init__(self, parts: PartStore, downloads: int = DOWNLOADS) -> None:
        self.threads = Threads("fill")
        self.line = Line(downloads, self.threads)
        self._parts = parts
        self._guard = threading.Lock()
        self.running: dict[Key, Fill] = {}

    def join(self, key: Key, lead: Lead, run: Run | None = None, client: str = "") -> tuple[Fill, bool]:
        """The fill of a key, begun with `lead` if nobody runs it; and whether it was running already.

        A thread for the download comes from `run`; without it, one is made. It stands in line for `client`. The caller is
        counted as a user until `leave`.
        Raises StoreError if the disk refuses.
        """
        with self._guard:
            fill = self.running.get(key)
            if fill is not None and fill.enter():
                return fill, True
            fill = self.running[key] = Fill(key, lead, client, self)
        try:
            return fill, not self._begin(fill, run or self.threads.run)
        except BaseException as error:
            fill.fail(str(error))
            self.leave(fill)
            raise

    def _begin(self, fill: Fill, run: Run) -> bool:
        """Lead the fill, or follow the process that does; whether it is led here."""
        deadline = time.monotonic() + _ENDING
        while True:
            lease = self._parts.claim(fill.key)
            if lease is not None:
                fill.lead(lease, run)
                return True
            watch = self._parts.watch(fill.key)
            if watch.is_over() and time.monotonic() < deadline:
                # Its leader is about to go, or the next one has only just come: there is a better answer in a moment.
                watch.close()
                time.sleep(POLL)
                continue
            fill.follow(watch)
            return False

    def leave(self, fill: Fill) -> None:
        """Count one user less of a fill."""
        if fill.leave():
            with self._guard:
                if self.running.get(fill.key) is fill:
                    del self.running[fill.key]
