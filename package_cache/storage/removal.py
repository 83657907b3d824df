"""What may be removed from the store, and how it is: rows first, then the files that no row needs any more.

The only place that deletes entries. Nobody ever sees an entry without its file: whoever is about to commit an entry holds
its blob, and what is held is not removed. A killed process leaves at most files whose digests are noted in `doomed`.
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
"""Files looked at, and removed, at a time: nobody who writes waits for longer than that takes."""


class Kind(Enum):
    """Which versions of a file are meant."""

    READY = "status = 3"
    """All that can be served."""
    DEAD = "status <> 3"
    """All that cannot: in the trash, or damaged."""
    OLD = "a version of which there is a newer one"
    TRASHED = "a version that cannot be served"


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the order of last use."""

    used: float = -1e18
    id: int = 0


@dataclass(frozen=True, slots=True)
class Removable:
    """A file, and those of its versions that would be removed: all of a kind, or a single one.

    `used`, `key` and `id` are those of the one used last. `others` counts the versions that need the file besides.
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
    """A version that can be served of a name that has, or had, several."""

    key: Key
    id: int
    digest: str
    size: int
    created: float
    used: float


@dataclass(frozen=True, slots=True)
class Removed:
    """What became of a `Removable`: entries and files that went, and the bytes of these."""

    entries: int = 0
    files: int = 0
    bytes: int = 0


class Removal:
    """Finds and removes. Safe for any number of threads and processes. Methods raise StoreError."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def by_use(self, kind: Kind, after: Place) -> list[Removable]:
        """Files by the last use of their versions, READY or DEAD: a page of them."""
        mine = kind.value
        with self._database.lent() as connection:
            rows = connection.execute(
                "SELECT e.digest, coalesce(b.size, 0), e.used, e.key, e.id,"
                f" (SELECT count(*) FROM entry WHERE digest = e.digest AND {mine}),"
                f" (SELECT count(*) FROM entry WHERE digest = e.digest AND NOT {mine}),"
                f" EXISTS (SELECT 1 FROM entry JOIN pin USING (key) WHERE digest = e.digest AND {mine})"
                " FROM entry e LEFT JOIN blob b ON b.digest = e.digest"
                f" WHERE e.{mine} AND e.digest IS NOT NULL AND (e.used, e.id) > (?, ?) AND NOT EXISTS"
                f" (SELECT 1 FROM entry WHERE digest = e.digest AND {mine} AND (used, id) > (e.used, e.id))"
                " ORDER BY e.used, e.id LIMIT ?",
                (after.used, after.id, PAGE),
            ).fetchall()
        return [Removable(kind, *row) for row in rows]

    def trashed(self, after: Place, until: float, key: Key | None = None) -> list[Removable]:
        """Single versions in the trash, or damaged, since `until` or longer; all, or those of one name: a page of them.

        None of the library's: what is in its trash stays until somebody empties it, or the space is needed.
        """
        with self._database.lent() as connection:
            rows = connection.execute(
                "SELECT digest, coalesce(size, 0), used, key, id, 1,"
                " (SELECT count(*) - 1 FROM entry o WHERE o.digest = entry.digest)"
                " FROM entry LEFT JOIN blob USING (digest) WHERE status <> 3 AND (used, id) > (?, ?) AND used <= ?"
                f" AND {OF_PROXY} AND coalesce(key = ?, 1) ORDER BY used, id LIMIT ?",
                (after.used, after.id, until, key, PAGE),
            ).fetchall()
        return [Removable(Kind.TRASHED, *row) for row in rows]

    def old_versions(self, after: Key) -> dict[Key, list[OldVersion]]:
        """The versions that can be served of names that had several, newest first, a page of names.

        None are left of a name that was removed while the page was read. Versions of the library's items are no old ones:
        they are there because somebody wants them.
        """
        with self._database.lent() as connection:
            keys = connection.execute(
                f"SELECT DISTINCT key FROM entry WHERE status = 3 AND version > 1 AND key > ? AND {OF_PROXY}"
                " ORDER BY key LIMIT ?",
                (after, PAGE),
            ).fetchall()
            return {Key(key): self._versions(connection, Key(key)) for (key,) in keys}

    @staticmethod
    def _versions(connection: sqlite3.Connection, key: Key) -> list[OldVersion]:
        rows = connection.execute(
            "SELECT key, id, digest, size, created, used FROM entry JOIN blob USING (digest)"
            " WHERE key = ? AND status = 3 ORDER BY version DESC",
            (key,),
        )
        return [OldVersion(*row) for row in rows]

    def is_linked(self, digest: str) -> bool:
        """Whether a file has another name outside of the cache, and its bytes stay on the disk when it is removed."""
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
        """Remove what still is as it was found; what became of each.

        The file of what somebody is about to commit, and what was used or pinned since, stays.
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
        """Remove the files that a killed process, or a disk that refused, left."""
        with self._database.lent() as connection:
            rows = connection.execute("SELECT digest FROM doomed LIMIT ?", (PAGE,)).fetchall()
        if rows:
            with self._blobs.claiming(row[0] for row in rows) as claimed:
                self.unlink(claimed)

    def unlink(self, digests: Iterable[str]) -> None:
        """Unlink the claimed blobs that no row needs, and strike them off the list."""
        struck: list[str] = []
        for digest in digests:
            if not self._is_needed(digest):
                try:
                    self._blobs.remove(digest)
                except StoreError as error:
                    logger.warning("%s; it is tried again later", error)
                    continue
            struck.append(digest)
        if struck:
            with self._database.writing() as connection:
                connection.executemany("DELETE FROM doomed WHERE digest = ?", [(one,) for one in struck])

    def _is_needed(self, digest: str) -> bool:
        with self._database.lent() as connection:
            return connection.execute("SELECT 1 FROM blob WHERE digest = ?", (digest,)).fetchone() is not None


def doom(connection: sqlite3.Connection, digest: str) -> int:
    """Give up a blob, which the caller claimed, if no entry has it; whether it is to be unlinked now, as 1 or 0."""
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
"""Which rows go; what changed since a `Removable` was found does not."""


def _remove(connection: sqlite3.Connection, one: Removable, keys: set[Key]) -> Removed:
    rows = connection.execute(
        f"SELECT id, key FROM entry WHERE {_CONDITIONS[one.kind]}", {"digest": one.digest, "used": one.used, "id": one.id}
    ).fetchall()
    connection.executemany("DELETE FROM entry WHERE id = ?", [(number,) for number, _ in rows])
    keys.update(Key(key) for _, key in rows)
    gone = doom(connection, one.digest)
    return Removed(len(rows), gone, one.size if gone else 0)
