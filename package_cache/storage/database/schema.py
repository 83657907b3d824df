"""The tables of the registry, its totals kept by triggers, and how a row of `entry` is read.

Each row carries a seal, a checksum of what must never be mixed up: which name has which bytes. SQLite finds damage to its
own structure, and nothing else; a row whose seal is broken is taken for damage too.
"""

import sqlite3
import zlib

from package_cache.errors import DamagedRegistry
from package_cache.model import Entry, Key, Status
from package_cache.storage.database import records

LATER = (
    "CREATE TABLE IF NOT EXISTS small (digest TEXT NOT NULL UNIQUE, body BLOB NOT NULL)",
    "CREATE TRIGGER IF NOT EXISTS small_gone AFTER DELETE ON blob BEGIN DELETE FROM small WHERE digest = old.digest; END",
)
"""What registries of the former version do without. It is added to them as they are, and disturbs nobody who has one open.

Bodies of up to 64 KiB are rows of `small`, beside their rows of `blob`, and gone with them.
"""

SCHEMA = """
CREATE TABLE IF NOT EXISTS blob (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    status INTEGER NOT NULL,
    digest TEXT REFERENCES blob, -- of an item of the library that has no bytes, none
    representation TEXT NOT NULL,
    created REAL NOT NULL,
    used REAL NOT NULL,
    seal INTEGER NOT NULL,
    UNIQUE (key, version)
);
CREATE INDEX IF NOT EXISTS entry_ready ON entry (key, version) WHERE status = 3;
CREATE INDEX IF NOT EXISTS entry_digest ON entry (digest);
CREATE TABLE IF NOT EXISTS total (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    entries INTEGER NOT NULL,
    blobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
INSERT OR IGNORE INTO total VALUES (1, 0, 0, 0);
CREATE TRIGGER IF NOT EXISTS blob_added AFTER INSERT ON blob
    BEGIN UPDATE total SET blobs = blobs + 1, bytes = bytes + new.size; END;
CREATE TRIGGER IF NOT EXISTS blob_removed AFTER DELETE ON blob
    BEGIN UPDATE total SET blobs = blobs - 1, bytes = bytes - old.size; END;
CREATE TRIGGER IF NOT EXISTS entry_added AFTER INSERT ON entry WHEN new.status = 3 AND new.digest IS NOT NULL
    BEGIN UPDATE total SET entries = entries + 1; END;
CREATE TRIGGER IF NOT EXISTS entry_moved AFTER UPDATE OF status, digest ON entry
    WHEN (old.status = 3 AND old.digest IS NOT NULL) <> (new.status = 3 AND new.digest IS NOT NULL)
    BEGIN UPDATE total SET entries = entries + CASE WHEN old.status = 3 AND old.digest IS NOT NULL THEN -1 ELSE 1 END; END;
CREATE TRIGGER IF NOT EXISTS entry_removed AFTER DELETE ON entry WHEN old.status = 3 AND old.digest IS NOT NULL
    BEGIN UPDATE total SET entries = entries - 1; END;
-- The next version of a key is above every one that it ever had.
CREATE TABLE IF NOT EXISTS gone (
    key TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS entry_gone AFTER DELETE ON entry
    WHEN NOT EXISTS (SELECT 1 FROM entry WHERE key = old.key AND version > old.version)
    BEGIN
        INSERT OR REPLACE INTO gone
        VALUES (old.key, max(old.version, coalesce((SELECT version FROM gone WHERE key = old.key), 0)));
    END;
CREATE TRIGGER IF NOT EXISTS entry_back AFTER INSERT ON entry
    BEGIN DELETE FROM gone WHERE key = new.key; END;
-- Files that no entry has any more, and that are about to be removed; only a killed process leaves any.
CREATE TABLE IF NOT EXISTS doomed (digest TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pin (
    key TEXT PRIMARY KEY,
    since REAL NOT NULL,
    who TEXT NOT NULL
) WITHOUT ROWID;
-- What the sources did not have, and when they said so; a hint that may be lost.
CREATE TABLE IF NOT EXISTS absent (
    key TEXT PRIMARY KEY,
    since REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS absent_since ON absent (since);
CREATE INDEX IF NOT EXISTS entry_used ON entry (used) WHERE status = 3;
CREATE INDEX IF NOT EXISTS entry_dead ON entry (used) WHERE status <> 3;
CREATE INDEX IF NOT EXISTS entry_later ON entry (key) WHERE status = 3 AND version > 1;
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('instance', lower(hex(randomblob(4))));
-- What the library knows of an entry besides. Times are in microseconds of the epoch; `before` is the status it had before
-- it was put into the trash.
CREATE TABLE IF NOT EXISTS item (
    entry INTEGER PRIMARY KEY,
    uri TEXT NOT NULL,
    params TEXT NOT NULL,
    attrs TEXT NOT NULL,
    filename TEXT,
    ext TEXT,
    label TEXT,
    date INTEGER NOT NULL,
    before INTEGER,
    last_read INTEGER,
    read_count INTEGER NOT NULL,
    seal INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS item_label ON item (label) WHERE label IS NOT NULL;
-- The values in `attrs` and `params`, to search by; made of them, and of nothing else.
CREATE TABLE IF NOT EXISTS attribute (
    entry INTEGER NOT NULL,
    number INTEGER NOT NULL,
    path TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    value NOT NULL,
    PRIMARY KEY (entry, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attribute_name ON attribute (name, kind, value);
CREATE INDEX IF NOT EXISTS attribute_path ON attribute (path, kind, value) WHERE path <> name;
CREATE TRIGGER IF NOT EXISTS item_gone AFTER DELETE ON entry WHEN old.key >= '0'
    BEGIN
        DELETE FROM item WHERE entry = old.id;
        DELETE FROM attribute WHERE entry = old.id;
    END;
""" + "".join(f"{statement};\n" for statement in LATER)

