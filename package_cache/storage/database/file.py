"""The one SQLite file, `registry-v1.db`: how it is read and written by many processes at once.

WAL lets readers go on while one writer commits; every change is one `BEGIN IMMEDIATE` transaction, so two processes never
decide on the same old state. What a transaction changed is written into the ledger, whoever changed it. A file that is
damaged or gone is made again by whoever notices first, and the others go on with the new one: see `recovery`.
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
from typing import ParamSpec, TypeVar

from package_cache.errors import DamagedRegistry, OnlyRead, StoreError
from package_cache.storage.database import recovery
from package_cache.storage.database.changes import changed_lines, watch
from package_cache.storage.database.connections import (
    BUSY_SECONDS,
    ERRORS,
    Connection,
    Connections,
    FileId,
    MissingDatabase,
    begin,
    file_id,
    open_database,
)
from package_cache.storage.database.generation import Generation
from package_cache.storage.database.ledger import Ledger

_P = ParamSpec("_P")
_T = TypeVar("_T")


_SPARE_PAGES = 4096
"""Pages of 4 KiB that a file may have without anything in them."""
_SHRINK_PAGES = 2048
"""As many are given back at a time: who wants to write waits meanwhile."""
_LOCKED = "another program kept it locked, so that it could not even be read"


def mended(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """A function that is run once more if it met a damaged registry, which is another one then."""

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
        # Who has the write lock, and for how long, is no matter where all is well.
        file, trouble = self.file(), self._trouble()
        if trouble is not None:
            with self.halted():
                self._check(trouble if trouble == _LOCKED and self.file() == file else None)
            self.generation.bump_all()

    def close(self) -> None:
        """Close what is not in use."""
        self._connections.close()
        with self._turn:
            self.ledger.close()

    def file(self) -> FileId | None:
        """Which file is the database now."""
        return file_id(self._path)

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """A connection to read with, not to be nested.

        Raises DamagedRegistry if the file was not what it should be; it is another one afterwards.
        """
        file = None
        try:
            with self._connections.lend() as connection:
                file = connection.file
                yield connection
        except (DamagedRegistry, *ERRORS) as error:
            damage = self._damage(error, file)
            self.mend(damage)
            raise damage from error

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[Connection]:
        """A connection in a transaction, which an error in the with-block undoes.

        One that is `durable` survives a power cut from the moment that anybody can see it.
        """
        # One writer at a time, in turn: SQLite itself would let the others sleep and try again, for up to 0.1 s each time.
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
        """Nobody changes anything within the with-block, which may lend no connection."""
        self._may_write()
        # A child would inherit the locks, and nobody would ever free them there.
        with self._connections.unforked(), self._turn, _alone(self._lock):
            yield

    def shrink(self) -> None:
        """Give pages that nothing is in back to the file system, but for some to be used next.

        A file that a former version made keeps them all.
        """
        self._may_write()
        with self.lent() as connection, self._turn, _alone(self._lock):
            pages = connection.execute("PRAGMA freelist_count").fetchone()[0] - _SPARE_PAGES
            if pages > 0:  # as a script, which goes through to the last page
                connection.executescript(f"PRAGMA incremental_vacuum({min(pages, _SHRINK_PAGES)})")

    def _may_write(self) -> None:
        if self.only_read:
            raise OnlyRead(f"the registry {self._path} can be read here, and not written")

    def mend(self, error: DamagedRegistry) -> None:
        """Make the registry again, unless somebody did since it was found damaged."""
        with self.halted():
            if error.file is None:
                self._check()
            elif error.file == file_id(self._path):
                recovery.rebuild(self._path, self.ledger, str(error))
        self.generation.bump_all()

    def _check(self, known: str | None = None) -> None:
        """Make the registry again if it is not there, or obviously damaged, or, as may be `known`, locked.

        One of the former version gets what it lacks.
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
            # Not one to work with: that needs the tables of this version.
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
        # Who makes room on a full disk knows that by what the system says, and not by SQLite's word for it.
        raise told from (OSError(errno.ENOSPC, str(error)) if _is_for_want_of_room(error, self._path) else error)


def _is_locked(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _reason(error: Exception, path: Path) -> str:
    if _is_locked(error):
        return f"is kept locked by another program, for more than {BUSY_SECONDS:.0f} seconds now; fuser shows by which"
    if _is_full(path):
        return f"cannot be used: its file system is full, and a megabyte is needed even to remove something ({error})"
    return f"cannot be used: {error}"


def _is_for_want_of_room(error: Exception, path: Path) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL or (not _is_locked(error) and _is_full(path))


def _is_full(path: Path) -> bool:
    """Whether SQLite has no room for the files that it has beside a registry; it calls that an error of the disk."""
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return False
    return status.f_bavail == 0 or (status.f_files > 0 and status.f_favail == 0)


@contextmanager
def _alone(lock: str) -> Iterator[None]:
    """Let one process at a time write: the others wait for a lock of the kernel's, and go on the moment it is free.

    It also makes the file in peace: SQLite does not wait where two switch a new one to WAL at once.
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
