"""An event loop for tests of what belongs to one: turned by the test, in its own thread."""

import time
from collections.abc import Callable

from package_cache.upstream.events import EventLoop


class Turning(EventLoop):
    """Counts the threads that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.threads = 0

    def run(self, job: Callable[[], None], /) -> None:
        self.threads += 1
        super().run(job)

    def turn_until(self, condition: Callable[[], object], each: Callable[[], None] = lambda: None) -> None:
        """Take turns until something has come true; AssertionError if that takes longer than half a minute."""
        deadline = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            self.turn(0.01)
            each()

    def close(self) -> None:
        self.turn(0)  # connections that were given back just now
        self.release()
