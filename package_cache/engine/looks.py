"""Looks at the disk: what an event loop looks at itself, and what it has threads do.

A look at what the page cache has takes microseconds, and a hand-over to a thread ten times that. Where a look waited for
the disk, threads do it for a while, so that the loop waits once and not for each client. So many of them look at once and
no more. None of them waits for a source.
"""

import logging
import resource
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from package_cache.engine.answers import Answer
from package_cache.engine.desk import Desk
from package_cache.errors import FillError, PackageCacheError
from package_cache.upstream.events import Events

logger = logging.getLogger(__name__)

_SLOW_SECONDS = 0.005
"""A look that took longer, and waited, is a sign of a slow disk. One that only had no turn on a busy machine is none."""
_BUSY_SHARE = 0.1
"""Of that time; if other threads of this process worked for so long, it is them that the look has waited for."""
_IN_A_ROW = 3
"""So many that waited are, though they read from no disk: a file system of the network is slow too."""
_REST = 100
"""How many times as long as it took threads look instead: so the loop is held up for a hundredth of its time at most."""


class Usage(NamedTuple):
    """How often this thread waited and read from a disk so far, and for how many seconds the others worked."""

    waits: int
    reads: int
    others: float


def usage_so_far() -> Usage:
    """Of the thread that asks."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return Usage(usage.ru_nvcsw, usage.ru_inblock, time.process_time() - time.thread_time())


class Disk:
    """What looks took of late. Belongs to the loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, usage: Callable[[], Usage] = usage_so_far) -> None:
        """`clock` gives seconds, and `usage` what this thread and the others of the process have used so far."""
        self._clock = clock
        self._usage = usage
        self._until = 0.0
        self._begun = 0.0
        self._slow = 0
        self._turn = -1.0
        self._before = Usage(0, 0, 0.0)
        """As of when that turn of the loop began: asked once in it, as that costs half of what a look does."""

    def is_quick(self, now: float) -> bool:
        """Whether the loop may look itself. `now` is of the monotonic clock, the same throughout a turn."""
        if now < self._until:
            return False
        if now != self._turn:
            self._turn, self._before = now, self._usage()
        self._begun = self._clock()
        return True

    def looked(self) -> None:
        """A look is over that began when `is_quick` said yes."""
        now = self._clock()
        took = now - self._begun
        if took < _SLOW_SECONDS:
            self._slow = 0
            return
        before, self._before = self._before, self._usage()
        has_read = self._before.reads > before.reads
        is_others = not has_read and self._before.others - before.others > _BUSY_SHARE * took
        if self._before.waits == before.waits or is_others:
            return
        self._slow += 1
        if self._slow >= _IN_A_ROW or has_read:
            self._slow = 0
            self._until = now + _REST * took


AT_ONCE = 128
_T = TypeVar("_T")


class Looks:
    """Runs what finds something in threads, and tells it in the loop. Belongs to the loop's thread."""

    def __init__(self, desk: Desk, events: Events) -> None:
        self._desk = desk
        self._events = events
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()
        """Each begins a thread, or tells that there is none."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is looked for."""
        return not self._running

    def begin(self, find: Callable[[], _T], then: Callable[[_T | Answer], None]) -> None:
        """Have a thread find something. `then` is called with it, or with the answer that says why that cannot be."""
        self._waiting.append(partial(self._start, find, then))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._running < AT_ONCE:
            self._waiting.popleft()()

    def _start(self, find: Callable[[], _T], then: Callable[[_T | Answer], None]) -> None:
        self._running += 1
        try:
            self._events.run(partial(self._work, find, then))
        except RuntimeError:
            self._running -= 1
            then(self._desk.refuse(FillError("the cache has too much to do; try again in a while", 503)))

    def _work(self, find: Callable[[], _T], then: Callable[[_T | Answer], None]) -> None:
        """Runs in the thread."""
        found: _T | Answer
        try:
            found = find()
        except PackageCacheError as error:
            found = self._desk.refuse(error)
        except Exception:
            logger.exception("a request ended in a bug")
            found = self._desk.refuse(PackageCacheError("internal error; the log of the cache says more"))
        self._events.call(partial(self._end, then, found))

    def _end(self, then: Callable[[_T | Answer], None], found: _T | Answer) -> None:
        self._running -= 1
        self._go_on()
        then(found)
