"""Parts: append-only files that downloads grow in."""

import os
import stat
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.storage.parts.descriptor import Descriptor
from package_cache.storage.parts.writeback import Writeback


class Part:
    """An append-only file of a fill. `size` is what was written, in bytes."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self.descriptor = Descriptor(_create(path) if create else _reopen(path))
        self.size = 0 if create else os.fstat(self.fileno()).st_size
        self._writeback = Writeback(self.descriptor)

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
            self._writeback.grew(self.size)
        return True

    def sync(self) -> None:
        """Make all bytes durable. Raises OSError if the disk did not take all of them, now or before."""
        self._writeback.finish()

    def is_sound(self) -> bool:
        """Whether the disk took what it was given so far. Waits for its answer.

        If not, nobody may go on with the part: it looks whole until the system forgets what it has of it in memory.
        """
        return self._writeback.is_well()

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


def _reopen(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except PermissionError:  # sealed by a process that was killed before it could put it in its place
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(0o600)
        try:
            return os.open(path, flags)
        finally:
            path.chmod(mode)


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
