"""SQLite connections, lent from a pool: a server with a thread for each client would otherwise open one for each.

This module decides how a connection is opened, that none is used for a file that was replaced, and that none is open while
the process forks. SQLite keeps a file's locks in tables of the process: a child that inherits them believes it holds locks
that it does not, and its commits can be lost. So a fork waits until every lent connection is back, and the idle ones are
closed before it. Few idle ones stay open, and not for long: each has files open, and pages in memory.

SQLite opens the log of a database by name, long after the database itself: a connection to a file that was moved away
must not meet the log of the one in its place. So it counts only if the same file was there before and after.
"""

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from weakref import ref

from package_cache.errors import StoreError

BUSY_SECONDS = 10.0
"""How long another program may keep the database locked."""

_CACHE_KIB = 512
"""Page cache of each connection, of which there may be one for each thread: the system caches the pages too."""

_QUICK_CACHE_KIB = 128
"""Page cache of one that looks for single rows: more would make those no quicker."""

_IDLE_SECONDS = 20.0
"""How long a connection that nobody needs stays open."""
_SPARE = 4
"""How many do; those of a rush are closed at once. Opening one again costs half a millisecond, keeping it half a MiB."""

_LOG_PAGES = 4000
"""Pages of 4 KiB in the log after which it is checkpointed. Small files write some pages again and again: the longer the
log, the fewer pages are copied."""

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What a damaged file makes SQLite raise: its messages quote names from the file, which need not be valid text."""

_LOOK_SECONDS = 0.02
"""How often a quick connection checks that the file is still the same: each check costs as much as a look-up."""

FileId = tuple[int, int]
"""Device and inode."""


_ROWS_AT_A_TIME = 64
"""Rows of a statement at most. All have powers of two, so that few are met, and each is compiled once."""

_T = TypeVar("_T")


class Connection(sqlite3.Connection):
    """A connection that knows which file it has open. `told` are ledger lines for what a transaction added.

    `durable` says that its commits are on the disk before anybody sees them.
    """

    file: FileId = (0, 0)
    durable = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.told: list[bytes] = []

    # A statement gives the interpreter to other threads while SQLite works, and has to wait for it afterwards: one for
    # many rows waits once.

    def insert_rows(
        self, into: str, rows: Sequence[tuple[object, ...]], rest: str = "", at_a_time: int = _ROWS_AT_A_TIME
    ) -> None:
        """Insert rows that have as many values each: `into` is the statement up to VALUES, `rest` what follows them.

        A cached statement holds a copy of its values until it is used again: of large ones there should be few
        `at_a_time`, a power of two.
        """
        for some in _in_powers_of_two(rows, at_a_time):
            row = f"({','.join('?' * len(some[0]))})"
            self.execute(f"{into} VALUES {','.join([row] * len(some))} {rest}", tuple(chain.from_iterable(some)))

    def select_in(self, statement: str, values: Sequence[object]) -> Iterator[Any]:
        """What a statement with `IN (...)` finds for these values; each row once, as long as no value comes twice."""
        for some in _in_powers_of_two(values, _ROWS_AT_A_TIME):
            yield from self.execute(statement.replace("...", ",".join("?" * len(some))), some)


def _in_powers_of_two(items: Sequence[_T], most: int) -> Iterator[Sequence[_T]]:
    at = 0
    while at < len(items):
        size = min(most, 1 << ((len(items) - at).bit_length() - 1))
        yield items[at : at + size]
        at += size


class MissingDatabase(sqlite3.OperationalError):
    """There is no file at the path, and a connection does not make one."""


def file_id(path: str | Path) -> FileId | None:
    """Which file is at a path, None if there is none. Raises StoreError."""
    try:
        status = os.stat(path)  # noqa: PTH116 - often
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror}") from error
    return status.st_dev, status.st_ino


def open_database(path: Path, *, busy: float = BUSY_SECONDS, only_read: bool = False) -> Connection:
    """A connection to the file that is at the path now; it waits `busy` seconds for a lock. Raises sqlite3.Error."""
    while (file := file_id(path)) is not None:
        try:
            connection = _connect(path, busy, only_read=only_read)
        except sqlite3.Error:
            # SQLite looks at the path more than once, and may raise any error if the file vanishes in between.
            if file_id(path) == file:
                raise
            continue
        if file_id(path) == file:
            connection.file = file
            return connection
        connection.close()
    raise MissingDatabase("the file is gone")


def _connect(path: Path, busy: float, *, only_read: bool) -> Connection:
    mode = "rw"
    if only_read:
        # Without a log nobody uses the file. SQLite must not look for one then: it would make it, owned by the wrong user.
        mode = "ro" if file_id(f"{path}-wal") is not None else "ro&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(
        uri, timeout=busy, isolation_level=None, check_same_thread=False, factory=Connection, uri=True
    )
    if only_read:
        return connection
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last commits, but not consistency; see `begin` for commits that must survive it.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA cache_spill = OFF")  # a large transaction keeps its pages in memory as long as it lasts
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def begin(connection: Connection, *, durable: bool) -> None:
    """Begin to write. A `durable` transaction is on the disk, with all commits before it, before anybody sees it."""
    if connection.durable is not durable:
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.durable = durable
    connection.execute("BEGIN IMMEDIATE")


class Connections:
    """The connections of this process to one database file. Safe for any number of threads.

    `prepare` is given each new one. With `only_read` each is used once: nothing would tell it that somebody has begun to
    write.
    """

    def __init__(self, path: Path, prepare: Callable[[Connection], None], *, only_read: bool = False) -> None:
        self._only_read = only_read
        self._path = path
        self._name = str(path)
        self._prepare = prepare
        self._changed = threading.Condition(threading.Lock())
        self._idle: deque[tuple[float, Connection]] = deque()
        """With the time each came back, in that order; the last one is lent first."""
        self._lent = 0
        self._halting = False
        _heed_forks(ref(self))

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        """A connection for the length of a with-block, not to be nested. One that raised `sqlite3.Error` is dropped."""
        file = file_id(self._name)
        with self._changed:
            self._changed.wait_for(lambda: not self._halting)
            connection = self._pick(file)
            self._lent += 1
        try:
            connection = connection or self._open()
            try:
                yield connection
            except ERRORS:
                connection.close()
                connection = None
                raise
        finally:
            self._have_back(connection)

    @contextmanager
    def unforked(self) -> Iterator[None]:
        """The process does not fork within the with-block, which may not call `lend`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._halting)
            self._lent += 1
        try:
            yield
        finally:
            with self._changed:
                self._lent -= 1
                self._changed.notify_all()

    def _open(self) -> Connection:
        connection = open_database(self._path, only_read=self._only_read)
        if self._only_read:
            return connection
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _pick(self, file: FileId | None) -> Connection | None:
        """An idle connection to that file; those to other files are closed."""
        while self._idle:
            connection = self._idle.pop()[1]
            if connection.file == file:
                return connection
            connection.close()
        return None

    def _have_back(self, connection: Connection | None) -> None:
        """Take a connection back, if there is one; close those that are no longer needed."""
        now = time.monotonic()
        with self._changed:
            if connection is not None:
                self._idle.append((now, connection))
            unneeded = self._unneeded(now, 0 if self._only_read else _SPARE)
        try:
            for one in unneeded:
                one.close()
        finally:
            with self._changed:
                self._lent -= 1  # not before: a process that forked now would have them half closed
                self._changed.notify_all()

    def _unneeded(self, now: float, spare: int) -> list[Connection]:
        """Take out idle connections that are too many, or that nobody needed for a while."""
        unneeded: list[Connection] = []
        while self._idle and (len(self._idle) > spare or self._idle[0][0] < now - _IDLE_SECONDS):
            unneeded.append(self._idle.popleft()[1])
        return unneeded

    def rest(self) -> None:
        """Close connections that nobody needed for a while: each keeps in memory what it wrote last, and its statements."""
        with self._changed:
            if self._halting:
                return
            self._lent += 1
        self._have_back(None)

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._changed:
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def halt(self) -> None:
        """Wait until nothing is lent, close all, and lend nothing before `go_on`."""
        self._changed.acquire()
        self._halting = True
        self._changed.wait_for(lambda: self._lent == 0)
        self._close_idle()

    def go_on(self) -> None:
        """Lend again."""
        self._halting = False
        self._changed.notify_all()
        self._changed.release()


