"""The ledger: a line for each change of the registry, from which a lost registry is rebuilt.

Owns `ledger-v1` and its format. A line is a checksum, the number of an entry, its status, and, unless the entry is gone,
all of it, with tabs in between: a torn, spoilt or missing line costs that change and no other. Lines are only ever
appended, by who holds the write lock of the registry and after its commit, so what the ledger tells happened. Nothing waits
for the disk: a power cut may cost the lines of some seconds, and what is missing is added later (`bookkeeping`).

What a transaction changed is noted by triggers of the connection, so that no statement is forgotten. Only a new entry is
not: that is often, and who adds it has its row at hand (`tell_new`). An entry whose body is a row beside it gets no line:
a ledger without the body would be of no use. It gets one once its body is a file.
"""

import json
import logging
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from package_cache.model import Status
from package_cache.storage.database.connections import Connection
from package_cache.storage.database.schema import COLUMNS, SIDE_TABLES, Row, check_seal, seal_of
from package_cache.storage.system import append_whole

logger = logging.getLogger(__name__)

_LONGEST = 1 << 20
"""Bytes of a line; more of it is damage."""
_TAIL = 1 << 16

_TOLD: dict[str, str] = {"item": " OF seal, before"}
"""Tables of which not every column is worth a line: reading an item is not."""

