"""A request that waits for a fill: when it can be answered, and with what."""

import math
import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Protocol

from package_cache.engine.answers import Answer
from package_cache.engine.aside import FAR, AsideReader, open_aside
from package_cache.engine.fills.fill import Fill, FillReader, Progress
from package_cache.engine.linked import answer_linked, read_document
from package_cache.engine.several import SeveralReader
from package_cache.engine.wanted import Wanted
from package_cache.errors import FillError, PackageCacheError, StoreError
from package_cache.model import Representation, Request, Span
from package_cache.rules.http.answer import Serving, decide
from package_cache.rules.repositories.links import Linking
from package_cache.storage.parts.journals import Journal

LATE = "all its sources are set aside, since they failed"
"""Why something is served as it was without an answer from any source."""
_CONDITIONS = frozenset({"range", "if-none-match", "if-modified-since"})
"""Fields that may make an answer of a head alone, or of bytes far ahead."""
COMMIT_SECONDS = 1.0
"""How long a new index may take to be stored before whoever asks for it meanwhile is answered without asking a source."""


class Desk(Protocol):
    """Where a waiting request turns when its fill is over; see `engine.service`."""

    def serving(self, cache_status: str, digest: str | None = None) -> Serving:
        """What this cache has to say about an answer given now."""
        ...

    def again(self, request: Request, wanted: Wanted, number: int) -> "Answer | Pending":
        """Answer the request from the beginning."""
        ...

    def after_fill(self, request: Request, wanted: Wanted, number: int) -> "Answer | Pending":
        """What a fill that is over left in the registry."""
        ...

    def after_failure(self, request: Request, wanted: Wanted, error: PackageCacheError) -> Answer:
        """What may be had all the same."""
        ...

    def linking(self, request: Request, head: Representation) -> Linking | None:
        """How links in an answer are replaced for the client."""
        ...

    def rescue(
        self, wanted: Wanted, known: Representation, reader: FillReader, span: Span | None, at: int
    ) -> Generator[bytes, None, None]:
        """The rest of a file for a reader whose fill the disk has ended."""
        ...

    def leave(self, fill: Fill) -> None:
        """One request less waits for the fill."""
        ...


