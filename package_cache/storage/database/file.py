"""The one SQLite file, `registry-v1.db`: how it is read and written by many processes at once.

WAL lets readers go on while one writer commits; every change is one `BEGIN IMMEDIATE` transaction, so two processes never
decide on the same old state. What a transaction changed is written into the ledger, whoever changed it. A file that is
damaged or missing is rebuilt by whoever notices first, and the others go on with the new one: see `recovery`.
"""

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from package_cache.errors import DamagedRegistry, OnlyRead, StoreError
from package_cache.storage.database import recovery
from package_cache.storage.database.connections import (
    BUSY_SECONDS,
    ERRORS,
    Connection,
    Connections,
    FileId,
    MissingDatabase,
    QuickConnection,
    begin,
    file_id,
    open_database,
)
from package_cache.storage.database.generation import Generation
from package_cache.storage.database.ledger import Ledger, changed_lines, watch
from package_cache.storage.database.schema import Row
from package_cache.storage.system import boot_id

_P = ParamSpec("_P")
_T = TypeVar("_T")


_PAGE = 1000
"""Rows that are read at a time."""
_SPARE_PAGES = 4096
"""Pages of 4 KiB that a file may have without anything in them."""
_SHRINK_PAGES = 2048
"""Pages that are given back at a time: writers wait meanwhile."""
_LOCKED = "another program kept it locked, so that it could not even be read"


