"""Where a fill's bytes go: the part under its lease, hashed on the way."""

import os
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from package_cache.engine.fills.hashes import Hashes
from package_cache.engine.upkeep.room import Refusal, Reservation
from package_cache.errors import NoRoom, NotKept, StoreError
from package_cache.model import Representation
from package_cache.rules.http.digests import Digest
from package_cache.storage.parts.leases import Lease

BEAT_SECONDS = 1.0
_QUIET_BYTES = 65536
"""As long as no more than this is here, readers have nothing of it: other processes need not hear of it."""
_QUIET_SECONDS = 0.25


class Reserving(Protocol):
    """Where the room for a download comes from; see `engine.upkeep.room`."""

    def reserve(self, size: int | None, have: int = 0) -> Reservation | Refusal:
        """Room for a file of `size` bytes, None if nobody knows; `have` of them are on the disk already."""
        ...

    def reserve_at_once(self, size: int) -> bool:
        """Whether there is room for a small file, which is taken until `give_back`; never waits. Raises StoreError."""
        ...

    def give_back(self, size: int) -> None:
        """Give back what `reserve_at_once` took."""
        ...

    def relieve(self, error: StoreError) -> None:
        """A download ended with this error: make room if that would have helped."""
        ...

    def close(self) -> None:
        """Make no more."""
        ...


Refusing = Callable[[Representation], str | None]
"""Says why an answer with that head is not to be stored; None if it is."""

Examining = Callable[[Representation, Callable[[], bytes]], Representation]
"""The head, with what the body says of it, which is read if that matters. Raises ValueError for one that is not right."""


def _nothing(_head: Representation) -> None:
    pass


def _as_it_is(head: Representation, _read: Callable[[], bytes]) -> Representation:
    return head


class PartSink:
    """Writes to the part of a lease, as far as there is room, and tells readers after each block."""

    def __init__(
        self,
        lease: Lease,
        room: Reserving,
        publish: Callable[[], None],
        refusal: Refusing = _nothing,
        examined: Examining = _as_it_is,
        largest: int | None = None,
    ) -> None:
        self._lease = lease
        self._room = room
        self._refusal = refusal
        self._examined = examined
        self._largest = largest
        self._reservation: Reservation | None = None
        self._publish = publish
        self.head: Representation | None = None
        """That of the whole file, once that was examined."""
        self._is_large = False
        """Whether readers have something of it as soon as anything is here."""
        self._hashes = Hashes()
        self._begun = self._beaten = time.monotonic()

    def begin(self, head: Representation) -> None:
        """A source vouches for `head`. Readers hear of it with the first bytes. Raises NoRoom."""
        self.release()
        reason = self._refusal(head)
        if reason is not None:
            raise NotKept(reason)
        self._reservation = _granted(self._room.reserve(head.size, self._lease.have))
        self._is_large = head.size is not None and head.size > _QUIET_BYTES
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
        if self._largest is not None and at + len(data) > self._largest:
            raise NotKept(f"it has more than the {self._largest} bytes that are stored of a file there")
        if self._reservation is not None:
            _granted(self._reservation.wrote(max(before, at + len(data))))
        if not part.put(at, data):
            return False
        self._publish()
        if part.size > before:
            self._hashes.take(part, before, memoryview(data)[before - at :])
        if self._is_large or part.size > _QUIET_BYTES:
            self._lease.expose()
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self.beat()
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
        self._hashes = Hashes()

    def objection(self) -> str | None:
        """Why the bytes, which are a whole file, are not to be stored all the same; None if they are."""
        head, part = self._lease.journal.head, self._lease.part
        assert head is not None  # of what came whole
        assert part is not None
        try:
            self.head = self._examined(head, lambda: os.pread(part.fileno(), part.size, 0))
        except ValueError as error:
            return f"sent what is not to be stored: {error}"
        return None

    def digest(self) -> str:
        """SHA-256 of the part, in hex."""
        assert self._lease.part is not None
        return self._hashes.digest(self._lease.part)

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Hash on the way what will be compared at the end."""
        self._hashes.expect(digests)

    def agrees(self, digests: tuple[Digest, ...]) -> bool:
        """Whether the part is what these digests are of."""
        assert self._lease.part is not None
        return self._hashes.agree(self._lease.part, digests)


_Granted = TypeVar("_Granted")


def _granted(answer: _Granted | Refusal) -> _Granted:
    """What was asked for. Raises NoRoom."""
    if isinstance(answer, Refusal):
        raise NoRoom(answer.reason)
    return answer
