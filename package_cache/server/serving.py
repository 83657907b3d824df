"""A process that serves: the event loop, from its first turn to its end, and another application in the place of the first.

The same for the one process of the bare command and for each that Gunicorn keeps running. What differs is who starts it.
"""

import gc
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from package_cache.config import Config
from package_cache.server.addresses import Listening
from package_cache.server.app import Application
from package_cache.server.loop import Loop
from package_cache.server.reactor import Limits, settle_memory

logger = logging.getLogger(__name__)

_SETTLE_SECONDS = 0.02
"""Between two looks, before the end, at whether the disk has what came."""
_TURN_SECONDS = 0.0005
"""How long a thread may work while the loop wants its turn: after each system call it has to wait for that."""
_LAST_SECONDS = 2.0
"""How long a service that was replaced may have requests that look for their answer."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """How another application takes the place of the one that answers.

    `make` is called in a thread: the application and its settings, or None if all stays as it is. `ended` is called in the
    loop's thread when what was made is in its place, or was not made.
    """

    make: Callable[[], tuple[Config, Application] | None]
    ended: Callable[[], None]


class Serving:
    """Serves `application` to who connects, in the calling thread."""

    def __init__(self, application: Application, listening: Listening, limits: Limits, software: str) -> None:
        self._application = application
        self._patience: float | None = None
        self._listening = listening
        self._retired: list[tuple[float, Application]] = []
        self._renewal: Renewal | None = None
        self._once_more = False
        self._loop = Loop(listening.sockets, application, limits, software)

    def serve(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop` is called and what runs has come to its end, or its time is up.

        `meanwhile` is called now and then: every second, if not more often.
        """
        self._application.service.caretaker.begin()
        settle_memory()
        sys.setswitchinterval(_TURN_SECONDS)
        meanwhile()
        while self._patience is None:
            self._loop.turns(1.0)
            self._bury()
            meanwhile()
        self._loop.drain()
        self._listening.close()
        self._application.service.retire()
        begun = time.monotonic()
        while (self._loop.busy or not self._is_settled) and time.monotonic() - begun < self._patience:
            self._loop.turn(1.0 if self._loop.busy else _SETTLE_SECONDS)
            meanwhile()

    @property
    def _is_settled(self) -> bool:
        """Whether what clients have whole is stored: its download would be in vain."""
        return all(one.service.is_settled for one in (*(one for _, one in self._retired), self._application))

    def stop(self, patience: float) -> None:
        """Take no new connections, and end when running answers have, or after `patience` seconds.

        May be called from a signal handler, and again with less patience.
        """
        self._patience = patience
        self._loop.call(self._loop.pause)

    def reopen_logs(self) -> None:
        """Write to the file that has the name of the access log now. May be called from a signal handler."""
        self._loop.call(self._application.access.reopen)

    def close(self) -> None:
        """Cut what runs and stop listening."""
        self._loop.close()
        self._listening.close()
        for one in (*(application for _, application in self._retired), self._application):
            one.service.close()

    # -- another application in the place of this one

    def renew(self, renewal: "Renewal") -> None:
        """Begin a renewal. May be called from a signal handler."""
        self._loop.call(lambda: self._begin_renewal(renewal))

    def _begin_renewal(self, renewal: "Renewal") -> None:
        if self._renewal is not None:
            self._once_more = True
            return
        self._renewal = renewal
        try:
            self._application.service.run(self._work_at_renewal)
        except RuntimeError:
            logger.error("the system gives no thread to read the settings again")
            self._end_renewal(None)

    def _work_at_renewal(self) -> None:
        """Runs in a thread."""
        assert self._renewal is not None
        fresh = None
        try:
            self._application.access.reopen()
            fresh = self._renewal.make()
        finally:
            self._loop.call(lambda: self._end_renewal(fresh))

    def _end_renewal(self, fresh: tuple[Config, Application] | None) -> None:
        """Runs in the loop's thread."""
        renewal, self._renewal = self._renewal, None
        assert renewal is not None
        if fresh is not None:
            self._take_over(*fresh)
        renewal.ended()
        if self._once_more:
            self._once_more = False
            self._begin_renewal(renewal)

    def _take_over(self, config: Config, application: Application) -> None:
        before, self._application = self._application, application
        self._loop.renew(application, limits_of(config))
        before.service.retire()
        self._retired.append((time.monotonic(), before))
        application.service.caretaker.begin()

    def _bury(self) -> None:
        """Close the services that were replaced and have come to their end."""
        before = time.monotonic() - _LAST_SECONDS
        over = [one for one in self._retired if one[0] < before and one[1].service.is_idle]
        for one in over:
            self._retired.remove(one)
            with suppress(RuntimeError):  # no thread to be had now: what it holds goes with the last who knows it
                self._application.service.run(one[1].service.close)
        if over and not self._retired:
            gc.unfreeze()  # what is of the former ones is garbage by now, and frozen, it would stay
            gc.collect()
            settle_memory()


def limits_of(config: Config) -> Limits:
    """The bounds of one process."""
    return Limits(config.connections, config.timeouts, config.threads)
