"""SQLite connections, lent from a pool: a server with a thread a client would otherwise open one for each.

Owns how a connection is opened, that none is used for a file that was replaced, and that none is open while the process
forks. SQLite keeps a file's locks in tables of the process: a child that inherits them believes it holds locks that it does
not, and its commits can be lost. So a fork waits until every lent connection is back, and the idle ones are closed before
it. One that nobody needed for a while is closed: each has files open, and pages in memory.

SQLite opens the log of a database by name, long after the database itself: a connection to a file that was moved away
must not meet the log of the one in its place. So it counts only if the same file was there before and after.
"""

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import ref

from package_cache.errors import StoreError

BUSY_SECONDS = 10.0
"""How long another program may keep the database locked."""

_IDLE_SECONDS = 30.0
"""How long a connection that nobody needs stays open."""

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What a damaged file makes SQLite raise: its messages quote names from the file, which need not be text any more."""

FileId = tuple[int, int]
"""Device and inode."""


class Connection(sqlite3.Connection):
    """A connection that knows which file it has open. `told` are lines for the ledger of what a transaction added.

    `durable` says that what it commits is on the disk before anybody sees it.
    """

    file: FileId = (0, 0)
    durable = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.told: list[bytes] = []


class MissingDatabase(sqlite3.OperationalError):
    """There is no file at the path, and a connection makes none."""


def file_id(path: str | Path) -> FileId | None:
    """Which file is at a path, if there is one. Raises StoreError."""
    try:
        status = os.stat(path)  # noqa: PTH116 - often
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror}") from error
    return status.st_dev, status.st_ino


def open_database(path: Path, *, only_read: bool = False) -> Connection:
    """A connection to the file that is at the path now. Raises sqlite3.Error."""
    while (file := file_id(path)) is not None:
        try:
            connection = _connect_to_read(path) if only_read else _connect(path)
        except sqlite3.Error:
            # SQLite looks at the path more than once, and calls it any kind of error if the file is gone in between.
            if file_id(path) == file:
                raise
            continue
        if file_id(path) == file:
            connection.file = file
            return connection
        connection.close()
    raise MissingDatabase("the file is gone")


def _connect(path: Path) -> Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(
        uri, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=Connection, uri=True
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last commits, never consistency; see `begin` for those that it may not.
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def begin(connection: Connection, *, durable: bool) -> None:
    """Begin to write. What is to be `durable` is on the disk with all that was committed before it, and then visible."""
    if connection.durable is not durable:
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.durable = durable
    connection.execute("BEGIN IMMEDIATE")


def _connect_to_read(path: Path) -> Connection:
    """A connection of one who may not write the file, nor make the two that SQLite has beside it while it is in use."""
    # Without a log nobody uses it. It is not to be looked for then: where it can be made, it would be the wrong user's.
    mode = "ro" if file_id(f"{path}-wal") is not None else "ro&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(
        uri, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=Connection, uri=True
    )


class Connections:
    """The connections of this process to one database file. `prepare` gets each first. Safe for any number of threads.

    With `only_read` each is used once: nobody tells it that somebody has begun to write.
    """

    def __init__(self, path: Path, prepare: Callable[[Connection], None], *, only_read: bool = False) -> None:
        self._only_read = only_read
        self._path = path
        self._name = str(path)
        self._prepare = prepare
        self._changed = threading.Condition(threading.Lock())
        self._idle: deque[tuple[float, Connection]] = deque()
        """With the time each came back, longest ago first; the last one is lent first."""
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
        unneeded: list[Connection] = []
        try:
            connection = connection or self._open()
            try:
                yield connection
            except ERRORS:
                connection.close()
                connection = None
                raise
        finally:
            with self._changed:
                self._lent -= 1
                if connection is not None and self._only_read:
                    unneeded = [connection]
                elif connection is not None:
                    unneeded = self._put_back(connection)
                self._changed.notify_all()
            for one in unneeded:
                one.close()

    @contextmanager
    def unforked(self) -> Iterator[None]:
        """The process does not fork within the with-block, which may lend nothing."""
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
        """An idle connection to that file; those to another one are closed."""
        while self._idle:
            connection = self._idle.pop()[1]
            if connection.file == file:
                return connection
            connection.close()
        return None

    def _put_back(self, connection: Connection) -> list[Connection]:
        """Have a connection lent again; those that nobody needed for a while, which are to be closed."""
        now = time.monotonic()
        self._idle.append((now, connection))
        unneeded = []
        while self._idle[0][0] < now - _IDLE_SECONDS:
            unneeded.append(self._idle.popleft()[1])
        return unneeded

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


def _heed_forks(pool: "ref[Connections]") -> None:
    """Have the pool halt around each fork, for as long as it lives."""
    halted: list[Connections] = []

    def before() -> None:
        alive = pool()
        if alive is not None:
            alive.halt()
            halted.append(alive)

    def after() -> None:
        while halted:
            halted.pop().go_on()

    os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)
