"""Threads for fills: as many as run at once, used again, never in the way of the end of the process."""

import queue
import threading
from collections.abc import Callable

from package_cache.storage.parts.forks import forget_in_children

_IDLE_SECONDS = 30.0


class Threads:
    """Runs jobs at once, each in a thread of its own. An idle thread takes the next one, and ends after a while without.

    Unlike a pool of the standard library it has no bound, since a job may wait for a silent source, and its threads do not
    keep a process alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: the threads are the parent's, and so is what they were promised to do."""
        self._guard = threading.Lock()
        self._idle = 0
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run(self, job: Callable[[], None]) -> None:
        """Start a job. Raises RuntimeError if the system gives no more threads."""
        with self._guard:
            spare = self._idle > 0
            if spare:
                self._idle -= 1
        if spare:
            self._jobs.put(job)
        else:
            threading.Thread(target=self._work, args=(job,), name=self._name, daemon=True).start()

    def _work(self, job: Callable[[], None]) -> None:
        while True:
            job()
            with self._guard:
                self._idle += 1
            try:
                job = self._jobs.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._guard:
                    if self._idle == 0:  # a job was promised to this thread in the meantime
                        job = self._jobs.get()
                        continue
                    self._idle -= 1
                    return