class QuickConnection:
    """A connection for callers that must not wait, kept open: what `Connections` lends costs more than looking up one row.

    Safe for any number of threads, of which one at a time uses it.
    """

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        self._path = path
        self._name = str(path)
        self._only_read = only_read
        self._guard = threading.Lock()
        self._connection: Connection | None = None
        self._epoch = 0
        self._until = 0.0
        _heed_forks(ref(self))

    def row(self, statement: str, values: tuple[object, ...], epoch: int) -> Any:
        """The first row of what a statement finds, None if there is none. Raises sqlite3.Error, StoreError.

        `epoch` changes when the file is rebuilt; whether somebody took it away is checked now and then.
        """
        with self._guard:
            connection, now = self._connection, time.monotonic()
            if connection is None or epoch != self._epoch or now > self._until:
                connection = self._current()
                self._epoch, self._until = epoch, now + _LOOK_SECONDS
            try:
                return connection.execute(statement, values).fetchone()
            except ERRORS:
                self._close()
                raise
            finally:
                if self._only_read:
                    self._close()

    def _current(self) -> Connection:
        """A connection to the file that is there now."""
        if self._connection is None or self._connection.file != file_id(self._name):
            self._close()
            self._connection = open_database(self._path, busy=0.0, only_read=self._only_read)
            self._connection.execute(f"PRAGMA cache_size = -{_QUICK_CACHE_KIB}")
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close it until it is needed again."""
        with self._guard:
            self._close()

    def halt(self) -> None:
        """Close it, and open none before `go_on`."""
        self._guard.acquire()
        self._close()

    def go_on(self) -> None:
        """Look again."""
        self._guard.release()


def _heed_forks(pool: "ref[Connections] | ref[QuickConnection]") -> None:
    """Halt the pool around each fork, for as long as it lives."""
    halted: list[Connections | QuickConnection] = []

    def before() -> None:
        alive = pool()
        if alive is not None:
            alive.halt()
            halted.append(alive)

    def after() -> None:
        while halted:
            halted.pop().go_on()

    os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)
