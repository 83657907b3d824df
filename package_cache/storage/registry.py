"""The registry as requests and downloads see it: which versions of which keys can be served, and what is not to be had.

New versions are written a group at a time, with few statements however many they are. See `schema.py` for the tables.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from package_cache.errors import DamagedRegistry, StoreError
from package_cache.model import Entry, Key, Representation, Status, frozen
from package_cache.storage.blobs import became_file, body_of, put_bodies
from package_cache.storage.database.connections import Connection
from package_cache.storage.database.file import Database, retried
from package_cache.storage.database.generation import hash_of
from package_cache.storage.database.ledger import tell_new
from package_cache.storage.database.schema import COLUMNS, OF_PROXY, Row, dump_representation, entry_of, seal_of, strip
from package_cache.storage.items.rows import Describe, describe_item

_AHEAD = 600.0
"""Seconds that a last use may be ahead of the clock."""
_LATER = "CASE WHEN used > ? THEN ? ELSE max(used, ?) END"
_FORMS = 64
"""How many answers to different Accepts are chosen from: those used last."""
LONGEST_ABSENCE = 30 * 86400.0
"""Seconds for which it is remembered that the sources had nothing of a key."""
_NOTED_SECONDS = 3600.0
"""Seconds for which the same need not be written again."""
_MOST_ABSENT = 4096

_BEST = f"SELECT {COLUMNS} FROM entry WHERE key = ? AND status = 3 AND digest IS NOT NULL ORDER BY version DESC LIMIT 1"
_STORED = _BEST.replace(" FROM ", ", (SELECT body FROM small WHERE small.digest = entry.digest) FROM ", 1)


@frozen
class NewVersion:
    """A version that is about to be committed: the blob that it is made of, and the head that the bytes came with.

    For an item of the library, `describe` says what else it is. A small blob that has no file comes with its `body`.
    """

    key: Key
    digest: str
    representation: Representation
    describe: Describe | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What the store holds: versions that can be served, and distinct files with their bytes."""

    entries: int
    blobs: int
    bytes: int


