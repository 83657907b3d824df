"""Commits of what is downloaded and verified, in groups: the more share a transaction and its syncs, the less each costs.

Large ones are files: there is no thread for them, and whoever comes first commits for all who come meanwhile. Small bodies
are committed with their entries by a thread of its own, which waits for the disk while there is anything to store. Nobody
else does, but who wants to know when it is durable, and so READY: until then nobody finds it, and a crash leaves nothing of
a small body. A file is durable before its entry says READY.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from package_cache.errors import StoreError
from package_cache.storage.blobs import BlobStore, flaw
from package_cache.storage.parts.part import Part
from package_cache.storage.registry import NewVersion, Registry
from package_cache.storage.system import forget_in_children, translated

LINGER = 0.015
"""Seconds from the first body of a group to its end: the more bodies share a transaction, the less each costs."""
LONGER = 0.2
"""The same while many come, none of which anybody waits for: each costs a third less then. Their digests are random, so
each group writes nearly all pages of the indexes of those again, however many bodies it has."""
_MANY = 8
"""Bodies of a group, after which many may come."""
FILES = 512
BYTES = 1 << 21
"""How many bodies, and how many bytes, end a group sooner."""
_IDLE_SECONDS = 5.0
_BUG = "storing small files ended in an internal error"


@dataclass(frozen=True, slots=True, eq=False)
class FileJob:
    """A finalized part that is to be the newest version of a key. `ended` is told whether it is; it must not raise."""

    news: NewVersion
    part: Part
    ended: Callable[[StoreError | None], None]


class Committer:
    """Puts finalized parts into the store. Safe for any number of threads."""

    def __init__(self, registry: Registry, blobs: BlobStore) -> None:
        self._registry = registry
        self._blobs = blobs
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: who was at it is a thread of the parent's."""
        self._guard = threading.Lock()
        self._waiting: list[FileJob] = []
        self._busy = False

    def commit(self, job: FileJob) -> None:
        """Have a part made the blob of its digest and the newest version of its key, now or in a moment."""
        with self._guard:
            self._waiting.append(job)
            if self._busy:
                return
            self._busy = True
        try:
            while jobs := self._next():
                self._commit(jobs)
        except BaseException:
            with self._guard:
                self._busy = False
            raise

    def _next(self) -> list[FileJob]:
        with self._guard:
            jobs, self._waiting = self._waiting, []
            self._busy = bool(jobs)
        return jobs

    def _commit(self, jobs: list[FileJob]) -> None:
        outcomes: dict[FileJob, StoreError | None] = dict.fromkeys(
            jobs, StoreError("storing a finished download ended in an internal error")
        )
        try:
            with self._blobs.holding(job.news.digest for job in jobs):
                self._store(jobs, outcomes)
        except StoreError as error:
            outcomes |= {job: error for job, outcome in outcomes.items() if outcome is not None}
        finally:
            for job, outcome in outcomes.items():
                job.ended(outcome)

    def _store(self, jobs: list[FileJob], outcomes: dict[FileJob, StoreError | None]) -> None:
        published: list[FileJob] = []
        directories: set[Path] = set()
        for job in jobs:
            try:
                directories.add(self._blobs.publish(job.part, job.news.digest))
            except StoreError as error:
                outcomes[job] = error
            else:
                published.append(job)
        try:
            self._blobs.settle(directories)
            self._registry.commit_all([job.news for job in published])
        except StoreError as error:
            outcomes.update(dict.fromkeys(published, error))
        else:
            outcomes.update(dict.fromkeys(published, None))


class Job:
    """A small body that is to be the newest version of a key, which `news` has with it.

    The committer's thread calls `ended`, once for all of a group that have the same: they are stored, or why they are not.
    It must not raise, nor wait. Of a `patient` one, nobody waits for that in this process.
    """

    __slots__ = ("ended", "news", "patient", "since", "size")

    def __init__(self, news: NewVersion, ended: "Ended", *, patient: bool = False) -> None:
        assert news.body is not None  # or it would be a file
        self.news = news
        self.size = len(news.body)
        self.ended = ended
        self.patient = patient
        self.since = time.monotonic()


Ended = Callable[[list[Any], StoreError | None], None]
"""Is told of jobs, all of the kind that it belongs to."""


def read_body(part: Part, digest: str) -> bytes:
    """The bytes of a small part that is finished, compared once more: nobody else did since. Raises StoreError."""
    with translated("read a finished download"):
        body = os.pread(part.fileno(), part.size, 0)
    trouble = flaw(body, digest, part.size)
    if trouble is not None:
        raise StoreError(f"a finished download {trouble}")
    return body


class SmallCommitter:
    """Puts small bodies into the registry. Safe for any number of threads.

    `is_awaited` tells whether another process waits for something that this one has not stored yet.
    """

    def __init__(self, registry: Registry, is_awaited: Callable[[], bool] = lambda: True) -> None:
        self._registry = registry
        self._is_awaited = is_awaited
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: what waits is stored by the parent."""
        self._guard = threading.Lock()
        self._changed = threading.Condition(self._guard)
        self._waiting: deque[Job] = deque()
        self._bytes = 0
        self._unstored = 0
        self._running = False
        self._many = False

    @property
    def unstored(self) -> int:
        """Bytes that are not durable yet: who is quicker than the disk has to stop somewhere."""
        return self._unstored

    def commit(self, job: Job) -> None:
        """Have a body stored as the newest version of its key, in a moment. Never waits for the disk.

        The caller vouches that the bytes are those of the digest.
        """
        with self._guard:
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
        with self._guard:
            jobs, self._waiting, self._bytes, self._running = self._waiting, deque(), 0, False
        self._tell(jobs, error)

    def _tell(self, jobs: Iterable[Job], outcome: StoreError | None) -> None:
        groups: dict[Ended, list[Job]] = {}
        size = 0
        for job in jobs:
            size += job.size
            groups.setdefault(job.ended, []).append(job)
        with self._guard:
            self._unstored -= size
        for ended, group in groups.items():
            ended(group, outcome)

    def _is_full(self) -> bool:
        return len(self._waiting) >= FILES or self._bytes >= BYTES

    def _run(self) -> None:
        try:
            while jobs := self._next():
                self._commit(jobs)
        except BaseException:
            self._refuse(StoreError(_BUG))
            raise

    def _next(self) -> list[Job]:
        """The next group, once it is full or old enough; none after a while without, and the thread is over."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, _IDLE_SECONDS):
                self._running = False
                return []
            self._linger()
            jobs: list[Job] = []
            size = 0
            while self._waiting and len(jobs) < FILES and size < BYTES:
                jobs.append(self._waiting.popleft())
                size += jobs[-1].size
            self._bytes -= size
            self._many = len(jobs) >= _MANY
            return jobs

    def _linger(self) -> None:
        """Wait for more of a group, and on and on for as long as nobody waits for what is in it."""
        since = self._waiting[0].since
        until = since + LINGER
        while not self._changed.wait_for(self._is_full, until - time.monotonic()) and until < since + LONGER:
            if not self._many or not all(job.patient for job in self._waiting) or self._is_awaited():
                return
            until += LINGER

    def _commit(self, jobs: list[Job]) -> None:
        outcome: StoreError | None = StoreError(_BUG)
        try:
            self._registry.commit_all([job.news for job in jobs])
            outcome = None
        except StoreError as error:
            outcome = error
        finally:
            self._tell(jobs, outcome)
