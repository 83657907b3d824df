"""Whether downloads are stored, or passed on without: a file that has no room is not, and none while the disk refuses.

The log tells when it begins and when it is over, however many requests come meanwhile. Safe for any number of threads.
"""

import logging
import threading
from collections.abc import Callable

from package_cache.errors import NoRoom, NotKept, StoreError
from package_cache.model import Key

logger = logging.getLogger(__name__)

REST_SECONDS = 5.0
"""How long nothing is written after the disk refused something. The next download tries it again."""
UNFIT_SECONDS = 60.0
"""How long a file that had no room is not tried again."""
_MANY = 4096

UNSTORABLE = 507
"""The status of a fill whose file may be had, but not through the disk (507 Insufficient Storage, RFC 4918)."""


class Storing:
    """What is known of the disk's willingness. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._refused = False
        self._rests_until = 0.0
        self._unfit: dict[Key, float] = {}

    def is_tried(self, key: Key) -> bool:
        """Whether the file of a key is to be stored now."""
        if not self._refused and not self._unfit:
            return True
        now = self._clock()
        with self._guard:
            return not (self._refused and now < self._rests_until) and now >= self._unfit.get(key, 0.0)

    def failed(self, key: Key, error: StoreError) -> None:
        """A file could not be stored."""
        with self._guard:
            now = self._clock()
            if isinstance(error, NoRoom):
                news = self._unfit.get(key) is None
                self._forget_some()
                self._unfit[key] = now + UNFIT_SECONDS
            else:
                news = not self._refused
                self._refused, self._rests_until = True, now + REST_SECONDS
        if news:
            what = f"{key} is" if isinstance(error, NoRoom) else "downloads are"
            level = logging.INFO if isinstance(error, NotKept) else logging.ERROR
            logger.log(level, "%s passed on without being stored: %s", what, error)

    def _forget_some(self) -> None:
        while len(self._unfit) >= _MANY:
            del self._unfit[next(iter(self._unfit))]

    def went_well(self, key: Key) -> None:
        """A file was stored."""
        if not self._refused and not self._unfit:
            return
        with self._guard:
            before, self._refused = self._refused, False
            self._unfit.pop(key, None)
        if before:
            logger.warning("downloads are stored again")
