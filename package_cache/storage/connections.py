"""SQLite connections, lent from a pool: a server with a thread a client would otherwise open one for each.

Owns how a connection is opened, and that none is open while the process forks. SQLite keeps a file's locks in tables of
the process: a child that inherits them believes it holds locks that it does not, and its commits can be lost. So a fork
waits until every lent connection is back, and the idle ones are closed before it.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import ref

_BUSY_SECONDS = 20.0


class Connections:
    """The connections of this process to one database file. Safe for any number of threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition(threading.Lock())
        self._idle: list[sqlite3.Connection] = []
        self._lent = 0
        self._halting = False
        _heed_forks(ref(self))

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A connection for the length of a with-block, not to be nested. One that raised `sqlite3.Error` is dropped."""
        with self._changed:
            self._changed.wait_for(lambda: not self._halting)
            connection = self._idle.pop() if self._idle else None
            self._lent += 1
        try:
            connection = connection or self._open()
            try:
                yield connection
            except sqlite3.Error:
                connection.close()
                connection = None
                raise
        finally:
            with self._changed:
                self._lent -= 1
                if connection is not None:
                    self._idle.append(connection)
                self._changed.notify_all()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A power cut may lose the last commits, never consistency; a blob without its row is only fetched again.
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._changed:
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

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
