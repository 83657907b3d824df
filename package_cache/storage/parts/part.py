"""Parts: append-only files that downloads grow in.

The disk takes what was appended while more of it arrives, so that little is left to do at the end. It tells only once what
it could not take, and whoever opens the file later never hears of it: so the part remembers such an error.
"""

import os
import stat
import threading
from pathlib import Path

from package_cache.storage.system import Descriptor, translated

_WRITE_BACK_BYTES = 64 << 20
"""Bytes that are worth a thread to write them back; fewer are left to the end, as it takes time from the download."""


class Part:
    """An append-only file of a fill, for one thread at a time. `size` is what was written, in bytes."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self.descriptor = Descriptor(_create(path) if create else _reopen(path))
        self.size = 0 if create else os.fstat(self.fileno()).st_size
        self._given = 0
        """Bytes that a thread has written back, or is writing back."""
        self._writer: threading.Thread | None = None
        self._error: OSError | None = None
        """What the disk could not take."""

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
            if self.size - self._given >= _WRITE_BACK_BYTES:
                self._write_back()
        return True

    def _write_back(self) -> None:
        """Have a thread write back what is here, unless one is at it. Raises the OSError that an earlier one met."""
        if self._writer is not None and self._writer.is_alive():
            return
        self._check()
        descriptor = self.descriptor.share()
        writer = threading.Thread(target=self._run_writer, args=(descriptor,), name="writeback", daemon=True)
        try:
            writer.start()
        except RuntimeError:  # the system gives no more threads
            descriptor.close()
        else:
            self._given, self._writer = self.size, writer

    def _run_writer(self, descriptor: Descriptor) -> None:
        try:
            os.fdatasync(descriptor.fileno())
        except OSError as error:
            self._error = error
        finally:
            descriptor.close()

    def sync(self) -> None:
        """Make all bytes durable. Raises OSError if the disk did not take all of them, now or before."""
        if self.is_sound():
            try:
                os.fsync(self.fileno())
            except OSError as error:
                self._error = error
        self._check()

    def is_sound(self) -> bool:
        """Whether the disk took what it was given so far. Waits for its answer.

        If not, nobody may resume the part: it looks whole only until the system drops its pages from memory.
        """
        if self._writer is not None:
            self._writer.join()
        return self._error is None

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Give up the descriptor; the file stays."""
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
    except PermissionError:  # made read-only by a process that was killed before it could put it in its place
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(0o600)
        try:
            return os.open(path, flags)
        finally:
            path.chmod(mode)
