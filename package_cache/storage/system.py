"""What this floor asks of the operating system: shared descriptors, durable names, forks, and which machine this is.

Knows nothing of blobs, parts or the registry.
"""

import errno
import os
import threading
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from weakref import ref

from package_cache.errors import StoreError

_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS})
"""What a file system answers that can sync files but not directories."""


class translated:  # noqa: N801 - used as a context manager
    """Turns an OSError that leaves the with-block into a StoreError that says what could not be done."""

    # Not a generator: those cost a small file more than all that is done under them.
    __slots__ = ("_deed",)

    def __init__(self, deed: str) -> None:
        self._deed = deed

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise StoreError(f"cannot {self._deed}: {error.strerror}") from error


def file_system_of(root: Path) -> os.statvfs_result:
    """What there is and what is free on the file system of a directory. Raises StoreError."""
    with translated(f"look how much of {root} is free"):
        return os.statvfs(root)


class Descriptor:
    """An open file with several users, in any thread: the last one to leave closes it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._users = 1
        self._guard = threading.Lock()

    def fileno(self) -> int:
        """The number, for calls that take one."""
        return self._number

    def share(self) -> "Descriptor":
        """The same, with one more user."""
        with self._guard:
            self._users += 1
        return self

    def close(self) -> None:
        """One user less."""
        with self._guard:
            self._users -= 1
            if self._users == 0:
                os.close(self._number)


class Forgetful(Protocol):
    """Holds something that a forked child does not inherit, such as a lock."""

    def forget(self) -> None:
        """In a forked child: what was held is the parent's, and ends with it."""
        ...


def forget_in_children(holder: Forgetful) -> None:
    """Call `holder.forget` in each forked child, for as long as the holder lives."""
    known = ref(holder)

    def after() -> None:
        alive = known()
        if alive is not None:
            alive.forget()

    os.register_at_fork(after_in_child=after)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the file system allows that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def append_whole(descriptor: int, data: bytes) -> None:
    """Append all of the data to a file, or nothing. Raises OSError."""
    end = os.fstat(descriptor).st_size
    if os.pwrite(descriptor, data, end) < len(data):
        os.ftruncate(descriptor, end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def boot_id() -> str:
    """A name for the time since the machine started; empty where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def installation(instance: str, root: Path) -> str:
    """A name for the cache `instance` in the directory `root`: a copy of the directory has another one, here or elsewhere.

    It is the same in every process of the machine that uses the directory, while the machine runs.
    """
    status = root.stat()
    parts = (instance, boot_id(), os.uname().nodename, status.st_dev, status.st_ino)
    return sha256("\n".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
