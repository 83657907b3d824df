"""Notes that processes leave each other in small files, each replaced as a whole: they are news, not state.

Nothing depends on them, and a disk that refuses them is no trouble.
"""

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from package_cache.rules.eviction import Bounds
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.system import forget_in_children

_LOCK = "bounds:"
"""No key begins like this."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What the source with that base said of `url` at `when`, in seconds of the epoch; until when it is asked last."""

    base: str
    url: str
    said: str
    when: float
    aside_until: float = 0.0


class Reports:
    """What each source answered last, for commands to read; in a directory with a file for each source.

    A thread writes, while there is anything: who tells is the event loop, too. Safe for any number of threads and
    processes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: what is to be written is written by the parent."""
        self._guard = threading.Lock()
        self._unwritten: dict[str, SourceReport] = {}
        self._writes = False

    def tell(self, base: str, url: str, said: str, aside: float) -> None:
        """A source answered just now; it is set aside for so many more seconds. Never waits for the disk."""
        now = time.time()
        with self._guard:
            self._unwritten[base] = SourceReport(base, url, said, now, now + aside if aside else 0.0)
            begins, self._writes = not self._writes, True
        if begins:
            try:
                threading.Thread(target=self._write, name="reports", daemon=True).start()
            except RuntimeError:  # at the next report there may be one
                self._writes = False

    def _write(self) -> None:
        while True:
            with self._guard:
                self._writes = bool(self._unwritten)
                if not self._writes:
                    return
                base, report = self._unwritten.popitem()
            place = _file_of(self._folder, base)
            draft = place.with_suffix(f".{os.getpid()}-{threading.get_native_id()}")
            with suppress(OSError):
                self._folder.mkdir(exist_ok=True)
                draft.write_text(json.dumps(asdict(report)))
                draft.replace(place)

    def last(self, base: str) -> SourceReport | None:
        """What a source answered last, if anything."""
        try:
            return SourceReport(**json.loads(_file_of(self._folder, base).read_text()))
        except (OSError, ValueError, TypeError):
            return None


class Peers:
    """The bounds of servers that share a cache directory: each evicts by its own, so that the narrowest hold.

    The directory has a file for each set of bounds that somebody keeps, and a lock of the same name that tells whether a
    process still does. Safe for any number of threads.
    """

    def __init__(self, folder: Path, locks: NameLocks) -> None:
        self._folder = folder
        self._locks = locks
        self._guard = threading.Lock()
        self._ours: str | None = None

    def tell(self, limits: Bounds) -> None:
        """This process keeps the cache within these bounds from now on. None at all are not worth telling."""
        text = json.dumps(asdict(limits))
        with self._guard, suppress(OSError):
            if self._ours is None and limits != Bounds() and self._locks.share(_LOCK + text):
                self._ours = text
            if self._ours == text:
                self._folder.mkdir(exist_ok=True)
                _file_of(self._folder, text).write_text(text, encoding="ascii")

    def leave(self) -> None:
        """This process keeps the cache within no bounds any more. May be called again."""
        with self._guard, suppress(OSError):
            if self._ours is not None:
                self._locks.free(_LOCK + self._ours)
                self._ours = None

    def others(self, limits: Bounds) -> list[Bounds]:
        """Other bounds than these that living processes keep the cache within. Forgets those of dead ones."""
        found = []
        with suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                try:
                    text = path.read_text(encoding="ascii")
                    theirs = Bounds(**json.loads(text))
                except (ValueError, TypeError, FileNotFoundError):
                    continue
                if theirs == limits:
                    continue
                if self._locks.is_held(_LOCK + text):
                    found.append(theirs)
                else:
                    path.unlink(missing_ok=True)
        return found


def _file_of(folder: Path, name: str) -> Path:
    return folder / sha256(name.encode()).hexdigest()[:32]
