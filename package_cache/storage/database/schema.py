"""The tables of the registry, its totals kept by triggers, and how a row of `entry` and a representation are written down.

Each row carries a checksum of what must never be mixed up: which key has which bytes. SQLite finds damage to its own
structure and nothing else; a row whose checksum is wrong counts as damage too.
"""

import json
import re
import sqlite3
import zlib
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _text
from typing import Any

from package_cache.errors import DamagedRegistry
from package_cache.model import Entry, Representation, Status

SMALL = 65536
"""Bytes of a body up to which it is a row of `small`; a larger one is a file."""

_DIGEST = re.compile("[0-9a-f]{64}")

LATER = (
    "CREATE TABLE IF NOT EXISTS small (digest TEXT NOT NULL UNIQUE, body BLOB NOT NULL)",
    "CREATE TRIGGER IF NOT EXISTS small_gone AFTER DELETE ON blob BEGIN DELETE FROM small WHERE digest = old.digest; END",
    "DROP INDEX IF EXISTS entry_ready",
)
"""What registries of the former version lack, or have and do not need. It is done in place, and disturbs no process that
has one open.

Bodies of up to 64 KiB are rows of `small`, beside their rows of `blob`, and deleted with them.
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
"""The columns of `entry`. `used` is when the version was last served; of one in the trash, when it was put there."""

OF_PROXY = "key < '0'"
"""Keys of the proxy begin with a slash, the character before `0`; those of the library are hexadecimal."""

NEEDS_BLOB = "digest IS NOT NULL AND (status IN (3, -1) OR key >= '0')"
"""Which entries need their blobs; of the library's, all that have one."""

SIDE_TABLES = {"meta": "name", "pin": "key", "gone": "key", "item": "entry"}
"""Other tables that the ledger has, each with its primary key."""


def is_digest(name: str) -> bool:
    """Whether a string is a digest, so that a file of that name can be a blob."""
    return _DIGEST.fullmatch(name) is not None


def needs_blob(row: Row) -> bool:
    """What `NEEDS_BLOB` says of a row of `COLUMNS`."""
    return row[4] is not None and (row[3] in (Status.READY, Status.TRASH) or str(row[1]) >= "0")


def seal_of(key: str, version: int, digest: str | None, representation: str) -> int:
    """The checksum of a row."""
    return zlib.crc32(f"{key}\n{version}\n{digest or ''}\n{representation}".encode("utf-8", "surrogatepass"))


def check_seal(row: Row) -> None:
    """Raise DamagedRegistry if the seal of a row of `COLUMNS` is wrong."""
    number, key, version, _, digest, representation, _, _, seal = row
    bytes_of = None if digest is None else str(digest)
    if not isinstance(version, int) or seal != seal_of(str(key), version, bytes_of, str(representation)):
        raise DamagedRegistry(f"the seal of entry {number} is broken")


def entry_of(row: Row) -> Entry:
    """The entry in a row of `COLUMNS`. Raises DamagedRegistry if its seal is wrong."""
    check_seal(row)
    values: tuple[Any, ...] = row
    number, key, version, status, digest, representation, created, used, _ = values
    try:
        return Entry(
            id=int(number),
            key=key,
            version=version,  # the seal covers it
            status=Status.READY if status == Status.READY else Status(status),
            digest=str(digest),
            representation=load_representation(representation),
            created=float(created),
            used=float(used),
        )
    except (ValueError, TypeError) as error:
        raise DamagedRegistry(f"the registry holds an entry that cannot be read: {error}") from error


def dump_representation(representation: Representation) -> str:
    """A representation as one JSON object, the same in the registry and beside a part."""
    # Put together by hand, which is three times as quick: each small file has one.
    fields = ", ".join(map(_pair, representation.fields))
    size = "null" if representation.size is None else representation.size
    known = f'"fields": [{fields}], "size": {size}, "source": {_text(representation.source)}'
    until = "" if representation.good_until is None else f', "good_until": {json.dumps(representation.good_until)}'
    return f'{{{known}, "received": {representation.received!r}{until}}}'


@lru_cache(1024)
def _pair(pair: tuple[str, str]) -> str:
    """A field. Answers of one source say the same in many of them."""
    return f"[{_text(pair[0])}, {_text(pair[1])}]"


_decoded = json.JSONDecoder().raw_decode
"""As `json.loads`, without the look at the type of its argument, which takes as long again."""


def load_representation(text: str) -> Representation:
    """The representation that `dump_representation` wrote. Raises ValueError for any other text."""
    try:
        data, end = _decoded(text)
        if end < len(text):
            raise ValueError("not a representation: something is behind it")
        return Representation(
            fields=tuple([(name + "", value + "") for name, value in data["fields"]]),
            size=None if data["size"] is None else int(data["size"]),
            source=str(data["source"]),
            received=float(data["received"]),
            good_until=float(data["good_until"]) if "good_until" in data else None,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a representation: {error}") from None


def strip(connection: sqlite3.Connection, digest: str) -> int:
    """Take these bytes from the items of the library that have them: they are no longer READY; how many there were."""
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
