"""What the sources did not have when they were last asked, for when none of them can be asked any more.

A client that takes one file where there is not another does so only if it is told that there is none. That is never told as
long as a source answers: what was not there may be there now.
"""

import time
from contextlib import suppress

from package_cache.errors import StoreError
from package_cache.model import Key
from package_cache.storage.database.file import Database

LONGEST = 30 * 86400.0
"""Seconds for which it is remembered."""
_ENOUGH = 3600.0
"""Seconds for which the same need not be written again."""
_MANY = 4096


class Absences:
    """A hint, no more: where the registry refuses, nothing is known. Safe for any number of threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: dict[Key, float] = {}

    def note(self, key: Key) -> None:
        """All sources said that there is no such thing."""
        now = time.time()
        if now - self._noted.get(key, 0.0) < _ENOUGH:
            return
        with suppress(StoreError), self._database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO absent VALUES (?, ?)", (key, now))
            connection.execute(
                "DELETE FROM absent WHERE since <= (SELECT since FROM absent ORDER BY since DESC LIMIT 1 OFFSET ?)",
                (_MANY,),
            )
        if len(self._noted) >= _MANY:
            self._noted.clear()
        self._noted[key] = now

    def is_known(self, key: Key, after: float) -> bool:
        """Whether the sources said after a moment, in seconds of the epoch, that there is no such thing."""
        with suppress(StoreError), self._database.lent() as connection:
            row = connection.execute("SELECT since FROM absent WHERE key = ?", (key,)).fetchone()
            return row is not None and float(row[0]) > max(after, time.time() - LONGEST)
        return False
