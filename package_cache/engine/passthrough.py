"""Bodies that reach one client without being kept: a thread receives them, and a bounded window of them is in memory.

The thread waits while the window is full, so that a client which reads slowly makes its source wait, and takes no more than
its window. The loop that serves the client takes what is there, as from any other body that still arrives.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from typing import cast

from package_cache.engine.fills.pump import End, Underway, steps
from package_cache.engine.fills.reader import TAIL, LeftError, Window
from package_cache.errors import FillError, PackageCacheError
from package_cache.model import Representation, Span
from package_cache.rules.http.digests import Digest
from package_cache.rules.transfers.steps import Finish, GiveUp
from package_cache.rules.transfers.transfer import OVERLAP, Transfer, is_same
from package_cache.storage.blobs import hash_file
from package_cache.storage.system import Descriptor
from package_cache.upstream.fetcher import SourceOffer

logger = logging.getLogger(__name__)

Run = Callable[[Callable[[], None]], None]
"""Runs a job in a thread of its own. Raises RuntimeError if there is none."""


class PassThrough(Window):
    """A file on its way from its sources to one client: the same download as any other, with the same failover.

    What was passed on already is remembered by its digest, so that no other file's bytes are ever put behind it. The end is
    held back until all of it is here and verified. With `known`, the client has the bytes below `start` already, of a file
    with that head; `kept` holds them, if they are to be compared with what a source sends. With `begun`, it is under way.
    `ended` is told how it ended, unless its client left before.
    """

    def __init__(
        self,
        offer: SourceOffer,
        ended: Callable[[End], None],
        known: Representation | None = None,
        start: int = 0,
        kept: Descriptor | None = None,
        begun: Underway | None = None,
    ) -> None:
        super().__init__(start)
        self.head: Representation | None = None
        self._offer = offer
        self._ended = ended
        self._known = known
        self._kept = kept
        self._begun = begun
        self._stop: int | None = None
        """Where what the client wants ends, if that is before the end."""
        self._start = self._have = start
        self._compared = _Compared(start, kept)
        self._fresh = b""
        """What was put, and is not to be passed on yet."""
        self._heard: Callable[[], None] | None = None

    def start(self, run: Run, heard: Callable[[], None] | None = None) -> None:
        """Have a thread receive it. `heard` is called there once its head is known, or when there will be none.

        Raises FillError.
        """
        self._heard = heard
        try:
            run(self._work)
        except RuntimeError as error:
            self._let_go()
            raise FillError("the cache has too much to do; try again in a while", 503) from error

    def wants(self, span: Span | None) -> bool:
        """Have the client wait for a part of it, if that is not far from what came; if it is, False."""
        if span is None:
            return True
        with self._changed:
            if span.start > self._have + TAIL:
                return False
            self._wanted = span.start
            self._drop(span.start)
            head = self.head or self._known
            size = head.size if head is not None else None
            self._stop = None if span.stop == size else span.stop
            self._changed.notify_all()
        return True

    def elsewhere(self, start: int) -> "PassThrough":
        """The same file from a place on, in the place of this one, which is closed."""
        self.close()
        return PassThrough(self._offer, self._ended, self.head, start)

    @property
    def error(self) -> FillError | None:
        """Why there will be no more, once it is so."""
        return self._error

    def _held_back(self, have: int) -> int:
        return 0 if self._is_whole or (self._stop is not None and have >= self._stop) else TAIL

    # -- the thread

    def _work(self) -> None:
        try:
            end = self._pump()
        except LeftError:
            return
        except PackageCacheError as error:
            end = GiveUp(error.http_status, str(error), retry_after=error.retry_after)
        except Exception:
            logger.exception("passing on %s ended in a bug", self._offer.target.text)
            end = GiveUp(500, "internal error; the log of the cache says more")
        finally:
            self._let_go()
        self._ended(end)
        if isinstance(end, Finish):
            self._end(None)
        else:
            assert isinstance(end, GiveUp)  # nothing makes its requests conditional
            self._end(FillError(end.reason, end.status, end.retry_after, end.response))
        self._tell_head()

    def _pump(self) -> End:
        begun = self._begun or Underway(Transfer(self._offer.urls, self._start, self._known))
        begun.give(self)
        each = steps(begun.transfer, self._offer, self, begun.ask)
        try:
            while True:
                try:
                    next(each)
                except StopIteration as end:
                    if isinstance(end.value, Finish):
                        self._receive(self._fresh)
                    return cast("End", end.value)
                # Only now: a block may be the one after which the source turns out to have another file.
                fresh, self._fresh = self._fresh, b""
                self._receive(fresh)
        finally:
            each.close()

    def _let_go(self) -> None:
        self._offer.drop()
        if self._kept is not None:
            self._kept.close()

    def _tell_head(self) -> None:
        heard, self._heard = self._heard, None
        if heard is not None:
            heard()

    # -- where its bytes go; see `fills.pump.Sink`

    def begin(self, head: Representation) -> None:
        """A source vouches for the head. Raises FillError if it is of another file, and nothing is here to show that."""
        if self._known is not None and self._kept is None and not is_same(head, self._known):
            self.reset()
        self.head = head
        self._tell_head()

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Hash on the way what will be compared at the end."""
        self._compared.expect(digests)

    def put(self, at: int, data: bytes) -> bool:
        """Compare what came before, keep what is new until the client takes it; False if a byte differs."""
        known = max(0, self._have - at)
        if known and not self._compared.is_same(at, data[:known]):
            return False
        self._compared.take(at, data, known)
        self._have += max(0, len(data) - known)
        self._fresh += data[known:]
        return True

    def reset(self) -> None:
        """The sources have another file. Raises FillError, as what was passed on cannot be taken back."""
        raise FillError("the file changed at its source while it was sent", 502)

    def beat(self) -> None:
        """Nobody else waits for it."""

    def objection(self) -> None:
        """Nothing is asked of the bytes."""

    def digest(self) -> str:
        """SHA-256 of what was received, in hex."""
        return self._compared.fresh.hexdigest()

    def differing(self, digests: tuple[Digest, ...]) -> tuple[Digest, str] | None:
        """The first of these digests that is not that of the file, and the file's in hex; None if all are.

        One that was declared only when the first bytes were gone does not count.
        """
        return self._compared.differing(digests, self._have)


