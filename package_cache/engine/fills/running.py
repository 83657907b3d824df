"""The downloads that this process leads or follows, one a key.

The process that gets the lease of a key leads, the others follow. `Fills` guards its table with one lock, under which
nothing waits.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

from package_cache.engine.fills.fill import LEFT, POLL, Fill
from package_cache.engine.fills.following import Following, unfollowed
from package_cache.engine.fills.leading import Lead, Leading
from package_cache.engine.fills.places import DOWNLOADS, Places
from package_cache.engine.fills.reader import Progress
from package_cache.engine.threads import Run, Threads
from package_cache.errors import StoreError
from package_cache.model import Key
from package_cache.storage.parts.leases import Failed, Journal, Lease, PartStore
from package_cache.storage.system import forget_in_children

_ENDING = 1.0
"""Seconds that a leader has from the last line of its journal to the end of its lease."""


@dataclass(frozen=True, slots=True, eq=False)
class Leads:
    """How a download is led by a server, for `client`: `lead` downloads, unless it `is_here` by now.

    `over` is told when nobody leads it any more, whether it began or not. `is_here` raises StoreError.
    """

    lead: Lead
    is_here: Callable[[], bool]
    client: str
    over: Callable[[], None]


class Fills:
    """The running fills of this process. A forked child has none of them. Safe for any number of threads."""

    def __init__(self, parts: PartStore, downloads: int = DOWNLOADS) -> None:
        self.threads = Threads("fill")
        self._downloads = downloads
        self.parts = parts
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: what runs has its threads in the parent."""
        self.places = Places(self._downloads, self.threads)
        self._guard = threading.Lock()
        self.running: dict[Key, Fill] = {}

    def _left(self, fill: Fill) -> None:
        with self._guard:
            if self.running.get(fill.key) is fill:
                del self.running[fill.key]

    # -- for servers, which do not wait

    def make(self, key: Key) -> Fill:
        """A fill for who has its lease already, or is about to find out who has. The caller is counted as a user."""
        with self._guard:
            fill = self.running[key] = Fill(key, self._left)
        return fill

    def lead(self, fill: Fill, lease: Lease, leads: Leads, run: Run) -> None:
        """Download in a thread of this process, which `run` provides. What is here by now needs no place.

        What was shown already has one in any case: its readers could not be told any more that there is none.
        """
        leading = Leading(fill, lease, leads.lead, leads.client, leads.over)
        is_here = False
        with suppress(StoreError):  # the download meets it too, and tells it
            is_here = leads.is_here()
        try:
            if is_here:
                run(leading.begin)
            else:
                self.places.enter(leading, run, at_once=fill.has_shown)
        except RuntimeError as error:
            leading.abandon(Failed(503, f"no thread for a download: {error}"), keep=True)

    def follow(self, fill: Fill, leads: Leads) -> None:
        """Find out who leads a fill that was made, or lead it. Runs in a thread, which counts as a user up to the end."""
        jobs: list[Callable[[], None]] = []
        try:
            with suppress(StoreError, OSError, ValueError):  # whoever waits is told
                lease = self._claim(fill, leads)
                if lease is not None:
                    self.lead(fill, lease, leads, jobs.append)
        finally:
            fill.leave()
        for job in jobs:
            job()

    def _claim(self, fill: Fill, leads: Leads | None) -> Lease | None:
        """The lease of a fill; else follow the process that has it. Raises StoreError, OSError, ValueError."""
        deadline = time.monotonic() + _ENDING
        try:
            while True:
                lease = self.parts.claim(fill.key)
                if lease is not None:
                    return lease
                watch = self.parts.watch(fill.key)
                if not watch.is_over() or time.monotonic() > deadline:
                    lead = None if leads is None else lambda lease, run: self.lead(fill, lease, leads, run)
                    fill.followed = following = Following(fill, watch, self.threads.run, lead)
                    following.poll()
                    return None
                # Its leader is about to go, or the next one has only just come: there is a better answer in a moment.
                watch.close()
                time.sleep(POLL)
        except (StoreError, OSError, ValueError) as error:
            fill.fail(unfollowed(error))
            raise
        except BaseException:
            fill.forsake()
            raise

    # -- for callers who wait

    def fetch(self, key: Key, lead: Lead, tell: Callable[[Progress], None]) -> Failed | None:
        """Download a key in this thread, or wait for who does, here or in another process; how it failed, if it did.

        `tell` is told in this thread how far it is. Whatever it raises ends what this thread does of it: another one that
        waits goes on, as it does if the leading process dies. Raises StoreError if the disk refuses.
        """
        while True:
            fill, is_new = self._join(key)
            try:
                lease = self._claim(fill, None) if is_new else None
                if lease is not None:
                    Leading(fill, lease, lead).fetch(tell, self.threads.run)
                progress = fill.progress()
                while not progress.journal.done:
                    tell(progress)
                    progress = fill.wait(progress)
            finally:
                fill.leave()
            if progress.journal.failed is not LEFT:
                return progress.journal.failed

    def _join(self, key: Key) -> tuple[Fill, bool]:
        """The fill of a key, of which the caller is a user until it leaves; and whether nobody has begun it yet."""
        over: Fill | None = None
        while True:
            with self._guard:
                fill = self.running.get(key)
                if fill is None or fill is over:
                    fill = self.running[key] = Fill(key, self._left)
                    return fill, True
            if fill.enter():  # not with the guard held, which nobody is to wait for
                return fill, False
            over = fill

    # -- for whoever asks

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