_WATCH = """
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE changed (id INTEGER, name TEXT, key TEXT);
CREATE TEMP TRIGGER entry_is_changed AFTER UPDATE OF key, version, status, digest ON main.entry
    BEGIN INSERT INTO changed VALUES (new.id, NULL, NULL); END;
CREATE TEMP TRIGGER entry_is_removed AFTER DELETE ON main.entry
    BEGIN INSERT INTO changed VALUES (old.id, NULL, NULL); END;
CREATE TEMP TRIGGER body_is_no_row AFTER DELETE ON main.small
    BEGIN INSERT INTO changed SELECT id, NULL, NULL FROM main.entry WHERE digest = old.digest; END;
""" + "".join(
    f"CREATE TEMP TRIGGER {table}_{deed} AFTER {deed}{of.get(table, '')} ON main.{table}"
    f" BEGIN INSERT INTO changed VALUES (NULL, '{table}', {side}.{key}); END;\n"
    for table, key in SIDE_TABLES.items()
    for deed, side, of in (("insert", "new", {}), ("update", "new", _TOLD), ("delete", "old", {}))
)
_CHANGED_ROW = f"SELECT {COLUMNS}, coalesce(size, 0) FROM entry LEFT JOIN blob USING (digest) WHERE id = ?"


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `number` 0 is a row of another table; without `fields` an entry was deleted."""

    number: int
    status: int
    fields: tuple[str, ...] = ()

    def row(self) -> tuple[Row, int]:
        """The row of the entry, and the size of its blob in bytes. Raises ValueError."""
        version, stored, size, created, used, key, text = self.fields
        digest = stored or None
        name = json.loads(key) if "\\" in key else key[1:-1]
        seal = seal_of(name, int(version), digest, text)
        row = (self.number, name, int(version), self.status, digest, text, float(created), float(used), seal)
        return row, int(size)

    def side_row(self) -> tuple[str, list[object]]:
        """The name of another table, and the values of its row. Raises ValueError."""
        [text] = self.fields
        table, *values = json.loads(text)
        if table not in SIDE_TABLES:
            raise ValueError("not a line of this format")
        return table, values


def row_line(row: Row, size: object) -> bytes:
    """The line of an entry that was added or changed; `size` is that of its blob in bytes. Raises DamagedRegistry."""
    check_seal(row)
    number, key, version, status, digest, text, created, used, _ = row
    # The representation is JSON already, without tabs.
    return _line(f"{number}\t{status}\t{version}\t{digest or ''}\t{size}\t{created!r}\t{used!r}\t{json.dumps(key)}\t{text}")


def gone_line(number: int) -> bytes:
    """The line of an entry whose row was deleted."""
    return _line(f"{number}\t{int(Status.DELETED)}")


def side_line(table: str, values: Iterable[object], *, gone: bool = False) -> bytes:
    """The line of a row of another table that was added or changed; or deleted, where only its primary key is given."""
    return _line(f"0\t{int(Status.DELETED if gone else Status.READY)}\t{json.dumps([table, *values])}")


def _line(text: str) -> bytes:
    data = text.encode("ascii")
    return b"%08x\t%b\n" % (zlib.crc32(data), data)


def parse(line: bytes) -> Record | None:
    """The record of a line, None if it is damaged."""
    line = line.rstrip(b"\n")
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:]) or line[8:9] != b"\t":
            return None
        number, status, *fields = line[9:].decode("ascii").split("\t")
        return Record(int(number), int(status), tuple(fields))
    except ValueError:
        return None


def watch(connection: sqlite3.Connection) -> None:
    """Note from now on what transactions of the connection change.

    Using an entry is no change, nor is a source vouching for it again: an index that is polled all day would fill the
    ledger, and an older head costs no more than one more question to a source.
    """
    connection.executescript(_WATCH)


def tell_new(connection: Connection, row: Row, size: int) -> None:
    """An entry of a blob of `size` bytes was added."""
    connection.told.append(row_line(row, size))


def changed_lines(connection: Connection) -> bytes:
    """Lines that tell what the transaction did so far. Raises DamagedRegistry."""
    changed = connection.execute("SELECT DISTINCT id, name, key FROM changed").fetchall()
    if changed:
        connection.execute("DELETE FROM changed")
        connection.told.extend(_changed_line(connection, *one) for one in changed)
    return b"".join(connection.told)


def _changed_line(connection: Connection, number: int, table: str | None, key: object) -> bytes:
    if table is None:
        row = connection.execute(_CHANGED_ROW, (number,)).fetchone()
        return gone_line(number) if row is None else row_line(row[:-1], row[-1])
    found = connection.execute(f"SELECT * FROM {table} WHERE {SIDE_TABLES[table]} = ?", (key,)).fetchone()
    return side_line(table, found or (key,), gone=found is None)


class Ledger:
    """The ledger in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failing = False
        self._descriptor: int | None = None
        self._end = -1

    def append(self, lines: bytes) -> None:
        """Append lines; the caller holds the write lock. A disk that refuses is logged, once."""
        if not lines:
            return
        try:
            descriptor, end = self._open()
            # The last line was torn by a crash: begin a new one.
            if end != self._end and end and os.pread(descriptor, 1, end - 1) != b"\n":
                lines = b"\n" + lines
            append_whole(descriptor, lines)
            self._end = end + len(lines)
        except OSError as error:
            if not self._failing:
                logger.warning("cannot write %s, from which the registry could be restored: %s", self.path, error.strerror)
            self._failing = True
        else:
            self._failing = False

    def _open(self) -> tuple[int, int]:
        """The file, and its size in bytes; opened again if it was replaced or removed."""
        if self._descriptor is not None:
            status = os.fstat(self._descriptor)
            if status.st_nlink:
                return self._descriptor, status.st_size
            self.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor, self._end = os.open(self.path, flags, 0o600), -1
        return self._descriptor, os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Close the file until it is needed again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def size(self) -> int:
        """Bytes in the file; 0 if there is none. Raises OSError."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, start: int = 0, end: int | None = None) -> Iterator[Record | None]:
        """The records in order, from one place in the file to another; None stands for damage. Raises OSError."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(start)
            while line := file.readline(_LONGEST):
                if end is not None and file.tell() > end:
                    return
                if line != b"\n":
                    yield parse(line)

    def tail(self) -> list[Record]:
        """The last records. Raises OSError."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            file.seek(max(0, self.size() - _TAIL))
            return [record for record in map(parse, file.read().split(b"\n")) if record is not None]