class Pending:
    """A request that waits for a fill: for its head, and for the first byte of the body it asks for.

    A failure before that byte can still be told in a status, or answered with what is here already; so is, once the
    monotonic clock shows `until`, that there is none.
    """

    def __init__(
        self,
        service: Desk,
        request: Request,
        wanted: Wanted,
        fill: Fill,
        *,
        joined: bool,
        number: int,
        until: float = math.inf,
    ) -> None:
        self._service = service
        self._request = request
        self._wanted = wanted
        self.fill = fill
        self._joined = joined
        self._number = number
        self._until = until
        self._looked: Progress | None = None
        self._waits = True
        self._outdated = False
        self._overdue = math.inf
        """When the disk is too slow to be waited for before a source is asked; infinite where that is not the question."""
        self._promise: Answer | None = None
        self._leapt = False

    def wait(self) -> None:
        """Block until `advance` may find something new."""
        if self._looked is not None:
            self.fill.wait(self._looked, min(self._overdue, self._until))

    def has_news(self) -> bool:
        """Whether `advance` may find something new. Never blocks."""
        return self.fill.progress() != self._looked or time.monotonic() >= self._overdue or self._is_late()

    def _is_late(self) -> bool:
        """Whether the sources took so long that what is here is to be served instead."""
        return time.monotonic() >= self._until

    @property
    def far_ahead(self) -> bool:
        """Whether the range asked for lies so far ahead of the fill that it is better fetched beside it."""
        return self._promise is not None and not self._leapt

    def leap(self) -> Answer | None:
        """An answer with the range fetched beside the fill; None if that cannot be done. Waits for a source."""
        self._leapt = True
        promise, progress = self._promise, self._looked
        if promise is None or promise.reply.span is None or progress is None or progress.journal.head is None:
            return None
        reader = self.fill.reader(progress.journal.number)
        if reader is None:
            return None
        fetched = open_aside(self._wanted.offer, progress.journal.head, promise.reply.span)
        if fetched is None:
            reader.close()
            return None
        self.abandon()
        return replace(promise, kind="aside", body=AsideReader(fetched, reader, self._wanted.offer))

    def glance(self) -> "Answer | Pending | None":
        """As `advance`, where that needs neither the disk nor the registry; None where it does. Never blocks or raises."""
        progress = self.fill.progress()
        if self._looked is None or self._outdated or self._awaits_commit or progress.journal.failed is not None:
            return None
        if self._is_late():
            return None
        self._looked = progress
        if self._linking(progress) is not None:
            return None if progress.journal.done or progress.journal.digest is not None else self
        answer = self._answer(progress)
        if answer is not None:
            self.abandon()
            return answer
        return None if progress.journal.done else self

    def advance(self) -> "Answer | Pending":
        """The answer, or what to wait for next. Does not wait for a source. Raises `PackageCacheError`."""
        try:
            answer = self._look(self.fill.progress())
        except (FillError, StoreError) as error:
            self.abandon()
            return self._service.after_failure(self._request, self._wanted, error)
        except BaseException:
            self.abandon()
            raise
        return answer

    @property
    def _awaits_commit(self) -> bool:
        """Whether the fill has every byte, of an earlier question: its source is asked again once they are stored."""
        return self._overdue < math.inf

    def abandon(self) -> None:
        """Wait no longer. May be called again."""
        if self._waits:
            self._waits = False
            self._service.leave(self.fill)

    def _look(self, progress: Progress) -> "Answer | Pending":
        if self._looked is None and self._joined and is_outdated(progress.journal, self._wanted):
            self._await_commit(progress)
        self._looked = progress
        if self._awaits_commit:
            if progress.journal.done:
                return self._ask_again()
            if time.monotonic() < self._overdue:
                return self
            self._overdue = math.inf
        answer = None if self._outdated else self._answer(progress)
        if answer is not None:
            self.abandon()
            return answer
        journal = progress.journal
        if journal.failed is not None and not self._outdated:
            raise FillError(journal.failed.reason, journal.failed.status, journal.failed.retry_after)
        if not journal.done and self._is_late():
            raise FillError(LATE, 504)
        if not journal.done:
            return self
        if self._outdated:
            return self._ask_again()
        self.abandon()
        return self._service.after_fill(self._request, self._wanted, self._number)

    def _await_commit(self, progress: Progress) -> None:
        """Ask a source again once the disk has what came. A slow disk is not waited for, where an answer may be stale."""
        head = progress.journal.head
        assert head is not None  # of what is whole
        if self._wanted.longest is None and self._wanted.may_be_stale(head):
            self._overdue = (self.fill.whole_since or time.monotonic()) + COMMIT_SECONDS
        else:
            self._outdated = True

    def _ask_again(self) -> "Answer | Pending":
        self.abandon()
        return self._service.again(self._request, self._wanted, self._number)

    def _answer(self, progress: Progress) -> Answer | None:
        """The answer from the fill, once enough of it is here."""
        if progress.journal.digest is None and not progress.visible and _CONDITIONS.isdisjoint(self._request.fields):
            return None
        representation = known(progress.journal, self._request)
        self._outdated = representation is not None and self._wanted.differs(representation)
        if representation is None or self._outdated:
            return None
        linking = self._linking(progress)
        if linking is not None:
            return self._linked(progress, representation, linking)
        return self._plain(progress, representation)

    def _plain(self, progress: Progress, representation: Representation) -> Answer | None:
        """The answer with what arrives, as it is."""
        digest = progress.journal.digest
        cache_status, kind = self._describe(representation, complete=digest is not None)
        reply = decide(self._request, representation, self._service.serving(cache_status, digest))
        answer = Answer(reply, kind, source=representation.source)
        if reply.span is None and not reply.open_ended:
            return answer
        start = reply.span.start if reply.span else 0
        if digest is None and progress.visible <= start:
            self._promise = answer if start - progress.visible > FAR else None
            return None
        reader = self.fill.reader(progress.journal.number)
        if reader is None:
            return None
        reader.rescue = partial(self._service.rescue, self._wanted, representation)
        return replace(answer, body=SeveralReader(reply.pieces, reader) if reply.pieces else reader)

    def _linking(self, progress: Progress) -> Linking | None:
        """How the links of what arrives are to be replaced, as far as its head is here."""
        head = progress.journal.head
        return None if head is None else self._service.linking(self._request, head)

    def _linked(self, progress: Progress, representation: Representation, linking: Linking) -> Answer | None:
        """The answer with a document, once it is here as a whole."""
        if progress.journal.digest is None:
            return None
        cache_status, kind = self._describe(representation, complete=True)
        serving = partial(self._service.serving, cache_status)
        read = partial(self._read, progress.journal.number)
        return answer_linked(self._request, linking, representation, read, serving, kind)

    def _read(self, number: int) -> bytes:
        """All of what arrived in the part of that number. Raises FillError."""
        reader = self.fill.reader(number)
        if reader is None:
            raise FillError("the file changed at its source while it was read", 502)
        return read_document(reader)

    def _describe(self, representation: Representation, *, complete: bool) -> tuple[str, str]:
        """Cache-Status and a word for the log. What joins a fill whose bytes are all here is a hit."""
        if self._joined and complete and (self._wanted.seen is None or self._wanted.is_kept(representation)):
            return "hit", "hit"
        reason = "fwd=stale" if self._wanted.seen is not None else "fwd=uri-miss"
        if self._joined:
            return f"{reason}; collapsed", "joined"
        return f"{reason}; fwd-status=200; stored", "miss" if self._wanted.seen is None else "refetched"


def is_outdated(journal: Journal, wanted: Wanted) -> bool:
    """Whether a fill answers an earlier question than that of a request which joins it now.

    An index that is here with every byte may have another content at its source by now. A package file has not.
    """
    head, digest = journal.head, journal.digest
    return head is not None and digest is not None and not wanted.is_met_by(head)


def known(journal: Journal, request: Request) -> Representation | None:
    """The head to answer with, once enough is known of it.

    Without a length, only a client that can tell a cut body from a whole one is answered before the end, and no range is.
    """
    if journal.head is None or not (journal.confirmed or journal.digest):
        return None
    if journal.digest is not None:
        return replace(journal.head, size=journal.size)
    if journal.head.size is None and (not request.modern or "range" in request.fields):
        return None
    return journal.head
