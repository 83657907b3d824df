"""Who waits for an answer, and is told it once, in the loop; and what those wait for who wait for a fill.

Belongs to the loop's thread, but for what is said to run in others.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

from package_cache.engine.answers import Answer, SeveralReader, answer_linked, read_document
from package_cache.engine.desk import Desk, Found, is_outdated, known
from package_cache.engine.fills.fill import Fill
from package_cache.engine.fills.reader import Progress
from package_cache.engine.hotset import HotFile
from package_cache.engine.looks import Looks
from package_cache.engine.wanted import Wanted
from package_cache.errors import FillError, StoreError
from package_cache.model import Representation, Request
from package_cache.rules.http.answer import decide
from package_cache.rules.repositories.links import Linking
from package_cache.upstream.events import Events

FAR = 1 << 20
"""Bytes that a range must lie ahead of what is here to be fetched beside the fill."""
COMMIT_SECONDS = 1.0
"""How long a new index may take to be stored before whoever asks for it meanwhile is answered without asking a source."""
_CONDITIONS = frozenset({"range", "if-none-match", "if-modified-since"})
"""Fields that may make an answer of a head alone, or of bytes far ahead."""


class Confirmed(NamedTuple):
    """What is at hand, as its source has just said that it is still so. It stays with who asked the source."""

    hot: HotFile


Told = HotFile | Confirmed | Answer | None
"""How a request is answered; None if that is to be found out again."""
Ready = Callable[[Told], None]


class Client(Protocol):
    """Who asks."""

    closed: bool
    """Whether it has left."""
    left: Callable[[], None] | None
    """To be called when it leaves."""


@dataclass(slots=True)
class Waiter:
    """A request, and what its policy makes of it; `ready` is told the answer, once. Belongs to who asks until it waits."""

    request: Request
    wanted: Wanted
    ready: Ready
    client: Client | None = None
    number: int = 1
    """How often it was begun."""


class Host(Protocol):
    """Where somebody who waited for a fill goes on; see `engine.exchange`."""

    desk: Desk
    events: Events
    looks: Looks

    def go_on(self, waiter: Waiter, found: Found) -> None:
        """Answer with what was found, or ask for it."""
        ...

    def ask_beside(
        self,
        waiter: Waiter,
        fill: Fill,
        number: int,
        known: Representation,
        promise: Answer,
        told: Callable[[Answer | None], None],
    ) -> bool:
        """Whether the range that was promised is asked for beside a fill; `told` is told what comes of that."""
        ...

    def leave(self, fill: Fill) -> None:
        """One user less of a fill."""
        ...


class FillWait:
    """A request that waits for a fill: for its head, and for the first byte of the body it asks for.

    A failure before that byte can still be told in a status, or answered with what is here already. The fill tells when
    there is more, in this process's loop. It counts as a user of the fill.
    """

    def __init__(self, host: Host, waiter: Waiter, fill: Fill, *, joined: bool) -> None:
        self._host = host
        self._waiter = waiter
        self._request = waiter.request
        self._wanted = waiter.wanted
        self.fill = fill
        self._joined = joined
        self._looked: Progress | None = None
        self._outdated = False
        self._overdue = math.inf
        """When the disk is too slow to be waited for before a source is asked; infinite where that is not the question."""
        self._promise: Answer | None = None
        """The head of the answer with a range that lies far ahead."""
        self._leapt = False
        self._rung = False
        """Whether a look is due."""
        self._busy = False
        """Whether a thread looks, or a source is asked beside the fill."""
        self._over = False

    def begin(self) -> None:
        """Answer, or wait."""
        client = self._waiter.client
        if client is not None and client.closed:
            self._abandon()
            return
        self.fill.listen(self._ring)
        if client is not None:
            client.left = self._leave
        self._look()

    def _ring(self) -> None:
        """There is more. Called by any thread."""
        if not self._rung:
            self._rung = True
            self._host.events.call(self._look)

    def _leave(self) -> None:
        """The client left: a download that has not begun is not begun for it."""
        if not self._over and not self._busy:
            self._abandon()

    def _look(self) -> None:
        self._rung = False
        if self._over or self._busy:
            return
        progress = self.fill.progress()
        if self._takes_a_look(progress):
            self._busy = True
            self._host.looks.begin(self._advance, self._advanced)
            return
        if self._awaits_commit:
            return
        self._looked = progress
        answer = None if self._linking(progress) is not None else self._answer(progress)
        if answer is not None:
            self._end(answer)
        elif self._promise is not None and not self._leapt:
            self._ask_beside(progress)

    def _takes_a_look(self, progress: Progress) -> bool:
        """Whether the disk or the registry has a say in how it goes on."""
        journal = progress.journal
        if self._awaits_commit and not journal.done:
            return time.monotonic() >= self._overdue
        is_whole = journal.digest is not None
        joins_whole = self._looked is None and is_whole
        links = is_whole and self._linking(progress) is not None
        return joins_whole or links or self._outdated or self._awaits_commit or journal.done or journal.failed is not None

    def _end(self, found: Found) -> None:
        self._abandon()
        self._host.go_on(self._waiter, found)

    def _abandon(self) -> None:
        self._over = True
        self.fill.unlisten(self._ring)
        self._host.leave(self.fill)

    # -- a range far ahead

    def _ask_beside(self, progress: Progress) -> None:
        self._leapt = True
        promise, head = self._promise, progress.journal.head
        assert promise is not None  # or there would be nothing to ask for
        assert head is not None
        self._busy = True
        number, told = progress.journal.number, self._asked_beside
        if not self._host.ask_beside(self._waiter, self.fill, number, head, promise, told):
            self._busy = False

    def _asked_beside(self, answer: Answer | None) -> None:
        """The range that was asked for beside the fill; None if that did not come, and the fill is to be waited for."""
        self._busy = False
        if answer is not None:
            self._end(answer)
        else:
            self._look()

    # -- what a thread looks at

    def _advance(self) -> Found | None:
        """The answer, or what to ask for; None as long as neither is known. Raises PackageCacheError. Runs in a thread."""
        try:
            return self._found(self.fill.progress())
        except (FillError, StoreError) as error:
            return self._host.desk.after_failure(self._request, self._wanted, error)

    def _advanced(self, found: Found | None) -> None:
        self._busy = False
        if found is not None:
            self._end(found)
            return
        if self._awaits_commit:
            self._host.events.after(max(0.0, self._overdue - time.monotonic()), self._look)
        self._look_if_changed()

    def _look_if_changed(self) -> None:
        """What was told while a thread looked."""
        if self.fill.progress() != self._looked:
            self._look()

    @property
    def _awaits_commit(self) -> bool:
        """Whether the fill has every byte, of an earlier question: its source is asked again once they are stored."""
        return self._overdue < math.inf

    def _found(self, progress: Progress) -> Found | None:
        if self._looked is None and self._joined and is_outdated(progress.journal, self._wanted):
            self._await_commit(progress)
        self._looked = progress
        journal, desk = progress.journal, self._host.desk
        if self._awaits_commit:
            if journal.done:
                return desk.again(self._request, self._wanted)
            if time.monotonic() < self._overdue:
                return None
            self._overdue = math.inf
        answer = None if self._outdated else self._answer(progress)
        if answer is not None:
            return answer
        if journal.failed is not None and not self._outdated:
            failed = journal.failed
            raise FillError(failed.reason, failed.status, failed.retry_after, failed.response)
        if not journal.done:
            return None
        if self._outdated:
            return desk.again(self._request, self._wanted)
        return desk.after_fill(self._request, self._wanted)

    def _await_commit(self, progress: Progress) -> None:
        """Ask a source again once the disk has what came. A slow disk is not waited for, where an answer may be stale."""
        head = progress.journal.head
        assert head is not None  # of what is whole
        if self._wanted.demand is None and self._wanted.may_be_stale(head):
            self._overdue = (self.fill.whole_since or time.monotonic()) + COMMIT_SECONDS
        else:
            self._outdated = True

    # -- what can be answered

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
        reply = decide(self._request, representation, self._host.desk.serving(cache_status, digest))
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
        reader.rescue = partial(self._host.desk.rescue, self._wanted, representation)
        return replace(answer, body=SeveralReader(reply.pieces, reader) if reply.pieces else reader)

    def _linking(self, progress: Progress) -> Linking | None:
        """How the links of what arrives are to be replaced, as far as its head is here."""
        head = progress.journal.head
        return None if head is None else self._host.desk.linking(self._request, head)

    def _linked(self, progress: Progress, representation: Representation, linking: Linking) -> Answer | None:
        """The answer with a document, once it is here as a whole."""
        if progress.journal.digest is None:
            return None
        reader = self.fill.reader(progress.journal.number)
        if reader is None:
            return None  # its part has become a blob already, and the commit comes
        cache_status, kind = self._describe(representation, complete=True)
        serving = partial(self._host.desk.serving, cache_status)
        try:
            return answer_linked(self._request, linking, representation, partial(read_document, reader), serving, kind)
        finally:
            reader.close()

    def _describe(self, representation: Representation, *, complete: bool) -> tuple[str, str]:
        """Cache-Status and a word for the log. What joins a fill whose bytes are all here is a hit."""
        return said_of_new(self._wanted, representation, joined=self._joined, is_whole=complete)


def said_of_new(wanted: Wanted, head: Representation, *, joined: bool, is_whole: bool = True) -> tuple[str, str]:
    """Cache-Status and a word for the log, of a version that just came. What joins when all of it is here is a hit."""
    if joined and is_whole and (wanted.seen is None or wanted.is_fresh(head)):
        return "hit", "hit"
    reason = "fwd=stale" if wanted.seen is not None else "fwd=uri-miss"
    if joined:
        return f"{reason}; collapsed", "joined"
    return f"{reason}; fwd-status=200; stored", "miss" if wanted.seen is None else "refetched"
