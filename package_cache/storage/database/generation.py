"""What the processes that share a cache tell each other through memory: which keys changed, and which were never stored.

**Generation words**: a file of 8-byte words, mapped into every process. A key belongs to one word; whoever changed the key
writes a value into it that was never there before, after the change is committed. What was remembered under another value
is out of date. There are many more words than hot files, so that a busy cache does not forget files that did not change.

**Presence**: a map of what is not here; a look at it spares a cold key the look into the registry. It has a byte for each
hash of a key, which is set before a version of the key is committed, and never cleared: 0 says that nothing was ever stored
for it. That is believed as far as everybody who wrote the registry knew of the map. So it has, for each generation word,
the value that the word had when that was last so: a program of a former version changes the word alone, and who rebuilds
the registry doubts all of it. What a power cut left of the map is not believed either: its first bytes say of which boot
and of which registry it is.
"""

import fcntl
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.model import Key

WORDS = 65536
_SIZE = WORDS * 8
_KNOWN_KEYS = 1024
"""Keys whose hash is remembered: a fetch needs it several times."""
_PLACES = 1 << 20
"""Bytes of the map, one for each hash."""
_AHEAD = mmap.PAGESIZE
_BATCH = 1000


@lru_cache(_KNOWN_KEYS)
def hash_of(key: Key) -> int:
    """What decides to which word and which byte a key belongs."""
    return zlib.crc32(key.encode("utf-8"))


class Presence:
    """The map in one file, beside the generation `words`. Nothing is known to be absent before `begin`.

    Nor is anything where there is no room for a map; `path` is None for a user who may not write it.
    """

    def __init__(self, path: Path | None, words: memoryview) -> None:
        self._path = path
        self._words = words
        vouched = _AHEAD + words.nbytes
        size = vouched + _PLACES
        try:
            whole = memoryview(bytearray(size) if path is None else _mapped(path, size))
        except OSError:  # no room for it: as much memory of this process, in which nothing is ever believed
            whole = memoryview(bytearray(size))
        self._of = whole[:_AHEAD]
        self._vouched = whole[_AHEAD:vouched].cast("Q")
        self._here = whole[vouched:]
        self._begun = False

    def begin(self, of: str) -> None:
        """Use the map, if it is of this boot and of this registry, which `of` names; else doubt all of it."""
        tag = f"{zlib.crc32(of.encode()):08x}".encode("ascii")
        if bytes(self._of[: len(tag)]) != tag:
            self.doubt()
            self._of[: len(tag)] = tag
        self._begun = True

    def is_absent(self, key: Key) -> bool:
        """Whether the registry surely has nothing of a key."""
        number = hash_of(key)
        word = number % WORDS
        return self._begun and not self._here[number % _PLACES] and self._vouched[word] == self._words[word]

    def announce(self, numbers: Iterable[int]) -> None:
        """Note keys with these hashes, of which versions are about to be committed."""
        for number in numbers:
            self._here[number % _PLACES] = 1

    def follow(self, word: int, before: int, after: int) -> None:
        """A generation word was changed by a process that maintains the map."""
        if self._vouched[word] == before:
            self._vouched[word] = after

    def follow_all(self) -> None:
        """All words were changed, and no key was added meanwhile."""
        self._vouched[:] = self._words

    def doubt(self) -> None:
        """Believe nothing of the map until all keys were read again."""
        self._vouched[:] = memoryview(os.urandom(self._vouched.nbytes)).cast("Q")

    @property
    def is_believed(self) -> bool:
        """Whether all of the map is believed."""
        return self._begun and self._vouched == self._words

    def learn(self, numbers: Iterator[int], pause: Callable[[], None]) -> None:
        """Take the hashes of all keys of the registry into the map, and believe it. One process at a time."""
        if self._path is None or not self._begun or self.is_believed:
            return
        with _alone(self._path) as alone:
            if not alone:
                return
            before = memoryview(bytes(self._words)).cast("Q")  # what is committed from now on changes its word
            for count, number in enumerate(numbers):
                self._here[number % _PLACES] = 1
                if count % _BATCH == _BATCH - 1:
                    pause()
            self._vouched[:] = before


class Generation:
    """The words in one file. Reading one costs no system call.

    With `only_read` an existing file is read, if possible; else no word ever changes.
    """

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        if only_read:
            self.words = _words_to_read(path)
            self.presence = Presence(None, self.words)
            return
        try:
            self._map = _mapped(path, _SIZE)
        except OSError as error:
            raise StoreError(f"cannot map {path}: {error.strerror}") from error
        self.words = memoryview(self._map).cast("Q")
        """The current values, by `word`."""
        self.presence = Presence(path.with_name("known-v1"), self.words)

    @staticmethod
    def word(key: Key) -> int:
        """The word a key belongs to."""
        return hash_of(key) % WORDS

    def mark(self, key: Key) -> int:
        """The value of the word that a key belongs to."""
        return self.words[hash_of(key) % WORDS]

    def announce(self, keys: Iterable[Key]) -> None:
        """Note that versions of these keys are about to be committed."""
        self.presence.announce(hash_of(key) for key in keys)

    def bump(self, key: Key) -> None:
        """Tell every process that the key changed."""
        self.bump_each((key,))

    def bump_each(self, keys: Iterable[Key]) -> None:
        """Tell every process that these keys changed."""
        changed = {self.word(key) for key in keys}
        # Values that no word had before; counting up would need a lock between processes.
        fresh = memoryview(os.urandom(8 * len(changed))).cast("Q")
        for word, value in zip(changed, fresh, strict=True):
            before, self.words[word] = self.words[word], value
            self.presence.follow(word, before, value)

    def bump_all(self) -> None:
        """Tell every process that any key may have changed; those that were added were announced."""
        was_believed = self.presence.is_believed
        self._map[:] = os.urandom(_SIZE)
        if was_believed:
            self.presence.follow_all()

    def renew_all(self) -> None:
        """Tell every process that the registry was rebuilt."""
        self.presence.doubt()
        self.bump_all()


def _words_to_read(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), _SIZE, access=mmap.ACCESS_READ)).cast("Q")
    except (OSError, ValueError):
        return memoryview(bytes(_SIZE)).cast("Q")


def _mapped(path: Path, size: int) -> mmap.mmap:
    """A file of that size, made if there is none. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Not ftruncate: on a full disk the first write into a hole of a mapping ends the process (SIGBUS).
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether this process alone learns within the with-block."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        alone = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)
