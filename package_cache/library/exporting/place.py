"""A directory that files of the cache are put into: whole or not at all, and never anywhere else.

Folders below it are entered one by one, and not through symbolic links. A file has another name until all of it is there.
"""

import errno
import fcntl
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from package_cache.errors import ArgumentError, StoreError
from package_cache.storage.blobs import hash_file

_TEMPORARY = ".package-cache-export"
_FICLONE = 0x40049409
_BLOCK = 1 << 20
_FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""What makes every other file fail as well."""
_IMPOSSIBLE = frozenset(
    {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS}
)
"""What the kernel says where a file cannot be linked or share its bytes."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Way(StrEnum):
    """How a file of the cache gets into a tree: sharing its bytes, as another name of it, or as a copy."""

    REFLINK = "reflink"
    LINK = "link"
    COPY = "copy"


class Unplaceable(Exception):
    """A file that cannot be put where it belongs, and why; others can."""


class Place:
    """The directory, within a with-block; made if it is not there. Methods raise StoreError where nothing can be put there.

    `cache` is the directory of the cache, into which nothing is ever put.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self._root = root
        if root.resolve().is_relative_to(cache.resolve()):
            raise ArgumentError(f"{root} is within the cache: give another directory")
        status = cache.stat()
        self._cache = (status.st_dev, status.st_ino)

    def __enter__(self) -> Self:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._base = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"cannot use {self._root}: {error.strerror}") from error
        try:
            fcntl.flock(self._base, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._base)
            raise StoreError(f"another export to {self._root} is at work") from None
        except OSError:  # a network file system need not have locks of directories
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self._clear()
        os.close(self._base)

    def _clear(self) -> None:
        """Remove what an export that was killed had not finished."""
        with suppress(FileNotFoundError):
            os.unlink(_TEMPORARY, dir_fd=self._base)

    def read(self, names: Sequence[str]) -> bytes | None:
        """The bytes of a small file; None if there is none. Raises Unplaceable."""
        try:
            with self._opened(names) as file:
                return file.read(_BLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unplaceable(f"{'/'.join(names)} there cannot be read: {error.strerror}") from error

    def find(self, names: Sequence[str]) -> os.stat_result | None:
        """What is there, which is a plain file; None if nothing is. Raises Unplaceable."""
        try:
            with self._inside(names[:-1], make=False) as folder:
                status = os.stat(names[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unplaceable(f"its place cannot be looked at: {error.strerror}") from error
        if stat.S_ISDIR(status.st_mode):
            raise Unplaceable("a folder has its name there")
        if not stat.S_ISREG(status.st_mode):
            raise Unplaceable("what has its name there is no plain file")
        return status

    def digest(self, names: Sequence[str], size: int) -> str:
        """The SHA-256 in hex of the first `size` bytes of what is there. Raises Unplaceable."""
        try:
            with self._opened(names) as file:
                return hash_file(file.fileno(), size).hexdigest()
        except OSError as error:
            raise Unplaceable(f"what is there cannot be read: {error.strerror}") from error

    def put(self, names: Sequence[str], blob: io.FileIO, path: Path, ways: Sequence[Way], modified: float) -> Way:
        """Put a blob there, in the place of what is; which of the ways it went, of which the first possible one is taken.

        `modified` is the time of a copy, in seconds of the epoch. Raises Unplaceable.
        """
        try:
            with self._inside(names[:-1], make=True) as folder:
                way = self._first(blob, path, ways, modified)
                os.rename(_TEMPORARY, names[-1], src_dir_fd=self._base, dst_dir_fd=folder)
        except OSError as error:
            raise self._failure(error) from error
        return way

    def write(self, names: Sequence[str], data: bytes) -> None:
        """Put a small file there, in the place of what is. Raises Unplaceable."""
        try:
            with self._inside(names[:-1], make=True) as folder:
                self._clear()
                with self._new() as file:
                    file.write(data)
                os.rename(_TEMPORARY, names[-1], src_dir_fd=self._base, dst_dir_fd=folder)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> Exception:
        if error.errno in _FATAL:
            return StoreError(f"cannot write to {self._root}: {error.strerror}")
        return Unplaceable(f"it cannot be written: {error.strerror}")

    def _first(self, blob: io.FileIO, path: Path, ways: Sequence[Way], modified: float) -> Way:
        for way in ways:
            self._clear()
            try:
                if way is Way.LINK:
                    os.link(path, _TEMPORARY, dst_dir_fd=self._base, follow_symlinks=False)
                else:
                    self._copy(blob, modified, share=way is Way.REFLINK)
            except OSError as error:
                if way is Way.COPY or error.errno not in _IMPOSSIBLE:
                    raise
            else:
                return way
        raise StoreError(
            f"{self._root} cannot have files of the cache by {ways[-1]}: it is on another file system, or on one"
            f" that cannot do that, or the files belong to another user; leave --{ways[-1]} away"
        )

    def _copy(self, blob: io.FileIO, modified: float, *, share: bool) -> None:
        with self._new() as file:
            if share:
                fcntl.ioctl(file.fileno(), _FICLONE, blob.fileno())
            else:
                blob.seek(0)
                while block := blob.read(_BLOCK):
                    view = memoryview(block)
                    while view:
                        view = view[file.write(view) :]
            with suppress(OSError):  # without it, the file is known again by its bytes
                os.utime(file.fileno(), (modified, modified))
            os.fsync(file.fileno())

    def _new(self) -> io.FileIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return io.FileIO(os.open(_TEMPORARY, flags, 0o644, dir_fd=self._base), "w")

    @contextmanager
    def _opened(self, names: Sequence[str]) -> Iterator[io.FileIO]:
        with self._inside(names[:-1], make=False) as folder:
            descriptor = os.open(names[-1], _READ, dir_fd=folder)
        with io.FileIO(descriptor) as file:
            yield file

    @contextmanager
    def _inside(self, names: Sequence[str], *, make: bool) -> Iterator[int]:
        """A descriptor of a folder. Raises OSError, Unplaceable."""
        folder = os.dup(self._base)
        try:
            for name in names:
                following = _entered(folder, name, make=make)
                os.close(folder)
                folder = following
                status = os.fstat(folder)
                if (status.st_dev, status.st_ino) == self._cache:
                    raise Unplaceable("its folder is the cache itself")
            yield folder
        finally:
            os.close(folder)


def _entered(folder: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _ENTER, dir_fd=folder)
    except NotADirectoryError:
        raise Unplaceable(f"{name} is no folder there, but a file or a symbolic link") from None
    except FileNotFoundError:
        if not make:
            raise
    os.mkdir(name, 0o755, dir_fd=folder)
    return os.open(name, _ENTER, dir_fd=folder)
