"""Who writes which item: a lease for each item in WRITE, which lasts as long as its object, and dies with the process."""

import threading
from collections import deque
from pathlib import Path
from typing import Generic, TypeVar
from weakref import WeakValueDictionary, finalize

from package_cache.errors import StoreError
from package_cache.storage.parts.forks import forget_in_children
from package_cache.storage.parts.locks import NameLocks

_T = TypeVar("_T")


class Writers(Generic[_T]):
    """The leases of one `Cache`, by the names of items; `_T` are the objects that hold them. Methods raise StoreError.

    An object may be collected at any moment, in any thread, even one that is just in here: what it held is then given back
    by whoever leaves here next.
    """

    def __init__(self, path: Path) -> None:
        self._locks = NameLocks(path)
        self._guard = threading.Lock()
        self._given_up: deque[str] = deque()
        self._threads: dict[str, threading.Thread] = {}
        self._holders: WeakValueDictionary[str, _T] = WeakValueDictionary()
        forget_in_children(self)

    def take(self, name: str) -> bool:
        """Take the lease of an item, for the thread that calls, unless somebody has it. Never waits."""
        self._collect()
        try:
            with self._guard:
                taken = self._locks.take(_lock_of(name))
                if taken:
                    self._threads[name] = threading.current_thread()
        except OSError as error:
            raise StoreError(f"cannot lock an item: {error.strerror}") from error
        self._collect()
        return taken

    def hold(self, name: str, holder: _T) -> None:
        """A lease that was taken lasts as long as its holder."""
        self._holders[name] = holder
        # At the end of the process the kernel frees it.
        finalize(holder, self.give_back, name).atexit = False

    def mine(self, name: str) -> _T | None:
        """The holder of a lease that the thread that calls has taken."""
        return self._holders.get(name) if self._threads.get(name) is threading.current_thread() else None

    def is_written(self, name: str) -> bool:
        """Whether anybody has the lease."""
        if not self.take(name):
            return True
        self.give_back(name)
        return False

    def give_back(self, name: str) -> None:
        """Give a lease back; nothing if it was."""
        self._given_up.append(name)
        self._collect()

    def _collect(self) -> None:
        while self._given_up and self._guard.acquire(blocking=False):
            try:
                name = self._given_up.popleft()
                if self._threads.pop(name, None) is not None:
                    self._locks.free(_lock_of(name))
            except IndexError:
                pass
            finally:
                self._guard.release()

    def close(self) -> None:
        """Give all back."""
        for name in list(self._threads):
            self.give_back(name)

    def forget(self) -> None:
        """In a forked child: all leases are the parent's."""
        self._guard = threading.Lock()
        self._given_up.clear()
        self._threads.clear()


def _lock_of(name: str) -> str:
    """The name of an item's lock. No key, and nothing else that is locked, begins like this."""
    return f"item:{name}"
