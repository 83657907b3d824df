"""A fill: one download of one key, as whoever waits for it in this process sees it.

Those in the leading process are woken by it, those elsewhere look again and again; either way they see the same two things,
the journal and the size of the part. Who downloads is `fills.leading`, who looks at another process's download
`fills.following`. A `Fill` guards its state with a condition, under which nobody waits for a disk.
"""

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from package_cache.engine.fills.failures import UNSTORABLE
from package_cache.engine.fills.reader import SHOWN, FillReader, Progress
from package_cache.model import Key, Representation
from package_cache.storage.parts.leases import Failed, Journal, Lease
from package_cache.storage.parts.part import Part
from package_cache.storage.system import Descriptor

POLL = 0.004
"""Seconds between two looks at another process's fill."""
LOOK_SECONDS = 0.001
"""Seconds for which a look is good: many wait for the same fill."""
ORPHAN = 0.05
"""Seconds without news after which a reader tests whether the leader still lives."""
_NONE = -2
"""A number that no part has."""
LEFT = Failed(503, "whoever downloaded it is gone")
"""How a fill of the library ends of which another one who waits takes the rest."""


class Followed(Protocol):
    """Another process's download; see `fills.following`."""

    def poll(self) -> None:
        """Look how far it is, unless somebody does or just did."""
        ...

    def close(self) -> None:
        """Nobody waits for it any more."""
        ...


