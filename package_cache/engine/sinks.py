"""Where a fill's bytes go: the part under its lease, hashed on the way."""

import hashlib
import time
from collections.abc import Callable
from typing import TypeVar

from package_cache.engine.room import Refusal, Reservation, Room
from package_cache.errors import NoRoom
from package_cache.model import Representation
from package_cache.rules.digests import Digest
from package_cache.storage.blobs import hash_file
from package_cache.storage.leases import Lease
from package_cache.storage.parts import Part

BEAT_SECONDS = 1.0
_NAME = "sha256"
"""The hash by which a file is named in the store."""
_QUIET_BYTES = 65536
"""As long as no more than this is here, readers have nothing of it: other processes need not hear of it."""
_QUIET_SECONDS = 0.25


class PartSink:
    """Writes to the part of a lease, as far as there is room, and tells readers after each block."""

    def __init__(self, lease: Lease, room: Room, publish: Callable[[], None]) -> None:
        self._lease = lease
        self._room = room
        self._reservation: Reservation | None = None
        self._publish = publish
        self._hashes = {_NAME: _Hash(_NAME)}
        self._begun = self._beaten = time.monotonic()

    def begin(self, head: Representation) -> None:
        """A source vouches for `head`. Readers hear of it with the first bytes. Raises NoRoom."""
        self.release()
        self._reservation = _granted(self._room.reserve(head.size, self._lease.have))
        self._lease.begin(head)

    def release(self) -> None:
        """Give back the room that was reserved. May be called again."""
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None

    def put(self, at: int, data: bytes) -> bool:
        """Compare and append; False if a byte differs from what is kept. Raises NoRoom."""
        part = self._lease.part
        assert part is not None  # a body is received only after `begin`
        before = part.size
        if self._reservation is not None:
            _granted(self._reservation.wrote(max(before, at + len(data))))
        if not part.put(at, data):
            return False
        if part.size > before:
            for running in self._hashes.values():
                running.catch_up(part, before)
                running.take(memoryview(data)[before - at :])
        if part.size > _QUIET_BYTES:
            self._lease.expose()
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self.beat()
        else:
            self._publish()
        return True

    def beat(self) -> None:
        """Show all readers that the download goes on."""
        self._beaten = time.monotonic()
        if self._lease.exposed or self._beaten - self._begun > _QUIET_SECONDS:
            self._lease.beat()
            self._publish()

    def reset(self) -> None:
        """Begin a new part."""
        self._lease.reset()
        self._hashes = {_NAME: _Hash(_NAME)}

    def digest(self) -> str:
        """SHA-256 of the part, in hex."""
        part = self._lease.part
        assert part is not None
        return self._running(part, _NAME).value.hexdigest()

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Hash on the way what will be compared at the end."""
        for digest in digests:
            if digest.algorithm not in self._hashes:
                self._hashes[digest.algorithm] = _Hash(digest.algorithm)

    def agrees(self, digests: tuple[Digest, ...]) -> bool:
        """Whether the part is what these digests are of."""
        part = self._lease.part
        assert part is not None
        return all(self._running(part, digest.algorithm).value.digest() == digest.value for digest in digests)

    def _running(self, part: Part, algorithm: str) -> "_Hash":
        running = self._hashes[algorithm]
        running.catch_up(part, part.size)
        return running


_Granted = TypeVar("_Granted")


def _granted(answer: _Granted | Refusal) -> _Granted:
    """What was asked for. Raises NoRoom."""
    if isinstance(answer, Refusal):
        raise NoRoom(answer.reason)
    return answer


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
