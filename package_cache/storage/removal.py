"""What may be removed from the store, and how: rows first, then the files that no row needs any more.

Nobody ever sees an entry without its blob: a process that is about to commit an entry holds its blob, and what is held is
not removed. The digests of files that are to be unlinked are in the table `doomed`: a killed process leaves no others.
"""

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from package_cache.errors import StoreError
from package_cache.model import Key
from package_cache.storage.blobs import BlobStore
from package_cache.storage.database.file import Database
from package_cache.storage.database.schema import OF_PROXY

logger = logging.getLogger(__name__)

PAGE = 64
"""Files that are looked at, or removed, at a time: writers wait no longer than that takes."""


class Kind(Enum):
    """Which versions of a blob are meant."""

    READY = "status = 3"
    """All that can be served."""
    DEAD = "status <> 3"
    """All that cannot: in the trash, or damaged."""
    OLD = "a version of which there is a newer one"
    TRASHED = "a version that cannot be served"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order of last use."""

    used: float = -1e18
    id: int = 0


@dataclass(frozen=True, slots=True)
class Removable:
    """A blob, and those of its versions that would be removed: all of a kind, or a single one.

    `used`, `key` and `id` are those of the one used last. `others` counts the further versions that need the blob.
    """

    kind: Kind
    digest: str
    size: int
    used: float
    key: Key
    id: int
    entries: int
    others: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class OldVersion:
    """A version that can be served, of a key that has, or had, several."""

    key: Key
    id: int
    digest: str
    size: int
    created: float
    used: float


@dataclass(frozen=True, slots=True)
class Removed:
    """What became of a `Removable`: how many entries and blobs were removed, and the bytes of these."""

    entries: int = 0
    files: int = 0
    bytes: int = 0


class Removal:
    """Finds and removes versions and blobs. Safe for any number of threads and processes. Methods raise StoreError."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def by_use(self, kind: Kind, after: Position) -> list[Removable]:
        """Blobs by the last use of their versions, READY or DEAD: a page of them."""
        mine = kind.value
        rows = self._database.rows(
            "SELECT e.digest, coalesce(b.size, 0), e.used, e.key, e.id,"
            f" (SELECT count(*) FROM entry WHERE digest = e.digest AND {mine}),"
            f" (SELECT count(*) FROM entry WHERE digest = e.digest AND NOT {mine}),"
            f" EXISTS (SELECT 1 FROM entry JOIN pin USING (key) WHERE digest = e.digest AND {mine})"
            " FROM entry e LEFT JOIN blob b ON b.digest = e.digest"
            f" WHERE e.{mine} AND e.digest IS NOT NULL AND (e.used, e.id) > (?, ?) AND NOT EXISTS"
            f" (SELECT 1 FROM entry WHERE digest = e.digest AND {mine} AND (used, id) > (e.used, e.id))"
            " ORDER BY e.used, e.id LIMIT ?",
            *(after.used, after.id, PAGE),
        )
        return [Removable(kind, *row) for row in rows]

    def trashed(self, after: Position, until: float, key: Key | None = None) -> list[Removable]:
        """Single versions in the trash, or damaged, since `until` or longer; all, or those of one key: a page of them.

        Not those of the library: its trash stays until somebody empties it, or the space is needed.
        """
        rows = self._database.rows(
            "SELECT digest, coalesce(size, 0), used, key, id, 1,"
            " (SELECT count(*) - 1 FROM entry o WHERE o.digest = entry.digest)"
            " FROM entry LEFT JOIN blob USING (digest) WHERE status <> 3 AND (used, id) > (?, ?) AND used <= ?"
            f" AND {OF_PROXY} AND coalesce(key = ?, 1) ORDER BY used, id LIMIT ?",
            *(after.used, after.id, until, key, PAGE),
        )
        return [Removable(Kind.TRASHED, *row) for row in rows]

    def old_versions(self, after: Key) -> dict[Key, list[OldVersion]]:
        """The versions that can be served of keys that had several, newest first: a page of keys.

        A key that was removed while the page was read has none. Not those of the library: somebody wants each of them.
        """
        with self._database.lent() as connection:
            keys = connection.execute(
                f"SELECT DISTINCT key FROM entry WHERE status = 3 AND version > 1 AND key > ? AND {OF_PROXY}"
                " ORDER BY key LIMIT ?",
                (after, PAGE),
            ).fetchall()
            versions = (
                "SELECT key, id, digest, size, created, used FROM entry JOIN blob USING (digest)"
                " WHERE key = ? AND status = 3 ORDER BY version DESC"
            )
            return {Key(key): [OldVersion(*row) for row in connection.execute(versions, (key,))] for (key,) in keys}

    def is_linked(self, digest: str) -> bool:
        """Whether a blob is also linked outside of the cache, so that its bytes stay on the disk when it is removed."""
        try:
            return self._blobs.path(digest).stat().st_nlink > 1
        except OSError:
            return False

    def needed_by(self, digests: Iterable[str]) -> Counter[str]:
        """How many versions there are of files, in whatever state."""
        with self._database.lent() as connection:
            count = "SELECT count(*) FROM entry WHERE digest = ?"
            return Counter({one: connection.execute(count, (one,)).fetchone()[0] for one in set(digests)})

    def remove(self, chosen: Sequence[Removable]) -> list[Removed]:
        """Remove what is still as it was found; what became of each.

        Blobs of entries that are about to be committed stay, and so does what was used or pinned since.
        """
        with self._blobs.claiming(one.digest for one in chosen) as claimed:
            mine = frozenset(claimed)
            keys: set[Key] = set()
            with self._database.writing() as connection:
                removed = [_remove(connection, one, keys) if one.digest in mine else Removed() for one in chosen]
            for key in keys:
                self._database.generation.bump(key)
            self.unlink(one.digest for one, fate in zip(chosen, removed, strict=True) if fate.files)
        self._database.shrink()
        return removed

    def finish(self) -> None:
        """Unlink files that a killed process, or a disk that refused, left."""
        rows = self._database.rows("SELECT digest FROM doomed LIMIT ?", PAGE)
        if rows:
            with self._blobs.claiming(row[0] for row in rows) as claimed:
                self.unlink(claimed)

    def unlink(self, digests: Iterable[str]) -> None:
        """Unlink claimed blobs that no row needs, and delete them from `doomed`."""
        struck: list[str] = []
        for digest in digests:
            if not self._database.rows("SELECT 1 FROM blob WHERE digest = ?", digest):
                try:
                    self._blobs.remove(digest)
                except StoreError as error:
                    logger.warning("%s; it is tried again later", error)
                    continue
            struck.append(digest)
        if struck:
            with self._database.writing() as connection:
                connection.executemany("DELETE FROM doomed WHERE digest = ?", [(one,) for one in struck])


