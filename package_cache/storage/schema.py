"""The tables of the registry, its totals kept by triggers, and how a row of `entry` is read.

Each row carries a seal, a checksum of what must never be mixed up: which name has which bytes. SQLite finds damage to its
own structure, and nothing else; a row whose seal is broken is taken for damage too.
"""

import zlib

from package_cache.errors import DamagedRegistry
from package_cache.model import Entry, Key, Status
from package_cache.storage import records

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
    digest TEXT NOT NULL REFERENCES blob,
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
CREATE TRIGGER IF NOT EXISTS entry_added AFTER INSERT ON entry WHEN new.status = 3
    BEGIN UPDATE total SET entries = entries + 1; END;
CREATE TRIGGER IF NOT EXISTS entry_moved AFTER UPDATE OF status ON entry WHEN (old.status = 3) <> (new.status = 3)
    BEGIN UPDATE total SET entries = entries + CASE new.status WHEN 3 THEN 1 ELSE -1 END; END;
CREATE TRIGGER IF NOT EXISTS entry_removed AFTER DELETE ON entry WHEN old.status = 3
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
CREATE INDEX IF NOT EXISTS entry_used ON entry (used) WHERE status = 3;
CREATE INDEX IF NOT EXISTS entry_dead ON entry (used) WHERE status <> 3;
CREATE INDEX IF NOT EXISTS entry_later ON entry (key) WHERE status = 3 AND version > 1;
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('instance', lower(hex(randomblob(4))));
"""

Row = tuple[object, ...]
COLUMNS = "id, key, version, status, digest, representation, created, used, seal"
"""What `entry` takes. `used` is when the version was last served; of one in the trash, when it was put there."""

SIDE_TABLES = {"meta": "name", "pin": "key", "gone": "key"}
"""What else is kept in the ledger: tables, each with its primary key."""


def seal_of(key: str, version: int, digest: str, representation: str) -> int:
    """The checksum of a row."""
    return zlib.crc32(f"{key}\n{version}\n{digest}\n{representation}".encode("utf-8", "surrogatepass"))


def check_seal(row: Row) -> None:
    """Raise DamagedRegistry unless a row of `COLUMNS` is what was written."""
    number, key, version, _, digest, representation, _, _, seal = row
    if not isinstance(version, int) or seal != seal_of(str(key), version, str(digest), str(representation)):
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
