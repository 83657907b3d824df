"""The items of the library: versions with parameters and attributes, in the registry beside what the proxy has.

Each change is one transaction. The number of a version of a key is never used twice. Items without bytes are here too; the
proxy never sees them.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

from package_cache.errors import ItemError
from package_cache.model import Key, Representation, Status
from package_cache.rules.library.searching import Condition, Criteria
from package_cache.storage.blobs import BlobStore, became_file
from package_cache.storage.database.connections import Connection
from package_cache.storage.database.file import Database, retried
from package_cache.storage.database.schema import dump_representation, seal_of
from package_cache.storage.items.rows import ROWS, Details, ItemRow, insert_entry, item_of, where, write_item
from package_cache.storage.removal import PAGE, Removal, give_up

_AMONG = "IN (SELECT value FROM json_each(?))"


class Leases(Protocol):
    """The rights to write items, by `ItemRow.name`."""

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
    """An item that is to be made."""

    key: Key
    details: Details
    status: Status


class Items:
    """Reads and changes items. Safe for any number of threads and processes. Methods raise StoreError."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._removal = Removal(database, blobs)

    # -- looking

    @retried
    def find(self, wanted: Criteria) -> list[ItemRow]:
        """The items that meet the criteria, in the order in which they were made."""
        with self._database.lent() as connection:
            return _find(connection, wanted)

    @retried
    def best(self, wanted: Criteria) -> ItemRow | None:
        """The highest version of the items that meet the criteria."""
        with self._database.lent() as connection:
            return _best(connection, wanted)

    def numbers(self, condition: Condition) -> set[int]:
        """The ids of the items whose attributes meet a condition, removed ones too."""
        clause = where(Criteria(condition=condition, include_removed=True))
        query = f"SELECT entry.id FROM entry JOIN item ON item.entry = entry.id WHERE {clause.text}"
        return {number for (number,) in self._database.rows(query, *clause.parameters)}

    def status(self, item: ItemRow) -> int | None:
        """The status of an item now; None if its record was deleted."""
        rows = self._database.rows(
            "SELECT status FROM entry WHERE id = ? AND key = ? AND version = ?", item.id, item.key, item.version
        )
        return rows[0][0] if rows else None

    def count(self) -> int:
        """How many items there are, removed ones too."""
        [[count]] = self._database.rows("SELECT count(*) FROM item")
        return int(count)

    # -- making

    @retried
    def create(self, new: New, leases: Leases) -> ItemRow:
        """Make the next version; one that is to be written comes with its lease."""
        with _taking(leases) as take, self._database.writing() as connection:
            row = _insert(connection, new)
            if new.status == Status.WRITE:
                take(row.name)
        return row

    @retried
    def reserve(self, new: New, wanted: Criteria | None, leases: Leases) -> tuple[Outcome, ItemRow]:
        """Find an item, or reserve a version to be written: in one step, so that two callers never both make one.

        A newest version that failed, or that nobody writes any more, is taken over. With `wanted`, an item that meets these
        criteria is found, and one that somebody is writing is to be waited for.
        """
        with _taking(leases) as take, self._database.writing() as connection:
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

    @retried
    def adopt(self, item: ItemRow, digest: str, size: int) -> ItemRow:
        """Record that a blob has the bytes of an item, which is READY now. The caller holds the blob. Raises ItemError."""
        now = time.time()
        text = dump_representation(Representation((), size, "", now))
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

    @retried
    def move(self, items: Sequence[ItemRow], status: Status) -> int:
        """Give items a status; how many still existed. TRASH remembers the status before."""
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

    @retried
    def restore(self, items: Sequence[ItemRow]) -> list[ItemRow]:
        """Take items out of the trash, as they were before; those that were in it."""
        with self._database.writing() as connection:
            moved = connection.execute(
                "UPDATE entry SET used = ?, status = coalesce((SELECT before FROM item WHERE entry = entry.id), 3)"
                f" WHERE id {_AMONG} AND status = -1 RETURNING id",
                (time.time(), _numbers(items)),
            ).fetchall()
            return _find(connection, Criteria(ids=frozenset(row[0] for row in moved), include_removed=True))

    @retried
    def rewrite(self, items: Sequence[ItemRow], change: Callable[[Details], Details]) -> int:
        """Change the present details of items; how many still existed."""
        with self._database.writing() as connection:
            found = _find(connection, Criteria(ids=frozenset(item.id for item in items), include_removed=True))
            for item in found:
                write_item(connection, item.id, change(item.details))
            return len(found)

    @retried
    def read(self, noted: Mapping[int, tuple[int, int]]) -> None:
        """Note by id when items were last read, in microseconds of the epoch, and how often since the last note."""
        with self._database.writing() as connection:
            connection.executemany(
                "UPDATE entry SET used = max(used, ?) WHERE id = ? AND status = 3",
                [(last / 1e6, number) for number, (last, _) in noted.items()],
            )
            connection.executemany(
                "UPDATE item SET last_read = max(coalesce(last_read, 0), ?), read_count = read_count + ? WHERE entry = ?",
                [(last, times, number) for number, (last, times) in noted.items()],
            )

    @retried
    def set_read(self, items: Sequence[ItemRow], last: int) -> int:
        """Set when items were last read, in microseconds of the epoch; how many still existed."""
        with self._database.writing() as connection:
            return connection.execute(
                f"UPDATE item SET last_read = ? WHERE entry {_AMONG}", (last, _numbers(items))
            ).rowcount

    def drop(self, items: Sequence[ItemRow], *, keep_record: bool) -> None:
        """Delete the bytes of items, which are DELETED then; without `keep_record`, delete the items altogether."""
        for start in range(0, len(items), PAGE):
            self._drop(items[start : start + PAGE], keep_record=keep_record)

    @retried
    def _drop(self, items: Sequence[ItemRow], *, keep_record: bool) -> None:
        with self._blobs.claiming(item.digest for item in items if item.digest is not None) as claimed:
            with self._database.writing() as connection:
                if keep_record:
                    connection.executemany(*_deletion(connection, items))
                else:
                    connection.execute(f"DELETE FROM entry WHERE id {_AMONG}", (_numbers(items),))
                gone = [digest for digest in claimed if give_up(connection, digest)]
            if gone:
                self._removal.unlink(gone)


