"""A registry that is damaged or missing: how that is noticed, and how it is rebuilt.

The damaged file is set aside, and a new one is made from the ledger and from what can still be read of the old one. It
takes its place by a rename, so a process that is killed meanwhile leaves the work to the next. Only keys whose blobs exist
are served. The caller holds the write lock of the registry.
"""

import hashlib
import logging
import os
import re
import sqlite3
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

from package_cache.errors import DamagedRegistry, StoreError
from package_cache.model import Status
from package_cache.storage.database.connections import ERRORS, Connection, file_id, open_database
from package_cache.storage.database.ledger import Ledger, Record, row_line, side_line
from package_cache.storage.database.schema import (
    COLUMNS,
    LATER,
    NEEDS_BLOB,
    OF_PROXY,
    SCHEMA,
    SIDE_TABLES,
    SMALL,
    Row,
    check_seal,
    is_digest,
    load_representation,
    needs_blob,
    seal_of,
    strip,
)
from package_cache.storage.items.rows import is_sound, restore_items, take_over_items
from package_cache.storage.system import sync_directory

logger = logging.getLogger(__name__)

_KEPT = 2
"""How many registries that were set aside are kept."""
_BATCH = 1000
_BODIES = 64
"""Small bodies that are salvaged at a time: 4 MiB at most."""
_CACHE_KIB = 1 << 16
_MOST_PAGES = 1 << 16
"""Pages of 4 KiB of a registry that is vacuumed in a few seconds."""
_BESIDE = ("", "-wal", "-shm")
_OLDEST = frozenset({"entry", "blob", "total", "meta"})
"""The tables that a registry of any version has."""
_SLOW = (
    "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql IS NOT NULL AND name <> 'entry_gone'"
)
_INSTANCE = re.compile("[0-9a-f]{8}")
_MOST_VERSIONS = 1 << 31
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT})
_UNREADABLE = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})


FORMER = "it is of the former version"
"""What `trouble` says of a registry in which nothing is wrong but what `complete` sets right."""
_UNNEEDED = "entry_ready"
"""An index of the former version, which said again what that of keys and versions says."""


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is damaged. The statements of this package are never at fault."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF in _DAMAGE or code in _UNREADABLE:
        return True
    return code == sqlite3.SQLITE_ERROR and str(error).startswith(("no such", "Could not decode"))


def trouble(connection: Connection, ledger: Ledger) -> str | None:
    """What is wrong with a registry, as far as a quick look tells, whatever its size. Raises sqlite3.Error."""
    there = _objects(connection)
    expected, former = _expected_objects()
    if not there >= former:
        known = {name for name, _ in expected} & {name for name, _ in there}
        return "it is of another version" if known >= _OLDEST else "it does not have the tables of a registry"
    totals = connection.execute("SELECT entries, blobs, bytes FROM total").fetchall()
    instance = connection.execute("SELECT * FROM meta WHERE name = 'instance'").fetchone()
    if len(totals) != 1 or not all(isinstance(value, int) for value in totals[0]) or not _is_side("meta", instance):
        return "a part of it is missing"
    if _is_behind(connection, ledger):
        return "it has lost changes that were made"
    return None if there >= expected and _UNNEEDED not in {name for name, _ in there} else FORMER


def complete(connection: Connection) -> None:
    """Give a registry of the former version the form of this one, in one step: processes that have it open need not notice.

    Unless it is very large, it is also vacuumed, so that it shrinks from now on when something is removed from it.
    """
    connection.execute("BEGIN IMMEDIATE")
    for statement in LATER:
        connection.execute(statement)
    connection.execute("COMMIT")
    [[pages]] = connection.execute("PRAGMA page_count")
    if pages <= _MOST_PAGES:
        with suppress(sqlite3.OperationalError):  # no room for a second copy, or somebody reads for a long time
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def _expected_objects() -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """The tables, indexes and triggers of a registry, and those that one of the former version has."""
    with closing(sqlite3.connect(":memory:")) as model:
        model.executescript(SCHEMA)
        expected = _objects(model)
        model.execute("DROP TABLE small")
        model.execute("DROP TRIGGER small_gone")
        return expected, _objects(model)


def _is_behind(connection: Connection, ledger: Ledger) -> bool:
    """Whether the last lines of the ledger have an entry that the registry never had."""
    try:
        last = {record.number: record.status for record in ledger.tail() if record.number}
    except OSError:
        return False
    ready = [number for number, status in last.items() if status == Status.READY]
    return any(connection.execute("SELECT 1 FROM entry WHERE id = ?", (one,)).fetchone() is None for one in ready)


