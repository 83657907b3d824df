"""Items as rows: how they are written, sealed and read, how their attributes are laid out, and search criteria as SQL."""

import json
import sqlite3
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from package_cache.errors import DamagedRegistry
from package_cache.model import Key, Representation, Status
from package_cache.rules.library.attributes import TEXT, Comparable, leaves, load
from package_cache.rules.library.searching import AllOf, AnyOf, Condition, Criteria, Test
from package_cache.storage.database.connections import Connection
from package_cache.storage.database.ledger import tell_new
from package_cache.storage.database.schema import COLUMNS, OF_PROXY, Row, check_seal, dump_representation, seal_of

DETAILS = "uri, params, attrs, filename, ext, label, date"
"""The columns that the seal of an item covers, besides the number of its entry."""

_BATCH = 1000
_COUNT = COLUMNS.count(",") + 1
ROWS = (
    f"SELECT {', '.join(f'entry.{name}' for name in COLUMNS.split(', '))}, blob.size,"
    f" {', '.join(f'item.{name}' for name in DETAILS.split(', '))}, item.before, last_read, read_count, item.seal"
    " FROM entry JOIN item ON item.entry = entry.id LEFT JOIN blob USING (digest)"
)
"""Selects items as `item_of` reads them."""

_SQL = {">=": ">=", "<=": "<=", ">": ">", "<": "<", "~": "GLOB"}
_WITHOUT_NUL = " AND instr(CAST(value AS BLOB), x'00') = 0"  # GLOB stops at one

_ROW = 100
"""Conditions that are joined without brackets."""

Parameters = tuple[object, ...]


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

    But `used` is in seconds: when the item was last read, or else made; of one in the trash, when it was put there.
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
        """Key and version: no other item ever has this name."""
        return f"{self.key}-{self.version}"


def item_of(row: Row) -> ItemRow:
    """The item in a row of `ROWS`. Raises DamagedRegistry if a seal is wrong."""
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


def insert_entry(
    connection: Connection, key: Key, number: int | None, status: Status, digest: str | None, head: Representation
) -> Row:
    """Insert a version of a key, the next one if there is no `number`; its row."""
    if number is None:
        [[last]] = connection.execute(
            "SELECT max(coalesce((SELECT max(version) FROM entry WHERE key = ?1), 0),"
            " coalesce((SELECT version FROM gone WHERE key = ?1), 0))",
            (key,),
        )
        number = last + 1
    now, text = time.time(), dump_representation(head)
    row: Row = connection.execute(
        "INSERT INTO entry (key, version, status, digest, representation, created, used, seal)"
        f" VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING {COLUMNS}",
        (key, number, status, digest, text, now, now, seal_of(key, number, digest, text)),
    ).fetchone()
    tell_new(connection, row, head.size or 0)
    return row


def write_item(connection: sqlite3.Connection, number: int, details: Details) -> None:
    """Write or replace the details of an entry, with the parameters and attributes that it is found by."""
    connection.execute(
        f"INSERT INTO item (entry, {DETAILS}, seal, read_count) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
        " ON CONFLICT (entry) DO UPDATE SET uri = excluded.uri, params = excluded.params, attrs = excluded.attrs,"
        " filename = excluded.filename, ext = excluded.ext, label = excluded.label, date = excluded.date,"
        " seal = excluded.seal",
        (number, *details.values, seal_of_item(number, details)),
    )
    connection.execute("DELETE FROM attribute WHERE entry = ?", (number,))
    _write_attributes(connection, number, details.params, details.attrs)


def _write_attributes(connection: sqlite3.Connection, number: int, *texts: str) -> None:
    """Write the values in JSON objects, each once."""
    found = dict.fromkeys(leaf for text in texts for leaf in leaves(load(text)))
    rows = [(number, place, leaf.path, leaf.name, leaf.kind, leaf.value) for place, leaf in enumerate(found)]
    connection.executemany("INSERT INTO attribute VALUES (?, ?, ?, ?, ?, ?)", rows)