class _Compared:
    """What is remembered of bytes that are gone: `fresh` is the hash of those from `start` on.

    The file `kept` has those below.
    """

    def __init__(self, start: int, kept: Descriptor | None) -> None:
        self._start = start
        self._kept = kept
        self.fresh = hashlib.sha256()
        self._have = start
        self._last = b""
        self._again, self._again_at = hashlib.sha256(), start
        """The hash of what came once more, and how far that is."""
        self._declared: dict[str, _Running] = {}

    def take(self, at: int, data: bytes, known: int) -> None:
        """Bytes from a place on, of which so many were known."""
        for running in self._declared.values():
            running.take(at, data)
        fresh = data[known:]
        self.fresh.update(fresh)
        self._have += len(fresh)
        self._last = (self._last + fresh)[-OVERLAP:]

    def is_same(self, at: int, data: bytes) -> bool:
        """Whether bytes that came before come again: by the file that keeps them, by their digest, or by the last ones."""
        below = data[: max(0, self._start - at)]
        if below and self._kept is not None and os.pread(self._kept.fileno(), len(below), at) != below:
            return False
        first, data = at + len(below), data[len(below) :]
        if not data:
            return True
        if first == self._start:
            self._again, self._again_at = hashlib.sha256(), first
        if first == self._again_at:
            self._again.update(data)
            self._again_at += len(data)
            return self._again_at < self._have or self._again.digest() == self.fresh.digest()
        offset = first - (self._have - len(self._last))
        return offset >= 0 and self._last[offset : offset + len(data)] == data

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Hash on the way what will be compared at the end."""
        for digest in digests:
            if digest.algorithm not in self._declared and not self._is_fresh(digest):
                size = self._start if self._kept is not None else 0
                before = hash_file(self._kept.fileno() if self._kept else -1, size, digest.algorithm)
                self._declared[digest.algorithm] = _Running(before, size)

    def _is_fresh(self, digest: Digest) -> bool:
        return digest.algorithm == self.fresh.name and self._start == 0

    def differing(self, digests: tuple[Digest, ...], have: int) -> tuple[Digest, str] | None:
        """As `PassThrough.differing`, of a file of so many bytes."""
        for digest in digests:
            running = None if self._is_fresh(digest) else self._declared[digest.algorithm]
            known = self.fresh if running is None else running.value if running.size == have else None
            if known is not None and known.digest() != digest.value:
                return digest, known.hexdigest()
        return None


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
