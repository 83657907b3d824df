"""Commits of small bodies, in groups: the bytes, their blobs and their entries in one durable transaction.

A thread of its own waits for the disk, while there is anything to store. Nobody else does, but who wants to know when it is
durable, and so READY: until then nobody finds it, and a crash leaves nothing of it.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from package_cache.errors import StoreError
from package_cache.storage.blobs import flaw
from package_cache.storage.parts.forks import forget_in_children
from package_cache.storage.parts.part import Part, translated
from package_cache.storage.registry import News, Registry

LINGER = 0.015
"""Seconds from the first body of a group to its end: the more bodies share a transaction, the less each costs."""
FILES = 64
BYTES = 1 << 20
"""How many bodies, and how many bytes, end a group sooner."""
_IDLE_SECONDS = 5.0
_BUG = "storing small files ended in an internal error"

Ended = Callable[[StoreError | None], None]
"""Told once, from whatever thread, that it is stored, or why it is not. Must not raise, nor wait."""


def read_body(part: Part, digest: str) -> bytes:
    """The bytes of a small part that is finished, compared once more: nobody else did since. Raises StoreError."""
    with translated("read a finished download"):
        body = os.pread(part.fileno(), part.size, 0)
    trouble = flaw(body, digest, part.size)
    if trouble is not None:
        raise StoreError(f"a finished download {trouble}")
    return body


@dataclass(frozen=True, slots=True)
class _Job:
    news: News
    size: int
    ended: Ended
    since: float


class SmallCommitter:
    """Puts small bodies into the registry. Safe for any number of threads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: what waits is stored by the parent."""
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[_Job] = deque()
        self._bytes = 0
        self._unstored = 0
        self._running = False

    @property
    def unstored(self) -> int:
        """Bytes that are not durable yet: who is quicker than the disk has to stop somewhere."""
        return self._unstored

    def commit(self, news: News, body: bytes, ended: Ended) -> None:
        """Have a body stored as the newest version of its key, in a moment. Never waits for the disk.

        The caller vouches that the bytes are those of the digest.
        """
        job = _Job(replace(news, body=body), len(body), ended, time.monotonic())
        with self._changed:
            self._waiting.append(job)
            self._bytes += job.size
            self._unstored += job.size
            if self._running:
                if len(self._waiting) == 1 or self._is_full():
                    self._changed.notify()
                return
            self._running = True
        try:
            threading.Thread(target=self._run, name="small bodies", daemon=True).start()
        except RuntimeError as error:
            self._refuse(StoreError(f"no thread to store files: {error}"))

    def _refuse(self, error: StoreError) -> None:
        with self._changed:
            jobs, self._waiting, self._bytes, self._running = self._waiting, deque(), 0, False
        self._tell(jobs, error)

    def _tell(self, jobs: Iterable[_Job], outcome: StoreError | None) -> None:
        for job in jobs:
            with self._changed:
                self._unstored -= job.size
            job.ended(outcome)

    def _is_full(self) -> bool:
        return len(self._waiting) >= FILES or self._bytes >= BYTES

    def _run(self) -> None:
        try:
            while jobs := self._next():
                self._commit(jobs)
        except BaseException:
            self._refuse(StoreError(_BUG))
            raise

    def _next(self) -> list[_Job]:
        """The next group, once it is full or old enough; none after a while without, and the thread is over."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, _IDLE_SECONDS):
                self._running = False
                return []
            self._changed.wait_for(self._is_full, self._waiting[0].since + LINGER - time.monotonic())
            jobs: list[_Job] = []
            size = 0
            while self._waiting and len(jobs) < FILES and size < BYTES:
                jobs.append(self._waiting.popleft())
                size += jobs[-1].size
            self._bytes -= size
            return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        outcome: StoreError | None = StoreError(_BUG)
        try:
            self._registry.commit_all([job.news for job in jobs])
            outcome = None
        except StoreError as error:
            outcome = error
        finally:
            self._tell(jobs, outcome)
