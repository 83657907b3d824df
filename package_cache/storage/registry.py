"""The registry as requests and downloads see it: which versions of which keys can be served. See `schema.py`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from package_cache.errors import DamagedRegistry
from package_cache.model import Entry, Key, Representation, Status
from package_cache.storage.database import records
from package_cache.storage.database.changes import tell_new
from package_cache.storage.database.connections import Connection
from package_cache.storage.database.file import Database, mended
from package_cache.storage.database.schema import COLUMNS, Row, entry_of, seal_of, strip
from package_cache.storage.items.rows import Describe, describe_item
from package_cache.storage.small import became_file, body_of, put_body

_AHEAD = 600.0
"""Seconds that a last use may be ahead of the clock."""
_LATER = "CASE WHEN used > ? THEN ? ELSE max(used, ?) END"
_FORMS = 64
"""Answers to different Accepts among which is chosen; those used last."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What the store holds: versions that can be served, and distinct files with their bytes."""

    entries: int
    blobs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class News:
    """A blob that is to be the newest version of a key, with the head the bytes came with.

    Of an item of the library, `describe` says what it is besides. A small one that has no file comes with its `body`.
    """

    key: Key
    digest: str
    representation: Representation
    describe: Describe | None = None
    body: bytes | None = None


class Registry:
    """The registry in one file. Safe for any number of threads and processes. Methods raise StoreError."""

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        self.database = Database(path, only_read=only_read)
        self.generation = self.database.generation

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.database.close()

    @property
    def instance(self) -> str:
        """A name for this cache, the same in every process that shares it."""
        with self.database.lent() as connection:
            return str(connection.execute("SELECT value FROM meta WHERE name = 'instance'").fetchone()[0])

    @mended
    def totals(self) -> Totals:
        """How much the store holds; costs the same whatever it holds."""
        with self.database.lent() as connection:
            return Totals(*connection.execute("SELECT entries, blobs, bytes FROM total").fetchone())

    def mark(self, key: Key) -> int:
        """A value that is another one after each change of the key. Costs no system call."""
        return self.generation.words[self.generation.word(key)]

    @mended
    def best(self, key: Key) -> Entry | None:
        """The newest version of the key that can be served."""
        with self.database.lent() as connection:
            row = connection.execute(
                f"SELECT {COLUMNS} FROM entry WHERE key = ? AND status = 3 AND digest IS NOT NULL"
                " ORDER BY version DESC LIMIT 1",
                (key,),
            ).fetchone()
            entry = entry_of(row) if row else None
            if entry is not None and entry.key != key:
                raise DamagedRegistry(f"its index has {entry.key} where {key} should be")
        return entry

    @mended
    def forms(self, key: Key) -> list[Entry]:
        """The newest versions that can be served of what has this name, for each Accept that it was asked for with."""
        with self.database.lent() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM entry WHERE (key = ? OR (key > ? AND key < ?)) AND status = 3"
                " AND digest IS NOT NULL AND version = (SELECT max(version) FROM entry other"
                " WHERE other.key = entry.key AND other.status = 3) ORDER BY used DESC LIMIT ?",
                (key, f"{key}#", f"{key}$", _FORMS),
            ).fetchall()
        return [entry_of(row) for row in rows]

    def commit(self, key: Key, digest: str, representation: Representation) -> Entry:
        """Record that the blob is there and is the newest version of the key; see `commit_all`."""
        return entry_of(self.commit_all([News(key, digest, representation)])[0])

    @mended
    def commit_all(self, news: Sequence[News]) -> list[Row]:
        """Record, in one durable transaction, that blobs are there and are the newest versions of their keys.

        Bytes that equal the newest version's are that version, confirmed: its row takes the new head. Returns the rows.
        """
        with self.database.writing(durable=True) as connection:
            rows = [self._commit(connection, one) for one in news]
            for one, row in zip(news, rows, strict=True):
                if one.describe is not None:
                    describe_item(connection, int(str(row[0])), one.describe)
        for one in news:
            self.generation.bump(one.key)
        return rows

    def _commit(self, connection: Connection, one: News) -> Row:
        now, key, digest, representation = time.time(), one.key, one.digest, one.representation
        connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?)", (digest, representation.size))
        if one.body is None:
            became_file(connection, digest)
        else:
            put_body(connection, digest, one.body)
        newest = connection.execute(
            "SELECT id, digest, status, max(version), (SELECT version FROM gone WHERE key = ?1) FROM entry WHERE key = ?1",
            (key,),
        ).fetchone()
        if newest[1] == digest and newest[2] == Status.READY:
            confirmed = self._confirm(connection, newest[0], (key, newest[3], digest), representation)
            assert confirmed is not None  # in the same transaction
            return confirmed
        version, text = max(newest[3] or 0, newest[4] or 0) + 1, records.dump(representation)
        values = (key, version, Status.READY, digest, text, now, now, seal_of(key, version, digest, text))
        added = connection.execute(
            "INSERT INTO entry (key, version, status, digest, representation, created, used, seal)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        row: Row = (added.lastrowid, *values)
        if one.body is None:
            tell_new(connection, row, representation.size or 0)
        return row

    @mended
    def confirm(self, entry: Entry, representation: Representation, describe: Describe | None = None) -> Entry | None:
        """Record that a source vouched for the entry again, with the head it has now. None if it was removed meanwhile."""
        with self.database.writing() as connection:
            row = self._confirm(connection, entry.id, (entry.key, entry.version, entry.digest), representation)
            if row is None:
                return None
            if describe is not None:
                describe_item(connection, entry.id, describe)
        self.generation.bump(entry.key)
        return entry_of(row)

    @staticmethod
    def _confirm(
        connection: Connection, number: int, of: tuple[Key, int, str], representation: Representation
    ) -> Row | None:
        text, now = records.dump(representation), time.time()
        row: Row | None = connection.execute(
            f"UPDATE entry SET representation = ?, seal = ?, used = {_LATER}"
            # An id may be another entry's by now, where this one was removed.
            f" WHERE id = ? AND (key, version, digest) = (?, ?, ?) AND status = 3 RETURNING {COLUMNS}",
            (text, seal_of(*of, text), now + _AHEAD, now, now, number, *of),
        ).fetchone()
        return row

    @mended
    def condemn(self, digest: str, body: bytes | None = None) -> int | None:
        """Take every version made of a damaged blob out of service, and for good out of the trash; how many there were.

        Those of the proxy are known by the digest when it is fetched again; items of the library have no bytes any more.
        `body` is what its row was found to have, None if there was none: None is returned if that is different by now.
        """
        with self.database.writing() as connection:
            if body_of(connection, digest) != body:
                return None
            moved = strip(connection, digest)
            moved += connection.execute(
                "UPDATE entry SET status = ?, used = ? WHERE digest = ? AND status = ?",
                (Status.FAILED, time.time(), digest, Status.READY),
            ).rowcount
            gone = "DELETE FROM entry WHERE digest = ? AND status = ?"
            moved += connection.execute(gone, (digest, Status.TRASH)).rowcount
            connection.execute("DELETE FROM blob WHERE digest = ?", (digest,))
        if moved:
            self.generation.bump_all()
        return moved

    @mended
    def touch(self, used: Mapping[int, float]) -> None:
        """Record when entries were last served, by id, in seconds of the epoch.

        Never goes back in time, but from a time that is still to come: the clock was wrong then.
        """
        ahead = time.time() + _AHEAD
        with self.database.writing() as connection:
            connection.executemany(
                f"UPDATE entry SET used = {_LATER} WHERE id = ? AND status = 3",
                [(ahead, moment, moment, number) for number, moment in used.items()],
            )
