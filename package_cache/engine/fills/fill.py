"""Fills: one download of one key, whoever waits for it, in however many threads and processes.

The process that gets the lease leads. In a server a thread downloads, never the loop; a caller of the library downloads
in its own thread. Everyone else waits, or reads the growing part. Those in the leading process are woken by it, those
elsewhere poll; either way they see the same two things, the journal and the size of the part. When a leader dies, the
kernel frees its lease, and one of those that wait goes on where it stopped. `Fills` guards its table with one lock, under
which nothing waits; each `Fill` its state with a condition.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from package_cache.engine.fills.line import BUSY, DOWNLOADS, Line, Run, Turn
from package_cache.engine.fills.reader import SHOWN, FillReader, Progress
from package_cache.engine.fills.storing import UNSTORABLE
from package_cache.engine.fills.threads import Threads
from package_cache.errors import OutOfDescriptors, PackageCacheError, StoreError
from package_cache.model import Key, Representation
from package_cache.storage.parts.leases import Failed, Journal, Lease, PartStore, Watch
from package_cache.storage.parts.part import Part
from package_cache.storage.system import Descriptor, forget_in_children

logger = logging.getLogger(__name__)

POLL = 0.004
"""Seconds between two looks at another process's fill."""
_LOOK_SECONDS = 0.001
"""Seconds for which a look is good: many wait for the same fill."""
ORPHAN = 0.05
"""Seconds without news after which a reader tests whether the leader still lives."""
STUCK = 45.0
"""Seconds without a sign of life from a leader that holds its lease, after which readers give up."""
_NONE = -2
"""A number that no part has."""
_ENDING = 1.0
"""Seconds that a leader has from the last line of its journal to the end of its lease."""


LEFT = Failed(503, "whoever downloaded it is gone")
"""How a fill of the library ends of which another one who waits takes the rest."""

Store = Callable[[], None]
"""Stores what was downloaded, now or in a moment: `Fill.conclude` is called then. Raises StoreError."""

Lead = Callable[["Fill", Lease], Store | None]
"""Downloads with the lease, reporting through `Fill.publish`. None once the lease is given back; else how to store it."""

_Done = TypeVar("_Done")

IsHere = Callable[[], bool]
"""Whether what is to be downloaded has been stored meanwhile. Raises StoreError."""


