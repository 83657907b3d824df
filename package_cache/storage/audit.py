"""What the registry says as a whole, for those who compare it with what is on disk. Each look is a short one."""

from package_cache.model import Entry, Status
from package_cache.storage.database import recovery
from package_cache.storage.database.connections import ERRORS, Connection
from package_cache.storage.database.file import Database, mended
from package_cache.storage.database.schema import COLUMNS, NEEDS_BLOB, entry_of
from package_cache.storage.small import became_file, put_body

_SUMS = (
    "SELECT (SELECT count(*) FROM entry WHERE status = 3 AND digest IS NOT NULL), (SELECT count(*) FROM blob),"
    " (SELECT coalesce(sum(size), 0) FROM blob), entries, blobs, bytes FROM total"
)


class Audit:
    """Looks through the registry. Methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @mended
    def needed(self, prefix: str) -> dict[str, int]:
        """The digests with these first two digits that some entry needs, each with the size of its blob in bytes."""
        with self._database.lent() as connection:
            rows = connection.execute(
                "SELECT DISTINCT entry.digest, blob.size FROM entry LEFT JOIN blob USING (digest)"
                f" WHERE digest >= ? AND digest < ? AND {NEEDS_BLOB}",
                (prefix, prefix + "g"),
            ).fetchall()
        return {digest: -1 if size is None else size for digest, size in rows}

    @mended
    def lost(self, prefix: str) -> list[str]:
        """As `needed`, the digests of blobs that were taken out of service, and that nothing came in place of."""
        with self._database.lent() as connection:
            rows = connection.execute(
                f"SELECT DISTINCT digest FROM entry WHERE digest >= ? AND digest < ? AND status = {Status.FAILED:d}"
                " AND NOT EXISTS (SELECT 1 FROM entry newer WHERE newer.key = entry.key"
                " AND newer.version > entry.version AND newer.status = 3)"
                f" AND digest NOT IN (SELECT digest FROM entry WHERE digest >= ? AND digest < ? AND {NEEDS_BLOB})",
                (prefix, prefix + "g") * 2,
            ).fetchall()
        return [digest for (digest,) in rows]

    @mended
    def is_needed(self, digest: str) -> bool:
        """Whether some entry needs the blob."""
        with self._database.lent() as connection:
            row = connection.execute(f"SELECT 1 FROM entry WHERE digest = ? AND {NEEDS_BLOB} LIMIT 1", (digest,)).fetchone()
        return row is not None

    @mended
    def entries(self, digest: str) -> list[Entry]:
        """Every version made of the blob, whatever its state."""
        with self._database.lent() as connection:
            rows = connection.execute(f"SELECT {COLUMNS} FROM entry WHERE digest = ? ORDER BY id", (digest,)).fetchall()
            return [entry_of(row) for row in rows]

    @mended
    def reinstate(self, digest: str, size: int, body: bytes | None = None) -> int:
        """Take every version that was made of a damaged blob into service again; how many there were.

        A small blob that has no file comes with its `body`.
        """
        with self._database.writing(durable=True) as connection:
            connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?)", (digest, size))
            if body is None:
                became_file(connection, digest)
            else:
                put_body(connection, digest, body)
            moved = connection.execute(
                "UPDATE entry SET status = ? WHERE digest = ? AND status = ?", (Status.READY, digest, Status.FAILED)
            ).rowcount
        self._database.generation.bump_all()
        return moved

    @mended
    def forget(self, digest: str) -> None:
        """Count a blob no more whose file was removed, since no entry needs it; a small one goes here."""
        unneeded = f"digest = ?1 AND NOT EXISTS (SELECT 1 FROM entry WHERE digest = ?1 AND {NEEDS_BLOB})"
        with self._database.writing() as connection:
            for table in ("blob", "small"):
                connection.execute(f"DELETE FROM {table} WHERE {unneeded}", (digest,))

    @mended
    def recovered(self) -> float:
        """When the registry was last made again, in seconds of the epoch; 0 if never."""
        with self._database.lent() as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = 'recovered'").fetchone()
        return float(row[0]) if row else 0.0

    @mended
    def wrong_totals(self) -> str | None:
        """How the totals differ from the true sums, if they do; costs a look at every row."""
        with self._database.lent() as connection:
            sums = connection.execute(_SUMS).fetchone()
        if sums[:3] == sums[3:]:
            return None
        return "{3} entries, {4} files, {5} bytes, and in truth {0}, {1}, {2}".format(*sums)

    def correct_totals(self) -> None:
        """Make the totals the true sums."""
        with self._database.writing() as connection:
            recovery.recount(connection)

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file; costs a look at all of it."""
        with self._database.lent() as connection:
            return _check(connection, "10")

    def integrity_but_bodies(self) -> list[str]:
        """The same of all tables but that of the small bodies, which is nearly all of the file, and is scrubbed."""
        with self._database.lent() as connection:
            tables = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'small'"
            ).fetchall()
            return [problem for (table,) in tables for problem in _check(connection, table)]


def _check(connection: Connection, what: str) -> list[str]:
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({what})")]
    except ERRORS as error:
        return [str(error)]
    return [] if found == ["ok"] else found
