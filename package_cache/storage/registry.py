"""The registry: which versions of which keys there are, and in what state. One SQLite file, `registry-v1.db`.

The only place that changes a status. WAL lets readers go on while one writer commits; every change is one
`BEGIN IMMEDIATE` transaction, so two processes never decide on the same old state.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.model import Entry, Key, Representation, Status
from package_cache.storage import records
from package_cache.storage.connections import Connections
from package_cache.storage.generation import Generation

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blob (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    status INTEGER NOT NULL,
    digest TEXT NOT NULL REFERENCES blob,
    representation TEXT NOT NULL,
    created REAL NOT NULL,
    used REAL NOT NULL,
    UNIQUE (key, version)
);
CREATE INDEX IF NOT EXISTS entry_ready ON entry (key, version) WHERE status = 3;
CREATE INDEX IF NOT EXISTS entry_digest ON entry (digest);
CREATE TABLE IF NOT EXISTS total (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    entries INTEGER NOT NULL,
    blobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
INSERT OR IGNORE INTO total VALUES (1, 0, 0, 0);
CREATE TRIGGER IF NOT EXISTS blob_added AFTER INSERT ON blob
    BEGIN UPDATE total SET blobs = blobs + 1, bytes = bytes + new.size; END;
CREATE TRIGGER IF NOT EXISTS blob_removed AFTER DELETE ON blob
    BEGIN UPDATE total SET blobs = blobs - 1, bytes = bytes - old.size; END;
CREATE TRIGGER IF NOT EXISTS entry_added AFTER INSERT ON entry WHEN new.status = 3
    BEGIN UPDATE total SET entries = entries + 1; END;
CREATE TRIGGER IF NOT EXISTS entry_moved AFTER UPDATE OF status ON entry WHEN (old.status = 3) <> (new.status = 3)
    BEGIN UPDATE total SET entries = entries + CASE new.status WHEN 3 THEN 1 ELSE -1 END; END;
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('instance', lower(hex(randomblob(4))));
"""

Row = tuple[object, ...]
_COLUMNS = "id, key, version, status, digest, representation, created, used"


@dataclass(frozen=True, slots=True)
class Totals:
    """What the store holds: versions that can be served, and distinct files with their bytes."""

    entries: int
    blobs: int
    bytes: int


class Registry:
    """The registry in one file. Safe for any number of threads and processes. Methods raise StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.generation = Generation(path.with_name("generation-v1"))
        self._turn = threading.Lock()
        self._connections = Connections(path)
        with _alone(path), self._lent() as connection:
            connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._connections.close()

    @property
    def instance(self) -> str:
        """A name for this cache, the same in every process that shares it."""
        with self._lent() as connection:
            return str(connection.execute("SELECT value FROM meta WHERE name = 'instance'").fetchone()[0])

    def totals(self) -> Totals:
        """How much the store holds; costs the same whatever it holds."""
        with self._lent() as connection:
            return Totals(*connection.execute("SELECT entries, blobs, bytes FROM total").fetchone())

    def mark(self, key: Key) -> int:
        """A value that is another one after each change of the key. Costs no system call."""
        return self.generation.words[self.generation.word(key)]

    def best(self, key: Key) -> Entry | None:
        """The newest version of the key that can be served."""
        with self._lent() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM entry WHERE key = ? AND status = 3 ORDER BY version DESC LIMIT 1",
                (key,),
            ).fetchone()
        return _entry(row) if row else None

    def commit(self, key: Key, digest: str, representation: Representation) -> Entry:
        """Record that the blob is there and is the newest version of the key; see `commit_all`."""
        return _entry(self.commit_all([(key, digest, representation)])[0])

    def commit_all(self, news: Sequence[tuple[Key, str, Representation]]) -> list[Row]:
        """Record, in one transaction, that blobs are there and are the newest versions of their keys.

        Each is a key, a digest and the head the bytes came with. Bytes that equal the newest version's are that version,
        confirmed: its row takes the new head. Returns the rows.
        """
        with self._writing() as connection:
            rows = [self._commit(connection, *one) for one in news]
        for key, _, _ in news:
            self.generation.bump(key)
        return rows

    def _commit(self, connection: sqlite3.Connection, key: Key, digest: str, representation: Representation) -> Row:
        now = time.time()
        connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?)", (digest, representation.size))
        newest = connection.execute("SELECT id, digest, status, max(version) FROM entry WHERE key = ?", (key,)).fetchone()
        if newest[1] == digest and newest[2] == Status.READY:
            return self._confirm(connection, newest[0], representation)
        row: Row = connection.execute(
            "INSERT INTO entry (key, version, status, digest, representation, created, used)"
            f" VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING {_COLUMNS}",
            (key, (newest[3] or 0) + 1, Status.READY, digest, records.dump(representation), now, now),
        ).fetchone()
        return row

    def confirm(self, entry: Entry, representation: Representation) -> Entry:
        """Record that a source vouched for the entry again, with the head it has now."""
        with self._writing() as connection:
            row = self._confirm(connection, entry.id, representation)
        if row is None:
            raise StoreError(f"version {entry.version} of {entry.key} is gone from the registry")
        self.generation.bump(entry.key)
        return _entry(row)

    @staticmethod
    def _confirm(connection: sqlite3.Connection, number: int, representation: Representation) -> Row:
        row: Row = connection.execute(
            f"UPDATE entry SET representation = ? WHERE id = ? RETURNING {_COLUMNS}",
            (records.dump(representation), number),
        ).fetchone()
        return row

    def condemn(self, digest: str) -> int:
        """Take every version made of a damaged blob out of service; how many there were."""
        with self._writing() as connection:
            moved = connection.execute(
                "UPDATE entry SET status = ? WHERE digest = ? AND status = ?", (Status.FAILED, digest, Status.READY)
            ).rowcount
        self.generation.bump_all()
        return moved

    def touch(self, used: Mapping[int, float]) -> None:
        """Record when entries were last served, by id, in seconds of the epoch. Never goes back in time."""
        with self._writing() as connection:
            connection.executemany(
                "UPDATE entry SET used = max(used, ?) WHERE id = ?",
                [(moment, number) for number, moment in used.items()],
            )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        # One writer at a time, in turn: SQLite itself would let the others sleep and try again, for up to 0.1 s each time.
        with self._lent() as connection, self._turn, _alone(self._path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connections.lend() as connection:
                yield connection
        except sqlite3.Error as error:
            raise StoreError(f"the registry {self._path} cannot be used: {error}") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time write: the others wait for a lock of the kernel's, and go on the moment it is free.

    It also makes the file in peace: SQLite does not wait where two switch a new one to WAL at once.
    """
    try:
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"the registry {path} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _entry(row: Row) -> Entry:
    number, key, version, status, digest, representation, created, used = row
    try:
        return Entry(
            id=int(str(number)),
            key=Key(str(key)),
            version=int(str(version)),
            status=Status(int(str(status))),
            digest=str(digest),
            representation=records.load(str(representation)),
            created=float(str(created)),
            used=float(str(used)),
        )
    except ValueError as error:
        raise StoreError(f"the registry holds an entry that cannot be read: {error}") from error