def retried(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """A function that is called once more if it met a damaged registry, which was rebuilt meanwhile."""

    @wraps(method)
    def run(*arguments: _P.args, **named: _P.kwargs) -> _T:
        try:
            return method(*arguments, **named)
        except DamagedRegistry:
            return method(*arguments, **named)

    return run


class Database:
    """The file, the ledger and the generation words beside it. Safe for any number of threads and processes.

    Methods raise StoreError.
    """

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        self._path = path
        self.only_read = only_read
        self._lock = str(path.with_suffix(".lock"))
        self.generation = Generation(path.with_name("generation-v2"), only_read=only_read)
        self.ledger = Ledger(path.with_name("ledger-v1"))
        self._turn = threading.Lock()
        self._connections = Connections(path, watch, only_read=only_read)
        self._quick = QuickConnection(path, only_read=only_read)
        # Where all is well, nothing here waits for the write lock.
        file, trouble = self.file(), self._trouble()
        if trouble is not None:
            with self.halted():
                self._check(trouble if trouble == _LOCKED and self.file() == file else None)
            self.generation.renew_all()
        boot = boot_id()
        if boot and not only_read:
            self.generation.presence.begin(f"{boot} {self.file()}")

    def close(self) -> None:
        """Close what is not in use."""
        self._connections.close()
        self._quick.close()
        with self._turn:
            self.ledger.close()

    def rest(self) -> None:
        """Close the connections that nobody needed for a while, but for the one that event loops use."""
        self._connections.rest()

    def file(self) -> FileId | None:
        """Which file is the database now."""
        return file_id(self._path)

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """A connection to read with, not to be nested.

        Raises DamagedRegistry if the file is damaged; it was rebuilt then.
        """
        file = None
        try:
            with self._connections.lend() as connection:
                file = connection.file
                yield connection
        except (DamagedRegistry, *ERRORS) as error:
            damage = self._damage(error, file)
            self.repair(damage)
            raise damage from error

    @retried
    def rows(self, statement: str, *values: object) -> list[Any]:
        """All rows that a statement finds, in one short look; another one if the registry had to be rebuilt."""
        with self.lent() as connection:
            return connection.execute(statement, values).fetchall()

    def pages(self, statement: str, after: int | str = 0) -> Iterator[list[Row]]:
        """The rows that a statement finds, a page at a time, so that no transaction stays open between two pages.

        The statement has `> ?` for its first column, and is ordered by it.
        """
        while True:
            rows = self.rows(f"{statement} LIMIT {_PAGE}", after)
            if not rows:
                return
            yield rows
            after = rows[-1][0]

    def row_at_once(self, statement: str, *values: object) -> Any:
        """The first row that a statement finds, None if there is none, for callers that must not wait.

        Raises StoreError where `lent` would wait, or rebuild the registry.
        """
        try:
            return self._quick.row(statement, values, self.generation.words[0])  # a rebuilt registry changes all of them
        except ERRORS as error:
            raise StoreError(str(error)) from error

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[Connection]:
        """A connection in a transaction, which an error in the with-block rolls back.

        A `durable` one survives a power cut from the moment that anybody can see it.
        """
        # One writer at a time, in turn: SQLite itself would have the others sleep and try again, up to 0.1 s each time.
        self._may_write()
        with self.lent() as connection, self._turn, _alone(self._lock):
            if connection.file != file_id(self._path):
                raise DamagedRegistry(f"{self._path} is another file by now")
            begin(connection, durable=durable)
            connection.told.clear()
            try:
                yield connection
                lines = changed_lines(connection)
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            self.ledger.append(lines)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Nobody changes the registry within the with-block, which may not call `lent`."""
        self._may_write()
        # A child forked meanwhile would inherit the locks, and never free them.
        with self._connections.unforked(), self._turn, _alone(self._lock):
            yield

    def shrink(self) -> None:
        """Give empty pages back to the file system, but for some that are used next.

        A file that a former version made keeps all of them.
        """
        self._may_write()
        with self.lent() as connection, self._turn, _alone(self._lock):
            pages = connection.execute("PRAGMA freelist_count").fetchone()[0] - _SPARE_PAGES
            if pages > 0:  # as a script, which goes through to the last page
                connection.executescript(f"PRAGMA incremental_vacuum({min(pages, _SHRINK_PAGES)})")

    def _may_write(self) -> None:
        if self.only_read:
            raise OnlyRead(f"the registry {self._path} can be read here, and not written")

    def repair(self, error: DamagedRegistry) -> None:
        """Rebuild the registry, unless somebody did since it was found damaged."""
        with self.halted():
            if error.file is None:
                self._check()
            elif error.file == file_id(self._path):
                recovery.rebuild(self._path, self.ledger, str(error))
        self.generation.renew_all()

    def _check(self, known: str | None = None) -> None:
        """Rebuild the registry if it is missing, or obviously damaged, or, as may be `known`, locked.

        One of the former version is given what it lacks.
        """
        trouble = known or self._trouble()
        if trouble == recovery.FORMER:
            with closing(open_database(self._path)) as connection:
                recovery.complete(connection)
        elif trouble is not None:
            recovery.rebuild(self._path, self.ledger, trouble, locked=trouble == _LOCKED)

    def _trouble(self) -> str | None:
        """What is wrong with the registry, as far as that can be told at once. Raises StoreError."""
        if file_id(self._path) is None:
            return "it was gone"
        try:
            # Not a lent one: those need the tables of this version.
            with closing(open_database(self._path, only_read=self.only_read)) as connection:
                trouble = recovery.trouble(connection, self.ledger)
                return None if self.only_read and trouble == recovery.FORMER else trouble
        except ERRORS as error:
            if _is_locked(error):
                return _LOCKED
            return str(self._damage(error, None))

    def _damage(self, error: Exception, file: FileId | None) -> DamagedRegistry:
        """What an error says of the file; raises StoreError if it is not to blame."""
        if isinstance(error, DamagedRegistry | MissingDatabase | UnicodeDecodeError) or recovery.is_damage(error):
            return DamagedRegistry(str(error), file)
        told = StoreError(f"the registry {self._path} {_reason(error, self._path)}")
        # Callers that make room on a full disk recognise that by the error of the system, not by that of SQLite.
        is_full = _code(error) == sqlite3.SQLITE_FULL or (not _is_locked(error) and _is_full(self._path))
        raise told from (OSError(errno.ENOSPC, str(error)) if is_full else error)


def _is_locked(error: Exception) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _reason(error: Exception, path: Path) -> str:
    if _is_locked(error):
        return f"is kept locked by another program, for more than {BUSY_SECONDS:.0f} seconds now; fuser shows by which"
    if _is_full(path):
        return f"cannot be used: its file system is full, and a megabyte is needed even to remove something ({error})"
    return f"cannot be used: {error}"


def _is_full(path: Path) -> bool:
    """Whether SQLite has no room for the files that it has beside a registry; it calls that an error of the disk."""
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return False
    return status.f_bavail == 0 or (status.f_files > 0 and status.f_favail == 0)


@contextmanager
def _alone(lock: str) -> Iterator[None]:
    """Let one process at a time write: the others wait for a lock of the kernel, and go on the moment it is free.

    It also protects the making of the file: SQLite does not wait where two processes switch a new one to WAL at once.
    """
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"the registry cannot be used: {lock}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(f"the registry cannot be used: {lock} cannot be locked: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)