@dataclass(slots=True)
class _Count:
    """What became of the keys: how many are back, how many only the old file had, and what was lost."""

    back: int = 0
    salvaged: int = 0
    damaged: int = 0
    lost: int = 0
    nameless: int = 0


def rebuild(path: Path, ledger: Ledger, reason: str, *, locked: bool = False) -> None:
    """Set aside what is at the path, if anything is, and rebuild the registry; one that is `locked` cannot be read.

    Raises StoreError.
    """
    try:
        aside = _set_aside(path)
        count = _make(path, ledger, None if locked else aside)
        _forget_old(path)
    except (OSError, *ERRORS) as error:
        raise StoreError(f"the registry {path} cannot be made again: {error}") from error
    if aside is None and count == _Count():  # a new cache
        return
    kept = f"it is kept as {aside.name}" if aside else "it was not there"
    logger.error(
        "the registry %s was made again, since %s (%s): %d names are back, %d only by the old file; lost: %d names whose"
        " files are gone, the names of %d files, %d lines of the ledger",
        *(path, reason, kept, count.back, count.salvaged, count.lost, count.nameless, count.damaged),
    )


def _set_aside(path: Path) -> Path | None:
    """Move the database and its companion files out of the way; its new path, if it existed."""
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    aside, number = path.with_name(f"{path.name}.damaged-{moment}"), 1
    while file_id(aside) is not None:
        aside, number = path.with_name(f"{path.name}.damaged-{moment}.{number}"), number + 1
    there = file_id(path) is not None
    for suffix in _BESIDE:
        try:
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")  # noqa: PTH104 - three names of one thing
        except FileNotFoundError:
            continue
    return aside if there else None


def _forget_old(path: Path) -> None:
    old = sorted({str(one).removesuffix("-wal").removesuffix("-shm") for one in path.parent.glob(f"{path.name}.damaged-*")})
    for name in old[:-_KEPT]:
        for suffix in _BESIDE:
            Path(name + suffix).unlink(missing_ok=True)


