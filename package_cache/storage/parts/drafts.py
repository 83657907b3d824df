"""Drafts: files that grow beside the place where they are to be, and take it in one step.

A draft has a hidden file for its bytes, and one that holds the lock and the head they came with. Both stay where a download
breaks off, or its process is killed, so that the next one to the same place resumes it.
"""

import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.model import Representation
from package_cache.storage.database.schema import dump_representation, load_representation
from package_cache.storage.parts.part import Part
from package_cache.storage.system import boot_id, sync_directory, translated

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
