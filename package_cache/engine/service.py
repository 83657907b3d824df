"""The one object that the servers and the library talk to: a request in, an `Answer` out.

A server with an event loop has a `Front` of its own. Whoever else asks waits, while a loop in a thread asks the sources for
all of them: what is missing is the same exchange whatever the host. Knows nothing of WSGI or sockets.
"""

import time
from collections.abc import Callable, Mapping

from package_cache.config import Timeouts
from package_cache.engine.answers import Answer
from package_cache.engine.checks import Checks
from package_cache.engine.desk import Desk
from package_cache.engine.fills.failures import Storing
from package_cache.engine.fills.leader import Leader
from package_cache.engine.fills.running import Fills
from package_cache.engine.front import Front
from package_cache.engine.health import Health
from package_cache.engine.hotset import HotFile
from package_cache.engine.upkeep.caretaker import Caretaker
from package_cache.engine.upkeep.last_use import LastUse
from package_cache.engine.upkeep.room import Room
from package_cache.engine.waiting import Told
from package_cache.engine.wanted import Pass, Wanted
from package_cache.errors import FillError
from package_cache.model import Request
from package_cache.rules.repositories.routes import Routes
from package_cache.storage.blobs import BlobStore
from package_cache.storage.damage import Damages
from package_cache.storage.database.schema import SMALL
from package_cache.storage.registry import Registry
from package_cache.upstream.events import Events
from package_cache.upstream.fetcher import Fetcher
from package_cache.upstream.pool import Pool


class Service:
    """Answers requests from the store and, where it must, from the sources. Safe for any number of threads."""

    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        fills: Fills,
        fetcher: Fetcher,
        last_use: LastUse,
        room: Room,
        damages: Damages,
        checks: Checks,
        caretaker: Caretaker,
        health: Health,
        via: str,
        routes: Routes,
    ) -> None:
        self.routes = routes
        self.via = via
        self.generation = registry.generation
        self.caretaker = caretaker
        self._registry = registry
        self._fills = fills
        self._fetcher = fetcher
        self._last_use = last_use
        storing = Storing(time.monotonic)
        self._leader = Leader(registry, blobs, storing, room, fills.parts)
        self.desk = Desk(registry, fills, self._leader, storing, fetcher, last_use, damages, checks, health, via, routes)
        self.refuse = self.desk.refuse
        self._fronts: dict[Pool, Front] = {}
        """Those of its loops, by their connections to sources."""

    @property
    def is_idle(self) -> bool:
        """Whether it downloads nothing, and nobody waits for a download."""
        return not self._fills.running and all(one.is_idle for one in self._fronts.values())

    @property
    def is_settled(self) -> bool:
        """Whether every file that clients have whole is stored, or could not be."""
        return self._leader.is_settled

    def retire(self) -> None:
        """Another service has its place: keep nothing in order any more. What runs comes to its end."""
        self._leader.close()
        self.caretaker.close()

    def close(self) -> None:
        """Write what is pending and close what is idle. Running downloads go on until the process ends."""
        self._leader.close()
        # Who still waits for the disk has the registry's lock, and may never give it back.
        settled = self._leader.is_settled
        self._last_use.close(write=settled)
        self.caretaker.close()
        self._fetcher.close()
        if settled:
            self._registry.close()

    def run(self, job: Callable[[], None]) -> None:
        """Run a job in a thread of its own. Raises RuntimeError if the system gives none."""
        self._fills.threads.run(job)

    def note_use(self, used: Mapping[int, float]) -> None:
        """Entries were served from the hot set; by id, in seconds of the epoch."""
        self._last_use.note_all(used)

    # -- for a loop

    def front(self, events: Events, timeouts: Timeouts) -> Front:
        """What answers the requests of an event loop."""
        return self._front(self._fetcher.pool(events, timeouts, SMALL))

    def _front(self, pool: Pool) -> Front:
        front = self._fronts.get(pool)
        if front is None:
            self._fronts = {one: other for one, other in self._fronts.items() if not one.closed}
            front = self._fronts[pool] = Front(self.desk, pool)
        return front

    # -- for who may wait

    def answer(self, request: Request) -> Answer:
        """Answer a request, waiting for a source where it must. Raises `PackageCacheError` with the status of its error."""
        self.caretaker.begin()
        while True:
            found = self.desk.find(request, self._probe)
            if isinstance(found, Answer):
                return found
            assert not isinstance(found, HotFile)  # nobody asked for one
            answer = self._asked(request, found)
            if answer is not None:
                return answer

    def post(self, request: Request, content: bytes) -> Answer:
        """Have a POST answered by a source, with its content. Raises `PackageCacheError`."""
        answer = self._asked(request, self.desk.post(request, content))
        if answer is None:
            raise FillError("the loop that asked a source is over", 503)
        return answer

    def _asked(self, request: Request, found: Wanted | Pass) -> Answer | None:
        """What a source is asked for in a loop, while the caller waits; None if that is to be found out again."""

        def begin(pool: Pool, tell: Callable[[Told], None]) -> None:
            self._front(pool).go_on(request, tell, None, found)

        told = self._fetcher.in_loop(begin)
        assert told is None or isinstance(told, Answer)  # else it was at hand
        return told

    def _probe(self, request: Request, wanted: Wanted) -> None:

        def begin(pool: Pool, tell: Callable[[bool], None]) -> None:
            self._front(pool).probe(request, wanted)
            tell(True)  # noqa: FBT003

        self._fetcher.in_loop(begin)

    def is_stored(self, request: Request) -> bool:
        """Whether what a request was just answered with is stored, once it is so, or could not be."""

        def begin(pool: Pool, tell: Callable[[bool], None]) -> None:
            self._front(pool).settle(request, tell)

        return self._fetcher.in_loop(begin) is True
