"""Parts: append-only files that downloads grow in."""

import os
import threading
from pathlib import Path

from package_cache.errors import StoreError


class Descriptor:
    """An open file with several users: the last one that leaves closes it."""

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


class Part:
    """An append-only file of a fill. `size` is what was written, in bytes."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self.descriptor = Descriptor(_create(path) if create else os.open(path, os.O_RDWR | os.O_CLOEXEC))
        self.size = 0 if create else os.fstat(self.fileno()).st_size

    def fileno(self) -> int:
        """The descriptor, for calls that take one."""
        return self.descriptor.fileno()

    def put(self, at: int, data: bytes) -> bool:
        """Compare what is below `size`, append what is beyond. False if a compared byte differs; nothing is written then.

        Raises StoreError if the disk refuses.
        """
        known = min(len(data), self.size - at)
        if known > 0 and os.pread(self.fileno(), known, at) != data[:known]:
            return False
        fresh = memoryview(data)[max(known, 0) :]
        with translated("write a download"):
            while fresh:
                written = os.pwrite(self.fileno(), fresh, self.size)
                self.size += written
                fresh = fresh[written:]
        return True

    def close(self) -> None:
        """Leave the descriptor; the file stays."""
        self.descriptor.close()


def _create(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:  # left by a killed process that had nothing else to tell
        path.unlink()
        return os.open(path, flags, 0o600)


class translated:  # noqa: N801 - used as a context manager
    """Lets an OSError leave a with-block as a StoreError that says what could not be done."""

    # Not a generator: those cost a small file more than all that is done under them.
    __slots__ = ("_deed",)

    def __init__(self, deed: str) -> None:
        self._deed = deed

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise StoreError(f"cannot {self._deed}: {error.strerror}") from error
