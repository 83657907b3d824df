"""Rate limit for log lines that every request could cause: one of a kind per minute is a warning, the others are INFO."""

import logging
import threading
import time
from collections.abc import Callable, Hashable

SECONDS = 60.0
_MANY = 1024


class LogLimit:
    """Remembers when a line of each kind was last logged. `clock` gives seconds. Safe for any number of threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._until: dict[Hashable, float] = {}

    def level(self, kind: Hashable, level: int = logging.WARNING) -> int:
        """The level for a line of that kind: INFO if another one was logged less than a minute ago, else `level`."""
        now = self._clock()
        with self._guard:
            if now < self._until.get(kind, now):
                return logging.INFO
            if len(self._until) >= _MANY:
                self._until.clear()
            self._until[kind] = now + SECONDS
        return level
