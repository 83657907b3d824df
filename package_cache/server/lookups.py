"""What the event loop has threads do: look into the registry, open files, join fills, and then download.

A look at a slow disk stalls nobody. So many run at once and no more; a thread that goes on to download counts no longer.
HEAD of a file that is not here waits for a source, so those are counted apart: GET need never wait for one. So are the
paths of this cache itself, which tell in a bounded time that a disk is slow.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from package_cache.engine.answers import Answer
from package_cache.engine.fills.line import Run
from package_cache.engine.hotset import HotFile
from package_cache.engine.pending import Pending
from package_cache.engine.service import Service
from package_cache.errors import FillError, PackageCacheError
from package_cache.rules.repositories.routes import is_own
from package_cache.server.connections import Asked, Connection

logger = logging.getLogger(__name__)

AT_ONCE = 128

Step = HotFile | Answer | Pending
Find = Callable[[Run], Step]
"""Finds the next step of an answer; a download that it begins gets its thread from the argument."""


@dataclass(slots=True)
class _Lane:
    """What runs of one kind, and what waits for it."""

    running: int = 0
    waiting: deque[tuple[Connection, Asked, Find]] = field(default_factory=deque)


class Lookups:
    """Runs what finds the next step of an answer; `found` is called with it in the loop's thread, by way of `call`."""

    def __init__(
        self,
        service: Service,
        call: Callable[[Callable[[], None]], None],
        found: Callable[[Connection, Asked, Step], None],
    ) -> None:
        self._service = service
        self._call = call
        self._found = found
        self._lanes = {"GET": _Lane(), "HEAD": _Lane()}
        self._own = _Lane()

    def begin(self, connection: Connection, asked: Asked, find: Find) -> None:
        """Have a thread find the next step. Called in the loop's thread."""
        lane = self._lane(asked)
        lane.waiting.append((connection, asked, find))
        self._start(lane)

    def _lane(self, asked: Asked) -> _Lane:
        return self._own if is_own(asked.request.target) else self._lanes[asked.request.method]

    def _start(self, lane: _Lane) -> None:
        while lane.waiting and lane.running < AT_ONCE:
            connection, asked, find = lane.waiting.popleft()
            lane.running += 1
            try:
                self._service.run(partial(self._work, connection, asked, find))
            except RuntimeError:
                lane.running -= 1
                busy = FillError("the cache has too much to do; try again in a while", 503)
                self._found(connection, asked, self._service.refuse(busy))

    def _work(self, connection: Connection, asked: Asked, find: Find) -> None:
        """Runs in the thread."""
        downloads: list[Callable[[], None]] = []
        try:
            step = find(downloads.append)
        except Exception as error:  # noqa: BLE001 - the boundary of this request
            step = self._refusal(error)
        self._call(partial(self._end, connection, asked, step))
        for download in downloads:
            download()

    def _end(self, connection: Connection, asked: Asked, step: Step) -> None:
        lane = self._lane(asked)
        lane.running -= 1
        self._start(lane)
        self._found(connection, asked, step)

    def _refusal(self, error: Exception) -> Answer:
        if not isinstance(error, PackageCacheError):
            logger.exception("a request ended in a bug", exc_info=error)
            error = PackageCacheError("internal error; the log of the cache says more")
        return self._service.refuse(error)
