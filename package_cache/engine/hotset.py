"""The hot set: package files that this process has open, so that a hit needs neither the registry nor the file system.

Belongs to one thread, the event loop's; nothing here is locked. Only what never changes by itself is in it. An entry is
good while its generation word has the value it had before the entry was read; a change in any process changes the word.
"""

import os
from dataclasses import dataclass, field
from io import FileIO

from package_cache.model import Entry
from package_cache.rules.http.answer import Reply
from package_cache.storage.database.generation import Generation

MAX_ENTRIES = 4096
"""Entries, and with them open descriptors."""
MAX_BYTES = 16 << 20
"""Bytes of targets, header fields and small bodies held in memory."""
SMALL = 8 << 10
"""Bytes of a body up to which it is held in memory: one system call sends it with its head."""


@dataclass(slots=True)
class Head:
    """The head of an answer in three pieces, between which its date and its age stand; put together once a second."""

    reply: Reply
    pieces: tuple[bytes, bytes, bytes]
    born: float
    """When its age was 0, in seconds of the epoch."""
    second: int = -1
    text: bytes = b""


@dataclass(slots=True)
class HotFile:
    """An open blob and its entry. `users` counts the responses being sent; the last one closes the file when it is out.

    `used` and `flushed` are in seconds of the monotonic clock: that of the machine may be set back.
    """

    entry: Entry
    file: FileIO
    word: int
    generation: int
    used: float = 0.0
    flushed: float = 0.0
    users: int = 0
    out: bool = False
    source: str = field(init=False)
    body: bytes | None = None
    """All of it, if it is small."""
    heads: dict[tuple[str, bool], Head] = field(default_factory=dict)
    """Heads of the answers to plain requests, by method and persistence."""

    def __post_init__(self) -> None:
        self.source = self.entry.representation.source

    def load(self) -> None:
        """Read the body, if it is small. May wait for the disk. Raises OSError."""
        if self.entry.size <= SMALL:
            body = os.pread(self.file.fileno(), self.entry.size, 0)
            self.body = body if len(body) == self.entry.size else None

    @property
    def cost(self) -> int:
        """About how many bytes of memory the entry takes."""
        fields = sum(len(name) + len(value) for name, value in self.entry.representation.fields)
        return 1024 + 4 * (fields + len(self.entry.key)) + len(self.body or b"")

    def release(self) -> None:
        """One response less is sent from the file."""
        self.users -= 1
        if self.out and self.users == 0:
            self.file.close()


class HotSet:
    """Hot files by the text of their target, with at most so many `descriptors` open."""

    def __init__(self, generation: Generation, descriptors: int) -> None:
        self._limit = min(MAX_ENTRIES, descriptors)
        self._words = generation.words
        self._files: dict[str, HotFile] = {}
        self._bytes = 0

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
        self._files[target] = hot
        self._bytes += hot.cost
        if len(self._files) > self._limit or self._bytes > MAX_BYTES:
            self._trim()

    def _trim(self) -> None:
        """Make room for a while: an eighth goes at once, so that a full set is not sorted for each newcomer."""
        by_use = sorted(self._files, key=lambda target: self._files[target].used)
        for target in by_use[: max(1, len(by_use) // 8)]:
            self.discard(target)

    def discard(self, target: str) -> None:
        """Take a file out; it is closed when nothing is sent from it any more."""
        hot = self._files.pop(target, None)
        if hot is None:
            return
        self._bytes -= hot.cost
        hot.out = True
        if hot.users == 0:
            hot.file.close()

    def drop_changed(self) -> None:
        """Take out what changed since it was put in: a file that was culled takes space for as long as it is open."""
        words = self._words
        for target in [target for target, hot in self._files.items() if words[hot.word] != hot.generation]:
            self.discard(target)

    def clear(self) -> None:
        """Take everything out."""
        for target in list(self._files):
            self.discard(target)

    def recently_used(self, lead: float) -> dict[int, float]:
        """Entry ids and times of what was used since the last call, in seconds of a clock that has this lead."""
        fresh = [hot for hot in self._files.values() if hot.used > hot.flushed]
        for hot in fresh:
            hot.flushed = hot.used
        return {hot.entry.id: hot.used + lead for hot in fresh}
