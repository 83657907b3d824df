"""Small files that were answered, and are not stored yet: who asks meanwhile is answered with them, or waits.

Belongs to the loop's thread. Threads store; nobody here waits for them.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from package_cache.engine.answers import Answer, from_blob
from package_cache.engine.desk import Desk
from package_cache.engine.fills.leader import Body, Unstored
from package_cache.engine.linked import answer_linked
from package_cache.engine.upkeep.room import Reservation
from package_cache.engine.waiting import Waiter, said_of_new
from package_cache.errors import FillError, StoreError
from package_cache.model import Key, Representation, Request
from package_cache.rules.http.answer import decide
from package_cache.storage.parts.leases import Lease
from package_cache.upstream.events import Events

logger = logging.getLogger(__name__)

_UNSTORED = 8 << 20
"""Bytes that may be answered and not yet stored. Beyond that the disk sets the pace, by way of fills."""
_SETTLING_SECONDS = 1.0
"""How long who asks for an index waits for the one before to be stored; then it is answered with that."""


@dataclass(slots=True)
class _Settling:
    """One of them."""

    head: Representation
    body: Body
    unstored: Unstored
    may_link: bool
    """Whether it may be a document whose links are replaced."""
    waiting: list[Waiter] = field(default_factory=list)
    """Who waits until it is stored, but not for long."""
    ended: list[Callable[[bool], None]] = field(default_factory=list)
    """Who is to be told at the end whether it is stored."""
    shown: bool = False
    """Whether other processes were let have it, or are about to be."""
    since: float = field(default_factory=time.monotonic)


class Settling:
    """Those of one process, by their keys."""

    def __init__(self, desk: Desk, events: Events) -> None:
        self._desk = desk
        self._events = events
        self.running: dict[Key, _Settling] = {}
        self._unstored = 0

    @property
    def is_full(self) -> bool:
        """Whether no more is to be answered before some of it is stored."""
        return self._unstored > _UNSTORED

    def sweep(self, now: float) -> None:
        """Look after limits of time. `now` is of the monotonic clock."""
        for settling in [one for one in self.running.values() if now - one.since > _SETTLING_SECONDS]:
            self._show(settling)
            if settling.waiting:
                waiting, settling.waiting = settling.waiting, []
                for waiter in waiting:
                    self._answer(settling, waiter)

    def _show(self, settling: _Settling) -> None:
        """Have a thread let other processes have what the disk is too slow for."""
        if not settling.shown:
            with suppress(RuntimeError):  # at the next look there may be one
                self._events.run(partial(_shown, settling.unstored))
                settling.shown = True

    def joins(self, waiter: Waiter) -> bool:
        """Whether a request is answered with what is being stored, at once or in a moment."""
        settling = self.running.get(waiter.wanted.key)
        if settling is None or waiter.wanted.differs(settling.head):
            return False
        if waiter.wanted.is_fresh(settling.head) or time.monotonic() - settling.since > _SETTLING_SECONDS:
            self._answer(settling, waiter)
        else:
            settling.waiting.append(waiter)
        return True

    def wait(self, waiter: Waiter) -> None:
        """Have a request start over once what has its key is stored, since that is no answer to it."""
        self.running[waiter.wanted.key].ended.append(lambda _: waiter.ready(None))

    def begin(self, lease: Lease, waiting: list[Waiter], head: Representation, data: bytes, room: Reservation) -> None:
        """Store a file under its lease, and answer who waits for it; the first one began it."""
        wanted = waiting[0].wanted
        self._unstored += len(data)
        body = Body(data, hashlib.sha256(data).hexdigest())
        ended = partial(self._settled, wanted.key, len(data))
        # Who asks for what never changes is answered at once, and does not wait until it is stored.
        patient, tell = wanted.is_for_ever, self._events.call
        unstored = self._desk.leader.store_body(wanted, lease, head, body, room, ended, tell, patient=patient)
        settling = self.running[wanted.key] = _Settling(head, body, unstored, wanted.offer.has_own)
        for at, waiter in enumerate(waiting):
            if waiter.wanted.differs(head):
                waiter.ready(None)
                continue
            said, kind = said_of_new(waiter.wanted, head, joined=at > 0)
            waiter.ready(self._from_memory(settling, waiter.request, said, kind))

    def _from_memory(self, settling: _Settling, request: Request, said: str, kind: str) -> Answer:
        head, body = settling.head, settling.body
        linking = self._desk.linking(request, head) if settling.may_link else None
        if linking is not None:
            try:
                return answer_linked(request, linking, head, lambda: body.data, partial(self._desk.serving, said), kind)
            except FillError as error:
                return self._desk.refuse(error)
        return from_blob(decide(request, head, self._desk.serving(said, body.digest)), kind, body.data, head.source)

    def _answer(self, settling: _Settling, waiter: Waiter) -> None:
        waiter.ready(self._from_memory(settling, waiter.request, "hit", "hit"))

    def _settled(self, key: Key, size: int, error: StoreError | None) -> None:
        """What was answered is stored, or cannot be."""
        self._unstored -= size
        settling = self.running.pop(key)
        for waiter in settling.waiting:
            waiter.ready(None)
        for ended in settling.ended:
            ended(error is None)


def _shown(unstored: Unstored) -> None:
    """Runs in a thread."""
    try:
        unstored.show()
    except (StoreError, OSError) as error:
        logger.warning("what is not stored yet cannot be shown to other processes: %s", error)
