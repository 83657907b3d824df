"""Files that grow: parts, which downloads append to, and drafts, which take the place of a caller's file in one step.

A draft has a hidden file for its bytes beside the place where they are to be, and one that holds the lock and the head
they came with. Both stay where a download breaks off, or its process is killed, so that the next one to the same place
resumes it.
"""

import fcntl
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.model import Representation
from package_cache.storage.database.schema import dump_representation, load_representation
from package_cache.storage.system import Descriptor, boot_id, sync_directory, translated

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


_TURN = 0.02
"""Seconds between two looks at whether another download to the same place is over."""
_LONGEST = 200


class Draft:
    """The future file `target`, of the download named `tag`, under a lock that dies with the process.

    Waits for another download of the same name to the same place, which may have put the file there. Raises StoreError.
    """

    def __init__(self, target: Path, tag: str) -> None:
        with translated(f"write {target}"):
            self.target = _place_of(target)
        stem = os.fsencode(self.target.name)[:_LONGEST].decode("utf-8", "ignore")
        self._notes = self.target.with_name(f".{stem}.{tag}.head")
        self._bytes = self.target.with_name(f".{stem}.{tag}.part")
        with translated(f"write beside {self.target}"):
            self._descriptor = _locked(self._notes)
            self.part: Part | None = None
            try:
                self.head: Representation | None = self._recover()
            except BaseException:
                os.close(self._descriptor)
                raise

    def _recover(self) -> Representation | None:
        """The head of the bytes that an earlier download left, if they can be used; else they are removed."""
        text = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0).decode("utf-8", "replace")
        boot, _, head = text.partition("\n")
        # Unless the machine was booted since, what was written is there.
        if boot and boot == boot_id():
            with suppress(ValueError, FileNotFoundError):
                known = load_representation(head)
                _check_owner(self._bytes.lstat(), self._bytes)
                self.part = Part(self._bytes, create=False)
                return known
        self.reset()
        return None

    @property
    def have(self) -> int:
        """Bytes of the file so far."""
        return self.part.size if self.part else 0

    def begin(self, head: Representation) -> None:
        """Note the head of the bytes. Raises StoreError."""
        with translated(f"write beside {self.target}"):
            if self.part is None:
                self.part = Part(self._bytes, create=True)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{boot_id()}\n{dump_representation(head)}".encode(), 0)
        self.head = head

    def reset(self) -> None:
        """Drop the bytes."""
        with translated(f"write beside {self.target}"):
            os.ftruncate(self._descriptor, 0)
            self._bytes.unlink(missing_ok=True)
        self._close_part()

    def finish(self) -> None:
        """Put the file in its place, durably, instead of what was there. Raises StoreError.

        Other downloads to the same place go on after `close`.
        """
        assert self.part is not None
        with translated(f"put a finished download at {self.target}"):
            with suppress(OSError):  # a file system without modes
                os.fchmod(self.part.fileno(), stat.S_IMODE(os.fstat(self._descriptor).st_mode))
            self.part.sync()
            self._bytes.rename(self.target)
            sync_directory(self.target.parent)
            os.ftruncate(self._descriptor, 0)
        self._close_part()

    def drop(self) -> None:
        """Remove all of it. May be called again, and after `finish`."""
        if self._descriptor >= 0:
            with translated(f"remove a broken download beside {self.target}"):
                self._bytes.unlink(missing_ok=True)
                self._notes.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Leave the bytes to the next download, unless there are none, or the disk lost some. May be called again."""
        if self._descriptor < 0:
            return
        if self.part is None or not self.part.size or not self.part.is_sound():
            with suppress(OSError):
                self._bytes.unlink(missing_ok=True)
                self._notes.unlink(missing_ok=True)
        self._close_part()
        os.close(self._descriptor)
        self._descriptor = -1

    def _close_part(self) -> None:
        if self.part is not None:
            self.part.close()
            self.part = None


def _place_of(target: Path) -> Path:
    """Where a file of that name would be written, through links. Raises StoreError if it cannot be replaced."""
    place = Path(os.path.realpath(target))
    if not place.name or not place.parent.is_dir():
        raise StoreError(f"cannot write {target}: there is no directory {place.parent}")
    if place.is_dir():
        raise StoreError(f"cannot write {target}: it is a directory; the name of a file in it is needed")
    if place.exists() and not place.is_file():
        raise StoreError(f"cannot write {target}: it is no regular file, and would be replaced by one")
    return place


def _check_owner(status: os.stat_result, path: Path) -> None:
    """Raise StoreError unless it is a plain file of this user: anybody may put something into a shared directory."""
    if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise StoreError(f"{path} is not a file of this user alone: remove it")


def _locked(path: Path) -> int:
    """The file, made if it does not exist, once nobody else has it locked."""
    while True:
        # The mode is what the user's mask leaves of it, and is given to the finished file.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                _check_owner(os.fstat(descriptor), path)
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_TURN)
