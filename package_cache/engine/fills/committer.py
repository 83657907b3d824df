"""Commits of finished downloads, in groups: many small files share one round of directory syncs and one transaction.

There is no thread for it, and nobody waits: whoever comes first commits for all who come meanwhile. A file is durable
before its entry says READY.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.storage.blobs import BlobStore
from package_cache.storage.parts.part import Part
from package_cache.storage.registry import NewVersion, Registry
from package_cache.storage.system import forget_in_children


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
