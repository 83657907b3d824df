"""Places for large downloads: so many of a process run at once, and no client has all of them.

However many large files clients ask for at once, no more threads and open parts come of it. Who comes later waits, without
a thread; a free place goes to the client that has the fewest. Nobody waits for long: a client that is told to come again is
better off than one that hangs. Small files need no place.
"""

import threading
import time
from collections import Counter
from functools import partial
from typing import Protocol

from package_cache.engine.threads import Run, Threads

DOWNLOADS = 64
"""Downloads at once, where nothing else is said."""
LONGEST = 1024
"""Downloads that may wait; half of them for one client."""
PATIENCE = 20.0
"""Seconds that one may wait. Less than a reader in another process waits for a sign of life."""
BUSY = "the cache downloads as many files at once as it may; try again in a while"
_LOOK_SECONDS = 1.0


class Download(Protocol):
    """A large download that is to begin, or to be dropped; see `fills.leading`."""

    client: str

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it still."""
        ...

    def begin(self) -> None:
        """Download; lasts as long as that does."""
        ...

    def drop(self, *, forced: bool) -> bool:
        """End it instead: `forced`, where there is no place for it; else only if nobody wants it. Whether it did."""
        ...


class Places:
    """Lets `count` downloads run at once. Safe for any number of threads; calls nobody with its lock held."""

    def __init__(self, count: int, threads: Threads, patience: float = PATIENCE) -> None:
        self._count = count
        self._patience = patience
        self._share = max(1, count * 3 // 4)
        self._threads = threads
        self._guard = threading.Lock()
        self._running: Counter[str] = Counter()
        self._waiting: list[tuple[float, Download]] = []
        self._watched = False

    def enter(self, download: Download, run: Run, *, at_once: bool = False) -> None:
        """Begin a download by `run`, or in a while, or drop it. Raises RuntimeError if there is no thread for it.

        With `at_once`, it was promised a place, and has it though they were taken meanwhile.
        """
        with self._guard:
            begins = at_once or self._may_begin(download.client)
            if begins:
                self._running[download.client] += 1
            waits = not begins and self._has_room(download.client)
            if waits:
                self._waiting.append((time.monotonic() + self._patience, download))
            watch = waits and not self._watched
            self._watched = self._watched or watch
        if begins:
            self._start(download, run)
        elif not waits:
            download.drop(forced=True)
        if watch:
            self._start_watching()

    def has_place(self, client: str) -> bool:
        """Whether a download for a client would begin at once."""
        with self._guard:
            return self._may_begin(client)

    def _may_begin(self, client: str) -> bool:
        return self._running.total() < self._count and self._running[client] < self._share

    def _has_room(self, client: str) -> bool:
        own = sum(download.client == client for _, download in self._waiting)
        return len(self._waiting) < LONGEST and own < LONGEST // 2

    def _start(self, download: Download, run: Run) -> None:
        try:
            run(partial(self._work, download))
        except RuntimeError:
            self._leave(download)
            self._begin_waiting()
            raise

    def _begin_waiting(self) -> None:
        """Begin those that may. A download that ends has the next one begin; who came after it has nobody."""
        while (download := self._next()) is not None:
            try:
                self._threads.run(partial(self._work, download))
            except RuntimeError:
                self._leave(download)
                download.drop(forced=True)

    def _work(self, download: Download) -> None:
        """Runs in the thread of a download, which goes on to the next one that waits."""
        following: Download | None = download
        while following is not None:
            try:
                following.begin()
            finally:
                self._leave(following)
            following = self._next()

    def _leave(self, download: Download) -> None:
        with self._guard:
            self._running[download.client] -= 1
            if not self._running[download.client]:
                del self._running[download.client]

    def _next(self) -> Download | None:
        """Take the next one that may begin, and that somebody waits for still."""
        while True:
            with self._guard:
                able = [one for one in self._waiting if self._may_begin(one[1].client)]
                if not able:
                    return None
                chosen = min(able, key=lambda one: self._running[one[1].client])
                self._waiting.remove(chosen)
                self._running[chosen[1].client] += 1
            if chosen[1].is_wanted or not chosen[1].drop(forced=False):
                return chosen[1]
            self._leave(chosen[1])

    def _start_watching(self) -> None:
        try:
            self._threads.run(self._watch)
        except RuntimeError:
            with self._guard:
                self._watched = False
                given_up, self._waiting = self._waiting, []
            for _, download in given_up:
                download.drop(forced=True)

    def _watch(self) -> None:
        """Drop those who waited too long, or whom nobody waits for. Runs in a thread while there is a line."""
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._guard:
                self._watched = bool(self._waiting)
                if not self._watched:
                    return
                now = time.monotonic()
                gone = [one for one in self._waiting if one[0] <= now or not one[1].is_wanted]
                self._waiting = [one for one in self._waiting if one not in gone]
            for until, download in gone:
                if not download.drop(forced=until <= now):
                    with self._guard:
                        self._waiting.append((until, download))
            self._begin_waiting()
