"""The items of the library: versions with parameters and attributes, in the registry beside what the proxy has.

Each change is one transaction. A version of a key is never used twice. Items without bytes are here too; who serves files
never sees them.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from package_cache.errors import ItemError
from package_cache.model import Key, Representation, Status
from package_cache.rules.library.attributes import load
from package_cache.rules.library.searching import Condition, Criteria
from package_cache.storage.blobs import BlobStore
from package_cache.storage.database import records
from package_cache.storage.database.changes import tell_new
from package_cache.storage.database.connections import Connection
from package_cache.storage.database.file import Database, mended
from package_cache.storage.database.schema import COLUMNS, seal_of
from package_cache.storage.items.queries import Clause, where
from package_cache.storage.items.rows import ROWS, Details, ItemRow, item_of, write_item
from package_cache.storage.removal import PAGE, Removal, doom
from package_cache.storage.small import became_file

_AMONG = "IN (SELECT value FROM json_each(?))"


class Leases(Protocol):
    """The right to write an item, by its name; see `ItemRow.name`."""

    def take(self, name: str) -> bool:
        """Take it unless somebody has it; never waits."""

    def give_back(self, name: str) -> None:
        """Give it back."""


class Outcome(Enum):
    """What `reserve` came to."""

    FOUND = "an item that meets the criteria"
    MINE = "an item to be written, with its lease"
    BUSY = "an item that somebody else is writing"


@dataclass(frozen=True, slots=True)
class New:
    """An item that is wanted."""

    key: Key
    details: Details
    status: Status

    @property
    def mappings(self) -> tuple[dict[str, object], ...]:
        """What it is found by."""
        return load(self.details.params), load(self.details.attrs)


class Items:
    """Reads and changes items. Safe for any number of threads and processes. Methods raise StoreError."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._removal = Removal(database, blobs)

    # -- looking

    @mended
    def find(self, wanted: Criteria) -> list[ItemRow]:
        """The items that are meant, in the order in which they were made."""
        with self._database.lent() as connection:
            return _find(connection, wanted)

    @mended
    def best(self, wanted: Criteria) -> ItemRow | None:
        """The highest version of those that are meant."""
        with self._database.lent() as connection:
            return _best(connection, wanted)

    @mended
    def numbers(self, condition: Condition) -> set[int]:
        """The numbers of the items whose attributes meet a condition, removed ones too."""
        clause = where(Criteria(condition=condition, include_removed=True))
        with self._database.lent() as connection:
            query = f"SELECT entry.id FROM entry JOIN item ON item.entry = entry.id WHERE {clause.text}"
            return {row[0] for row in connection.execute(query, clause.parameters)}

    @mended
    def status(self, item: ItemRow) -> int | None:
        """The status of an item now; None if its record is gone."""
        with self._database.lent() as connection:
            row = connection.execute(
                "SELECT status FROM entry WHERE id = ? AND key = ? AND version = ?", (item.id, item.key, item.version)
            ).fetchone()
        return row[0] if row else None

    @mended
    def count(self) -> int:
        """How many items there are, removed ones too."""
        with self._database.lent() as connection:
            return int(connection.execute("SELECT count(*) FROM item").fetchone()[0])

    # -- making

    @mended
    def create(self, new: New, leases: Leases) -> ItemRow:
        """Make the next version; one that is to be written comes with its lease."""
        with _Taken(leases) as take, self._database.writing() as connection:
            row = _insert(connection, new)
            if new.status == Status.WRITE:
                take(row.name)
        return row

    @mended
    def reserve(self, new: New, wanted: Criteria | None, leases: Leases) -> tuple[Outcome, ItemRow]:
        """What there is, or a version to be written: in one step, so that two callers never both make one.

        A newest version that failed, or that nobody writes any more, is taken over. With `wanted`, one that meets these
        criteria is what there is, and one that somebody writes is to be waited for.
        """
        with _Taken(leases) as take, self._database.writing() as connection:
            found = _best(connection, wanted) if wanted is not None else None
            if found is not None:
                return Outcome.FOUND, found
            newest = _best(connection, Criteria(key=new.key))
            if newest is not None and newest.status in (Status.WRITE, Status.FAILED):
                if take(newest.name):
                    return Outcome.MINE, _take_over(connection, newest, new)
                if wanted is not None and newest.status == Status.WRITE:
                    return Outcome.BUSY, newest
            row = _insert(connection, new)
            take(row.name)
            return Outcome.MINE, row

    # -- changing

    @mended
    def adopt(self, item: ItemRow, digest: str, size: int) -> ItemRow:
        """Record that the blob has the bytes of an item, which is READY. The caller holds the blob. Raises ItemError."""
        now = time.time()
        text = records.dump(Representation((), size, "", now))
        with self._database.writing(durable=True) as connection:
            connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?)", (digest, size))
            became_file(connection, digest)
            changed = connection.execute(
                "UPDATE entry SET status = 3, digest = ?, representation = ?, seal = ?, used = ?"
                " WHERE id = ? AND key = ? AND version = ? AND status >= 0",
                (digest, text, seal_of(item.key, item.version, digest, text), now, item.id, item.key, item.version),
            ).rowcount
            if not changed:
                raise ItemError(f"{item.details.uri} version {item.version} was removed meanwhile; restore() it first")
        return replace(item, status=Status.READY, digest=digest, size=size)

    @mended
    def move(self, items: Sequence[ItemRow], status: Status) -> int:
        """Give items a status; how many still were there. TRASH remembers the status before."""
        with self._database.writing() as connection:
            if status == Status.TRASH:
                connection.execute(
                    "UPDATE item SET before = (SELECT status FROM entry WHERE id = item.entry)"
                    f" WHERE entry {_AMONG} AND (SELECT status FROM entry WHERE id = item.entry) <> -1",
                    (_numbers(items),),
                )
            connection.execute(
                f"UPDATE entry SET status = ?, used = ? WHERE id {_AMONG} AND status <> ?",
                (status, time.time(), _numbers(items), status),
            )
            there = connection.execute(f"SELECT count(*) FROM entry WHERE id {_AMONG}", (_numbers(items),))
            return int(there.fetchone()[0])

    @mended
    def restore(self, items: Sequence[ItemRow]) -> list[ItemRow]:
        """Take items out of the trash, as they were before; which these are."""
        with self._database.writing() as connection:
            moved = connection.execute(
                "UPDATE entry SET used = ?, status = coalesce((SELECT before FROM item WHERE entry = entry.id), 3)"
                f" WHERE id {_AMONG} AND status = -1 RETURNING id",
                (time.time(), _numbers(items)),
            ).fetchall()
            return _find(connection, Criteria(ids=frozenset(row[0] for row in moved), include_removed=True))

    @mended
    def rewrite(self, items: Sequence[ItemRow], change: Callable[[Details], Details]) -> int:
        """Change the details of items, as they are now; how many still were there."""
        with self._database.writing() as connection:
            found = _find(connection, Criteria(ids=frozenset(item.id for item in items), include_removed=True))
            for item in found:
                details = change(item.details)
                write_item(connection, item.id, details, (load(details.params), load(details.attrs)))
            return len(found)

    @mended
    def read(self, noted: Mapping[int, tuple[int, int]]) -> None:
        """Items were read: by number, the last time in microseconds of the epoch, and how often since."""
        with self._database.writing() as connection:
            connection.executemany(
                "UPDATE entry SET used = max(used, ?) WHERE id = ? AND status = 3",
                [(last / 1e6, number) for number, (last, _) in noted.items()],
            )
            connection.executemany(
                "UPDATE item SET last_read = max(coalesce(last_read, 0), ?), read_count = read_count + ? WHERE entry = ?",
                [(last, times, number) for number, (last, times) in noted.items()],
            )

    @mended
    def set_read(self, items: Sequence[ItemRow], last: int) -> int:
        """Items were read last at that time, in microseconds of the epoch; how many still were there."""
        with self._database.writing() as connection:
            return connection.execute(
                f"UPDATE item SET last_read = ? WHERE entry {_AMONG}", (last, _numbers(items))
            ).rowcount

    def drop(self, items: Sequence[ItemRow], *, keep_record: bool) -> None:
        """Give up the bytes of items, which are DELETED then; without `keep_record`, the items altogether."""
        for start in range(0, len(items), PAGE):
            self._drop(items[start : start + PAGE], keep_record=keep_record)

    @mended
    def _drop(self, items: Sequence[ItemRow], *, keep_record: bool) -> None:
        with self._blobs.claiming(item.digest for item in items if item.digest is not None) as claimed:
            with self._database.writing() as connection:
                if keep_record:
                    connection.executemany(*_deletion(connection, items))
                else:
                    connection.execute(f"DELETE FROM entry WHERE id {_AMONG}", (_numbers(items),))
                gone = [digest for digest in claimed if doom(connection, digest)]
            if gone:
                self._removal.unlink(gone)


