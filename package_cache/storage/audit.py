"""Compares what is stored with what the registry says, one shard at a time, and reads blobs through.

A shard is one directory of blobs, and the rows of `small` with the same first two digits. Each look into the registry is a
short one, so what changes meanwhile may look absent or orphaned: look again before anything is done about it.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from package_cache.errors import StoreError
from package_cache.model import Entry, Status
from package_cache.storage.blobs import BlobStore, became_file, flaw, hash_file, put_bodies
from package_cache.storage.database import recovery
from package_cache.storage.database.connections import ERRORS, Connection, FileId
from package_cache.storage.database.file import Database, retried
from package_cache.storage.database.schema import COLUMNS, NEEDS_BLOB, entry_of, is_digest

SHARDS = tuple(f"{number:02x}" for number in range(256))
"""The first two digits of digests."""
GRACE = 3600.0
"""Seconds that a blob without an entry stays: another process may be about to commit the entry."""
_SUMS = (
    "SELECT (SELECT count(*) FROM entry WHERE status = 3 AND digest IS NOT NULL), (SELECT count(*) FROM blob),"
    " (SELECT coalesce(sum(size), 0) FROM blob), entries, blobs, bytes FROM total"
)

Pace = Callable[[int], None]
"""Called with the number of bytes read after each block; may wait."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What is in one shard: `kept` and `absent` are needed, with their sizes in bytes; nobody needs the `orphans`.

    `foreign` are files that are no blobs.
    """

    kept: dict[str, int]
    absent: dict[str, int]
    orphans: list[str]
    foreign: list[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a blob, None if nothing is; and the file of which that is said, None if there is none.

    `is_there` says that there are any bytes, in a file or in a row.
    """

    damage: str | None = None
    file: FileId | None = None
    is_there: bool = True


