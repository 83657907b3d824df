"""What an event loop has threads do: look into the registry, open files, compare them.

A look at a slow disk stalls nobody. So many run at once and no more. None of them waits for a source.
"""

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from package_cache.engine.answers import Answer
from package_cache.engine.desk import Desk
from package_cache.errors import FillError, PackageCacheError
from package_cache.upstream.events import Events

logger = logging.getLogger(__name__)

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
