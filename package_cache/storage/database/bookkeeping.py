"""Keeps the ledger complete and short: lines that a crash cost it are added, and outdated ones are left out.

Runs beside everything else, in small steps. The registry is right, and the ledger is made to agree with it. It has no lines
for entries whose bodies are rows of the registry: both are lost together.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.model import Status
from package_cache.storage.database.file import Database, retried
from package_cache.storage.database.ledger import Ledger, Record, gone_line, row_line, side_line
from package_cache.storage.database.schema import COLUMNS, SIDE_TABLES, Row
from package_cache.storage.system import sync_directory

_BATCH = 1000
_IN_ROW = "EXISTS (SELECT 1 FROM small WHERE digest = entry.digest)"
_ROWS = f"SELECT {COLUMNS}, coalesce(size, 0), {_IN_ROW} FROM entry LEFT JOIN blob USING (digest)"
_PAGES = f"{_ROWS} WHERE id > ? ORDER BY id"
_SPARE = 1000
"""How many lines a ledger may have beyond twice the number of rows."""
_FEW = ("meta", "pin")
"""Other tables that are small, and of which each row matters."""
_UNKNOWN = 0
_SHIFT = 10
"""Added to a status, so that it fits a byte and is never `_UNKNOWN`."""
_NO_ENTRY = (_UNKNOWN, Status.DELETED + _SHIFT)


Sides = dict[tuple[str, object], list[object]]
"""Rows of other tables, by table and primary key."""


@dataclass(slots=True)
class Findings:
    """What the ledger and the registry disagree about. `wrong` are entries that the ledger has otherwise, or not at all.

    `gone` are entries that only the ledger has. `rows` counts those of all tables; `sides` are such rows of other tables,
    by table and primary key.
    """

    lines: int = 0
    damaged: int = 0
    rows: int = 0
    wrong: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    sides: list[tuple[str, object]] = field(default_factory=list)

    @property
    def is_to_be_rewritten(self) -> bool:
        """Whether appending lines is not enough."""
        lacks_more = self.lines < self.rows - len(self.wrong) - len(self.sides)
        return self.damaged > 0 or lacks_more or self.lines > 2 * self.rows + _SPARE


@retried
def compare(database: Database, pause: Callable[[], None]) -> Findings:
    """Read all of both; `pause` is called between two steps. Raises StoreError, OSError."""
    with database.halted():
        end = database.ledger.size()
    found = Findings()
    states, sides = _told(database.ledger, end, found, pause)
    _compare_sides(database, sides, found)
    for rows in database.pages(_PAGES):
        for row in rows:
            _compare(row, states, found)
        pause()
    found.gone = [number for number, state in enumerate(states) if state not in _NO_ENTRY]
    _forgive(database.ledger, end, found)
    return found


def _compare(row: Row, states: bytearray, found: Findings) -> None:
    number, status, in_row = int(str(row[0])), int(str(row[3])), row[-1]
    told = states[number] if number < len(states) else _UNKNOWN
    if told:
        states[number] = _UNKNOWN
    if in_row and told in _NO_ENTRY:
        return
    found.rows += 1
    if told != status + _SHIFT:
        found.wrong.append(number)


def _told(ledger: Ledger, end: int, found: Findings, pause: Callable[[], None]) -> tuple[bytearray, Sides]:
    """The last states of entries, by number, and the other rows, according to the ledger."""
    states, sides = bytearray(), Sides()
    for record in ledger.read(0, end):
        found.lines += 1
        if found.lines % _BATCH == 0:
            pause()
        if record is None:
            found.damaged += 1
        elif record.number:
            if record.number >= len(states):
                states.extend(bytes(record.number + 1 - len(states)))
            states[record.number] = record.status + _SHIFT
        elif not _note_side(record, sides):
            found.damaged += 1
    return states, sides


def _note_side(record: Record, sides: Sides) -> bool:
    """Remember what the ledger says of the tables in `_FEW`; False if the line makes no sense."""
    try:
        table, values = record.side_row()
    except ValueError:
        return False
    if table in _FEW:
        sides[table, values[0]] = values
        if record.status == Status.DELETED:
            del sides[table, values[0]]
    return True


def _compare_sides(database: Database, sides: Sides, found: Findings) -> None:
    with database.lent() as connection:
        for table in SIDE_TABLES:
            found.rows += connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        rows = [(table, row) for table in _FEW for row in connection.execute(f"SELECT * FROM {table}")]
    found.sides = [(table, row[0]) for table, row in rows if sides.pop((table, row[0]), None) != [*row]]
    found.sides.extend(sides)


def _forgive(ledger: Ledger, end: int, found: Findings) -> None:
    """Leave out what changed meanwhile: the ledger has lines for it by now."""
    numbers = {record.number for record in ledger.read(end) if record is not None}
    found.wrong = [number for number in found.wrong if number not in numbers]
    found.gone = [number for number in found.gone if number not in numbers]
    if 0 in numbers:
        found.sides = []  # they are seen to the next time


@retried
def keep_ledger(database: Database, pause: Callable[[], None]) -> Findings:
    """Make the ledger agree with the registry; what was wrong with it. One process at a time. Raises StoreError."""
    try:
        found = compare(database, pause)
        if found.is_to_be_rewritten:
            _rewrite(database, pause)
        else:
            _add(database, found.wrong + found.gone, pause)
            _add_sides(database, found.sides)
    except OSError as error:
        raise StoreError(f"cannot keep {database.ledger.path}: {error.strerror}") from error
    return found


def _add(database: Database, numbers: list[int], pause: Callable[[], None]) -> None:
    for start in range(0, len(numbers), _BATCH):
        batch = numbers[start : start + _BATCH]
        # Read again while nobody else writes: an entry may have changed since, and have its line.
        with database.writing() as connection:
            lines: list[bytes] = []
            for number in batch:
                row = connection.execute(f"{_ROWS} WHERE id = ?", (number,)).fetchone()
                lines.append(row_line(row[:-2], row[-2]) if row else gone_line(number))
                items = connection.execute("SELECT * FROM item WHERE entry = ?", (number,))
                lines.extend(side_line("item", item) for item in items)
            database.ledger.append(b"".join(lines))
        pause()


def _add_sides(database: Database, sides: list[tuple[str, object]]) -> None:
    if not sides:
        return
    with database.writing() as connection:
        lines: list[bytes] = []
        for table, name in sides:
            row = connection.execute(f"SELECT * FROM {table} WHERE {SIDE_TABLES[table]} = ?", (name,)).fetchone()
            lines.append(side_line(table, row or (name,), gone=row is None))
        database.ledger.append(b"".join(lines))


def _rewrite(database: Database, pause: Callable[[], None]) -> None:
    """Write the ledger anew. What changes meanwhile is appended to the old one, and copied from there at the end."""
    ledger, new = database.ledger, Path(f"{database.ledger.path}.new")
    try:
        with database.halted():
            end = ledger.size()
        new.touch(0o600)
        with new.open("wb") as file:
            for table in SIDE_TABLES.keys() - {"item"}:
                file.writelines(side_line(table, row) for row in database.rows(f"SELECT * FROM {table}"))
            for rows in database.pages("SELECT * FROM item WHERE entry > ? ORDER BY entry"):
                file.writelines(side_line("item", row) for row in rows)
                pause()
            for rows in database.pages(_PAGES):
                file.writelines(row_line(row[:-2], row[-2]) for row in rows if not row[-1])
                pause()
            file.flush()
            os.fsync(file.fileno())
            with database.halted():
                if ledger.size() > end:
                    with ledger.path.open("rb") as old:
                        old.seek(end)
                        file.write(b"\n")  # the line before it may be torn
                        shutil.copyfileobj(old, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
                new.rename(ledger.path)
                sync_directory(ledger.path.parent)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
