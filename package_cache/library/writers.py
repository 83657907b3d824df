"""The leases of items in WRITE: each lasts as long as its holder's object, and dies with the process."""

import threading
from collections import deque
from pathlib import Path
from typing import Generic, TypeVar
from weakref import finalize, ref

from package_cache.errors import StoreError
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.system import forget_in_children

_T = TypeVar("_T")


class _Lease(Generic[_T]):
    """The right to write an item, from when it is taken to when it is released."""

    __slots__ = ("holder", "thread")

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.holder: ref[_T] | None = None


class Writers(Generic[_T]):
    """The leases of one `Cache`, by the names of items; `_T` are the objects that hold them. Methods raise StoreError.

    An object may be collected at any moment, in any thread, even in one that is inside a method here: its lease is then
    released by the next thread that leaves a method.
    """

    def __init__(self, path: Path) -> None:
        self._locks = NameLocks(path)
        self._guard = threading.Lock()
        self._given_up: deque[tuple[str, _Lease[_T] | None]] = deque()
        self._leases: dict[str, _Lease[_T]] = {}
        forget_in_children(self)

    def take(self, name: str) -> bool:
        """Take the lease of an item for the calling thread, unless another writer has it. Never waits."""
        self._collect()
        try:
            with self._guard:
                taken = self._locks.take(_lock_of(name))
                if taken:
                    self._leases[name] = _Lease()
        except OSError as error:
            raise StoreError(f"cannot lock an item: {error.strerror}") from error
        self._collect()
        return taken

    def hold(self, name: str, holder: _T) -> None:
        """Let the lease that this thread has just taken last as long as its holder. Other leases are left alone."""
        lease = self._leases.get(name)
        if lease is None or lease.holder is not None or lease.thread is not threading.current_thread():
            return
        lease.holder = ref(holder)
        # The name may be taken again before the holder is collected. At the end of the process the kernel frees it.
        finalize(holder, self._give_back, name, lease).atexit = False

    def mine(self, name: str) -> _T | None:
        """The holder of a lease that the calling thread has taken."""
        lease = self._leases.get(name)
        if lease is None or lease.holder is None or lease.thread is not threading.current_thread():
            return None
        return lease.holder()

    def is_written(self, name: str) -> bool:
        """Whether there is a writer, who has the lease."""
        if not self.take(name):
            return True
        self.give_back(name)
        return False

    def give_back(self, name: str) -> None:
        """Release a lease, unless that was done already."""
        self._give_back(name, self._leases.get(name))

    def _give_back(self, name: str, lease: _Lease[_T] | None) -> None:
        self._given_up.append((name, lease))
        self._collect()

    def _collect(self) -> None:
        while self._given_up and self._guard.acquire(blocking=False):
            try:
                name, lease = self._given_up.popleft()
                if lease is not None and self._leases.get(name) is lease:
                    del self._leases[name]
                    self._locks.free(_lock_of(name))
            except IndexError:
                pass
            finally:
                self._guard.release()

    def close(self) -> None:
        """Release all leases."""
        for name in list(self._leases):
            self.give_back(name)

    def forget(self) -> None:
        """In a forked child: all leases are the parent's."""
        self._guard = threading.Lock()
        self._given_up.clear()
        self._leases.clear()


def _lock_of(name: str) -> str:
    """The name of an item's lock. No key, and nothing else that is locked, begins like this."""
    return f"item:{name}"
