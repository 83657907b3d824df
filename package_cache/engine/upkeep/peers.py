"""Servers that share a cache directory and have other bounds for it: each culls by its own, so that the narrowest hold.

Owns `bounds-v1/`: a file for each set of bounds that somebody keeps, and a lock of the same name that tells whether he
still does. A disk that refuses it is no trouble: it is news for the log, not state.
"""

import json
import threading
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from package_cache.rules.culling import Limits
from package_cache.storage.parts.locks import NameLocks

_LOCK = "bounds:"
"""No key begins like this."""


class Peers:
    """What this process tells the others of its bounds, and what they tell. Safe for any number of threads."""

    def __init__(self, folder: Path, locks: NameLocks) -> None:
        self._folder = folder
        self._locks = locks
        self._guard = threading.Lock()
        self._ours: str | None = None

    def tell(self, limits: Limits) -> None:
        """This process keeps the cache within these bounds from now on. None at all are not worth telling."""
        text = json.dumps(asdict(limits))
        with self._guard, suppress(OSError):
            if self._ours is None and limits != Limits() and self._locks.share(_LOCK + text):
                self._ours = text
            if self._ours == text:
                self._folder.mkdir(exist_ok=True)
                self._place(text).write_text(text, encoding="ascii")

    def leave(self) -> None:
        """This process keeps it within none any more. May be called again."""
        with self._guard, suppress(OSError):
            if self._ours is not None:
                self._locks.free(_LOCK + self._ours)
                self._ours = None

    def others(self, limits: Limits) -> list[Limits]:
        """Other bounds than these that living processes keep the cache within. Forgets those of dead ones."""
        found = []
        with suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                try:
                    text = path.read_text(encoding="ascii")
                    theirs = Limits(**json.loads(text))
                except (ValueError, TypeError, FileNotFoundError):
                    continue
                if theirs == limits:
                    continue
                if self._locks.is_held(_LOCK + text):
                    found.append(theirs)
                else:
                    path.unlink(missing_ok=True)
        return found

    def _place(self, text: str) -> Path:
        return self._folder / sha256(text.encode("ascii")).hexdigest()[:32]
