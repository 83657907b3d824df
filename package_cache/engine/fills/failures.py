"""What failed a moment ago: downloads, by their keys, and storing what came.

A client that asks in a loop does not make this cache hammer the sources, nor the disk: a file that has no room is passed on
without being stored, and all are while the disk refuses. The log tells when that begins and when it is over, however many
requests come meanwhile. Safe for any number of threads.
"""

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from package_cache.errors import FillError, NoRoom, NotKept, StoreError
from package_cache.model import ErrorResponse, Key
from package_cache.rules.transfers.steps import Finish, GiveUp, NotModified

logger = logging.getLogger(__name__)

LONGEST = 60.0
"""Seconds for which a failure is told again at most."""
_FORGIVEN = 600.0
"""Seconds after which a failure does not count any more."""
_KEYS = 4096


@dataclass(frozen=True, slots=True)
class _Failure:
    count: int
    when: float
    hold: float
    status: int
    reason: str
    response: ErrorResponse | None


class Failures:
    """The last failures, by key. Safe for any number of threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._failed: dict[Key, _Failure] = {}

    def check(self, key: Key) -> None:
        """Raise FillError with the last failure of a key while it is too early to try again."""
        failure = self._failed.get(key)
        if failure is None:
            return
        left = failure.when + failure.hold - self._clock()
        if left > 0:
            raise FillError(failure.reason, failure.status, math.ceil(left), failure.response)

    def note(self, key: Key, end: GiveUp) -> FillError:
        """A download failed: what to tell its client.

        The next one may begin at once, the one after it in a second, and then in twice the time each.
        """
        now = self._clock()
        error = FillError(end.reason, end.status, end.retry_after, end.response)
        if not _is_failure(end):
            self.forget(key)
            return error
        with self._guard:
            before = self._failed.pop(key, None)
            count = 1 if before is None or now - before.when > _FORGIVEN else before.count + 1
            hold = 0.0 if count == 1 else min(2.0 ** min(count - 2, 10), LONGEST)
            self._failed[key] = _Failure(count, now, hold, end.status, end.reason, end.response)
            if len(self._failed) > _KEYS:
                del self._failed[next(iter(self._failed))]
        return error

    def settle(self, key: Key, end: Finish | NotModified | GiveUp) -> None:
        """A download ended so."""
        if isinstance(end, GiveUp):
            self.note(key, end)
        else:
            self.forget(key)

    def forget(self, key: Key) -> None:
        """A download did not fail."""
        if key in self._failed:
            with self._guard:
                self._failed.pop(key, None)


def _is_failure(end: GiveUp) -> bool:
    """Whether sources failed: that one has no such file is its answer, and a full disk is none of its doing."""
    return end.status in (502, 504) or (end.response is not None and end.status >= 500 and end.retry_after is None)


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
