"""The registry as a person sees it: what the proxy has, the versions of a key, the trash, and the pins."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from package_cache.model import Entry, Key, Status
from package_cache.storage.database.file import Database
from package_cache.storage.database.schema import COLUMNS, OF_PROXY, entry_of

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Pin:
    """A key whose newest version is never evicted: since when, in seconds of the epoch, and who asked for it."""

    key: Key
    since: float
    who: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many versions there are: of files of the proxy and of items of the library that can be had, and of others.

    The uses are the first and the last of those that can be had, in seconds of the epoch; None where there are none.
    """

    files: int
    items: int
    trash: int
    damaged: int
    pinned: int
    first_use: float | None
    last_use: float | None


class Inventory:
    """Reads the registry, and makes the changes that a person asks for. Methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self) -> Counts:
        """How many versions there are, of what kind. Reads an index, which takes a second for some millions."""
        [[files, items, first, last]] = self._database.rows(
            f"SELECT coalesce(sum({OF_PROXY}), 0), coalesce(sum(NOT {OF_PROXY}), 0), min(used), max(used)"
            " FROM entry WHERE status = 3"
        )
        [[trash, damaged]] = self._database.rows(
            "SELECT coalesce(sum(status = -1), 0), coalesce(sum(status = 2), 0) FROM entry WHERE status <> 3"
        )
        [[pinned]] = self._database.rows("SELECT count(*) FROM pin")
        return Counts(files, items, trash, damaged, pinned, first, last)

    def entries(self, glob: str) -> Iterator[Entry]:
        """The newest version that can be served of each key that matches, in the order of the keys."""
        newest = "(SELECT max(version) FROM entry other WHERE other.key = entry.key AND other.status = 3)"
        return self._pages(f"status = 3 AND version = {newest}", glob)

    def trash(self, glob: str) -> Iterator[Entry]:
        """Every version in the trash of each key that matches, in the order of the keys."""
        return self._pages("status = -1", glob)

    def _pages(self, condition: str, glob: str) -> Iterator[Entry]:
        """A page at a time, so that no transaction stays open while somebody reads."""
        after: tuple[str, int] = ("", 0)
        while True:
            rows = self._database.rows(
                f"SELECT {COLUMNS} FROM entry WHERE {condition} AND (key, version) > (?, ?) AND {OF_PROXY}"
                " AND key GLOB ? ORDER BY key, version LIMIT ?",
                *(*after, glob, _PAGE),
            )
            page = [entry_of(row) for row in rows]
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].key, page[-1].version

    def versions(self, key: Key) -> list[Entry]:
        """Every version of a key, newest first, whatever its state."""
        rows = self._database.rows(f"SELECT {COLUMNS} FROM entry WHERE key = ? ORDER BY version DESC", key)
        return [entry_of(row) for row in rows]

    def variants(self, key: Key) -> list[Key]:
        """The keys that differ from `key` only in the Accept that they were asked for with."""
        rows = self._database.rows("SELECT DISTINCT key FROM entry WHERE key > ? AND key < ?", f"{key}#", f"{key}$")
        return [Key(str(row[0])) for row in rows]

    def discard(self, key: Key, version: int | None = None) -> list[Entry]:
        """Put all versions of a key, or one, into the trash; those that were moved."""
        return self._move(key, version, Status.READY, Status.TRASH)

    def restore(self, key: Key, version: int | None = None) -> list[Entry]:
        """Take all versions of a key, or one, out of the trash; those that were moved."""
        return self._move(key, version, Status.TRASH, Status.READY)

    def _move(self, key: Key, version: int | None, before: Status, after: Status) -> list[Entry]:
        with self._database.writing() as connection:
            rows = connection.execute(
                "UPDATE entry SET status = ?, used = ? WHERE key = ? AND status = ? AND coalesce(version = ?, 1)"
                f" RETURNING {COLUMNS}",
                (after, time.time(), key, before, version),
            ).fetchall()
        self._database.generation.bump(key)
        return [entry_of(row) for row in rows]

    def pin(self, key: Key, who: str) -> bool:
        """Never evict the newest version of a key from now on; False if it was pinned already."""
        with self._database.writing() as connection:
            return bool(connection.execute("INSERT OR IGNORE INTO pin VALUES (?, ?, ?)", (key, time.time(), who)).rowcount)

    def unpin(self, key: Key) -> bool:
        """Undo a pin; False if there is none."""
        with self._database.writing() as connection:
            return bool(connection.execute("DELETE FROM pin WHERE key = ?", (key,)).rowcount)

    def pins(self) -> dict[Key, Pin]:
        """Every pin."""
        rows = self._database.rows("SELECT key, since, who FROM pin ORDER BY key")
        return {Key(key): Pin(Key(key), float(since), str(who)) for key, since, who in rows}