class Fill:
    """A running download, seen from this process. It lives as long as somebody uses it: a client, or who leads it.

    `left` is told that nobody does any more.
    """

    def __init__(self, key: Key, left: Callable[["Fill"], None]) -> None:
        self.key = key
        self.followed: Followed | None = None
        """Where it is downloaded, if that is another process."""
        self.leads = False
        """Whether this process leads it."""
        self._left = left
        self._users = 1
        self._changed = threading.Condition()
        self._progress = Progress(Journal(), 0)
        self._part: Descriptor | None = None
        self._part_number = 0
        self._shown = b""
        """What was shown before there was a part, until there is one that has the same."""
        self._goes_on = _NONE
        """The part that has what was shown."""
        self._news = time.monotonic()
        self.whole_since: float | None = None
        """When every byte was here and verified, in seconds of the monotonic clock."""
        self._listeners: list[Callable[[], None]] = []

    # -- who uses it

    def enter(self) -> bool:
        """Count one more user; False if the fill is over, so that another must be begun."""
        with self._changed:
            if self._progress.journal.done or self._users == 0:
                return False
            self._users += 1
            return True

    def hold(self) -> None:
        """Count one more user, whether it is over or not. For who has a user's word that it lives."""
        with self._changed:
            self._users += 1

    def leave(self) -> None:
        """Count one user less; without any, the fill is closed."""
        with self._changed:
            self._users -= 1
            if self._users > 0:
                return
            self._replace_part(None, 0)
            followed, self.followed = self.followed, None
        if followed is not None:
            followed.close()
        self._left(self)

    @property
    def is_used(self) -> bool:
        """Whether somebody waits for it, or leads it."""
        return self._users > 0

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for it besides who leads it."""
        return self._users > 1

    # -- what is told of it

    def publish(self, lease: Lease) -> None:
        """Show readers in this process what the leader wrote."""
        journal, part = lease.journal, lease.part
        if self._shown and not journal.done:
            if part is None or part.size < len(self._shown):
                return  # that is less than was shown
            self._goes_on = journal.number if self._has_shown(journal, part) else _NONE
            self._shown = b""
        with self._changed:
            if part is not None and journal.number != self._part_number:
                self._replace_part(part.descriptor.share(), journal.number)
            before = self._progress
            self._set(Progress(journal, part.size if part is not None else before.size))
            tells = self._progress.tells_more_than(before)
        if tells:
            self.ring()

    def _has_shown(self, journal: Journal, part: Part) -> bool:
        """Whether a part is the file that was shown. Its bytes came over the same connection, unless something broke."""
        mine, shown = journal.head, self._progress.journal.head
        assert mine is not None  # of what has bytes
        assert shown is not None
        same = (mine.fields, mine.size, mine.source) == (shown.fields, shown.size, shown.source)
        return same and os.pread(part.fileno(), len(self._shown), 0) == self._shown

    def show(self, head: Representation, data: bytes) -> None:
        """Let readers in this process have the first bytes of a file, which are in hand, before its part is begun.

        They read them from memory, and the rest from the part, if that turns out to have the same.
        """
        with self._changed:
            if self._progress.journal.head is not None or self._progress.journal.done or not data:
                return
            number = _in_memory(data)
            if number is None:
                return
            self._replace_part(Descriptor(number), SHOWN)
            self._shown = data
            self._set(Progress(Journal(SHOWN, head, confirmed=True), len(data)))

    @property
    def has_shown(self) -> bool:
        """Whether readers have something of it before it has a part."""
        return bool(self._shown)

    def end(self, failure: Failed) -> None:
        """Tell whoever waits that it came to nothing."""
        with self._changed:
            self._set(replace(self._progress, journal=replace(self._progress.journal, done=True, failed=failure)))

    def end_as(self, journal: Journal, failure: Failed) -> None:
        """As `end`, where its leader had written that journal so far."""
        with self._changed:
            self._set(replace(self._progress, journal=replace(journal, done=True, failed=failure)))
        self.ring()

    def end_unawaited(self, failure: Failed) -> bool:
        """As `end`, unless somebody waits; whether it did. Nobody joins from here on."""
        with self._changed:
            if self._users > 1:
                return False
            self.end(failure)
            return True

    def fail(self, reason: str) -> None:
        """Tell whoever waits that the download could not begin, or cannot be followed."""
        self.end(Failed(UNSTORABLE, reason))

    def forsake(self) -> None:
        """Tell whoever waits that nobody leads it, unless it is over."""
        with self._changed:
            if not self._progress.journal.done:
                self.end(LEFT)

    def see(self, progress: Progress) -> None:
        """Another process is that far."""
        with self._changed:
            self._set(progress)

    def replace_part(self, part: Descriptor | None, number: int) -> None:
        """Another process has begun the part of that number, which is the fill's from here on; None if that is gone."""
        with self._changed:
            self._replace_part(part, number)

    def _set(self, progress: Progress) -> None:
        """Called with the condition held."""
        if progress.journal.digest is None:
            self.whole_since = None
        elif self.whole_since is None:
            self.whole_since = time.monotonic()
        self._progress = progress
        self._news = time.monotonic()
        self._changed.notify_all()

    def _replace_part(self, descriptor: Descriptor | None, number: int) -> None:
        if self._part is not None:
            self._part.close()
        self._part, self._part_number = descriptor, number

    # -- who waits

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever this process's leader publishes; from the leading thread, so it must be quick."""
        with self._changed:
            if listener not in self._listeners:
                self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        with self._changed:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def ring(self) -> None:
        """Call whoever listens."""
        for listener in tuple(self._listeners):
            listener()

    @property
    def quiet(self) -> float:
        """Seconds since there was something new."""
        return time.monotonic() - self._news

    @property
    def patience(self) -> float:
        """Seconds after which who waits is to look again; what is led here is told to who listens."""
        if self.leads:
            return ORPHAN
        return LOOK_SECONDS if not self._progress.visible and self.quiet < ORPHAN else POLL

    @property
    def latest(self) -> Progress:
        """How far the fill was when something was told of it last."""
        return self._progress

    def progress(self) -> Progress:
        """How far the fill is now."""
        followed = self.followed
        if followed is not None and not self.leads:
            followed.poll()
        return self._progress

    def wait(self, seen: Progress, until: float = math.inf) -> Progress:
        """Block until there is more to tell than `seen`, or until a time of the monotonic clock."""
        while True:
            self.progress()
            left = until - time.monotonic()
            with self._changed:
                if self._progress != seen or left <= 0:
                    return self._progress
                self._changed.wait(min(left, 1.0 if self.leads else POLL))

    def reader(self, number: int) -> FillReader | None:
        """A reader of the part of that number, if it is still the current one. It counts as a user until it is closed."""
        with self._changed:
            if self._part is None or not self._is_as(number):
                return None
            self._users += 1
            return FillReader(self, self._part_number, self._part.share(), self.leave)

    def moved(self, number: int) -> tuple[Descriptor, int] | None:
        """Where a reader of that number goes on with what it was shown, and that one's number; None if there is nothing."""
        with self._changed:
            return None if self._part is None or not self._is_as(number) else (self._part.share(), self._part_number)

    def has_part(self, number: int) -> bool:
        """Whether the part of that number is the one that is read."""
        return self._part_number == number

    @property
    def part_size(self) -> int:
        """Bytes in the part now; 0 without one. Raises OSError."""
        return 0 if self._part is None else os.fstat(self._part.fileno()).st_size

    def _is_as(self, number: int) -> bool:
        """Whether who reads what has that number may read the part there is now. Called with the condition held."""
        return self._part_number == number or (number == SHOWN and self._part_number == self._goes_on)


def _in_memory(data: bytes) -> int | None:
    """The descriptor of a file that holds these bytes and is nowhere; None if the system gives none."""
    try:
        number = os.memfd_create("first bytes", os.MFD_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):  # nobody may write a file of that size
        if os.write(number, data) == len(data):
            return number
    os.close(number)
    return None