class Audit:
    """Looks through the registry and the blobs. Safe for any number of threads. Methods raise StoreError."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    # -- one shard

    def shard(self, prefix: str) -> Shard:
        """Compare the blobs whose digests begin with these two digits."""
        rows = self._database.rows(
            "SELECT DISTINCT entry.digest, coalesce(blob.size, -1) FROM entry LEFT JOIN blob USING (digest)"
            f" WHERE digest >= ? AND digest < ? AND {NEEDS_BLOB} ORDER BY digest",
            *(prefix, prefix + "g"),
        )
        needed: dict[str, int] = dict(rows)
        files = self._blobs.names(prefix)
        names = self._blobs.small_names(prefix).union(files)
        return Shard(
            kept={digest: size for digest, size in needed.items() if digest in names},
            absent={digest: size for digest, size in needed.items() if digest not in names},
            orphans=sorted(name for name in names - needed.keys() if is_digest(name) and name.startswith(prefix)),
            foreign=sorted(name for name in files if not is_digest(name) or not name.startswith(prefix)),
        )

    def condemned(self, prefix: str) -> list[str]:
        """The digests with these first two digits of blobs that were taken out of service and not replaced by anything."""
        rows = self._database.rows(
            f"SELECT DISTINCT digest FROM entry WHERE digest >= ? AND digest < ? AND status = {Status.FAILED:d}"
            " AND NOT EXISTS (SELECT 1 FROM entry newer WHERE newer.key = entry.key"
            " AND newer.version > entry.version AND newer.status = 3)"
            f" AND digest NOT IN (SELECT digest FROM entry WHERE digest >= ? AND digest < ? AND {NEEDS_BLOB})",
            *(prefix, prefix + "g") * 2,
        )
        return [digest for (digest,) in rows]

    def is_orphan(self, digest: str, now: float) -> bool:
        """Whether nobody has needed a blob for a while; of a row, whether nobody needs it."""
        try:
            return self._blobs.path(digest).stat().st_ctime < now - GRACE and not self.is_needed(digest)
        except FileNotFoundError:
            return self._blobs.body(digest) is not None and not self.is_needed(digest)
        except OSError as error:
            raise StoreError(f"cannot look at blob {digest}: {error.strerror}") from error

    def remove_orphan(self, digest: str, now: float) -> bool:
        """Remove a blob that nobody needs; False if somebody does, or may be about to."""
        with self._blobs.claiming([digest]) as claimed:
            if not claimed or not self.is_orphan(digest, now):
                return False
            self._blobs.remove(digest)
            self._forget(digest)
            return True

    @retried
    def _forget(self, digest: str) -> None:
        """Count a blob no more whose file was removed, since no entry needs it; a small one goes here."""
        unneeded = f"digest = ?1 AND NOT EXISTS (SELECT 1 FROM entry WHERE digest = ?1 AND {NEEDS_BLOB})"
        with self._database.writing() as connection:
            for table in ("blob", "small"):
                connection.execute(f"DELETE FROM {table} WHERE {unneeded}", (digest,))

    # -- one blob

    def inspect(self, digest: str, size: int, pace: Pace) -> Verdict:
        """Read a blob through, be it a file or a row; StoreError is raised where nothing can be said."""
        body = self._blobs.body(digest, size)
        if body is not None:
            pace(len(body))
            return Verdict(flaw(body, digest, size))
        path = self._blobs.path(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Verdict("is missing", is_there=False)
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}") from error
        status = os.fstat(descriptor)
        file = status.st_dev, status.st_ino
        try:
            if status.st_size != size:
                return Verdict(f"has {status.st_size} bytes instead of {size}", file)
            found = hash_file(descriptor, size, pace=pace).hexdigest()
            # Nobody asked for what was read here: it must not push out of memory what is asked for.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if found != digest:
                return Verdict("has other bytes than its name says", file)
            return Verdict(file=file)
        except OSError as error:
            if error.errno != errno.EIO:
                raise StoreError(f"cannot read {path}: {error.strerror}") from error
            return Verdict("cannot be read: the disk has an error there", file)
        finally:
            os.close(descriptor)

    def is_needed(self, digest: str) -> bool:
        """Whether some entry needs the blob."""
        return bool(self._database.rows(f"SELECT 1 FROM entry WHERE digest = ? AND {NEEDS_BLOB} LIMIT 1", digest))

    @retried
    def entries(self, digest: str) -> list[Entry]:
        """Every version made of the blob, whatever its state."""
        with self._database.lent() as connection:
            rows = connection.execute(f"SELECT {COLUMNS} FROM entry WHERE digest = ? ORDER BY id", (digest,)).fetchall()
            return [entry_of(row) for row in rows]

    @retried
    def reinstate(self, digest: str, size: int, body: bytes | None = None) -> int:
        """Take every version that was made of a damaged blob into service again; how many there were.

        A small blob that has no file comes with its `body`.
        """
        with self._database.writing(durable=True) as connection:
            connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?)", (digest, size))
            if body is None:
                became_file(connection, digest)
            else:
                put_bodies(connection, [(digest, body)])
            moved = connection.execute(
                "UPDATE entry SET status = ? WHERE digest = ? AND status = ?", (Status.READY, digest, Status.FAILED)
            ).rowcount
        self._database.generation.bump_all()
        return moved

    # -- the registry as a whole

    def recovered(self) -> float:
        """When the registry was last rebuilt, in seconds of the epoch; 0 if never."""
        rows = self._database.rows("SELECT value FROM meta WHERE name = 'recovered'")
        return float(rows[0][0]) if rows else 0.0

    def wrong_totals(self) -> str | None:
        """How the totals differ from the true sums, if they do; reads every row."""
        [sums] = self._database.rows(_SUMS)
        if sums[:3] == sums[3:]:
            return None
        return "{3} entries, {4} files, {5} bytes, and in truth {0}, {1}, {2}".format(*sums)

    def correct_totals(self) -> None:
        """Make the totals the true sums."""
        with self._database.writing() as connection:
            recovery.recount(connection)

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file; reads all of it."""
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