def give_up(connection: sqlite3.Connection, digest: str) -> int:
    """Give up a blob that the caller claimed, if no entry has it; whether it is to be unlinked now, as 1 or 0."""
    gone = connection.execute(
        "DELETE FROM blob WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM entry WHERE digest = ?1)", (digest,)
    ).rowcount
    if gone:
        connection.execute("INSERT OR IGNORE INTO doomed VALUES (?)", (digest,))
    return gone


_CONDITIONS = {
    Kind.READY: "digest = :digest AND status = 3 AND used <= :used AND key NOT IN (SELECT key FROM pin)",
    Kind.DEAD: "digest = :digest AND status <> 3 AND used <= :used",
    Kind.OLD: "id = :id AND digest = :digest AND status = 3 AND EXISTS (SELECT 1 FROM entry newer"
    " WHERE newer.key = entry.key AND newer.status = 3 AND newer.version > entry.version)",
    Kind.TRASHED: "id = :id AND digest = :digest AND status <> 3",
}
"""Which rows are removed; not those that changed since a `Removable` was found."""


def _remove(connection: sqlite3.Connection, one: Removable, keys: set[Key]) -> Removed:
    rows = connection.execute(
        f"SELECT id, key FROM entry WHERE {_CONDITIONS[one.kind]}", {"digest": one.digest, "used": one.used, "id": one.id}
    ).fetchall()
    connection.executemany("DELETE FROM entry WHERE id = ?", [(number,) for number, _ in rows])
    keys.update(Key(key) for _, key in rows)
    gone = give_up(connection, one.digest)
    return Removed(len(rows), gone, one.size if gone else 0)
