"""A bound on what all downloads of a process together take from the sources, in bytes a second."""

import threading
import time
from collections.abc import Callable

from package_cache.config import Timeouts
from package_cache.model import Source
from package_cache.rules.transfers.steps import Ask
from package_cache.upstream.http import HttpAnswer, HttpFetcher

LEAST = 4096
"""Bytes a second that each download must have left: a source that is read more slowly gives up."""
_TURNS = 4
"""How often in a second each download goes on."""
_LARGEST = 1 << 18


class Throttle:
    """Shares out `rate` bytes a second among so many downloads at once. Safe for any number of threads.

    Nothing is saved up: after a pause it goes on at the same rate.
    """

    def __init__(self, rate: int, downloads: int) -> None:
        self._rate = rate
        self.block = max(1024, min(_LARGEST, rate // (_TURNS * downloads)))
        """Bytes that one may have at a time."""
        self._guard = threading.Lock()
        self._free = 0.0

    def wait(self, size: int) -> None:
        """Block until so many bytes may come."""
        with self._guard:
            begin = max(self._free, time.monotonic())
            self._free = begin + size / self._rate
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


class ThrottledFetcher(HttpFetcher):
    """As `HttpFetcher`, no faster than a throttle lets it."""

    def __init__(self, sources: tuple[Source, ...], timeouts: Timeouts, agent: str, via: str, throttle: Throttle) -> None:
        super().__init__(sources, timeouts, agent, via)
        self._throttle = throttle

    def open(self, ask: Ask, accept: str | None, method: str = "GET", via: str | None = None) -> HttpAnswer:
        """Request what `ask` says."""
        answer = super().open(ask, accept, method, via)
        answer.read = _Portions(answer.read, self._throttle).read
        return answer


class _Portions:
    """The blocks of a body, in portions that come when they may.

    What has arrived waits here, what has not waits in the socket, and so the source is held back.
    """

    def __init__(self, read: Callable[[], bytes], throttle: Throttle) -> None:
        self._read = read
        self._throttle = throttle
        self._left = memoryview(b"")

    def read(self) -> bytes:
        """The next portion; empty at an end in good order. Raises UpstreamError."""
        if not self._left:
            self._left = memoryview(self._read())
        portion, self._left = bytes(self._left[: self._throttle.block]), self._left[self._throttle.block :]
        self._throttle.wait(len(portion))
        return portion
