"""Small files that were answered, and are not stored yet: who asks meanwhile is answered with them, or waits.

Belongs to the loop's thread. Threads store; nobody here waits for them.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from package_cache.engine.answers import Answer, answer_linked, from_blob
from package_cache.engine.desk import Desk
from package_cache.engine.fills.committer import Ended, Job
from package_cache.engine.fills.failures import UNSTORABLE
from package_cache.engine.waiting import Waiter, said_of_new
from package_cache.errors import FillError, StoreError
from package_cache.model import Key, Representation, Request
from package_cache.rules.http.answer import decide
from package_cache.storage.parts.leases import Failed, Lease
from package_cache.storage.registry import NewVersion
from package_cache.upstream.events import Events

logger = logging.getLogger(__name__)

_UNSTORED = 8 << 20
"""Bytes that may be answered and not yet stored. Beyond that the disk sets the pace, by way of fills."""
_SETTLING_SECONDS = 1.0
"""How long who asks for an index waits for the one before to be stored; then it is answered with that."""


class _Settling(Job):
    """One of them, which is being stored under its lease."""

    __slots__ = ("lease", "may_link", "shown", "told", "waiting")

    def __init__(self, news: NewVersion, ended: Ended, lease: Lease, *, patient: bool, may_link: bool) -> None:
        super().__init__(news, ended, patient=patient)
        self.lease = lease
        self.may_link = may_link
        """Whether it may be a document whose links are replaced."""
        self.waiting: list[Waiter] = []
        """Who waits until it is stored, but not for long."""
        self.told: list[Callable[[bool], None]] = []
        """Who is to be told at the end whether it is stored."""
        self.shown: _Shown | None = None
        """How other processes were let have it, or are about to be."""


class _Shown:
    """A small body that other processes are let have, since the disk takes its time, by a thread that calls `show`."""

    def __init__(self, settling: _Settling) -> None:
        self._settling = settling
        self._guard = threading.Lock()
        self._shows = False
        self._over: tuple[Failed | None] | None = None
        """How it ended, once it has."""

    def show(self) -> None:
        """Let them have it, unless it is stored by now."""
        with self._guard:
            if self._over is not None:
                return
            self._shows = True
        try:
            self._write()
        except (StoreError, OSError) as error:
            logger.warning("what is not stored yet cannot be shown to other processes: %s", error)
        finally:
            with self._guard:
                self._shows, over = False, self._over
            if over is not None:
                _give_back(self._settling.lease, *over)

    def _write(self) -> None:
        lease, news = self._settling.lease, self._settling.news
        lease.begin(news.representation)
        assert lease.part is not None  # it was begun
        assert news.body is not None
        lease.part.put(0, news.body)
        lease.whole(news.digest, len(news.body))
        lease.expose()  # all of it at once

    def end(self, failed: Failed | None) -> None:
        """It is stored, or cannot be: give the lease back. The thread is not waited for, but does that then."""
        with self._guard:
            self._over = (failed,)
            if self._shows:
                return
        _give_back(self._settling.lease, failed)


def _give_back(lease: Lease, failed: Failed | None) -> None:
    try:
        if failed is None:
            lease.done()
        else:
            lease.failed(failed, keep=False)
    except (StoreError, OSError) as error:
        logger.warning("cannot clean up after a small file: %s", error)


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
        if settling.shown is None:
            shown = _Shown(settling)
            with suppress(RuntimeError):  # at the next look there may be one
                self._events.run(shown.show)
                settling.shown = shown

    def joins(self, waiter: Waiter) -> bool:
        """Whether a request is answered with what is being stored, at once or in a moment."""
        settling = self.running.get(waiter.wanted.key)
        if settling is None or waiter.wanted.differs(settling.news.representation):
            return False
        if waiter.wanted.is_fresh(settling.news.representation) or time.monotonic() - settling.since > _SETTLING_SECONDS:
            self._answer(settling, waiter)
        else:
            settling.waiting.append(waiter)
        return True

    def wait(self, waiter: Waiter) -> None:
        """Have a request start over once what has its key is stored, since that is no answer to it."""
        self.running[waiter.wanted.key].told.append(lambda _: waiter.ready(None))

    def begin(self, lease: Lease, waiting: list[Waiter], head: Representation, data: bytes) -> None:
        """Store a file under its lease, and answer who waits for it; the first one began it. It has its room already."""
        wanted, size = waiting[0].wanted, len(data)
        self._unstored += size
        news = NewVersion(wanted.key, hashlib.sha256(data).hexdigest(), head.of_size(size), None, data)
        # Who asks for what never changes is answered at once, and does not wait until it is stored.
        patient, may_link = wanted.is_for_ever, wanted.offer.has_own
        settling = _Settling(news, self._ended, lease, patient=patient, may_link=may_link)
        self.running[wanted.key] = settling
        self._desk.leader.store_body(settling)
        for waiter in waiting:
            if waiter.wanted.differs(head):
                waiter.ready(None)
                continue
            said, kind = said_of_new(waiter.wanted, head, joined=waiter is not waiting[0])
            waiter.ready(self._from_memory(settling, waiter.request, said, kind))

    def _from_memory(self, settling: _Settling, request: Request, said: str, kind: str) -> Answer:
        news = settling.news
        head, body = news.representation, news.body
        assert body is not None
        linking = self._desk.linking(request, head) if settling.may_link else None
        if linking is not None:
            try:
                return answer_linked(request, linking, head, lambda: body, partial(self._desk.serving, said), kind)
            except FillError as error:
                return self._desk.refuse(error)
        return from_blob(decide(request, head, self._desk.serving(said, news.digest)), kind, body, head.source)

    def _answer(self, settling: _Settling, waiter: Waiter) -> None:
        waiter.ready(self._from_memory(settling, waiter.request, "hit", "hit"))

    def _ended(self, group: list[_Settling], error: StoreError | None) -> None:
        """What was answered is stored, or cannot be. Runs in the committer's thread."""
        self._events.call(partial(self._settled, group, error))

    def _settled(self, group: list[_Settling], error: StoreError | None) -> None:
        self._desk.leader.note_bodies(group, error)
        failed = None if error is None else Failed(UNSTORABLE, str(error))
        self._give_back([one for one in group if one.shown is None], failed)
        for settling in group:
            if settling.shown is not None:
                settling.shown.end(failed)
            self._unstored -= settling.size
            del self.running[settling.news.key]
            for waiter in settling.waiting:
                waiter.ready(None)
            for told in settling.told:
                told(error is None)

    def _give_back(self, group: list[_Settling], failed: Failed | None) -> None:
        """Give leases back, of which hardly any has shown anything."""
        exposed = [one.lease for one in group if one.lease.exposed]
        for lease in exposed:
            _give_back(lease, failed)
        try:
            self._desk.fills.parts.end_all([one.lease for one in group if not one.lease.exposed])
        except StoreError as error:
            logger.warning("cannot clean up after small files: %s", error)
