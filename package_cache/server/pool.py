"""Threads for the requests that the event loop leaves to its host: so many, and no more.

As the standard library's pool, but what is submitted is either run once or refused. That one may do both where the system
gives no thread: it raises, and runs later what it has queued.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Pool(Executor):
    """Runs what is submitted in at most `size` threads, which do not keep a process alive."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Run a function in a moment. Raises RuntimeError if there is no thread, and none to be had."""
        future: Future[_T] = Future()
        job = future, lambda: fn(*args, **kwargs)
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._jobs.append(job)
            if len(self._jobs) > self._idle and self._threads < self._size:
                self._begin_thread(job)
            self._changed.notify()
        return future

    def _begin_thread(self, job: tuple[Future[Any], Callable[[], Any]]) -> None:
        """Called with the condition held."""
        try:
            threading.Thread(target=self._work, name="request", daemon=True).start()
        except RuntimeError:
            if self._threads:  # one that is busy now sees to it later
                return
            self._jobs.remove(job)
            raise
        self._threads += 1

    def _work(self) -> None:
        while (job := self._next()) is not None:
            future, function = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - it is for who has the future
                future.set_exception(error)
            else:
                future.set_result(result)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """The next job, once there is one; None if there will be none."""
        with self._changed:
            self._idle += 1
            while not self._jobs and not self._closed:
                self._changed.wait()
            self._idle -= 1
            return self._jobs.popleft() if self._jobs else None

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - nobody waits
        """Take nothing more, and have the threads end when they have done the rest. Nobody waits for them."""
        with self._changed:
            self._closed = True
            dropped = list(self._jobs) if cancel_futures else []
            if cancel_futures:
                self._jobs.clear()
            self._changed.notify_all()
        for future, _ in dropped:
            future.cancel()
