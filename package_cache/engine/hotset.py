"""The hot set: package files that this process has at hand, so that a hit needs neither the registry nor the file system.

Belongs to one thread, the event loop's; nothing here is locked. An entry is good while its generation word has the value it
had before the entry was read; a change in any process changes the word.
What is good for a time, or to be asked about each time, has with it what that takes (`Question`). Of any other row only the
head of its answer is held. Bodies have a place of their own, from the second time on that they are asked for, and are read
anew where they had to leave it.
"""

import math
import os
from dataclasses import dataclass, field
from io import FileIO

from package_cache.engine.wanted import Wanted
from package_cache.model import Entry, Fields, Source
from package_cache.rules.http.answer import whole_of
from package_cache.rules.http.caching import AHEAD
from package_cache.rules.transfers.requests import RawRequest
from package_cache.rules.transfers.steps import Ask
from package_cache.storage.blobs import file_in_memory
from package_cache.storage.database.generation import Generation

MAX_ENTRIES = 4096
"""Files, and with them open descriptors."""
MAX_BYTES = 8 << 20
"""Bytes of targets, heads and what else an entry needs."""
MAX_BODIES = 8 << 20
"""Bytes of small bodies that are kept: in a file in memory, as the heap does not give back what many of them leave."""
SMALL = 8 << 10
"""Bytes of a file up to which its body is kept: one system call sends it with its head."""
_OVERHEAD = 700
"""Bytes that an entry takes besides its texts: objects, and places in tables."""
_OF_ENTRY = 1200
"""Bytes that its row takes where it is kept."""
_OF_QUESTION = 900
"""Bytes that are taken by what asking about it takes."""


@dataclass(slots=True)
class Question:
    """What it takes to ask a source whether a version at hand is still so, as it was asked the last time."""

    wanted: Wanted
    order: tuple[Source, ...] = ()
    """In which order its sources were asked."""
    ask: Ask | None = None
    wire: RawRequest | None = None
    said: Fields | None = None
    """All that the last confirmation said but its Date, if the same again changes nothing but that."""


@dataclass(slots=True)
class HotFile:
    """A version at hand: its row, and its body or file. `users` counts the responses being sent; the last one closes the
    file when it is out.

    `used` and `flushed` are in seconds of the monotonic clock: that of the machine may be set back. In the hot set, one
    that has no file has neither row nor body.
    """

    entry: Entry | None
    file: FileIO | None
    """None for a row of the registry."""
    word: int
    generation: int
    used: float = 0.0
    flushed: float = 0.0
    users: int = 0
    kept: bool = False
    """Whether it came into a hot set."""
    out: bool = False
    body: bytes | None = None
    """All of it, if it is small, until it comes into the hot set."""
    front: bytes = b""
    """The fields of the answer to a plain request up to its age, each with what divides it from the one before."""
    back: bytes = b""
    """The rest of its head, but for Cache-Status, which is not the same each time."""
    born: float = 0.0
    """When its age was 0, in seconds of the epoch."""
    place: int = -1
    """Where its body is among those that are kept; see `Bodies`."""
    since: float = -math.inf
    until: float = math.inf
    """Between when it is good without asking a source, in seconds of the epoch."""
    question: Question | None = None
    """None where the general way asks, if that is to be done at all."""
    id: int = field(init=False)
    size: int = field(init=False)
    digest: bytes = field(init=False)
    source: str = field(init=False)

    def __post_init__(self) -> None:
        entry = self.entry
        assert entry is not None  # of what is made; it goes when that has its place in the hot set
        self.id, self.size, self.digest = entry.id, entry.size, bytes.fromhex(entry.digest)
        self.source = entry.representation.source

    def load(self) -> None:
        """Read the body, if it is small. May wait for the disk. Raises OSError."""
        if self.file is not None and self.size <= SMALL:
            body = os.pread(self.file.fileno(), self.size, 0)
            self.body = body if len(body) == self.size else None

    def form(self, via: str) -> None:
        """Have the head ready of the answer to a plain request, by its row; `via` is the name of this cache."""
        assert self.entry is not None
        self.front, self.back, self.born = whole_of(self.entry.representation, self.entry.digest, via)

    def limit(self, wanted: Wanted, via: str) -> None:
        """Have it be good for as long as its row says, and a source be asked about it then if `wanted` may be for all.

        `via` is the name of this cache.
        """
        assert self.entry is not None
        known = self.entry.representation
        until = wanted.policy.good_until(known)
        if until < math.inf:
            if wanted.is_askable(known):
                self.question = Question(wanted.looked(wanted.mark, None))
            # Of what came at a time that is still to come, the clock was wrong.
            self.since, self.until = known.received - AHEAD, until if until > known.received else -math.inf
        self.form(via)

    @property
    def cost(self) -> int:
        """About how many bytes of memory the entry takes in the hot set."""
        texts = len(self.front) + len(self.back)
        if self.is_whole and self.entry is not None:
            fields = self.entry.representation.fields
            texts += _OF_ENTRY + sum(len(name) + len(value) for name, value in fields)
        return _OVERHEAD + texts + (0 if self.question is None else _OF_QUESTION)

    @property
    def is_whole(self) -> bool:
        """Whether its row is held with it."""
        return self.file is not None or self.question is not None

    def fileno(self) -> int:
        """The descriptor of the file, for calls that take one."""
        assert self.file is not None  # a row is not sent from a file
        return self.file.fileno()

    def release(self) -> None:
        """One response less is sent from the file."""
        self.users -= 1
        if self.out:
            self.close()

    def close(self) -> None:
        """Close the file, unless something is sent from it yet; then that does it, once this is `out`."""
        if self.users == 0 and self.file is not None:
            self.file.close()


