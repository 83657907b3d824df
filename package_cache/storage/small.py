"""Small bodies: rows of the registry, by the SHA-256 of their bytes.

A body of up to 64 KiB is written in the transaction that writes its entry: it is there with its name, durable with it, or
not at all. It is gone with its row of `blob`, by a trigger, whoever deletes that. Where somebody needs a path the body is
made a file of `blobs-v1`, once, and is a row no more; a file that a former version stored stays one.

Nobody locks a digest to store a row or to remove one: a transaction decides which came first, and what is stored after a
removal brings its bytes with it. The locks of `BlobStore` are for files, whose names no transaction covers.
"""

import sqlite3

from package_cache.storage.database.file import Database, mended


class SmallBodies:
    """The table `small`. Safe for any number of threads and processes. Methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @mended
    def read(self, digest: str) -> bytes | None:
        """The bytes in the row of a digest, whatever they are; None if there is none."""
        with self._database.lent() as connection:
            return body_of(connection, digest) if self._is_there(connection) else None

    @mended
    def names(self, prefix: str) -> set[str]:
        """The digests with these first two digits that have a row."""
        with self._database.lent() as connection:
            if not self._is_there(connection):
                return set()
            rows = connection.execute("SELECT digest FROM small WHERE digest >= ? AND digest < ?", (prefix, prefix + "g"))
            return {str(digest) for (digest,) in rows}

    @mended
    def give_up(self, digest: str) -> None:
        """There is a durable file of these bytes now."""
        with self._database.writing(durable=True) as connection:
            became_file(connection, digest)

    def _is_there(self, connection: sqlite3.Connection) -> bool:
        """Whether there is a table at all: one who may only read meets registries of the former version as they are."""
        if not self._database.only_read:
            return True
        return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'small'").fetchone() is not None


def body_of(connection: sqlite3.Connection, digest: str) -> bytes | None:
    """The bytes in the row of a digest."""
    row = connection.execute("SELECT body FROM small WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else bytes(row[0])


def put_body(connection: sqlite3.Connection, digest: str, body: bytes) -> None:
    """Have the row of a digest, and mend one that rotted."""
    connection.execute(
        "INSERT INTO small VALUES (?, ?)"
        " ON CONFLICT (digest) DO UPDATE SET body = excluded.body WHERE body <> excluded.body",
        (digest, body),
    )


def became_file(connection: sqlite3.Connection, digest: str) -> None:
    """Have no row of a digest any more: its bytes are a file, which the caller holds."""
    connection.execute("DELETE FROM small WHERE digest = ?", (digest,))
