"""Following a fill that another process leads: looks at its journal and its part, and takes over where it died.

When a leader dies, the kernel frees its lease, and one of those that wait goes on where it stopped.
"""

import logging
import math
import threading
import time
from collections.abc import Callable

from package_cache.engine.fills.fill import LOOK_SECONDS, ORPHAN, Fill
from package_cache.engine.fills.reader import Progress
from package_cache.engine.threads import Run
from package_cache.errors import StoreError
from package_cache.storage.parts.leases import Lease, Watch

logger = logging.getLogger(__name__)

STUCK = 45.0
"""Seconds without a sign of life from a leader that holds its lease, after which readers give up."""


class Following:
    """What is seen here of a fill that another process leads, by whoever waits and looks.

    Where its leader is gone, `lead` is given the lease, and what runs its job; without `lead`, those who wait begin anew.
    `run` gives threads.
    """

    def __init__(self, fill: Fill, watch: Watch, run: Run, lead: Callable[[Lease, Run], None] | None) -> None:
        self._fill = fill
        self._watch = watch
        self._run = run
        self._lead = lead
        self._look = threading.Lock()
        """Held by who looks. Nobody waits for that: there is the last look."""
        self._looked = -math.inf
        self._beat = 0.0
        self._succeeds = False

    def poll(self) -> None:
        """Look how far it is, unless somebody does or just did."""
        now = time.monotonic()
        if self._succeeds or self._fill.latest.journal.done or now - self._looked < LOOK_SECONDS:
            return
        if not self._look.acquire(blocking=False):
            return
        try:
            self._looked = now
            if self._fill.followed is self:  # or it was closed meanwhile
                self._look_once()
        except (StoreError, OSError, ValueError) as error:
            self._fill.fail(unfollowed(error))
        finally:
            self._look.release()

    def _look_once(self) -> None:
        """The disk has a say in that, so the fill is free meanwhile. Raises StoreError, OSError, ValueError."""
        fill, watch = self._fill, self._watch
        journal = watch.refresh()
        if journal.head is not None and not fill.has_part(journal.number):
            fill.replace_part(watch.open_part(), journal.number)
        progress = Progress(journal, fill.part_size)
        if progress != fill.latest or watch.beat != self._beat:
            self._beat = watch.beat
            fill.see(progress)
        elif fill.quiet > STUCK:
            fill.fail("the process that downloads this file does not go on")
        elif fill.quiet > ORPHAN or not watch.has_journal:
            self._take_over()

    def _take_over(self) -> None:
        """Have a thread go on where the leader is gone: the disk has a say in that, and who looks may be the event loop."""
        if not self._watch.seize():
            return
        if self._lead is None:
            self._watch.let_go()
            self._fill.forsake()
            return
        self._succeeds = True
        self._fill.hold()
        try:
            self._run(self._succeed)
        except RuntimeError:  # there may be one at the next look
            self._succeeds = False
            self._fill.leave()
            self._watch.let_go()

    def _succeed(self) -> None:
        """Runs in the thread."""
        jobs: list[Callable[[], None]] = []
        try:
            lease = self._watch.succeed()
            if lease is not None:
                logger.info("taking over the download of %s, whose process ended", self._fill.key)
                assert self._lead is not None  # else there is no thread for it
                self._lead(lease, jobs.append)
        except (StoreError, OSError, ValueError) as error:
            self._fill.fail(unfollowed(error))
        finally:
            self._succeeds = False
            self._fill.leave()
        for job in jobs:
            job()

    def close(self) -> None:
        """Nobody waits for it any more."""
        with self._look:
            self._watch.close()


def unfollowed(error: Exception) -> str:
    """Why whoever waits for another process is left without an answer."""
    return f"the running download cannot be followed: {error}"