class Registry:
    """The registry in one file. Safe for any number of threads and processes. Methods raise StoreError."""

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        self.database = Database(path, only_read=only_read)
        self.generation = self.database.generation
        self.mark = self.generation.mark
        """A value of a key that changes whenever the key does. Costs no system call."""
        self.is_absent = self.generation.presence.is_absent
        """Whether no version of a key was ever stored, as far as that is known without looking into the registry."""

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.database.close()

    def rest(self) -> None:
        """Close the connections that nobody needed for a while."""
        self.database.rest()

    @property
    def instance(self) -> str:
        """A name for this cache, the same in every process that shares it."""
        [[name]] = self.database.rows("SELECT value FROM meta WHERE name = 'instance'")
        return str(name)

    def totals(self) -> Totals:
        """How much the store holds; costs the same whatever it holds."""
        [totals] = self.database.rows("SELECT entries, blobs, bytes FROM total")
        return Totals(*totals)

    @retried
    def best(self, key: Key) -> Entry | None:
        """The newest version of the key that can be served."""
        with self.database.lent() as connection:
            row = connection.execute(_BEST, (key,)).fetchone()
            return _entry_of(row, key) if row else None

    def best_at_once(self, key: Key) -> Entry | None:
        """As `best`, for callers that must not wait. Raises StoreError where it might take a while."""
        row = None if self.is_absent(key) else self.database.row_at_once(_BEST, key)
        return None if row is None else _entry_at_once(row, key)

    def stored_at_once(self, key: Key) -> tuple[Entry, bytes | None] | None:
        """As `best_at_once`, with the bytes of a small body, right or wrong, in one look. Ask `is_absent` before."""
        row = self.database.row_at_once(_STORED, key)
        return None if row is None else (_entry_at_once(row[:-1], key), row[-1])

    def learn(self, pause: Callable[[], None]) -> None:
        """Find out which keys are absent, so that no look-up is needed for them. `pause` is called between steps."""
        self.generation.presence.learn(self._hashes(), pause)

    def _hashes(self) -> Iterator[int]:
        """Those of all keys of the proxy."""
        statement = f"SELECT DISTINCT key FROM entry WHERE key > ? AND {OF_PROXY} ORDER BY key"
        for rows in self.database.pages(statement, ""):
            yield from (hash_of(key) for (key,) in rows)

    @retried
    def forms(self, key: Key) -> list[Entry]:
        """The newest versions that can be served for a key, one for each Accept that it was asked for with."""
        with self.database.lent() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM entry WHERE (key = ? OR (key > ? AND key < ?)) AND status = 3"
                " AND digest IS NOT NULL AND version = (SELECT max(version) FROM entry other"
                " WHERE other.key = entry.key AND other.status = 3) ORDER BY used DESC LIMIT ?",
                (key, f"{key}#", f"{key}$", _FORMS),
            ).fetchall()
        return [entry_of(row) for row in rows]

    def commit(self, key: Key, digest: str, representation: Representation) -> Entry:
        """Record that the blob is stored, and is the newest version of the key; see `commit_all`."""
        return entry_of(self.commit_all([NewVersion(key, digest, representation)])[0])

    @retried
    def commit_all(self, news: Sequence[NewVersion]) -> list[Row]:
        """Record, in one durable transaction, that blobs are stored, and are the newest versions of their keys.

        Bytes that equal the newest version's confirm that version: its row gets the new head. Returns the rows.
        """
        self.generation.announce(one.key for one in news)
        with self.database.writing(durable=True) as connection:
            blobs = [(one.digest, one.representation.size) for one in news]
            connection.insert_rows("INSERT OR IGNORE INTO blob", blobs)
            put_bodies(connection, [(one.digest, one.body) for one in news if one.body is not None])
            for one in news:
                if one.body is None:
                    became_file(connection, one.digest)
            rows = [row for group in _without_repeats(news) for row in _add(connection, group)]
            for one, row in zip(news, rows, strict=True):
                if one.describe is not None:
                    describe_item(connection, int(str(row[0])), one.describe)
        self.generation.bump_each(one.key for one in news)
        return rows

    @retried
    def confirm(self, entry: Entry, representation: Representation, describe: Describe | None = None) -> Entry | None:
        """Record that a source vouched for the entry again, with the head it has now. None if it was removed meanwhile."""
        with self.database.writing() as connection:
            row = _confirm(connection, entry.id, (entry.key, entry.version, entry.digest), representation)
            if row is None:
                return None
            if describe is not None:
                describe_item(connection, entry.id, describe)
        self.generation.bump(entry.key)
        return entry_of(row)

    @retried
    def confirm_all(self, entries: Iterable[Entry]) -> None:
        """Record of entries that a source vouched for them again, with the heads they have now.

        Other processes are not told: those that know the older head ask a source once more than necessary.
        """
        with self.database.writing() as connection:
            for entry in entries:
                of = (entry.key, entry.version, entry.digest)
                _confirm(connection, entry.id, of, entry.representation)

    @retried
    def condemn(self, digest: str, body: bytes | None = None) -> int | None:
        """Take every version made of a damaged blob out of service, or out of the trash for good; how many there were.

        Those of the proxy keep the digest, by which they are found when it is fetched again; items of the library lose
        their bytes. `body` is what the row of the blob was found to have, None if there was none; if that has changed
        since, nothing is done, and None is returned.
        """
        with self.database.writing() as connection:
            if body_of(connection, digest) != body:
                return None
            moved = strip(connection, digest)
            moved += connection.execute(
                "UPDATE entry SET status = ?, used = ? WHERE digest = ? AND status = ?",
                (Status.FAILED, time.time(), digest, Status.READY),
            ).rowcount
            gone = "DELETE FROM entry WHERE digest = ? AND status = ?"
            moved += connection.execute(gone, (digest, Status.TRASH)).rowcount
            connection.execute("DELETE FROM blob WHERE digest = ?", (digest,))
        if moved:
            self.generation.bump_all()
        return moved

    @retried
    def touch(self, used: Mapping[int, float]) -> None:
        """Record when entries were last served, by id, in seconds of the epoch.

        A time never goes back, but where it lies in the future: the clock was wrong then.
        """
        ahead = time.time() + _AHEAD
        with self.database.writing() as connection:
            connection.executemany(
                f"UPDATE entry SET used = {_LATER} WHERE id = ? AND status = 3",
                [(ahead, moment, moment, number) for number, moment in used.items()],
            )