Describe = Callable[["Details | None"], Details]
"""Gives the new details of an item for its present ones, None if it is new."""


def describe_item(connection: sqlite3.Connection, number: int, describe: Describe) -> None:
    """Write the details of an item, in the transaction that wrote its entry."""
    row = connection.execute(f"SELECT {DETAILS} FROM item WHERE entry = ?", (number,)).fetchone()
    write_item(connection, number, describe(Details(*row) if row else None))


def is_sound(row: Row) -> bool:
    """Whether the seal of a row of `item`, with its columns in their order, is right."""
    number, uri, params, attrs, filename, ext, label, date, _, _, _, seal = row
    return seal == seal_of_item(number, Details(uri, params, attrs, filename, ext, label, date))  # type: ignore[arg-type]


def restore_items(connection: sqlite3.Connection) -> int:
    """In a registry that is rebuilt, delete items without entries and entries of the library without items, and write the
    attributes; how many entries had no item."""
    connection.execute("DELETE FROM item WHERE entry NOT IN (SELECT id FROM entry)")
    lost = connection.execute(f"DELETE FROM entry WHERE NOT {OF_PROXY} AND id NOT IN (SELECT entry FROM item)").rowcount
    after = 0
    while True:
        rows = connection.execute(
            f"SELECT entry, params, attrs FROM item WHERE entry > ? ORDER BY entry LIMIT {_BATCH}", (after,)
        ).fetchall()
        if not rows:
            return lost
        for row in rows:
            _write_attributes(connection, *row)
        after = rows[-1][0]


def take_over_items(connection: sqlite3.Connection, rows: list[Row]) -> list[Row]:
    """Take items over from a damaged registry, for entries that have none; those that were. Counters never go back."""
    connection.executemany(
        "UPDATE item SET last_read = max(coalesce(last_read, ?1), ?1), read_count = max(read_count, ?2) WHERE entry = ?3",
        [(row[9], row[10], row[0]) for row in rows if row[9] is not None],
    )
    marks = ", ".join("?" * 12)
    insert = f"INSERT OR IGNORE INTO item SELECT {marks} WHERE EXISTS (SELECT 1 FROM entry WHERE id = ?)"
    return [row for row in rows if connection.execute(insert, (*row, row[0])).rowcount]


@dataclass(frozen=True, slots=True)
class Clause:
    """What follows WHERE, and its parameters. All values are bound parameters."""

    text: str
    parameters: Parameters


def where(wanted: Criteria) -> Clause:
    """Selects from the tables `entry` and `item` what meets criteria, but for `latest`: that is still to be applied."""
    equal = (
        ("entry.key", wanted.key),
        ("item.params", wanted.params),
        ("item.ext", wanted.ext),
        ("item.label", wanted.label),
        ("item.filename", wanted.filename),
    )
    clauses = [Clause(f"{name} = ?", (value,)) for name, value in equal if value is not None]
    if wanted.uri_glob is not None:
        clauses.append(Clause("item.uri GLOB ?", (wanted.uri_glob,)))
    if wanted.called is not None:
        clauses.append(_called("=", wanted.called))
    if wanted.called_like is not None:
        called = _called("GLOB", wanted.called_like)
        text = f"({called.text} OR entry.key || '-' || entry.version GLOB ?)"
        clauses.append(Clause(text, (*called.parameters, wanted.called_like)))
    if wanted.newer_than is not None:
        clauses.append(Clause("item.date > ?", (wanted.newer_than,)))
    if wanted.older_than is not None:
        clauses.append(Clause("item.date < ?", (wanted.older_than,)))
    clauses.extend(
        _among(name, several)
        for name, several in (("entry.status", wanted.status), ("entry.version", wanted.version), ("entry.id", wanted.ids))
        if several is not None
    )
    if wanted.status is None and not wanted.include_removed:
        clauses.append(Clause("entry.status >= 0", ()))
    if wanted.condition is not None:
        clauses.append(_condition(wanted.condition))
    return _joined(clauses, " AND ", "1")


