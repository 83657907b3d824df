"""What a transaction changed, for the ledger: noted by triggers of the connection, so that no statement is forgotten."""

import sqlite3

from package_cache.storage.ledger import gone_line, row_line, side_line
from package_cache.storage.schema import COLUMNS, SIDE_TABLES

_WATCH = """
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE changed (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE changed_beside (name TEXT, key TEXT, PRIMARY KEY (name, key)) WITHOUT ROWID;
CREATE TEMP TRIGGER entry_is_added AFTER INSERT ON main.entry
    BEGIN INSERT OR IGNORE INTO changed VALUES (new.id); END;
CREATE TEMP TRIGGER entry_is_changed AFTER UPDATE OF key, version, status, digest ON main.entry
    BEGIN INSERT OR IGNORE INTO changed VALUES (new.id); END;
CREATE TEMP TRIGGER entry_is_removed AFTER DELETE ON main.entry
    BEGIN INSERT OR IGNORE INTO changed VALUES (old.id); END;
""" + "".join(
    f"CREATE TEMP TRIGGER {table}_{deed} AFTER {deed} ON main.{table}"
    f" BEGIN INSERT OR IGNORE INTO changed_beside VALUES ('{table}', {side}.{key}); END;\n"
    for table, key in SIDE_TABLES.items()
    for deed, side in (("insert", "new"), ("update", "new"), ("delete", "old"))
)


def watch(connection: sqlite3.Connection) -> None:
    """Note from now on what changes.

    When an entry was last used is no change; nor is it that a source vouched for it again: an index that is polled all day
    would fill the ledger, and what an older head costs is one more question to a source.
    """
    connection.executescript(_WATCH)


def changed_lines(connection: sqlite3.Connection) -> bytes:
    """Lines that tell what the transaction changed so far; they are told once. Raises DamagedRegistry."""
    lines: list[bytes] = []
    rows = connection.execute(f"SELECT changed.id, {COLUMNS} FROM changed LEFT JOIN entry USING (id)").fetchall()
    if rows:
        connection.execute("DELETE FROM changed")
        lines += [row_line(row[1:]) if row[2] is not None else gone_line(row[0]) for row in rows]
    beside = connection.execute("SELECT name, key FROM changed_beside").fetchall()
    if beside:
        connection.execute("DELETE FROM changed_beside")
        for table, key in beside:
            found = connection.execute(f"SELECT * FROM {table} WHERE {SIDE_TABLES[table]} = ?", (key,)).fetchone()
            lines.append(side_line(table, found or (key,), gone=found is None))
    return b"".join(lines)
