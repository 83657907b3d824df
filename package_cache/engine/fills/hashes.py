"""The hashes of a part, taken while it is written: of a large one in a thread beside the one that writes."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

from package_cache.rules.http.digests import Digest, first_differing, hasher
from package_cache.storage.blobs import hash_file
from package_cache.storage.parts.part import Part

_NAME = "sha256"
"""The hash by which a file is named in the store."""
_LARGE = 4 << 20
"""Bytes of a part from which on a thread is worth its price."""
_AT_ONCE = 256 << 10
"""Bytes that the thread is given at a time. As many more may be waiting for it."""


class Hashes:
    """SHA-256 of a part, and what else a source declares of it."""

    def __init__(self) -> None:
        self._running = {_NAME: _Hash(_NAME)}
        self._beside: ThreadPoolExecutor | None = None
        self._is_large = False

    def take(self, part: Part, size: int, data: memoryview) -> None:
        """Bytes that were appended where the part had `size`. They must not change any more."""
        if not self._is_large and size >= _LARGE:
            self._is_large, self._beside = True, _thread()
        for running in self._running.values():
            running.catch_up(part, size)
            running.take(data, self._beside)

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Hash on the way what will be compared at the end."""
        for digest in digests:
            if digest.algorithm not in self._running:
                self._running[digest.algorithm] = _Hash(digest.algorithm)

    def digest(self, part: Part) -> str:
        """SHA-256 of the part, in hex."""
        return self._of(part, _NAME).hexdigest()

    def differing(self, part: Part, digests: tuple[Digest, ...]) -> tuple[Digest, str] | None:
        """The first of these digests that is not that of the part, and the part's in hex; None if all are."""
        return first_differing(digests, lambda algorithm: self._of(part, algorithm))

    def _of(self, part: Part, algorithm: str) -> "hashlib._Hash":
        running = self._running[algorithm]
        running.catch_up(part, part.size)
        return running.settled()


class _Hash:
    """The hash of the first `size` bytes of a part."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._value = hasher(algorithm)
        self.size = 0
        self._waiting: list[memoryview] = []
        self._bytes = 0
        self._job: Future[None] | None = None

    def catch_up(self, part: Part, size: int) -> None:
        """Read what of the part's first `size` bytes went by unseen."""
        if self.size < size:
            self.settled()
            self._value, self.size = hash_file(part.fileno(), size, self._algorithm), size

    def take(self, data: memoryview, beside: ThreadPoolExecutor | None) -> None:
        """The next bytes; with `beside`, they are hashed there."""
        self.size += len(data)
        if beside is None:
            self._value.update(data)
            return
        self._waiting.append(data)
        self._bytes += len(data)
        if self._bytes >= _AT_ONCE:
            self._wait()
            try:
                self._job = beside.submit(_update, self._value, self._waiting)
            except RuntimeError:  # the main thread has ended: from then on none works beside another
                _update(self._value, self._waiting)
            self._waiting, self._bytes = [], 0

    def _wait(self) -> None:
        """Until nothing is hashed beside."""
        if self._job is not None:
            self._job.result()
            self._job = None

    def settled(self) -> "hashlib._Hash":
        """The hash, with all that was taken."""
        self._wait()
        _update(self._value, self._waiting)
        self._waiting, self._bytes = [], 0
        return self._value


def _thread() -> ThreadPoolExecutor | None:
    """A thread, which ends when nobody knows it any more; None if the system gives no more of them."""
    pool = ThreadPoolExecutor(1, "hash")
    try:
        pool.submit(_update, hashlib.sha256(), [])  # from here on it has its thread, and cannot fail
    except RuntimeError:
        return None
    return pool


def _update(value: "hashlib._Hash", blocks: list[memoryview]) -> None:
    for block in blocks:
        value.update(block)