class _Taken:
    """Leases that are taken within a with-block, and given back if that fails."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._names: list[str] = []

    def __enter__(self) -> Callable[[str], bool]:
        return self._take

    def _take(self, name: str) -> bool:
        taken = self._leases.take(name)
        if taken:
            self._names.append(name)
        return taken

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            for name in self._names:
                self._leases.give_back(name)


def _numbers(items: Iterable[ItemRow]) -> str:
    return f"[{','.join(str(item.id) for item in items)}]"


def _find(connection: Connection, wanted: Criteria) -> list[ItemRow]:
    clause = where(wanted)
    rows = connection.execute(f"{ROWS} WHERE {clause.text}{_order(wanted)}", clause.parameters)
    found = [item_of(row) for row in rows]
    if wanted.latest:
        found = sorted({item.key: item for item in found}.values(), key=lambda item: item.id)
    return found


def _order(wanted: Criteria) -> str:
    return " ORDER BY entry.version" if wanted.latest else " ORDER BY entry.id"


def _best(connection: Connection, wanted: Criteria) -> ItemRow | None:
    clause: Clause = where(wanted)
    row = connection.execute(
        f"{ROWS} WHERE {clause.text} ORDER BY entry.version DESC LIMIT 1", clause.parameters
    ).fetchone()
    return item_of(row) if row else None


def _insert(connection: Connection, new: New) -> ItemRow:
    version = (
        1
        + connection.execute(
            "SELECT max(coalesce((SELECT max(version) FROM entry WHERE key = ?1), 0),"
            " coalesce((SELECT version FROM gone WHERE key = ?1), 0))",
            (new.key,),
        ).fetchone()[0]
    )
    now = time.time()
    text = records.dump(Representation((), None, "", now))
    entry = connection.execute(
        "INSERT INTO entry (key, version, status, digest, representation, created, used, seal)"
        f" VALUES (?, ?, ?, NULL, ?, ?, ?, ?) RETURNING {COLUMNS}",
        (new.key, version, new.status, text, now, now, seal_of(new.key, version, None, text)),
    ).fetchone()
    tell_new(connection, entry, 0)
    write_item(connection, entry[0], new.details, new.mappings)
    return ItemRow(entry[0], new.key, version, new.status, None, None, new.details, None, None, 0, now)


def _take_over(connection: Connection, item: ItemRow, new: New) -> ItemRow:
    """Begin a version anew whose writer is gone."""
    statement, rows = _deletion(connection, [item], new.status)
    connection.executemany(statement, rows)
    write_item(connection, item.id, new.details, new.mappings)
    return replace(item, status=new.status, digest=None, size=None, details=new.details)


def _deletion(
    connection: sqlite3.Connection, items: Sequence[ItemRow], status: Status = Status.DELETED
) -> tuple[str, list[tuple[object, ...]]]:
    """What leaves items without bytes."""
    rows: Iterator[tuple[int, str, int, str]] = connection.execute(
        f"SELECT id, key, version, representation FROM entry WHERE id {_AMONG}", (_numbers(items),)
    )
    now = time.time()
    return (
        "UPDATE entry SET status = ?, digest = NULL, seal = ?, used = ? WHERE id = ?",
        [(status, seal_of(key, version, None, text), now, number) for number, key, version, text in rows],
    )
