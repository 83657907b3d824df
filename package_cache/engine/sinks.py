"""Where a fill's bytes go: the part under its lease, hashed on the way."""

import hashlib
import time
from collections.abc import Callable
from typing import TypeVar

from package_cache.engine.room import Refusal, Reservation, Room
from package_cache.errors import NoRoom
from package_cache.model import Representation
from package_cache.storage.blobs import hash_file
from package_cache.storage.leases import Lease

BEAT_SECONDS = 1.0
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
        self._hash = hashlib.sha256()
        self._hashed = 0
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
            if self._hashed < before:
                self._hash = hash_file(part.fileno(), before)
            self._hash.update(memoryview(data)[before - at :])
            self._hashed = part.size
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
        self._hash, self._hashed = hashlib.sha256(), 0

    def digest(self) -> str:
        """SHA-256 of the part, in hex."""
        part = self._lease.part
        assert part is not None
        if self._hashed < part.size:
            self._hash, self._hashed = hash_file(part.fileno(), part.size), part.size
        return self._hash.hexdigest()


_Granted = TypeVar("_Granted")


def _granted(answer: _Granted | Refusal) -> _Granted:
    """What was asked for. Raises NoRoom."""
    if isinstance(answer, Refusal):
        raise NoRoom(answer.reason)
    return answer
