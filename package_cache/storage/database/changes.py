"""What a transaction changed, for the ledger: noted by triggers of the connection, so that no statement is forgotten.

Only a new entry is not: that happens in one place, and often, and who adds it has its row at hand. One whose body is a row
beside it is not told of at all: a ledger without the body would be of no use. It is once its body is a file.
"""

import sqlite3

from package_cache.storage.database.connections import Connection
from package_cache.storage.database.ledger import gone_line, row_line, side_line
from package_cache.storage.database.schema import COLUMNS, SIDE_TABLES, Row

_TOLD: dict[str, str] = {"item": " OF seal, before"}
"""Tables of which not every column is worth a line: that an item was read is not."""

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
_ROW = f"SELECT {COLUMNS}, coalesce(size, 0) FROM entry LEFT JOIN blob USING (digest) WHERE id = ?"


def watch(connection: sqlite3.Connection) -> None:
    """Note from now on what changes.

    When an entry was last used is no change; nor is it that a source vouched for it again: an index that is polled all day
    would fill the ledger, and what an older head costs is one more question to a source.
    """
    connection.executescript(_WATCH)


def tell_new(connection: Connection, row: Row, size: int) -> None:
    """An entry was added, of a blob of `size` bytes."""
    connection.told.append(row_line(row, size))


def changed_lines(connection: Connection) -> bytes:
    """Lines that tell what the transaction did so far. Raises DamagedRegistry."""
    changed = connection.execute("SELECT DISTINCT id, name, key FROM changed").fetchall()
    if changed:
        connection.execute("DELETE FROM changed")
        connection.told.extend(_line(connection, *one) for one in changed)
    return b"".join(connection.told)


def _line(connection: Connection, number: int, table: str | None, key: object) -> bytes:
    if table is None:
        row = connection.execute(_ROW, (number,)).fetchone()
        return gone_line(number) if row is None else row_line(row[:-1], row[-1])
    found = connection.execute(f"SELECT * FROM {table} WHERE {SIDE_TABLES[table]} = ?", (key,)).fetchone()
    return side_line(table, found or (key,), gone=found is None)