class Fill:
    """A running download, seen from this process. It lives as long as somebody uses it: a client, or the leading thread."""

    def __init__(
        self,
        key: Key,
        fills: "Fills",
        lead: Lead | None = None,
        is_here: IsHere = lambda: False,
        client: str = "",
        led: Callable[[], None] = lambda: None,
    ) -> None:
        self.key = key
        self._lead = lead
        """None where those who wait begin anew once nobody leads: see `Fills.fetch`."""
        self._led = led
        """Is told when nobody leads it any more, whether the download began or not."""
        self._is_here = is_here
        self._client = client
        self._fills = fills
        self._users = 1
        self._changed = threading.Condition()
        self._progress = Progress(Journal(), 0)
        self._part: Descriptor | None = None
        self._part_number = 0
        self._shown = b""
        """What was shown before there was a part, until there is one that has the same."""
        self._goes_on = _NONE
        """The part that has what was shown."""
        self._watch: Watch | None = None
        self._look = threading.Lock()
        """Held by who looks at what another process wrote. Nobody waits for that: there is the last look."""
        self._looked = -math.inf
        self._leading = False
        self._succeeding = False
        self._over = False
        self._news = time.monotonic()
        self.whole_since: float | None = None
        """When every byte was here and verified, in seconds of the monotonic clock."""
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
            watch, self._watch = self._watch, None
        if watch is not None:
            with self._look:  # it is used by nobody
                watch.close()
        return True

    # -- the leading thread

    def lead(self, lease: Lease, run: Run) -> None:
        """Download in a thread of this process, which `run` provides. What is here by now needs no place in the line.

        What was shown already has one in any case: its readers could not be told any more that there is none.
        """
        job = partial(self._run, lease)
        with self._changed:
            self._leading = True
            self._users += 1
        here = False
        with suppress(StoreError):  # the download meets it too, and tells it
            here = self._is_here()
        try:
            if here:
                run(job)
            else:
                wanted, drop = (lambda: self._users > 1), partial(self._give_way, lease)
                self._fills.line.enter(Turn(self._client, job, wanted, drop), run, at_once=bool(self._shown))
        except RuntimeError as error:
            self._abandon(lease, f"no thread for a download: {error}", 503, keep=True)
            self._end_leading()

    def _give_way(self, lease: Lease, *, forced: bool) -> bool:
        """End before the beginning, for want of a place; unless `forced`, only if nobody waits. Whether it did."""
        with self._changed:
            if self._users > 1 and not forced:
                return False
            self._end(Failed(503, BUSY))  # nobody joins from here on; the disk is told with the condition free
        self._abandon(lease, BUSY, 503, keep=True)
        self._end_leading()
        return True

    def _run(self, lease: Lease) -> None:
        assert self._lead is not None  # or there would be no thread for it
        store = self._perform(lease, partial(self._lead, self, lease))
        if store is None:
            self._end_leading()
        else:
            self._perform(lease, store)

    def _perform(self, lease: Lease, work: Callable[[], _Done]) -> _Done | None:
        """Do a part of the download's work in a thread that is nobody else's. Whoever waits is told of an error."""
        try:
            return self._told(lease, work)
        except Exception:
            logger.exception("the download of %s ended in a bug", self.key)
            self._abandon(lease, "the download ended in an internal error")
            self._end_leading()
        return None

    def _told(self, lease: Lease, work: Callable[[], _Done]) -> _Done | None:
        """Work, and tell whoever waits what hinders it, if that is to be expected."""
        try:
            return work()
        except StoreError as error:
            self._abandon(lease, str(error), UNSTORABLE)
        except OutOfDescriptors as error:
            self._abandon(lease, str(error), error.http_status, keep=True)
        self._end_leading()
        return None

    def download(self, lease: Lease, lead: Lead, tell: Callable[[Progress], None]) -> None:
        """Download in the caller's thread; `tell` is told in it how far that is.

        What that raises, or an interrupt, goes to the caller, and what is left to do to another one who waits. A thread
        stores what came: that is work for other downloads as well, and is not to be interrupted.
        """
        with self._changed:
            self._leading = True
            self._users += 1

        def listener() -> None:
            tell(self._progress)

        unowned = iter([lease])  # whoever takes it out has the lease: this thread, or the one that stores
        try:
            self.listen(listener)
            try:
                store = self._told(lease, partial(lead, self, lease))
            finally:
                self.unlisten(listener)
            if store is None:
                self._end_leading()
                return
            settle = partial(self._settle, unowned, store)
            try:
                self._fills.threads.run(settle)
            except RuntimeError:  # the system gives no more
                settle()
        except BaseException:
            if next(unowned, None) is not None:
                self._leave_to_others(lease)
            raise

    def _settle(self, unowned: Iterator[Lease], store: Store) -> None:
        for lease in unowned:
            self._perform(lease, store)

    def _leave_to_others(self, lease: Lease) -> None:
        try:
            lease.abandon()
        except (PackageCacheError, OSError) as error:
            logger.warning("cannot clean up after %s: %s", self.key, error)
        self.forsake()
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
            self._led()
            self._fills.leave(self)

    def _abandon(self, lease: Lease, reason: str, status: int = 500, *, keep: bool = False) -> None:
        failure = Failed(status, reason)
        try:
            lease.failed(failure, keep=keep)
        except (PackageCacheError, OSError) as error:
            logger.warning("cannot clean up after %s: %s", self.key, error)
        with self._changed:
            self._set(replace(self._progress, journal=replace(lease.journal, done=True, failed=failure)))
        self.ring()

    def publish(self, lease: Lease) -> None:
        """Show readers in this process what the leader wrote."""
        journal, part = lease.journal, lease.part
        if self._shown and not journal.done:
            if part is None or part.size < len(self._shown):
                return  # that is less than was shown
            self._goes_on = journal.number if self._has_shown(journal, part) else _NONE
            self._shown = b""
        with self._changed:
            if part is not None and journal.number != self._part_number:
                self._replace_part(part.descriptor.share(), journal.number)
            before = self._progress
            self._set(Progress(journal, part.size if part is not None else before.size))
            tells = self._progress.tells_more_than(before)
        if tells:
            self.ring()

    def _has_shown(self, journal: Journal, part: Part) -> bool:
        """Whether a part is the file that was shown. Its bytes came over the same connection, unless something broke."""
        mine, shown = journal.head, self._progress.journal.head
        assert mine is not None  # of what has bytes
        assert shown is not None
        same = (mine.fields, mine.size, mine.source) == (shown.fields, shown.size, shown.source)
        return same and os.pread(part.fileno(), len(self._shown), 0) == self._shown

    def show(self, head: Representation, data: bytes) -> None:
        """Let readers in this process have the first bytes of a file, which are in hand, before its part is begun.

        They read them from memory, and the rest from the part, if that turns out to have the same.
        """
        with self._changed:
            if self._progress.journal.head is not None or self._progress.journal.done or not data:
                return
            number = _in_memory(data)
            if number is None:
                return
            self._replace_part(Descriptor(number), SHOWN)
            self._shown = data
            self._set(Progress(Journal(SHOWN, head, confirmed=True), len(data)))

    def moved(self, number: int) -> tuple[Descriptor, int] | None:
        """Where a reader of that number goes on with what it was shown, and that one's number; None if there is nothing."""
        with self._changed:
            return None if self._part is None or not self._is_as(number) else (self._part.share(), self._part_number)

    def _is_as(self, number: int) -> bool:
        """Whether who reads what has that number may read the part there is now. Called with the condition held."""
        return self._part_number == number or (number == SHOWN and self._part_number == self._goes_on)

    def _set(self, progress: Progress) -> None:
        """Called with the condition held."""
        if progress.journal.digest is None:
            self.whole_since = None
        elif self.whole_since is None:
            self.whole_since = time.monotonic()
        self._progress = progress
        self._news = time.monotonic()
        self._changed.notify_all()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever this process's leader publishes; from the leading thread, so it must be quick."""
        with self._changed:
            if listener not in self._listeners:
                self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        with self._changed:
            if listener in self._listeners:
                self._listeners.remove(listener)

    @property
    def is_used(self) -> bool:
        """Whether somebody waits for it, or leads it."""
        return self._users > 0

    def ring(self) -> None:
        """Call whoever listens."""
        for listener in tuple(self._listeners):
            listener()

    # -- the readers

    @property
    def patience(self) -> float:
        """Seconds after which who waits is to look again; what is led here is told to who listens."""
        if self._leading:
            return ORPHAN
        begins = not self._progress.visible and time.monotonic() - self._news < ORPHAN
        return _LOOK_SECONDS if begins else POLL

    def fail(self, reason: str) -> None:
        """Tell readers that the download could not begin, or cannot be followed."""
        with self._changed:
            self._end(Failed(UNSTORABLE, reason))

    def forsake(self) -> None:
        """Tell whoever waits that nobody leads it, unless it is over."""
        with self._changed:
            if not self._progress.journal.done:
                self._end(LEFT)

    def _end(self, failure: Failed) -> None:
        """Called with the condition held."""
        self._set(replace(self._progress, journal=replace(self._progress.journal, done=True, failed=failure)))

    def follow(self, watch: Watch) -> None:
        """Read what another process downloads."""
        self._watch = watch
        self._poll()

    def progress(self) -> Progress:
        """How far the fill is now."""
        self._poll()
        return self._progress

    def wait(self, seen: Progress, until: float = math.inf) -> Progress:
        """Block until there is more to tell than `seen`, or until a time of the monotonic clock."""
        while True:
            self._poll()
            left = until - time.monotonic()
            with self._changed:
                if self._progress != seen or left <= 0:
                    return self._progress
                self._changed.wait(min(left, 1.0 if self._leading else POLL))

    def _poll(self) -> None:
        """Look at another process's fill, unless somebody does or just did."""
        if self._watch is None or self._leading or self._succeeding or self._progress.journal.done:
            return
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS or not self._look.acquire(blocking=False):
            return
        try:
            self._looked = now
            if self._watch is not None:
                self._look_at(self._watch)
        except (StoreError, OSError, ValueError) as error:
            self.fail(_unfollowed(error))
        finally:
            self._look.release()

    def _look_at(self, watch: Watch) -> None:
        """The disk has a say in that, so the condition is free meanwhile. Raises StoreError, OSError, ValueError."""
        journal = watch.refresh()
        if journal.number != self._part_number and journal.head is not None:
            part = watch.open_part()
            with self._changed:
                self._replace_part(part, journal.number)
        size = os.fstat(self._part.fileno()).st_size if self._part is not None else 0
        progress = Progress(journal, size)
        quiet = time.monotonic() - self._news
        if progress != self._progress or watch.beat != self._beat:
            self._beat = watch.beat
            with self._changed:
                self._set(progress)
        elif quiet > STUCK:
            self.fail("the process that downloads this file does not go on")
        elif quiet > ORPHAN or not watch.has_journal:
            self._take_over(watch)

    def _take_over(self, watch: Watch) -> None:
        """Have a thread go on where the leader is gone: the disk has a say in that, and who looks may be the event loop."""
        if not watch.seize():
            return
        if self._lead is None:
            watch.let_go()
            self.forsake()
            return
        with self._changed:
            self._succeeding = True
            self._users += 1
        try:
            self._fills.threads.run(partial(self._succeed, watch))
        except RuntimeError:  # there may be one at the next look
            with self._changed:
                self._succeeding = False
                self._users -= 1
            watch.let_go()

    def _succeed(self, watch: Watch) -> None:
        """Runs in the thread."""
        jobs: list[Callable[[], None]] = []
        try:
            lease = watch.succeed()
            if lease is not None:
                logger.info("taking over the download of %s, whose process ended", self.key)
                self.lead(lease, jobs.append)
        except (StoreError, OSError, ValueError) as error:
            self.fail(_unfollowed(error))
        finally:
            with self._changed:
                self._succeeding = False
            self._fills.leave(self)
        for job in jobs:
            job()

    def _replace_part(self, descriptor: Descriptor | None, number: int) -> None:
        if self._part is not None:
            self._part.close()
        self._part, self._part_number = descriptor, number

    def reader(self, number: int) -> FillReader | None:
        """A reader of the part of that number, if it is still the current one. It counts as a user until it is closed."""
        with self._changed:
            if self._part is None or not self._is_as(number):
                return None
            self._users += 1
            return FillReader(self, self._part_number, self._part.share(), partial(self._fills.leave, self))