def _make(path: Path, ledger: Ledger, aside: Path | None) -> _Count:
    new = path.with_name(path.name + ".new")
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{new}{suffix}").unlink(missing_ok=True)
    count = _Count()
    with closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # what is removed is to make room on the disk
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.executescript(SCHEMA)
        # They slow it down, and the schema makes them again; but the numbers of versions depend on one of them.
        for kind, name in connection.execute(_SLOW).fetchall():
            connection.execute(f"DROP {kind} {name}")
        connection.execute("BEGIN")
        if aside is not None:
            _salvage_sides(connection, aside)
        _replay(connection, ledger, count)
        if aside is not None:
            _salvage(connection, aside, ledger, count)
            _salvage_bodies(connection, aside)
        count.lost += restore_items(connection)
        connection.execute("COMMIT")
        connection.executescript(SCHEMA)
        connection.execute("BEGIN")
        _settle(connection, path.with_name("blobs-v1"), count)
        if aside is not None or count != _Count():
            _put_side(connection, "meta", ("recovered", str(int(time.time()))))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        meta = connection.execute("SELECT * FROM meta").fetchall()
    descriptor = os.open(new, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if ledger.size() == 0 or len(meta) > 1:
        ledger.append(b"".join(side_line("meta", row) for row in meta))
    new.rename(path)
    sync_directory(path.parent)
    return count


def _replay(connection: sqlite3.Connection, ledger: Ledger, count: _Count) -> None:
    """Replay the changes in the ledger."""
    rows: list[tuple[Row, int]] = []
    try:
        for record in ledger.read():
            try:
                if record is None:
                    raise ValueError("damaged")
                if record.number and record.fields:
                    rows.append(record.row())
                else:
                    _put(connection, rows)
                    _apply(connection, record)
            except ValueError:
                count.damaged += 1
            if len(rows) == _BATCH:
                _put(connection, rows)
    except OSError as error:
        logger.error("the ledger %s cannot be read: %s", ledger.path, error.strerror)
        count.damaged += 1
    _put(connection, rows)


def _apply(connection: sqlite3.Connection, record: Record) -> None:
    if record.number:
        connection.execute("DELETE FROM entry WHERE id = ?", (record.number,))
        return
    table, values = record.side_row()
    if record.status == Status.DELETED:
        connection.execute(f"DELETE FROM {table} WHERE {SIDE_TABLES[table]} = ?", values)
    else:
        _put_side(connection, table, values)


def _put_side(connection: sqlite3.Connection, table: str, values: Sequence[object]) -> None:
    connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def _put(connection: sqlite3.Connection, rows: list[tuple[Row, int]]) -> None:
    """Insert rows, each with the size of its blob, and empty the list. A later row replaces an earlier one."""
    sizes = [(row[4], size) for row, size in rows if needs_blob(row)]
    connection.executemany("INSERT OR IGNORE INTO blob VALUES (?, ?)", sizes)
    connection.executemany(
        f"INSERT OR REPLACE INTO entry ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [row for row, _ in rows]
    )
    rows.clear()


def _salvage(connection: sqlite3.Connection, aside: Path, ledger: Ledger, count: _Count) -> None:
    """Take over from the old file what the ledger lacks: entries, last use, and newer heads."""
    for rows in _batches(aside, "entry", "id", _sound):
        _take_over(connection, rows, ledger, count)
    for rows in _batches(aside, "item", "entry", lambda row, _: row if is_sound(row) else None):
        ledger.append(b"".join(side_line("item", row) for row in take_over_items(connection, rows)))


def _batches(
    aside: Path, table: str, order: str, sound: Callable[[Row, list[str]], Row | None], size: int = _BATCH
) -> Iterator[list[Row]]:
    wanted = (row for row in _rows_of(aside, table, order, sound) if row is not None)
    return iter(lambda: list(islice(wanted, size)), [])


def _take_over(connection: sqlite3.Connection, rows: list[Row], ledger: Ledger, count: _Count) -> None:
    connection.executemany(
        "UPDATE entry SET used = max(used, ?1), representation = ?2, seal = ?3"
        " WHERE id = ?4 AND key = ?5 AND version = ?6 AND digest = ?7 AND (used < ?1 OR seal <> ?3)",
        [(row[7], row[5], row[8], row[0], row[1], row[2], row[4]) for row in rows],
    )
    marks, numbers = ", ".join("?" * len(rows)), [row[0] for row in rows]
    known = set(connection.execute(f"SELECT id FROM entry WHERE id IN ({marks})", numbers))
    taken = "SELECT 1 FROM entry WHERE key = ? AND version = ?"
    unknown = [
        (row, load_representation(str(row[5])).size or 0)
        for row in rows
        if (row[0],) not in known and not connection.execute(taken, row[1:3]).fetchone()
    ]
    ledger.append(b"".join(row_line(row, size) for row, size in unknown))
    count.salvaged += len(unknown)
    _put(connection, unknown)


def _salvage_sides(connection: sqlite3.Connection, aside: Path) -> None:
    """Take over the other tables of the old file. What the ledger has of them is replayed later, and so overrides it."""
    for table in SIDE_TABLES:
        try:
            with closing(open_database(aside)) as old:
                rows = [row for row in old.execute(f"SELECT * FROM {table}") if _is_side(table, row)]
        except ERRORS as error:
            logger.info("%s: %s", aside, error)
            continue
        for row in rows:
            _put_side(connection, table, row)


def _salvage_bodies(connection: sqlite3.Connection, aside: Path) -> None:
    """Take over the small bodies of the old file that match their digests, and that an entry needs."""
    for rows in _batches(aside, "small", "rowid", _sound_body, _BODIES):
        connection.executemany("INSERT OR IGNORE INTO small VALUES (?, ?)", rows)
    lacking = "SELECT digest FROM blob WHERE size <= ? AND NOT EXISTS (SELECT 1 FROM small WHERE digest = blob.digest)"
    digests = [digest for (digest,) in connection.execute(lacking, (SMALL,))]
    try:
        with closing(open_database(aside)) as old:
            for digest in digests:
                row = _body_in(old, digest)
                if row is not None:
                    connection.execute("INSERT OR IGNORE INTO small VALUES (?, ?)", row)
    except ERRORS as error:
        logger.info("%s: %s", aside, error)
    needed = f"SELECT 1 FROM entry WHERE digest = small.digest AND {NEEDS_BLOB}"
    connection.execute(f"DELETE FROM small WHERE NOT EXISTS ({needed})")


def _body_in(old: sqlite3.Connection, digest: str) -> Row | None:
    """A row between two damaged places, which reading from neither end reaches."""
    try:
        row: Row | None = old.execute("SELECT digest, body FROM small WHERE digest = ?", (digest,)).fetchone()
    except ERRORS:
        return None
    return row and _sound_body(row, [])


def _sound_body(row: Row, _: list[str]) -> Row | None:
    match row:
        case (str(digest), bytes(body)) if hashlib.sha256(body).hexdigest() == digest:
            return row
        case _:
            return None


def _is_side(table: str, row: Row | None) -> bool:
    """Whether a row of another table, which has no seal, is at least plausible."""
    match table, row:
        case "meta", ("instance", str(name)):
            return _INSTANCE.fullmatch(name) is not None
        case "pin", (str(), float(), str()):
            return True
        case "gone", (str(), int(version)):
            return 0 < version < _MOST_VERSIONS
        case _:
            return False


def _rows_of(aside: Path, table: str, order: str, sound: Callable[[Row, list[str]], Row | None]) -> Iterator[Row | None]:
    """What can be read of a damaged registry, from both ends up to the damage. A row may come twice."""
    for direction in ("", " DESC"):
        try:
            with closing(open_database(aside)) as connection:
                connection.text_factory = lambda data: data.decode("utf-8", "replace")
                columns = [str(column[1]) for column in connection.execute(f"PRAGMA table_info({table})")]
                for row in connection.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY {order}{direction}"):
                    yield sound(row, columns)
        except ERRORS as error:
            logger.info("%s: %s", aside, error)
        else:
            return


def _sound(row: Row, columns: list[str]) -> Row | None:
    """A row of `COLUMNS`, if its seal is right; one of a version without seals gets its own."""
    if "seal" not in columns:
        key, version, digest, text = str(row[1]), row[2], str(row[4]), str(row[5])
        row = (*row, seal_of(key, version, digest, text) if isinstance(version, int) and is_digest(digest) else None)
    try:
        check_seal(row)
        load_representation(str(row[5]))
    except (DamagedRegistry, ValueError):
        return None
    plausible = row[3] in tuple(Status) and isinstance(row[6], float) and isinstance(row[7], float)
    return row if plausible else None


def _settle(connection: sqlite3.Connection, blobs: Path, count: _Count) -> None:
    """Serve only what has a blob, and set the totals."""
    present = _Present(blobs, (digest for (digest,) in connection.execute("SELECT digest FROM small")))
    named, lost = bytearray(len(present)), list[tuple[str]]()
    for (digest,) in connection.execute(f"SELECT digest FROM entry WHERE {NEEDS_BLOB}"):
        place = present.find(digest)
        if place is None:
            lost.append((digest,))
        else:
            named[place] = 1
    count.lost, count.nameless = count.lost + len(lost), named.count(0)
    for (digest,) in set(lost):
        strip(connection, digest)
    connection.executemany(  # not to be restored
        f"DELETE FROM entry WHERE digest = ? AND status = {Status.TRASH:d} AND {OF_PROXY}", lost
    )
    connection.executemany(
        f"UPDATE entry SET status = {Status.FAILED:d} WHERE digest = ? AND status = {Status.READY:d}", lost
    )
    connection.execute(
        f"DELETE FROM blob WHERE NOT EXISTS (SELECT 1 FROM entry WHERE digest = blob.digest AND {NEEDS_BLOB})"
    )
    recount(connection)
    [[count.back]] = connection.execute("SELECT entries FROM total")


def recount(connection: sqlite3.Connection) -> None:
    """Make the totals the true sums."""
    connection.execute(
        "UPDATE total SET entries = (SELECT count(*) FROM entry WHERE status = 3 AND digest IS NOT NULL),"
        " blobs = (SELECT count(*) FROM blob),"
        " bytes = (SELECT coalesce(sum(size), 0) FROM blob)"
    )


class _Present:
    """Which blobs exist, in 8 bytes each: so that a million can be looked up without asking a slow disk for each."""

    def __init__(self, root: Path, rows: Iterable[str]) -> None:
        found = array("Q", (int(digest[:16], 16) for digest in rows))
        for directory in os.scandir(root) if root.is_dir() else ():
            if directory.is_dir():
                found.extend(int(name[:16], 16) for name in os.listdir(directory) if is_digest(name))  # noqa: PTH208 - only names
        self._sorted = array("Q", (start for start, _ in groupby(sorted(found))))

    def __len__(self) -> int:
        return len(self._sorted)

    def find(self, digest: str) -> int | None:
        """The place of a digest, None if it has no blob."""
        start = int(digest[:16], 16)
        place = bisect_left(self._sorted, start)
        return place if place < len(self._sorted) and self._sorted[place] == start else None
