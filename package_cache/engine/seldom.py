"""Lines of the log that each request could write: of one kind, one a minute is a warning, and the others are for `-v`."""

import logging
import threading
import time
from collections.abc import Callable, Hashable

SECONDS = 60.0
_MANY = 1024


class Seldom:
    """Tells which of them it is. `clock` gives seconds. Safe for any number of threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._until: dict[Hashable, float] = {}

    def level(self, kind: Hashable, level: int = logging.WARNING) -> int:
        """The level at which to tell something of a kind: INFO, where another line told of it less than a minute ago."""
        now = self._clock()
        with self._guard:
            if now < self._until.get(kind, now):
                return logging.INFO
            if len(self._until) >= _MANY:
                self._until.clear()
            self._until[kind] = now + SECONDS
        return level
