"""Rows of `item`: how they are written, sealed and read, and how their attributes are laid out to search by."""

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from package_cache.errors import DamagedRegistry
from package_cache.model import Key
from package_cache.rules.library.attributes import Leaf, leaves, load
from package_cache.storage.database.schema import COLUMNS, OF_PROXY, Row, check_seal

DETAILS = "uri, params, attrs, filename, ext, label, date"
"""What an item is sealed over, besides the number of its entry."""

_BATCH = 1000
_COUNT = COLUMNS.count(",") + 1
ROWS = (
    f"SELECT {', '.join(f'entry.{name}' for name in COLUMNS.split(', '))}, blob.size,"
    f" {', '.join(f'item.{name}' for name in DETAILS.split(', '))}, item.before, last_read, read_count, item.seal"
    " FROM entry JOIN item ON item.entry = entry.id LEFT JOIN blob USING (digest)"
)
"""Items as `item_of` reads them."""


@dataclass(frozen=True, slots=True)
class Details:
    """What an item is besides its bytes. `params` is canonical JSON, `attrs` JSON; `date` in microseconds of the epoch."""

    uri: str
    params: str
    attrs: str
    filename: str | None
    ext: str | None
    label: str | None
    date: int

    @property
    def values(self) -> tuple[str, str, str, str | None, str | None, str | None, int]:
        """In the order of `DETAILS`."""
        return self.uri, self.params, self.attrs, self.filename, self.ext, self.label, self.date


@dataclass(frozen=True, slots=True)
class ItemRow:
    """An item. `size` is that of its blob in bytes, None without one; times are in microseconds of the epoch.

    But `used` is in seconds: when it was last read, or else made; of one in the trash, when it was put there.
    """

    id: int
    key: Key
    version: int
    status: int
    digest: str | None
    size: int | None
    details: Details
    before: int | None
    last_read: int | None
    read_count: int
    used: float

    @property
    def name(self) -> str:
        """Key and version: what no other item is ever called."""
        return f"{self.key}-{self.version}"


def item_of(row: Row) -> ItemRow:
    """The item in a row of `ROWS`. Raises DamagedRegistry if it is not what was written."""
    entry, (size, *details, before, last_read, read_count, seal) = row[:_COUNT], row[_COUNT:]
    check_seal(entry)
    number, key, version, status, digest, _, _, used, _ = entry
    found = Details(*details)  # type: ignore[arg-type] # sealed as it was written
    if seal != seal_of_item(number, found):
        raise DamagedRegistry(f"the seal of item {number} is broken")
    return ItemRow(number, key, version, status, digest, size, found, before, last_read, read_count, used)  # type: ignore[arg-type]


def seal_of_item(number: object, details: Details) -> int:
    """The checksum of a row."""
    return zlib.crc32(repr((number, *details.values)).encode("utf-8", "surrogatepass"))


def write_item(connection: sqlite3.Connection, number: int, details: Details, of: Iterable[Mapping[str, object]]) -> None:
    """Write the details of an entry, or new ones; `of` are its parameters and attributes, to be found by."""
    connection.execute(
        f"INSERT INTO item (entry, {DETAILS}, seal, read_count) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
        " ON CONFLICT (entry) DO UPDATE SET uri = excluded.uri, params = excluded.params, attrs = excluded.attrs,"
        " filename = excluded.filename, ext = excluded.ext, label = excluded.label, date = excluded.date,"
        " seal = excluded.seal",
        (number, *details.values, seal_of_item(number, details)),
    )
    connection.execute("DELETE FROM attribute WHERE entry = ?", (number,))
    connection.executemany("INSERT INTO attribute VALUES (?, ?, ?, ?, ?, ?)", _attributes(number, of))


def _attributes(number: int, of: Iterable[Mapping[str, object]]) -> list[tuple[object, ...]]:
    found: dict[Leaf, None] = {}
    for mapping in of:
        found |= dict.fromkeys(leaves(mapping))
    return [(number, place, leaf.path, leaf.name, leaf.kind, leaf.value) for place, leaf in enumerate(found)]


Describe = Callable[["Details | None"], Details]
"""What an item is to be, from what it was; None if there was none."""


def describe_item(connection: sqlite3.Connection, number: int, describe: Describe) -> None:
    """Write what an item of an entry is now, in the transaction that wrote the entry."""
    row = connection.execute(f"SELECT {DETAILS} FROM item WHERE entry = ?", (number,)).fetchone()
    details = describe(Details(*row) if row else None)
    write_item(connection, number, details, (load(details.params), load(details.attrs)))


def is_sound(row: Row) -> bool:
    """Whether a row of `item`, with its columns in their order, is what was written."""
    number, uri, params, attrs, filename, ext, label, date, _, _, _, seal = row
    return seal == seal_of_item(number, Details(uri, params, attrs, filename, ext, label, date))  # type: ignore[arg-type]


def restore_items(connection: sqlite3.Connection) -> int:
    """In a registry that was made again: no item without its entry, none of the library's entries without its item, all
    attributes as they are. How many entries had no item."""
    connection.execute("DELETE FROM item WHERE entry NOT IN (SELECT id FROM entry)")
    lost = connection.execute(f"DELETE FROM entry WHERE NOT {OF_PROXY} AND id NOT IN (SELECT entry FROM item)").rowcount
    after = 0
    while True:
        rows = connection.execute(
            f"SELECT entry, params, attrs FROM item WHERE entry > ? ORDER BY entry LIMIT {_BATCH}", (after,)
        ).fetchall()
        if not rows:
            return lost
        for number, *texts in rows:
            connection.executemany(
                "INSERT INTO attribute VALUES (?, ?, ?, ?, ?, ?)", _attributes(number, (load(text) for text in texts))
            )
        after = rows[-1][0]


def take_over_items(connection: sqlite3.Connection, rows: list[Row]) -> list[Row]:
    """Take items over from a damaged registry, for entries without one; which these were. Counters never go back."""
    connection.executemany(
        "UPDATE item SET last_read = max(coalesce(last_read, ?1), ?1), read_count = max(read_count, ?2) WHERE entry = ?3",
        [(row[9], row[10], row[0]) for row in rows if row[9] is not None],
    )
    marks = ", ".join("?" * 12)
    insert = f"INSERT OR IGNORE INTO item SELECT {marks} WHERE EXISTS (SELECT 1 FROM entry WHERE id = ?)"
    return [row for row in rows if connection.execute(insert, (*row, row[0])).rowcount]
