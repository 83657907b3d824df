"""A file that is passed on without being kept: one client, one download, nothing on the disk.

The same download as every other (`engine.fills.pump`), with the same failover; its destination is what the client reads.
What was passed on already is remembered by its digest, so that no other file's bytes are ever put behind it. The end is
held back until all of it is here, as in a fill.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator
from typing import NoReturn, Protocol, cast

from package_cache.engine.fills.pump import End, steps
from package_cache.errors import FillError
from package_cache.model import Representation, Span
from package_cache.rules.http.digests import Digest
from package_cache.rules.transfers.proofs import is_same
from package_cache.rules.transfers.steps import Finish, GiveUp
from package_cache.rules.transfers.transfer import OVERLAP, Transfer
from package_cache.storage.blobs import hash_file
from package_cache.upstream.answers import Offer

TAIL = 65536
"""Bytes at the end of a file that the client does not get before the whole is here."""


class Kept(Protocol):
    """A file that holds the first bytes."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class Relay:
    """A file on its way from a source to one client.

    With `known`, the client has its bytes below `start` already, of a file with that head; `kept` holds them, if they are
    to be compared with what a source sends. `ended` is told how it ended, unless it is closed before.
    """

    def __init__(
        self,
        offer: Offer,
        ended: Callable[[End], None],
        known: Representation | None = None,
        start: int = 0,
        kept: Kept | None = None,
    ) -> None:
        self._offer = offer
        self._ended = ended
        self._sink = _Passing(start, known, kept)
        self._steps = steps(Transfer(offer.urls, start, known), offer, self._sink)
        self._end: End | None = None

    def open(self) -> Representation:
        """The head of the file. Waits for a source. Raises `FillError` if none has it."""
        while self._sink.head is None and self._end is None:
            self._step()
        return self._sink.head or self._fail()

    def read(self, span: Span | None) -> Generator[bytes, None, None]:
        """The bytes of `span`, or of the whole where its length is not known. Raises `FillError` where they end early."""
        start, stop = (span.start, span.stop) if span else (0, None)
        head = self._sink.head
        if head is not None and start > self._sink.have + TAIL:
            self.close()
            yield from Relay(self._offer, self._ended, head, start).read(span)
            return
        at = self._sink.start
        while self._end is None or isinstance(self._end, Finish):
            over = self._end is not None
            is_within = stop is not None and self._sink.have >= stop and stop != self._sink.size
            for block in self._sink.take(0 if is_within or over else TAIL):
                wanted = block[max(0, start - at) : None if stop is None else max(0, stop - at)]
                at += len(block)
                if wanted:
                    yield wanted
            if is_within or over:
                self.close()
                return
            self._step()
        self._fail()

    def _step(self) -> None:
        """Receive a block, or the end."""
        try:
            next(self._steps)
        except StopIteration as end:
            self._end = cast("End", end.value)
            self._ended(self._end)
        except FillError as error:
            self._end = GiveUp(error.http_status, str(error))
            self._ended(self._end)

    def _fail(self) -> NoReturn:
        end = self._end
        if isinstance(end, GiveUp):
            raise FillError(end.reason, end.status, end.retry_after)
        raise FillError("a source broke off", 502)

    def close(self) -> None:
        """Give the connection back."""
        self._steps.close()


class _Passing:
    """Where the bytes go: those behind `start` are handed out, the others compared where they can be."""

    def __init__(self, start: int, known: Representation | None, kept: Kept | None) -> None:
        self.head: Representation | None = None
        self.start = self.have = start
        self._known = known
        self._kept = kept
        self._blocks: deque[bytes] = deque()
        self._held = 0
        self._hash = hashlib.sha256()
        self._declared: dict[str, _Running] = {}
        self._last = b""
        self._again = hashlib.sha256()
        self._again_at = start

    @property
    def size(self) -> int | None:
        """Bytes of the file, as far as that is known."""
        head = self.head or self._known
        return head.size if head else None

    def begin(self, head: Representation) -> None:
        """A source vouches for the head. Raises FillError if it is of another file, and nothing is here to show that."""
        if self._known is not None and self._kept is None and not is_same(head, self._known):
            self.reset()
        self.head = head

    def put(self, at: int, data: bytes) -> bool:
        """Compare what came before, keep what is new to be taken; False if a byte differs."""
        known = max(0, self.have - at)
        if known and not self._is_same(at, data[:known]):
            return False
        for running in self._declared.values():
            running.take(at, data)
        fresh = data[known:]
        self._hash.update(fresh)
        self._last = (self._last + fresh)[-OVERLAP:]
        self._blocks.append(fresh)
        self._held += len(fresh)
        self.have += len(fresh)
        return True

    def _is_same(self, at: int, data: bytes) -> bool:
        """Whether bytes that came before come again: by the file that keeps them, by their digest, or by the last ones."""
        below = data[: max(0, self.start - at)]
        if below and self._kept is not None and os.pread(self._kept.fileno(), len(below), at) != below:
            return False
        first, data = at + len(below), data[len(below) :]
        if not data:
            return True
        if first == self.start:
            self._again, self._again_at = hashlib.sha256(), first
        if first == self._again_at:
            self._again.update(data)
            self._again_at += len(data)
            return self._again_at < self.have or self._again.digest() == self._hash.digest()
        offset = first - (self.have - len(self._last))
        return offset >= 0 and self._last[offset : offset + len(data)] == data

    def reset(self) -> None:
        """The sources have another file. Raises FillError, as what was passed on cannot be taken back."""
        raise FillError("the file changed at its source while it was sent", 502)

    def beat(self) -> None:
        """Nobody else waits for it."""

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Hash on the way what will be compared at the end."""
        for digest in digests:
            if digest.algorithm not in self._declared and not self._is_named_by(digest):
                size = self.start if self._kept is not None else 0
                before = hash_file(self._kept.fileno() if self._kept else -1, size, digest.algorithm)
                self._declared[digest.algorithm] = _Running(before, size)

    def _is_named_by(self, digest: Digest) -> bool:
        return digest.algorithm == self._hash.name and self.start == 0

    def objection(self) -> None:
        """Nothing is asked of the bytes."""

    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        return self._hash.hexdigest()

    def agrees(self, digests: tuple[Digest, ...]) -> bool:
        """Whether the file is what these digests are of; unless one was declared only when the first bytes were gone."""
        for digest in digests:
            running = None if self._is_named_by(digest) else self._declared[digest.algorithm]
            known = self._hash if running is None else running.value if running.size == self.have else None
            if known is not None and known.digest() != digest.value:
                return False
        return True

    def take(self, keep: int) -> Generator[bytes, None, None]:
        """What was received, but for so many bytes at the end."""
        while (spare := self._held - keep) > 0:
            block = self._blocks.popleft()
            if len(block) > spare:
                self._blocks.appendleft(block[spare:])
                block = block[:spare]
            self._held -= len(block)
            yield block


class _Running:
    """The hash of the first `size` bytes of a file."""

    def __init__(self, value: "hashlib._Hash", size: int) -> None:
        self.value = value
        self.size = size

    def take(self, at: int, data: bytes) -> None:
        """Bytes from a place on; what lies beyond the next one is lost."""
        fresh = data[self.size - at :] if at <= self.size else b""
        self.value.update(fresh)
        self.size += len(fresh)