def _in_memory(data: bytes) -> int | None:
    """The descriptor of a file that holds these bytes and is nowhere; None if the system gives none."""
    try:
        number = os.memfd_create("first bytes", os.MFD_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):  # nobody may write a file of that size
        if os.write(number, data) == len(data):
            return number
    os.close(number)
    return None


def _unfollowed(error: Exception) -> str:
    return f"the running download cannot be followed: {error}"


class Fills:
    """The fills this process leads or follows, one a key. A forked child has none of them."""

    def __init__(self, parts: PartStore, downloads: int = DOWNLOADS) -> None:
        self.threads = Threads("fill")
        self._downloads = downloads
        self.parts = parts
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: what runs has its threads in the parent."""
        self.line = Line(self._downloads, self.threads)
        self._guard = threading.Lock()
        self.running: dict[Key, Fill] = {}

    def fetch(self, key: Key, lead: Lead, tell: Callable[[Progress], None]) -> Failed | None:
        """Download a key in this thread, or wait for who does, here or in another process; how it failed, if it did.

        `tell` is told in this thread how far it is. Whatever it raises ends what this thread does of it: another one that
        waits goes on, as it does if the leading process dies. Raises StoreError if the disk refuses.
        """
        while True:
            fill, is_new = self._join(key)
            try:
                lease = self._begin(fill) if is_new else None
                if lease is not None:
                    fill.download(lease, lead, tell)
                progress = fill.progress()
                while not progress.journal.done:
                    tell(progress)
                    progress = fill.wait(progress)
            finally:
                self.leave(fill)
            if progress.journal.failed is not LEFT:
                return progress.journal.failed

    def _join(self, key: Key) -> tuple[Fill, bool]:
        """The fill of a key, of which the caller is a user until `leave`; and whether nobody has begun it yet."""
        over: Fill | None = None
        while True:
            with self._guard:
                fill = self.running.get(key)
                if fill is None or fill is over:
                    fill = self.running[key] = Fill(key, self)
                    return fill, True
            if fill.enter():  # not with the guard held, which nobody is to wait for
                return fill, False
            over = fill

    def make(self, key: Key, lead: Lead, is_here: IsHere, client: str, led: Callable[[], None]) -> Fill:
        """A fill for who has its lease already, and begins it with `Fill.lead`. The caller is counted as a user."""
        with self._guard:
            fill = self.running[key] = Fill(key, self, lead, is_here, client, led)
        return fill

    def _begin(self, fill: Fill) -> Lease | None:
        """The lease of a fill; else follow the process that has it. Raises StoreError, OSError, ValueError."""
        deadline = time.monotonic() + _ENDING
        try:
            while True:
                lease = self.parts.claim(fill.key)
                if lease is not None:
                    return lease
                watch = self.parts.watch(fill.key)
                if not watch.is_over() or time.monotonic() > deadline:
                    fill.follow(watch)
                    return None
                # Its leader is about to go, or the next one has only just come: there is a better answer in a moment.
                watch.close()
                time.sleep(POLL)
        except (StoreError, OSError, ValueError) as error:
            fill.fail(_unfollowed(error))
            raise
        except BaseException:
            fill.forsake()
            raise

    def follow(self, fill: Fill) -> None:
        """Find out who leads a fill that was made, or lead it. Runs in a thread, which counts as a user up to the end."""
        jobs: list[Callable[[], None]] = []
        try:
            with suppress(StoreError, OSError, ValueError):  # whoever waits is told
                lease = self._begin(fill)
                if lease is not None:
                    fill.lead(lease, jobs.append)
        finally:
            self.leave(fill)
        for job in jobs:
            job()

    def look(self, key: Key) -> Journal | None:
        """What is known of the download of a key, if one runs here or elsewhere. Raises StoreError, OSError, ValueError."""
        with self._guard:
            fill = self.running.get(key)
        if fill is not None:
            return fill.progress().journal
        if not self.parts.is_led(key):
            return None
        with closing(self.parts.watch(key)) as watch:
            return watch.refresh()

    def leave(self, fill: Fill) -> None:
        """Count one user less of a fill."""
        if fill.leave():
            with self._guard:
                if self.running.get(fill.key) is fill:
                    del self.running[fill.key]
