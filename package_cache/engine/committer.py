"""Commits of finished downloads, in groups: many small files share one round of directory syncs and one transaction.

There is no thread for it: whoever comes first commits for all who came meanwhile. A file is durable before its entry says
READY.
"""

import threading
from dataclasses import dataclass

from package_cache.errors import PackageCacheError, StoreError
from package_cache.model import Entry, Key, Representation
from package_cache.storage.blobs import BlobStore
from package_cache.storage.parts import Part
from package_cache.storage.registry import Registry


@dataclass(slots=True, eq=False)
class _Job:
    key: Key
    digest: str
    representation: Representation
    part: Part
    entry: Entry | None = None
    error: PackageCacheError | None = None


class Committer:
    """Puts finished parts into the store. Safe for any number of threads."""

    def __init__(self, registry: Registry, blobs: BlobStore) -> None:
        self._registry = registry
        self._blobs = blobs
        self._guard = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_Job] = []

    def commit(self, key: Key, digest: str, representation: Representation, part: Part) -> Entry:
        """Make the part a blob and the newest version of the key. Raises StoreError."""
        self._blobs.seal(part)
        job = _Job(key, digest, representation, part)
        with self._guard:
            self._waiting.append(job)
        with self._turn:
            if job.entry is None and job.error is None:
                with self._guard:
                    jobs, self._waiting = self._waiting, []
                self._commit(jobs)
        if job.entry is None:
            raise job.error or StoreError(f"{key} was not committed")
        return job.entry

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            self._blobs.publish([(job.part, job.digest) for job in jobs])
            entries = self._registry.commit_all([(job.key, job.digest, job.representation) for job in jobs])
        except StoreError as error:
            for job in jobs:
                job.error = error
            return
        for job, entry in zip(jobs, entries, strict=True):
            job.entry = entry