Row = tuple[object, ...]
COLUMNS = "id, key, version, status, digest, representation, created, used, seal"
"""What `entry` takes. `used` is when the version was last served; of one in the trash, when it was put there."""

OF_PROXY = "key < '0'"
"""Keys of the proxy begin with a slash, the character before `0`; those of the library are hexadecimal."""

NEEDS_BLOB = "digest IS NOT NULL AND (status IN (3, -1) OR key >= '0')"
"""Which entries keep their blobs; of the library's, all that have one."""

SIDE_TABLES = {"meta": "name", "pin": "key", "gone": "key", "item": "entry"}
"""What else is kept in the ledger: tables, each with its primary key."""


def needs_blob(row: Row) -> bool:
    """What `NEEDS_BLOB` says of a row of `COLUMNS`."""
    return row[4] is not None and (row[3] in (Status.READY, Status.TRASH) or str(row[1]) >= "0")


def seal_of(key: str, version: int, digest: str | None, representation: str) -> int:
    """The checksum of a row."""
    return zlib.crc32(f"{key}\n{version}\n{digest or ''}\n{representation}".encode("utf-8", "surrogatepass"))


def check_seal(row: Row) -> None:
    """Raise DamagedRegistry unless a row of `COLUMNS` is what was written."""
    number, key, version, _, digest, representation, _, _, seal = row
    bytes_of = None if digest is None else str(digest)
    if not isinstance(version, int) or seal != seal_of(str(key), version, bytes_of, str(representation)):
        raise DamagedRegistry(f"the seal of entry {number} is broken")


def entry_of(row: Row) -> Entry:
    """The entry in a row of `COLUMNS`. Raises DamagedRegistry if it is not what was written."""
    check_seal(row)
    number, key, version, status, digest, representation, created, used, _ = row
    try:
        return Entry(
            id=int(str(number)),
            key=Key(str(key)),
            version=int(str(version)),
            status=Status(int(str(status))),
            digest=str(digest),
            representation=records.load(str(representation)),
            created=float(str(created)),
            used=float(str(used)),
        )
    except ValueError as error:
        raise DamagedRegistry(f"the registry holds an entry that cannot be read: {error}") from error


def strip(connection: sqlite3.Connection, digest: str) -> int:
    """Items of the library that have these bytes have none any more, and are not READY; how many there were."""
    rows = connection.execute(
        f"SELECT id, key, version, representation FROM entry WHERE digest = ? AND NOT {OF_PROXY}", (digest,)
    ).fetchall()
    for number, key, version, text in rows:
        connection.execute(
            "UPDATE entry SET digest = NULL, seal = ?, status = CASE status WHEN 3 THEN 2 ELSE status END WHERE id = ?",
            (seal_of(key, version, None, text), number),
        )
        connection.execute("UPDATE item SET before = 2 WHERE entry = ? AND before = 3", (number,))
    return len(rows)