class Bodies:
    """The small bodies that were put here last, one after the other, in `size` bytes of a file in memory."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._file: FileIO | None = None
        self._descriptor = -1
        self._end = 0
        """Where the next one begins, had none been written over."""

    def put(self, body: bytes) -> int:
        """Keep a body, in the place of the oldest ones; what `get` is to be asked, or -1 if it cannot be kept."""
        if len(body) > self._size // 8:
            return -1
        at = self._end
        if at % self._size + len(body) > self._size:
            at += self._size - at % self._size
        try:
            if self._file is None:
                self._file = file_in_memory("hot-bodies", b"")
                self._descriptor = self._file.fileno()
            if os.pwrite(self._descriptor, body, at % self._size) < len(body):
                return -1
        except OSError:  # there is no memory, or no descriptor
            return -1
        self._end = at + len(body)
        return at

    def get(self, place: int, size: int) -> bytes | None:
        """A body, if it is still there."""
        if place < 0 or self._end - place > self._size:
            return None
        return os.pread(self._descriptor, size, place % self._size)

    def close(self) -> None:
        """Let go of all of them. May be used again."""
        file, self._file = self._file, None
        self._end += self._size + 1  # whoever has a place here has none any more
        if file is not None:
            file.close()


class HotSet:
    """Hot files by the text of their target, with at most so many `descriptors` open."""

    def __init__(self, generation: Generation, descriptors: int) -> None:
        self._limit = min(MAX_ENTRIES, descriptors)
        self._words = generation.words
        self._files: dict[str, HotFile] = {}
        self._open = 0
        self._bytes = 0
        self.bodies = Bodies(MAX_BODIES)
        self._left: dict[int, float] = {}
        """When those were used, by id, that had to leave since that was asked for."""

    def __len__(self) -> int:
        return len(self._files)

    def get(self, target: str) -> HotFile | None:
        """The file of a target, if it is in the set and nothing changed."""
        hot = self._files.get(target)
        if hot is not None and self._words[hot.word] != hot.generation:
            self.discard(target)
            return None
        return hot

    def add(self, target: str, hot: HotFile) -> None:
        """Put a file in, at the expense of those used longest ago."""
        self.discard(target)
        hot.body = None
        if not hot.is_whole:
            hot.entry = None
        self._files[target], hot.kept = hot, True
        self._open += hot.file is not None
        self._bytes += _cost(target, hot)
        if self._open > self._limit or self._bytes > MAX_BYTES:
            self._trim()

    def _trim(self) -> None:
        """Make room for a while: an eighth goes at once, so that a full set is not sorted for each newcomer."""
        files = self._files
        # Where it is descriptors that there are too many of, rows have none to give.
        names = [name for name in files if self._bytes > MAX_BYTES or files[name].file is not None]
        names.sort(key=lambda target: files[target].used)
        for target in names[: max(1, len(names) // 8)]:
            self.discard(target)

    def discard(self, target: str) -> None:
        """Take a file out; it is closed when nothing is sent from it any more."""
        hot = self._files.pop(target, None)
        if hot is None:
            return
        self._open -= hot.file is not None
        self._bytes -= _cost(target, hot)
        if hot.used > hot.flushed:
            self._left[hot.id] = hot.used
        hot.out, hot.place = True, -1
        hot.close()

    def drop_changed(self) -> None:
        """Take out what changed since it was put in: a file that was culled takes space for as long as it is open."""
        words = self._words
        for target in [target for target, hot in self._files.items() if words[hot.word] != hot.generation]:
            self.discard(target)

    def clear(self) -> None:
        """Take everything out."""
        for target in list(self._files):
            self.discard(target)
        self.bodies.close()

    def recently_used(self, lead: float) -> dict[int, float]:
        """Entry ids and times of what was used since the last call, in seconds of a clock that has this lead."""
        fresh = [hot for hot in self._files.values() if hot.used > hot.flushed]
        left, self._left = self._left, {}
        for hot in fresh:
            hot.flushed = left[hot.id] = hot.used
        return {number: used + lead for number, used in left.items()}


def _cost(target: str, hot: HotFile) -> int:
    return hot.cost + len(target)
