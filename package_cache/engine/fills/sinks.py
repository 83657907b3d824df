"""Where the bytes of a download go: into the part of a lease, into memory, into a file or a buffer of the library's.

What they have in common is `pump.Sink`.
"""

import hashlib
import io
import os
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from package_cache.engine.fills.hashes import Hashes
from package_cache.engine.upkeep.room import Refusal, Reservation
from package_cache.errors import NoRoom, NotKept, StoreError
from package_cache.model import Representation
from package_cache.rules.http.digests import Digest, first_differing, hashed
from package_cache.storage.parts.leases import Lease
from package_cache.storage.parts.part import Draft

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

    def differing(self, digests: tuple[Digest, ...]) -> tuple[Digest, str] | None:
        """The first of these digests that is not that of the part, and the part's in hex; None if all are."""
        assert self._lease.part is not None
        return self._hashes.differing(self._lease.part, digests)


_Granted = TypeVar("_Granted")


def _granted(answer: _Granted | Refusal) -> _Granted:
    """What was asked for. Raises NoRoom."""
    if isinstance(answer, Refusal):
        raise NoRoom(answer.reason)
    return answer


class MemorySink:
    """Keeps the bytes of one file; see `pump.Sink`. Never waits."""

    def __init__(self, examined: Examining) -> None:
        self._examined = examined
        self._kept = bytearray()
        self._head: Representation | None = None
        self.head: Representation | None = None
        """That of the whole file, once that was examined."""

    @property
    def size(self) -> int:
        """Bytes kept."""
        return len(self._kept)

    @property
    def data(self) -> bytes:
        """The bytes kept."""
        return bytes(self._kept)

    def begin(self, head: Representation) -> None:
        """A source vouches for `head`."""
        self._head = head

    def put(self, at: int, data: bytes) -> bool:
        """Compare and append; False if a byte differs from what is kept."""
        known = self._kept[at : at + len(data)]
        if not data.startswith(known):
            return False
        self._kept += data[len(known) :]
        return True

    def reset(self) -> None:
        """Forget every byte."""
        self._kept.clear()
        self._head = None

    def beat(self) -> None:
        """Who reads elsewhere is shown by `Exchanges` that the download goes on."""

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Nothing is hashed on the way."""

    def differing(self, digests: tuple[Digest, ...]) -> tuple[Digest, str] | None:
        """The first of these digests that is not that of the bytes, and theirs in hex; None if all are."""
        return first_differing(digests, lambda algorithm: hashed(algorithm, self._kept))

    def objection(self) -> str | None:
        """Why the bytes, which are a whole file, are not to be stored all the same; None if they are."""
        assert self._head is not None  # of what came whole
        try:
            self.head = self._examined(self._head.of_size(self.size), lambda: self.data)
        except ValueError as error:
            return f"sent what is not to be stored: {error}"
        return None

    def digest(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return hashlib.sha256(self._kept).hexdigest()


class FileSink:
    """The draft of a file, hashed on the way."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._hashes = Hashes()

    @property
    def head(self) -> Representation | None:
        """The head of the bytes."""
        return self._draft.head

    @property
    def have(self) -> int:
        """Bytes that are here."""
        return self._draft.have

    def begin(self, head: Representation) -> None:
        """A source vouches for `head`. Raises StoreError."""
        self._draft.begin(head)

    def put(self, at: int, data: bytes) -> bool:
        """Compare and append; False if a byte differs from what is kept. Raises StoreError."""
        part = self._draft.part
        assert part is not None  # a body is received only after `begin`
        before = part.size
        if not part.put(at, data):
            return False
        if part.size > before:
            self._hashes.take(part, before, memoryview(data)[before - at :])
        return True

    def reset(self) -> None:
        """Drop what is here."""
        self._draft.reset()
        self._hashes = Hashes()

    def beat(self) -> None:
        """Nobody else reads it."""

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Hash on the way what will be compared at the end."""
        self._hashes.expect(digests)

    def differing(self, digests: tuple[Digest, ...]) -> tuple[Digest, str] | None:
        """The first of these digests that is not that of the file, and the file's in hex; None if all are."""
        assert self._draft.part is not None
        return self._hashes.differing(self._draft.part, digests)

    def objection(self) -> None:
        """Nothing is asked of the bytes."""

    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        assert self._draft.part is not None
        return self._hashes.digest(self._draft.part)


class BufferSink:
    """Memory."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.head: Representation | None = None
        self.have = 0

    def begin(self, head: Representation) -> None:
        """A source vouches for `head`."""
        self.head = head

    def put(self, at: int, data: bytes) -> bool:
        """Compare and append; False if a byte differs from what is kept."""
        known = min(len(data), self.have - at)
        if known > 0:
            with self.buffer.getbuffer() as kept:
                if kept[at : at + known] != data[:known]:
                    return False
        self.have += self.buffer.write(data[max(known, 0) :])
        return True

    def reset(self) -> None:
        """Drop what is here."""
        self.buffer = io.BytesIO()
        self.have = 0

    def beat(self) -> None:
        """Nobody else reads it."""

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """All of it is here at the end."""

    def differing(self, digests: tuple[Digest, ...]) -> tuple[Digest, str] | None:
        """The first of these digests that is not that of the bytes, and theirs in hex; None if all are."""
        return first_differing(digests, self._hash)

    def objection(self) -> None:
        """Nothing is asked of the bytes."""

    def digest(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return self._hash("sha256").hexdigest()

    def _hash(self, algorithm: str) -> "hashlib._Hash":
        with self.buffer.getbuffer() as kept:
            return hashed(algorithm, kept)
