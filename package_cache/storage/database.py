"""The one SQLite file, `registry-v1.db`: how it is read and written by many processes at once.

WAL lets readers go on while one writer commits; every change is one `BEGIN IMMEDIATE` transaction, so two processes never
decide on the same old state. Knows nothing of what the tables mean.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.storage.connections import Connections
from package_cache.storage.generation import Generation
from package_cache.storage.schema import SCHEMA


class Database:
    """The file and the generation words beside it. Safe for any number of threads and processes. Raises StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.generation = Generation(path.with_name("generation-v1"))
        self._turn = threading.Lock()
        self._connections = Connections(path)
        with _alone(path), self.lent() as connection:
            connection.executescript(SCHEMA)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._connections.close()

    @contextmanager
    def lent(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with, not to be nested."""
        try:
            with self._connections.lend() as connection:
                yield connection
        except sqlite3.Error as error:
            raise StoreError(f"the registry {self._path} cannot be used: {error}") from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction, which an error in the with-block undoes."""
        # One writer at a time, in turn: SQLite itself would let the others sleep and try again, for up to 0.1 s each time.
        with self.lent() as connection, self._turn, _alone(self._path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time write: the others wait for a lock of the kernel's, and go on the moment it is free.

    It also makes the file in peace: SQLite does not wait where two switch a new one to WAL at once.
    """
    try:
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"the registry {path} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(f"the registry {path} cannot be locked: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)
