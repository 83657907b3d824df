"""What connections to sources need of an event loop; timers; and a loop for where no server's loop runs.

That is in a command, in the library, and under other servers.
"""

import heapq
import math
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Protocol

READ, WRITE = 1, 4
"""EPOLLIN and EPOLLOUT, which are POLLIN and POLLOUT."""
_LONGEST = 60.0
"""Seconds that one turn waits at most."""
_PATIENCE = 5.0
"""Seconds to wait for the thread at the end."""


class Timer:
    """Something that is to happen at a time by the monotonic clock."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Prevent it. May be called again, and after it has happened."""
        self.callback = None


class Timers:
    """Timers in the order in which they are due. Belongs to one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Timer]] = []
        self._number = count()

    def add(self, when: float, callback: Callable[[], None]) -> Timer:
        """Have `callback` called at that time."""
        timer = Timer(callback)
        heapq.heappush(self._due, (when, next(self._number), timer))
        return timer

    def wait(self, now: float) -> float:
        """Seconds until the next one is due."""
        while self._due and self._due[0][2].callback is None:
            heapq.heappop(self._due)
        return max(0.0, self._due[0][0] - now) if self._due else math.inf

    def fire(self, now: float) -> None:
        """Call what is due."""
        while self._due and self._due[0][0] <= now:
            _, _, timer = heapq.heappop(self._due)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()


class Events(Protocol):
    """What a connection needs of an event loop. Everything happens in the loop's thread, but for `call`."""

    def register(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the events of a descriptor whenever there are any."""
        ...

    def modify(self, descriptor: int, events: int) -> None:
        """Wait for other events of a registered descriptor."""
        ...

    def unregister(self, descriptor: int) -> None:
        """Wait for a descriptor no more."""
        ...

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` after so many seconds."""
        ...

    def call(self, function: Callable[[], None], /) -> None:
        """Call `function` in the loop's thread, soon. Safe for any thread."""
        ...

    def run(self, job: Callable[[], None], /) -> None:
        """Run a job in a thread. Raises RuntimeError if there is none."""
        ...


class EventLoop:
    """Implements `Events` with epoll. Belongs to the thread that runs it, but for `call` and `close`."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers = Timers()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell, self._alarm = socket.socketpair()
        self._bell.settimeout(0)
        self._alarm.settimeout(0)
        self._over = False
        self._thread: threading.Thread | None = None
        self._poll.register(self._alarm.fileno(), READ)

    def register(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the events of a descriptor whenever there are any."""
        self._callbacks[descriptor] = callback
        self._poll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Wait for other events of a registered descriptor."""
        self._poll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Wait for a descriptor no more."""
        del self._callbacks[descriptor]
        self._poll.unregister(descriptor)

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` after so many seconds."""
        return self._timers.add(time.monotonic() + seconds, callback)

    def call(self, function: Callable[[], None], /) -> None:
        """Call `function` in the loop's thread, soon. Safe for any thread."""
        self._calls.put(function)
        with suppress(OSError):  # it rings already, or the loop is over
            self._bell.send(b"!")

    def run(self, job: Callable[[], None], /) -> None:
        """Run a job in a thread. Raises RuntimeError if there is none."""
        threading.Thread(target=job, name="lookup", daemon=True).start()

    @property
    def registered(self) -> int:
        """How many descriptors are registered."""
        return len(self._callbacks)

    def turn(self, seconds: float) -> None:
        """Wait at most so many seconds for something to do, and do it."""
        patience = min(seconds, self._timers.wait(time.monotonic()))
        for descriptor, what in self._poll.poll(patience):
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback(what)
            elif descriptor == self._alarm.fileno():
                with suppress(BlockingIOError):
                    self._alarm.recv(4096)
        self._timers.fire(time.monotonic())
        for _ in range(self._calls.qsize()):
            self._calls.get_nowait()()

    def start(self, ended: Callable[[], None]) -> None:
        """Run it in a thread, which calls `ended` at the end. Raises RuntimeError if there is no thread."""
        thread = threading.Thread(target=self._turn, args=(ended,), name="sources", daemon=True)
        thread.start()
        self._thread = thread

    def _turn(self, ended: Callable[[], None]) -> None:
        try:
            while not self._over:
                self.turn(_LONGEST)
        finally:
            ended()
            while not self._calls.empty():  # too late, but connections that were given back are to be closed
                self._calls.get_nowait()()
            self.release()

    def close(self) -> None:
        """End its thread, and wait for that."""
        self.call(self._end)
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    def _end(self) -> None:
        self._over = True

    def release(self) -> None:
        """Close its descriptors; no thread runs it."""
        self._poll.close()
        self._bell.close()
        self._alarm.close()
