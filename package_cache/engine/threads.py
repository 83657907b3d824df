"""Threads for what has to wait: as many as run at once, used again, never in the way of the end of the process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from package_cache.storage.system import forget_in_children

_IDLE_SECONDS = 30.0

Job = Callable[[], None]
Run = Callable[[Job], None]
"""Has a job run in a thread that is nobody else's, at once or in a moment. Raises RuntimeError if there is none."""


class _Thread:
    """A thread that waits for the next job."""

    __slots__ = ("_wakened", "job")

    def __init__(self) -> None:
        self.job: Job | None = None
        self._wakened = threading.Lock()
        self._wakened.acquire()

    def give(self, job: Job) -> None:
        """Have it do that. For who took it out of those that are idle."""
        self.job = job
        self._wakened.release()

    def waits(self) -> bool:
        """Whether there is a job, within a while."""
        return self._wakened.acquire(timeout=_IDLE_SECONDS)


class Threads:
    """Runs jobs at once, each in a thread of its own. An idle thread takes the next one, and ends after a while without.

    Unlike a pool of the standard library it has no bound, since a job may wait for a silent source, and its threads do not
    keep a process alive. Each waits for itself: of many that wait for one queue, several wake up for a job.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: the threads are the parent's, and so is what they were promised to do."""
        self._guard = threading.Lock()
        self._idle: list[_Thread] = []

    def run(self, job: Job) -> None:
        """Start a job. Raises RuntimeError if the system gives no more threads."""
        self._take().give(job)

    @contextmanager
    def reserved(self) -> Iterator[Callable[[Job], None]]:
        """As `run`, for one job, of which it is certain now that there is a thread for it. Raises RuntimeError if not."""
        jobs: list[Job] = []
        thread = self._take()
        try:
            yield jobs.append
        finally:
            if jobs:
                thread.give(jobs[0])
            else:
                with self._guard:
                    self._idle.append(thread)

    def _take(self) -> _Thread:
        with self._guard:
            if self._idle:
                return self._idle.pop()
        thread = _Thread()
        threading.Thread(target=self._work, args=(thread,), name=self._name, daemon=True).start()
        return thread

    def _work(self, thread: _Thread) -> None:
        while True:
            if thread.waits():
                job, thread.job = thread.job, None
                assert job is not None
                job()
                job = None  # what it holds is not to be held for as long as nothing is to be done
                with self._guard:
                    self._idle.append(thread)
                continue
            with self._guard:
                if thread in self._idle:  # or a job is promised to it
                    self._idle.remove(thread)
                    return
