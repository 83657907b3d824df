"""Content-addressed bytes, named by their SHA-256, immutable, one copy however many keys point at them.

Owns `blobs-v1/`, with a file for each large blob; a small one is a row of the registry, and is a file only where somebody
needed its path. A row is compared with its name whenever it is read. The only place that publishes a file. Each carries a
seal: a fixed modification time, to the second; what is behind the second tells in which boot of the machine its bytes were
last compared with its name. A file without the seal was touched by somebody else, one of another boot may have rotted: both
are hashed before they count as sound. Where the seal cannot be written, or is not kept, this process remembers what it has
hashed.
"""

import errno
import hashlib
import io
import os
import re
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from package_cache.errors import DamagedBlob, OnlyRead, StoreError
from package_cache.rules.http.digests import hasher
from package_cache.storage.machine import boot_id
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.parts.part import Part, translated

SMALL = 65536
"""Bytes of a body up to which it is a row of the registry."""
SEAL_NS = 946_684_800 * 10**9
"""The modification time of every blob but for the part that tells the boot, in nanoseconds of the epoch: 2000-01-01."""
_SECOND = 10**9
_STEP = 100
"""Nanoseconds: the file systems that matter keep times as exactly."""
_MANY = 16384
_NOT_HERE = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS})
"""What a file system answers that can sync files and no directories."""

_BLOCK = 1 << 20
_TURN = 0.002
"""Seconds between two looks at whether a blob's remover is done."""
_DIGEST = re.compile("[0-9a-f]{64}")


class Bodies(Protocol):
    """Where the small blobs are that have no file; see `SmallBodies`."""

    def read(self, digest: str) -> bytes | None:
        """The bytes in the row of a digest, whatever they are; None if there is none."""
        ...

    def names(self, prefix: str) -> set[str]:
        """The digests with these first two digits that have a row."""
        ...

    def give_up(self, digest: str) -> None:
        """There is a durable file of these bytes now."""
        ...


def flaw(body: bytes, digest: str, size: int) -> str | None:
    """What is wrong with the bytes of a blob; None if nothing is."""
    if len(body) != size:
        return f"has {len(body)} bytes instead of {size}"
    if hashlib.sha256(body, usedforsecurity=False).hexdigest() != digest:
        return "has other bytes than its name says"
    return None


def is_digest(name: str) -> bool:
    """Whether a file of that name can be a blob."""
    return _DIGEST.fullmatch(name) is not None


def is_seal(moment: int) -> bool:
    """Whether a modification time, in nanoseconds of the epoch, is that of a blob."""
    return SEAL_NS <= moment < SEAL_NS + _SECOND