def _called(operator: str, text: str) -> Clause:
    urls = f"SELECT entry FROM attribute WHERE name = 'url' AND path = 'url' AND kind = ? AND value {operator} ?"
    return Clause(f"(item.uri {operator} ? OR entry.id IN ({urls}))", (text, TEXT, text))


def _among(name: str, several: frozenset[int]) -> Clause:
    # As one parameter: SQLite takes some thousands of them at most.
    return Clause(f"{name} IN (SELECT value FROM json_each(?))", (f"[{','.join(map(str, sorted(several)))}]",))


def _joined(clauses: list[Clause], joint: str, nothing: str) -> Clause:
    if not clauses:
        return Clause(nothing, ())
    texts = [clause.text for clause in clauses]
    return Clause(_balanced(texts, joint), tuple(value for clause in clauses for value in clause.parameters))


def _balanced(texts: list[str], joint: str) -> str:
    """Join texts in nested groups: SQLite parses a plain row of them into a tree, of a depth of 1000 at most."""
    if len(texts) <= _ROW:
        return joint.join(texts)
    middle = len(texts) // 2
    return f"({_balanced(texts[:middle], joint)}){joint}({_balanced(texts[middle:], joint)})"


def _condition(condition: Condition) -> Clause:
    match condition:
        case AllOf(several):
            return _grouped(several, "!=", " AND ", "1")
        case AnyOf(several):
            return _grouped(several, "=", " OR ", "0")
        case Test(operator="=" | "!=" as operator):
            return _equal(condition.name, operator, condition.kind, Clause("= ?", (condition.operand,)))
        case Test():
            text = f" AND kind = ? AND value {_SQL[condition.operator]} ?"
            text += _WITHOUT_NUL if condition.operator == "~" else ""
            found = _by_name(condition.name, text, (condition.kind, condition.operand))
            return Clause(f"entry.id IN ({found.text})", found.parameters)


def _grouped(several: tuple[Condition, ...], operator: str, joint: str, nothing: str) -> Clause:
    """Join conditions; the values that one name is compared with by that operator are looked up together."""
    sets: dict[tuple[str, str], list[Comparable]] = {}
    rest: list[Condition] = []
    for one in several:
        if isinstance(one, Test) and one.operator == operator and _is_plain(one.operand):
            sets.setdefault((one.name, one.kind), []).append(one.operand)
        else:
            rest.append(one)
    clauses = [_equal(name, operator, kind, _in(values)) for (name, kind), values in sets.items()]
    clause = _joined(clauses + [_condition(one) for one in rest], joint, nothing)
    return Clause(f"({clause.text})", clause.parameters)


def _in(values: list[Comparable]) -> Clause:
    return Clause("IN (SELECT value FROM json_each(?))", (json.dumps(values, ensure_ascii=False),))


def _is_plain(value: Comparable) -> bool:
    """Whether SQLite reads the very same value from JSON."""
    return isinstance(value, int) or (isinstance(value, str) and "\0" not in value)


def _equal(name: str, operator: str, kind: str, value: Clause) -> Clause:
    """Some value of that name and kind is one of those; with `!=`, there are some of that name, and none is."""
    equal = _by_name(name, f" AND kind = ? AND value {value.text}", (kind, *value.parameters))
    if operator == "=":
        return Clause(f"entry.id IN ({equal.text})", equal.parameters)
    named = _by_name(name)
    return Clause(f"(entry.id IN ({named.text}) AND entry.id NOT IN ({equal.text}))", named.parameters + equal.parameters)


def _by_name(name: str, rest: str = "", parameters: Parameters = ()) -> Clause:
    text, values = f"SELECT entry FROM attribute WHERE name = ?{rest}", (name, *parameters)
    if "." not in name:
        return Clause(text, values)
    return Clause(f"{text} UNION ALL SELECT entry FROM attribute WHERE path = ? AND path <> name{rest}", values * 2)
