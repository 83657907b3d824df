"""Content-addressed files: bytes named by their SHA-256, immutable, one copy however many keys point at them.

Owns `blobs-v1/`. The only place that publishes a blob. Each blob carries a seal: a fixed modification time. A blob without
it, or of another size, was touched by somebody else and is hashed before it is served.
"""

import io
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from package_cache.errors import DamagedBlob, StoreError
from package_cache.rules.http.digests import hasher
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.parts.part import Part, translated

if TYPE_CHECKING:
    import hashlib

SEAL_NS = 946_684_800 * 10**9
"""The modification time of every blob, in nanoseconds of the epoch: 2000-01-01."""

_BLOCK = 1 << 20
_TURN = 0.002
"""Seconds between two looks at whether a blob's remover is done."""
_DIGEST = re.compile("[0-9a-f]{64}")


def is_digest(name: str) -> bool:
    """Whether a file of that name can be a blob."""
    return _DIGEST.fullmatch(name) is not None


class BlobStore:
    """The blobs under one directory. Safe for any number of threads and processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        self.locks = NameLocks(root.with_name("leases-v1"))
        """Of blobs, between those who store and those who remove; others may use it for names of another form."""

    def names(self, prefix: str) -> list[str]:
        """The names of the files under the first two digits of their digests. Raises StoreError."""
        try:
            return os.listdir(f"{self._root}/{prefix}")  # noqa: PTH208 - only names
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"cannot list {self._root}/{prefix}: {error.strerror}") from error

    def path(self, digest: str) -> Path:
        """Where the blob of that digest is, or would be."""
        return Path(f"{self._root}/{digest[:2]}/{digest}")

    def open(self, digest: str, size: int) -> io.FileIO:
        """An unbuffered file at the start of the blob. Raises `DamagedBlob` if it is not what it should be."""
        try:
            file = io.FileIO(self.path(digest))
        except FileNotFoundError:
            raise DamagedBlob(f"blob {digest} is missing") from None
        except OSError as error:
            raise StoreError(f"cannot open blob {digest}: {error.strerror}") from error
        try:
            self._verify(file, digest, size)
        except OSError as error:
            file.close()
            raise DamagedBlob(f"blob {digest} cannot be read: {error.strerror}") from error
        except BaseException:
            file.close()
            raise
        return file

    def _verify(self, file: io.FileIO, digest: str, size: int) -> None:
        status = os.fstat(file.fileno())
        if status.st_size != size:
            raise DamagedBlob(f"blob {digest} has {status.st_size} bytes instead of {size}")
        if status.st_mtime_ns == SEAL_NS:
            return
        if hash_file(file.fileno(), size).hexdigest() != digest:
            raise DamagedBlob(f"blob {digest} has other bytes than its name says")
        with suppress(OSError):  # a blob of another owner stays unsealed, and is hashed each time
            os.utime(file.fileno(), ns=(SEAL_NS, SEAL_NS))

    def seal(self, part: Part | io.FileIO) -> None:
        """Make the bytes of a finished part durable and read-only. Raises StoreError."""
        with translated("make a finished file durable"):
            os.fchmod(part.fileno(), 0o444)
            os.utime(part.fileno(), ns=(SEAL_NS, SEAL_NS))
            part.sync() if isinstance(part, Part) else os.fsync(part.fileno())

    def adopt(self, path: str, digest: str, size: int) -> Path:
        """Make a sealed file the blob of its digest; its own name stays, as a second one. Raises StoreError.

        A blob that is there already stays, if it is sound. Durable once the returned directory was given to `settle`.
        """
        target = self.path(digest)
        with translated(f"put {path} into {self._root}"):
            try:
                self._link(path, target)
            except FileExistsError:
                self._mend(path, target, size)
        return target.parent

    def _link(self, path: str, target: Path) -> None:
        try:
            os.link(path, target)
        except FileNotFoundError:
            target.parent.mkdir(exist_ok=True)
            sync_directory(self._root)
            os.link(path, target)

    def _mend(self, path: str, target: Path, size: int) -> None:
        try:
            self.open(target.name, size).close()
        except DamagedBlob:
            second = Path(f"{path}.again")
            second.unlink(missing_ok=True)
            os.link(path, second)
            second.rename(target)

    def publish(self, part: Part, digest: str) -> Path:
        """Make a sealed part the blob of its digest. Raises StoreError.

        The name of the part is gone afterwards, open descriptors stay valid. A blob that is there already is replaced by
        the same bytes, which also mends one that rotted. Durable once the returned directory was given to `settle`.
        """
        target = self.path(digest)
        with translated(f"put a finished download into {self._root}"):
            try:
                part.path.rename(target)
            except FileNotFoundError:
                target.parent.mkdir(exist_ok=True)
                sync_directory(self._root)
                part.path.rename(target)
        return target.parent

    def settle(self, directories: Iterable[Path]) -> None:
        """Make what was published into these directories durable. Raises StoreError."""
        with translated(f"make finished downloads in {self._root} durable"):
            for directory in directories:
                sync_directory(directory)

    @contextmanager
    def holding(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep blobs from being removed, from before they are published until the registry has them. Raises StoreError.

        Any number of threads and processes may hold the same one. Waits for who is just about to remove it.
        """
        held: list[str] = []
        try:
            for digest in set(digests):
                with translated("lock a blob"):
                    while not self.locks.share(_lock_of(digest)):
                        time.sleep(_TURN)
                held.append(digest)
            yield
        finally:
            self._free(held)

    @contextmanager
    def claiming(self, digests: Iterable[str]) -> Iterator[list[str]]:
        """The right to remove blobs: those of `digests` that nobody holds. Never waits. Raises StoreError."""
        claimed: list[str] = []
        try:
            with translated("lock a blob"):
                claimed.extend(one for one in set(digests) if self.locks.take(_lock_of(one)))
            yield claimed
        finally:
            self._free(claimed)

    def _free(self, digests: list[str]) -> None:
        with translated("unlock a blob"):
            for digest in digests:
                self.locks.free(_lock_of(digest))

    def remove(self, digest: str) -> None:
        """Take the blob out of the store; readers that have it open go on. The caller claimed it."""
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove blob {digest}: {error.strerror}") from error


def _lock_of(digest: str) -> str:
    """The name of a blob's lock. No key begins like this."""
    return f"blob:{digest}"


def hash_file(descriptor: int, size: int, algorithm: str = "sha256") -> "hashlib._Hash":
    """The hash of the first `size` bytes of a file, wherever its position is."""
    digest, at = hasher(algorithm), 0
    while at < size:
        block = os.pread(descriptor, min(_BLOCK, size - at), at)
        if not block:
            break
        digest.update(block)
        at += len(block)
    return digest


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