def boot_seal(boot: str) -> int:
    """The modification time of what was compared with its name in a boot, in nanoseconds of the epoch."""
    return SEAL_NS + (zlib.crc32(boot.encode("ascii")) % (_SECOND // _STEP - 1) + 1) * _STEP if boot else SEAL_NS


class BlobStore:
    """The blobs under one directory, and `small` ones. Safe for any number of threads and processes."""

    def __init__(self, root: Path, small: Bodies | None = None, *, only_read: bool = False) -> None:
        self._root = root
        self._small = small
        self._only_read = only_read
        self.seal_ns = boot_seal(boot_id())
        """The modification time of a blob that was compared with its name since the machine started."""
        self._known: dict[tuple[int, int, int], None] = {}
        """Blobs that this process has compared, and whose seal does not tell it."""
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

    def small_names(self, prefix: str) -> set[str]:
        """The blobs with these first two digits that are rows. Raises StoreError."""
        return self._small.names(prefix) if self._small is not None else set()

    def body(self, digest: str, size: int = 0) -> bytes | None:
        """What the row of a blob has, right or wrong; None for one of `size` bytes that has no row. Raises StoreError."""
        return self._small.read(digest) if self._small is not None and size <= SMALL else None

    def has(self, digest: str) -> bool:
        """Whether there is a blob of that digest, sound or not. Raises StoreError."""
        return self.body(digest) is not None or self.path(digest).exists()

    def path(self, digest: str) -> Path:
        """Where the file of a blob is, or would be."""
        return Path(f"{self._root}/{digest[:2]}/{digest}")

    def as_file(self, digest: str, size: int) -> Path:
        """The path of a blob, made a file if it is none. Raises `DamagedBlob`, StoreError."""
        body = self.body(digest, size)
        if body is not None:
            if self._only_read:
                raise OnlyRead(f"blob {digest} has no file, and {self._root} can be read here, and not written")
            with self.holding([digest]):
                body = self.body(digest, size)  # it may have gone, or have become one
                if body is not None and self._small is not None:
                    self._make_file(body, digest, size)
                    self._small.give_up(digest)
        self.open(digest, size).close()
        return self.path(digest)

    def _make_file(self, body: bytes, digest: str, size: int) -> None:
        """Publish the bytes of a row. What a killed process leaves of it is removed as a dead download is."""
        trouble = flaw(body, digest, size)
        if trouble is not None:
            raise DamagedBlob(f"blob {digest} {trouble}")
        name = f"{digest}.{os.getpid()}{threading.get_native_id()}.part"
        with translated(f"make a file of {digest}"):
            part = Part(self._root.with_name("parts-v1") / name, create=True)
        try:
            part.put(0, body)
            self.seal(part)
            self.settle([self.publish(part, digest)])
        except BaseException:
            part.path.unlink(missing_ok=True)
            raise
        finally:
            part.close()

    def open(self, digest: str, size: int) -> io.FileIO:
        """An unbuffered file at the start of the blob, hashed if it was not in this boot; of a row, one in memory.

        Raises `DamagedBlob` if it is not what it should be.
        """
        body = self.body(digest, size)
        if body is not None:
            return _in_memory(body, digest, size)
        file, checked = self.glance(digest, size)
        if not checked:
            try:
                self.check(file, digest, size)
            except BaseException:
                file.close()
                raise
        return file

    def glance(self, digest: str, size: int) -> tuple[io.FileIO, bool]:
        """As `open`, but what was only not hashed in this boot is not hashed now: whether it was.

        Raises `DamagedBlob` for what is damaged at a glance, or was touched and is damaged.
        """
        try:
            file = io.FileIO(self.path(digest))
        except FileNotFoundError:
            raise DamagedBlob(f"blob {digest} is missing") from None
        except OSError as error:
            raise StoreError(f"cannot open blob {digest}: {error.strerror}") from error
        try:
            return file, self._is_checked(file, digest, size)
        except BaseException:
            file.close()
            raise

    def _is_checked(self, file: io.FileIO, digest: str, size: int) -> bool:
        status = os.fstat(file.fileno())
        if status.st_size != size:
            raise DamagedBlob(f"blob {digest} has {status.st_size} bytes instead of {size}")
        if status.st_mtime_ns == self.seal_ns or _identity(status) in self._known:
            return True
        if is_seal(status.st_mtime_ns):
            return False
        self.check(file, digest, size)
        return True

    def check(self, file: io.FileIO, digest: str, size: int) -> None:
        """Compare the bytes of an open blob with its name, and note that. Raises `DamagedBlob`."""
        try:
            if hash_file(file.fileno(), size).hexdigest() != digest:
                raise DamagedBlob(f"blob {digest} has other bytes than its name says")
        except OSError as error:
            raise DamagedBlob(f"blob {digest} cannot be read: {error.strerror}") from error
        with suppress(OSError):  # of another owner, or on a disk that is only read
            os.utime(file.fileno(), ns=(self.seal_ns, self.seal_ns))
        status = os.fstat(file.fileno())
        if status.st_mtime_ns != self.seal_ns:
            if len(self._known) >= _MANY:
                self._known.clear()
            self._known[_identity(status)] = None

    def seal(self, part: Part | io.FileIO) -> None:
        """Make the bytes of a finished part durable and, where the file system has that, read-only. Raises StoreError."""
        with translated("make a finished file durable"):
            with suppress(OSError):
                os.fchmod(part.fileno(), 0o444)
            with suppress(OSError):  # without it, it is hashed once more before it is served
                os.utime(part.fileno(), ns=(self.seal_ns, self.seal_ns))
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

        Any number of threads and processes may hold the same one. Waits for who is just about to remove it. Who may only
        read them keeps nobody from it.
        """
        if self._only_read:
            yield
            return
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
        """Take the file of a blob out of the store; readers that have it open go on. The caller claimed it."""
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove blob {digest}: {error.strerror}") from error


def _in_memory(body: bytes, digest: str, size: int) -> io.FileIO:
    """A file in memory, for all who take one: they send it, map it, look for a place in it. Raises `DamagedBlob`."""
    trouble = flaw(body, digest, size)
    if trouble is not None:
        raise DamagedBlob(f"blob {digest} {trouble}")
    try:
        return file_in_memory(f"blob-{digest}", body)
    except OSError as error:
        raise StoreError(f"cannot open blob {digest}: {error.strerror}") from error


def file_in_memory(name: str, body: bytes) -> io.FileIO:
    """A file of these bytes at its start, which is on no disk; /proc shows its name. Raises OSError."""
    file = io.FileIO(os.memfd_create(name, os.MFD_CLOEXEC), "r")
    view, at = memoryview(body), 0
    try:
        while at < len(view):
            at += os.pwrite(file.fileno(), view[at:], at)
    except BaseException:
        file.close()
        raise
    return file


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """Which file it is, and in what state."""
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


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
    """Make the names in a directory durable, where the file system lets that be asked of it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    finally:
        os.close(descriptor)