@contextmanager
def _taking(leases: Leases) -> Iterator[Callable[[str], bool]]:
    """Takes leases within a with-block, and gives them back if that fails."""
    names: list[str] = []

    def take(name: str) -> bool:
        taken = leases.take(name)
        if taken:
            names.append(name)
        return taken

    try:
        yield take
    except BaseException:
        for name in names:
            leases.give_back(name)
        raise


def _numbers(items: Iterable[ItemRow]) -> str:
    return f"[{','.join(str(item.id) for item in items)}]"


def _find(connection: Connection, wanted: Criteria) -> list[ItemRow]:
    clause = where(wanted)
    order = "entry.version" if wanted.latest else "entry.id"
    rows = connection.execute(f"{ROWS} WHERE {clause.text} ORDER BY {order}", clause.parameters)
    found = [item_of(row) for row in rows]
    if wanted.latest:
        found = sorted({item.key: item for item in found}.values(), key=lambda item: item.id)
    return found


def _best(connection: Connection, wanted: Criteria) -> ItemRow | None:
    clause = where(wanted)
    statement = f"{ROWS} WHERE {clause.text} ORDER BY entry.version DESC LIMIT 1"
    row = connection.execute(statement, clause.parameters).fetchone()
    return item_of(row) if row else None


def _insert(connection: Connection, new: New) -> ItemRow:
    row: Any = insert_entry(connection, new.key, None, new.status, None, Representation((), None, "", time.time()))
    number, version, used = row[0], row[2], row[7]
    write_item(connection, number, new.details)
    return ItemRow(number, new.key, version, new.status, None, None, new.details, None, None, 0, used)


def _take_over(connection: Connection, item: ItemRow, new: New) -> ItemRow:
    """Begin a version anew that its writer left unfinished."""
    statement, rows = _deletion(connection, [item], new.status)
    connection.executemany(statement, rows)
    write_item(connection, item.id, new.details)
    return replace(item, status=new.status, digest=None, size=None, details=new.details)


def _deletion(
    connection: sqlite3.Connection, items: Sequence[ItemRow], status: Status = Status.DELETED
) -> tuple[str, list[tuple[object, ...]]]:
    """The statement that leaves items without bytes, and its parameters."""
    rows: Iterator[tuple[int, str, int, str]] = connection.execute(
        f"SELECT id, key, version, representation FROM entry WHERE id {_AMONG}", (_numbers(items),)
    )
    now = time.time()
    return (
        "UPDATE entry SET status = ?, digest = NULL, seal = ?, used = ? WHERE id = ?",
        [(status, seal_of(key, version, None, text), now, number) for number, key, version, text in rows],
    )
