"""How requests of an event loop are answered: from what is at hand, from what is stored, or with what a source says.

Nothing here waits: not for a source, not for a lock, and for the disk no longer than the page cache takes, as long as that
is quick. What would is done in threads.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from package_cache.engine.answers import Answer
from package_cache.engine.desk import Desk, Found
from package_cache.engine.exchange import Exchanges
from package_cache.engine.hotset import HotFile
from package_cache.engine.looks import Disk, Looks
from package_cache.engine.questions import Questions
from package_cache.engine.upkeep.last_use import LastUse
from package_cache.engine.waiting import Client, Ready, Told, Waiter
from package_cache.engine.wanted import Pass, Wanted
from package_cache.errors import PackageCacheError, StoreError
from package_cache.model import Entry, Freshness, Key, Request
from package_cache.rules.repositories.freshness import RequestPolicy, TargetPolicy
from package_cache.rules.repositories.routes import is_own
from package_cache.storage.blobs import flaw
from package_cache.storage.registry import Registry
from package_cache.upstream.pool import Pool


class Front:
    """Belongs to the loop's thread."""

    def __init__(self, desk: Desk, pool: Pool) -> None:
        self.exchanges = Exchanges(desk, pool)
        self._desk = desk
        self._pool = pool
        self._registry = desk.registry
        self._stored = _Stored(desk.registry, desk.last_use, desk.via)
        self._questions = Questions(desk, self.exchanges, pool)
        self.own = Looks(desk, pool.events)
        """For the paths of this cache itself, which tell in a bounded time that a disk is slow."""
        self._disk = Disk()
        self._probing: dict[str, Key] = {}
        """What a source is asked for to find out how it is, by the repository, all of whose sources are set aside."""

    @property
    def closed(self) -> bool:
        """Whether its loop is over."""
        return self._pool.closed

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked and nothing is to be stored."""
        return self.exchanges.is_idle and self._questions.is_idle and self.own.is_idle

    def close(self) -> None:
        """Ask nothing more."""
        self._pool.close()

    # -- what is at hand

    def stored(self, key: Key, policy: TargetPolicy, clock: float) -> HotFile | None:
        """A small file that is stored and good for ever; None where there is none, or the disk is to be waited for."""
        if self._registry.is_absent(key) or not self._disk.is_quick(clock):
            return None
        hot = self._stored.find(key, policy)
        self._disk.looked()
        return hot

    def body(self, hot: HotFile, clock: float) -> bytes | None:
        """The bytes of a row in the hot set; None if they cannot be had without waiting."""
        if not self._disk.is_quick(clock):
            return None
        try:
            with suppress(StoreError):
                blob = self._desk.checks.at_once(hot.digest.hex(), hot.size)
                if isinstance(blob, bytes):
                    return blob
                blob.close()  # it has become a file
            return None
        finally:
            self._disk.looked()

    def ask(self, hot: HotFile, request: Request, client: str, ready: Ready) -> bool:
        """Whether a source is asked about what is at hand, or was already; if not, another way has to be found."""
        try:
            return self._questions.ask(hot, request, client, ready)
        except PackageCacheError:
            return False

    # -- what is not

    def seek(
        self, request: Request, ready: Ready, client: Client | None, clock: float, asking: RequestPolicy | None = None
    ) -> HotFile | Answer | None:
        """The answer to a request, if it can be had at once; else None, and `ready` is told it, or was already.

        `client` is who asks, `asking` is what its repository makes of it, if that is known.
        """
        if is_own(request.target):
            self.own.begin(partial(self._desk.own, request), ready)
            return None
        if not self._disk.is_quick(clock):
            self.look_up(request, ready, client)
            return None
        try:
            found = self._seek(request, ready, client, asking)
        except PackageCacheError:
            found = False
        self._disk.looked()
        if found is False:
            self.look_up(request, ready, client)
        return None if isinstance(found, bool) else found

    def _seek(
        self, request: Request, ready: Ready, client: Client | None, asking: RequestPolicy | None
    ) -> HotFile | Answer | bool:
        """As `seek`; True where `ready` is told, False where the disk has to be waited for, or may have to be."""
        self._desk.refuse_loops(request)
        wanted = self._desk.wanted(request, asking)
        waiter = Waiter(request, wanted, ready, client)
        if self._joins(waiter):
            return True
        key = wanted.key
        waiter.wanted = wanted = self._desk.looked(wanted, self._registry.best_at_once)
        if wanted.key != key and self._joins(waiter):
            return True
        if wanted.seen is not None and wanted.is_fresh(wanted.seen.representation):
            return self._hit(request, wanted, wanted.seen)
        if self._desk.may_ask(request, wanted):
            if not self._asks_about(waiter):
                self.exchanges.begin(waiter)
            return True
        if self._desk.passes(request, wanted):
            self.exchanges.pass_on(Pass(request, wanted), waiter)
            return True
        return False

    def look_up(self, request: Request, ready: Ready, client: Client | None) -> None:
        """Have a thread look for what is asked for, and `ready` be told the answer."""
        find = partial(self._desk.find, request, self._probe_soon, hot=True)
        self.exchanges.looks.begin(find, partial(self.go_on, request, ready, client))

    def go_on(self, request: Request, ready: Ready, client: Client | None, found: Found) -> None:
        """Answer with what was found for a request, or ask for it."""
        if isinstance(found, HotFile | Answer):
            ready(found)
            return
        wanted = found.wanted if isinstance(found, Pass) else found
        waiter = Waiter(request, wanted, ready, client)
        if isinstance(found, Pass) or not self._questions.joins(waiter):
            self.exchanges.go_on(waiter, found)

    def post(self, request: Request, content: bytes, ready: Ready) -> None:
        """Have a POST answered by a source, with its content."""
        try:
            posted = self._desk.post(request, content)
        except PackageCacheError as error:
            ready(self._desk.refuse(error))
        else:
            self.go_on(request, ready, None, posted)

    def _joins(self, waiter: Waiter) -> bool:
        """Whether a request is answered with what is asked, asked for, or stored, at present."""
        wanted = waiter.wanted
        if wanted.stored_only:
            return False
        repository = wanted.policy.repository
        if self._probing and self._probing.get(repository.name) == wanted.key and not wanted.has_nothing_to_tell:
            return False  # its sources are not waited for
        return self._questions.joins(waiter) or self.exchanges.joins(waiter)

    def _asks_about(self, waiter: Waiter) -> bool:
        """Whether a source is asked about what is here, which comes to hand with that."""
        wanted, seen = waiter.wanted, waiter.wanted.seen
        if seen is None or not wanted.is_askable(seen.representation):
            return False
        if self._desk.linking(waiter.request, seen.representation) is not None:
            return False
        hot = self._desk.hot(wanted, seen, self._desk.checks.at_once(seen.digest, seen.size))
        if self._questions.ask_first(hot, waiter):
            return True
        hot.close()
        return False

    def _hit(self, request: Request, wanted: Wanted, seen: Entry) -> HotFile | Answer | bool:
        if self._desk.linking(request, seen.representation) is not None:
            return False
        blob = self._desk.checks.at_once(seen.digest, seen.size)
        if wanted.is_hot(seen.representation):
            return self._desk.hot(wanted, seen, blob)
        self._desk.last_use.note(seen)
        return self._desk.at_hand(request, seen, blob, "hit", "hit")

    # -- what nobody waits for

    def _probe_soon(self, request: Request, wanted: Wanted) -> None:
        """Runs in a thread."""
        self._pool.events.call(partial(self.probe, request, wanted))

    def probe(self, request: Request, wanted: Wanted) -> None:
        """Have a source asked for what is wanted, unless one of its repository is already asked how it is."""
        name = wanted.policy.repository.name
        if name in self._probing:
            return
        self._probing[name] = wanted.key

        def ready(told: Told) -> None:
            self._probing.pop(name, None)
            if isinstance(told, HotFile | Answer):
                told.close()

        self.go_on(request, ready, None, wanted)

    def settle(self, request: Request, tell: Callable[[bool], None]) -> None:
        """Tell whether what a request was answered with is stored, once it is, or could not be."""
        wanted = self._desk.looked(self._desk.wanted(request), self._registry.best_at_once)
        settling = self.exchanges.settling.running.get(wanted.key)
        if settling is None:
            tell(wanted.seen is not None)
        else:
            settling.told.append(tell)


class _Stored:
    """Belongs to the loop's thread. `via` is the name of this cache."""

    def __init__(self, registry: Registry, last_use: LastUse, via: str) -> None:
        self._registry = registry
        self._last_use = last_use
        self._via = via

    def is_absent(self, key: Key) -> bool:
        """Whether nothing of a key was ever stored, as far as that is known without a look."""
        return self._registry.is_absent(key)

    def find(self, key: Key, policy: TargetPolicy) -> HotFile | None:
        """The file of a key, good for whoever asks, with its bytes; None if there is none that can be had at once.

        `policy` are those of what has that key and no other one, whatever its clients say.
        """
        repository = policy.repository
        if policy.fresh.how is not Freshness.IMMUTABLE or repository.links or repository.tarballs:
            return None
        generation = self._registry.generation
        word = generation.word(key)
        mark = generation.words[word]
        try:
            found = self._registry.stored_at_once(key)
            if found is None:
                return None
            entry, body = self._last_use.newest(found[0]), found[1]
            head = entry.representation
            if policy.good_until(head) < math.inf or not policy.is_for_all(head):
                return None
        except StoreError:
            return None
        if body is None or flaw(body, entry.digest, entry.size) is not None:
            return None
        hot = HotFile(entry, None, word, mark, body=body)
        hot.form(self._via)
        return hot
