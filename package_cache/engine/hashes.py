"""The hashes of a part, taken while it is written."""

import hashlib

from package_cache.rules.digests import Digest
from package_cache.storage.blobs import hash_file
from package_cache.storage.parts import Part

_NAME = "sha256"
"""The hash by which a file is named in the store."""


class Hashes:
    """SHA-256 of a part, and what else a source declares of it."""

    def __init__(self) -> None:
        self._running = {_NAME: _Hash(_NAME)}

    def take(self, part: Part, size: int, data: memoryview) -> None:
        """Bytes that were appended where the part had `size`."""
        for running in self._running.values():
            running.catch_up(part, size)
            running.take(data)

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Hash on the way what will be compared at the end."""
        for digest in digests:
            if digest.algorithm not in self._running:
                self._running[digest.algorithm] = _Hash(digest.algorithm)

    def digest(self, part: Part) -> str:
        """SHA-256 of the part, in hex."""
        return self._of(part, _NAME).hexdigest()

    def agree(self, part: Part, digests: tuple[Digest, ...]) -> bool:
        """Whether the part is what these digests are of."""
        return all(self._of(part, digest.algorithm).digest() == digest.value for digest in digests)

    def _of(self, part: Part, algorithm: str) -> "hashlib._Hash":
        running = self._running[algorithm]
        running.catch_up(part, part.size)
        return running.value


class _Hash:
    """The hash of the first `size` bytes of a part."""

    def __init__(self, algorithm: str) -> None:
        self.value = hashlib.new(algorithm, usedforsecurity=False)
        self.size = 0

    def catch_up(self, part: Part, size: int) -> None:
        """Read what of the part's first `size` bytes went by unseen."""
        if self.size < size:
            self.value, self.size = hash_file(part.fileno(), size, self.value.name), size

    def take(self, data: memoryview) -> None:
        """The next bytes."""
        self.value.update(data)
        self.size += len(data)