class NegativeCache:
    """A negative cache: what the sources did not have when they were asked last, for when none of them can be asked.

    Some clients try one file where another does not exist, and need to be told that it does not. As long as a source
    answers, this is not asked: the file may exist by now. It is no more than a hint: where the registry refuses, nothing is
    known. Safe for any number of threads and processes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: dict[Key, float] = {}

    def note(self, key: Key) -> None:
        """All sources said that there is no such thing."""
        now = time.time()
        if now - self._noted.get(key, 0.0) < _NOTED_SECONDS:
            return
        with suppress(StoreError), self._database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO absent VALUES (?, ?)", (key, now))
            connection.execute(
                "DELETE FROM absent WHERE since <= (SELECT since FROM absent ORDER BY since DESC LIMIT 1 OFFSET ?)",
                (_MOST_ABSENT,),
            )
        if len(self._noted) >= _MOST_ABSENT:
            self._noted.clear()
        self._noted[key] = now

    def is_known(self, key: Key, after: float) -> bool:
        """Whether the sources said after a moment, in seconds of the epoch, that there is no such thing."""
        with suppress(StoreError):
            rows = self._database.rows("SELECT since FROM absent WHERE key = ?", key)
            return any(float(since) > max(after, time.time() - LONGEST_ABSENCE) for (since,) in rows)
        return False


def _entry_at_once(row: Row, key: Key) -> Entry:
    """As `_entry_of`, for callers that must not wait for a damaged registry to be rebuilt."""
    try:
        return _entry_of(row, key)
    except DamagedRegistry as error:
        raise StoreError(str(error)) from error


def _entry_of(row: Row, key: Key) -> Entry:
    """The entry in a row that was found by its key."""
    entry = entry_of(row)
    if entry.key != key:
        raise DamagedRegistry(f"its index has {entry.key} where {key} should be")
    return entry


def _confirm(connection: Connection, number: int, of: tuple[Key, int, str], representation: Representation) -> Row | None:
    """Give the row of an id the head that a source has now, if it still is that version of these bytes."""
    text, now = dump_representation(representation), time.time()
    row: Row | None = connection.execute(
        f"UPDATE entry SET representation = ?, seal = ?, used = {_LATER}"
        # An id may be another entry's by now, where this one was removed.
        f" WHERE id = ? AND (key, version, digest) = (?, ?, ?) AND status = 3 RETURNING {COLUMNS}",
        (text, seal_of(*of, text), now + _AHEAD, now, now, number, *of),
    ).fetchone()
    return row


def _without_repeats(news: Sequence[NewVersion]) -> Iterator[list[NewVersion]]:
    """In order, in groups that have each key once: a later version of a key finds an earlier one as the newest."""
    group: dict[Key, NewVersion] = {}
    for one in news:
        if one.key in group:
            yield list(group.values())
            group.clear()
        group[one.key] = one
    yield list(group.values())


def _add(connection: Connection, group: list[NewVersion]) -> list[Row]:
    """Write versions, each of another key; their rows. One that equals the newest of its key confirms that."""
    keys = [one.key for one in group]
    statement = "SELECT key, id, digest, status, max(version) FROM entry WHERE key IN (...) GROUP BY key"
    newest = {key: values for key, *values in connection.select_in(statement, keys)}
    gone = dict(connection.select_in("SELECT key, version FROM gone WHERE key IN (...)", keys))
    [[number]] = connection.execute("SELECT coalesce(max(id), 0) FROM entry")
    now, rows, new = time.time(), list[Row](), list[Row]()
    for one in group:
        key, digest, head = one.key, one.digest, one.representation
        known, their_digest, status, version = newest.get(key, (0, None, None, 0))
        if their_digest == digest and status == Status.READY:
            confirmed = _confirm(connection, known, (key, version, digest), head)
            assert confirmed is not None  # in the same transaction
            rows.append(confirmed)
            continue
        number, version, text = number + 1, max(version, gone.get(key, 0)) + 1, dump_representation(head)
        row: Row = (number, key, version, Status.READY, digest, text, now, now, seal_of(key, version, digest, text))
        rows.append(row)
        new.append(row)
        if one.body is None:
            tell_new(connection, row, head.size or 0)
    connection.insert_rows(f"INSERT INTO entry ({COLUMNS})", new)
    return rows
