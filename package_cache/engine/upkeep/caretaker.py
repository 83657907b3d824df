"""Runs what keeps the store in order beside the requests: the sweep after the start and each day, and the scrub.

One thread of one process does it for all that share a cache directory: a lock chooses the process, and when that one ends,
another takes it up. Nothing is done before the first answers can be given.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from package_cache.engine.upkeep.memory import give_back
from package_cache.engine.upkeep.verification import Scrub, Sweep
from package_cache.errors import StoreError
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.registry import Registry

logger = logging.getLogger(__name__)

FIRST = 5.0
"""Seconds from the start to the first sweep."""
LOOK = 30.0
"""Seconds between two looks at what is due, or less for a scrub in a hurry."""
_LOCK = "upkeep:store"
"""No key begins like this."""
_SHARE = 0.1
"""How much of the time a sweep may work."""
_LEAST, _MOST = 0.01, 1.0


class Closed(Exception):
    """The service ends."""


class Caretaker:
    """The thread; a forked process has one of its own. None of a store that is only read, which has no sweep.

    `began` is told when a process begins to answer requests.
    """

    def __init__(
        self,
        registry: Registry,
        locks: NameLocks,
        sweep: Sweep | None,
        scrub: Scrub | None,
        began: Callable[[], None],
    ) -> None:
        self._began = began
        self._registry = registry
        self._locks = locks
        self._sweep = sweep
        self._scrub = scrub
        self._closed = threading.Event()
        self._working_since = 0.0
        self._swept = False
        self._owner = 0

    def begin(self) -> None:
        """Requests are answered from now on: begin in a moment, unless this process did."""
        if self._sweep is not None and self._owner != os.getpid():
            self._closed = threading.Event()
            with suppress(RuntimeError):  # no thread to be had now; the next request asks again
                threading.Thread(target=self._run, name="upkeep", daemon=True).start()
                self._owner = os.getpid()
                self._began()

    def close(self) -> None:
        """Stop at the next step."""
        self._closed.set()

    def _run(self) -> None:
        self._try(self._learn)
        wait = FIRST
        while not self._closed.wait(wait):
            wait = min(LOOK, self._scrub.period / 10) if self._scrub is not None else LOOK
            self._registry.rest()
            self._try(self._do_what_is_due)
            give_back()

    def _try(self, work: Callable[[], None]) -> None:
        with suppress(Closed):
            try:
                work()
            except (StoreError, OSError) as error:
                logger.warning("the store could not be looked after: %s", error)

    def _learn(self) -> None:
        """Each process sees to that: it is done once for all of them, but for what they doubt later."""
        self._working_since = time.monotonic()
        self._registry.learn(self._rest)

    def _do_what_is_due(self) -> None:
        self._learn()
        if not self._locks.take(_LOCK):
            return
        try:
            if self._sweep is not None and self._sweep.is_due(first=not self._swept):
                self._swept, self._working_since = True, time.monotonic()
                self._sweep.run(self._rest)
            if self._scrub is not None:
                self._scrub.run(self._registry.totals().bytes, self._wait)
        finally:
            self._locks.free(_LOCK)

    def _rest(self) -> None:
        """Wait in proportion to the work done since the last rest."""
        worked = time.monotonic() - self._working_since
        self._wait(min(_MOST, max(_LEAST, worked * (1 / _SHARE - 1))))
        self._working_since = time.monotonic()

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise Closed
