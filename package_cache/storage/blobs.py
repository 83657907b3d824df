"""Content-addressed bytes, named by their SHA-256, immutable, one copy however many keys point at them.

A large blob is a file in `blobs-v1/`, which this module owns: it is the only place that publishes one. Each file carries a
stamp: a fixed modification time, to the second; the fraction of the second tells in which boot of the machine its bytes
were last compared with its name. A file without the stamp was touched by somebody else, one of another boot may have
rotted: both are hashed before they count as sound. Where the stamp cannot be written, or is not kept, this process
remembers what it has hashed.

A body of up to 64 KiB is a row of `small`, written in the transaction that writes its entry: it is there with its key,
durable with it, or not at all. A trigger deletes it with its row of `blob`, whoever deletes that. It is compared with its
name whenever it is read. Where somebody needs a path the body is made a file, once, and is a row no more; a file that a
former version stored stays one. Nobody locks a digest to store a row or to remove one: a transaction decides which came
first, and what is stored after a removal brings its bytes with it. Locks are for files, whose names no transaction covers.
"""

import errno
import hashlib
import io
import os
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from package_cache.errors import DamagedBlob, OnlyRead, StoreError
from package_cache.rules.http.digests import hasher
from package_cache.storage.database.connections import Connection
from package_cache.storage.database.file import Database, retried
from package_cache.storage.database.schema import SMALL
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.parts.part import Part
from package_cache.storage.system import boot_id, sync_directory, translated

STAMP_NS = 946_684_800 * 10**9
"""The modification time of every blob but for the fraction that tells the boot, in nanoseconds of the epoch: 2000-01-01."""
_SECOND = 10**9
_STEP = 100
"""Nanoseconds: the file systems that matter keep times at least as exactly."""
_MANY = 16384
_BLOCK, _PACED_BLOCK = 1 << 20, 1 << 18
_TURN = 0.002
"""Seconds between two attempts to hold a blob that is being removed."""
_BODIES_AT_A_TIME = 16
"""Small bodies of a statement at most."""
_BODY = "SELECT body FROM small WHERE digest = ?"


def flaw(body: bytes, digest: str, size: int) -> str | None:
    """What is wrong with the bytes of a blob; None if nothing is."""
    if len(body) != size:
        return f"has {len(body)} bytes instead of {size}"
    if hashlib.sha256(body, usedforsecurity=False).hexdigest() != digest:
        return "has other bytes than its name says"
    return None


def is_stamp(moment: int) -> bool:
    """Whether a modification time, in nanoseconds of the epoch, is that of a blob."""
    return STAMP_NS <= moment < STAMP_NS + _SECOND


def boot_stamp(boot: str) -> int:
    """The modification time of what was compared with its name in a boot, in nanoseconds of the epoch."""
    return STAMP_NS + (zlib.crc32(boot.encode("ascii")) % (_SECOND // _STEP - 1) + 1) * _STEP if boot else STAMP_NS


class BlobStore:
    """The blobs under one directory, and the small ones in a registry. Safe for any number of threads and processes."""

    def __init__(self, root: Path, database: Database | None = None, *, only_read: bool = False) -> None:
        self._root = root
        self._database = database
        self._only_read = only_read
        self.stamp_ns = boot_stamp(boot_id())
        """The modification time of a blob that was compared with its name since the machine started."""
        self._known: dict[tuple[int, int, int], None] = {}
        """Blobs that this process has compared, though their stamps do not tell it."""
        root.mkdir(parents=True, exist_ok=True)
        self.locks = NameLocks(root.with_name("leases-v2"))
        """Locks of blobs, between processes that store and those that remove; and of other names, which look different."""

    def names(self, prefix: str) -> list[str]:
        """The names of the files under the first two digits of their digests. Raises StoreError."""
        try:
            return os.listdir(f"{self._root}/{prefix}")  # noqa: PTH208 - only names
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"cannot list {self._root}/{prefix}: {error.strerror}") from error

    @retried
    def small_names(self, prefix: str) -> set[str]:
        """The blobs with these first two digits that are rows. Raises StoreError."""
        if self._database is None:
            return set()
        with self._database.lent() as connection:
            if self._database.only_read and not _has_small(connection):
                return set()
            rows = connection.execute("SELECT digest FROM small WHERE digest >= ? AND digest < ?", (prefix, prefix + "g"))
            return {str(digest) for (digest,) in rows}

    @retried
    def body(self, digest: str, size: int = 0) -> bytes | None:
        """The body in the row of a blob, right or wrong; None if one of `size` bytes has no row. Raises StoreError."""
        if self._database is None or size > SMALL:
            return None
        with self._database.lent() as connection:
            if self._database.only_read and not _has_small(connection):
                return None
            return body_of(connection, digest)

    def sound_body(self, digest: str, size: int) -> bytes | None:
        """As `body`, compared with its name. Raises `DamagedBlob`, StoreError."""
        body = self.body(digest, size)
        trouble = flaw(body, digest, size) if body is not None else None
        if trouble is not None:
            raise DamagedBlob(f"blob {digest} {trouble}")
        return body

    def has(self, digest: str) -> bool:
        """Whether there is a blob of that digest, sound or not. Raises StoreError."""
        return self.body(digest) is not None or self.path(digest).exists()

    def path(self, digest: str) -> Path:
        """Where the file of a blob is, or would be."""
        return Path(f"{self._root}/{digest[:2]}/{digest}")

    def as_file(self, digest: str, size: int) -> Path:
        """The path of a blob, which is made a file if it is a row. Raises `DamagedBlob`, StoreError."""
        body = self.body(digest, size)
        if body is not None:
            if self._only_read:
                raise OnlyRead(f"blob {digest} has no file, and {self._root} can be read here, and not written")
            with self.holding([digest]):
                body = self.sound_body(digest, size)  # it may have been removed, or have become one
                if body is not None:
                    self._make_file(body, digest)
                    self._forget_row(digest)
        self.open(digest, size).close()
        return self.path(digest)

    @retried
    def _forget_row(self, digest: str) -> None:
        """There is a durable file of these bytes now."""
        assert self._database is not None  # the row was in it
        with self._database.writing(durable=True) as connection:
            became_file(connection, digest)

    def _make_file(self, body: bytes, digest: str) -> None:
        """Publish the bytes of a row as a file. What a killed process leaves is removed as that of a download is."""
        name = f"{digest}.{os.getpid()}{threading.get_native_id()}.part"
        with translated(f"make a file of {digest}"):
            part = Part(self._root.with_name("parts-v1") / name, create=True)
        try:
            part.put(0, body)
            self.finalize(part)
            self.settle([self.publish(part, digest)])
        except BaseException:
            part.path.unlink(missing_ok=True)
            raise
        finally:
            part.close()

    def open(self, digest: str, size: int) -> io.FileIO:
        """The blob as an unbuffered file at its start, hashed if it was not in this boot; for a row, a file in memory.

        Raises `DamagedBlob`.
        """
        body = self.sound_body(digest, size)
        if body is not None:
            with translated(f"open blob {digest}"):
                return file_in_memory(f"blob-{digest}", body)
        file, checked = self.glance(digest, size)
        if not checked:
            try:
                self.check(file, digest, size)
            except BaseException:
                file.close()
                raise
        return file

    def glance(self, digest: str, size: int) -> tuple[io.FileIO, bool]:
        """As `open`, but a file that was merely not hashed in this boot is not hashed now; whether it was.

        Raises `DamagedBlob` for a file of a wrong size, or one that was touched and is damaged.
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

    def open_at_once(self, digest: str, size: int) -> io.FileIO | bytes:
        """As `open`, for callers that must not wait; of a row, its bytes. Raises StoreError if it is to be hashed first."""
        row = self._database.row_at_once(_BODY, digest) if self._database is not None and size <= SMALL else None
        if row is None:
            return self._file_at_once(digest, size)
        body = bytes(row[0])  # which copies nothing
        if flaw(body, digest, size) is not None:
            raise StoreError(f"blob {digest} is damaged")
        return body

    def _file_at_once(self, digest: str, size: int) -> io.FileIO:
        try:
            file = io.FileIO(self.path(digest), opener=_open_at_once)
        except OSError as error:
            raise StoreError(f"cannot open blob {digest}: {error.strerror}") from error
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size != size or status.st_mtime_ns != self.stamp_ns:
            file.close()
            raise StoreError(f"blob {digest} is to be looked at more closely")
        return file

    def _is_checked(self, file: io.FileIO, digest: str, size: int) -> bool:
        status = os.fstat(file.fileno())
        if status.st_size != size:
            raise DamagedBlob(f"blob {digest} has {status.st_size} bytes instead of {size}")
        if status.st_mtime_ns == self.stamp_ns or _identity(status) in self._known:
            return True
        if is_stamp(status.st_mtime_ns):
            return False
        self.check(file, digest, size)
        return True

    def check(self, file: io.FileIO, digest: str, size: int) -> None:
        """Compare the bytes of an open blob with its name, and note that this was done. Raises `DamagedBlob`."""
        try:
            if hash_file(file.fileno(), size).hexdigest() != digest:
                raise DamagedBlob(f"blob {digest} has other bytes than its name says")
        except OSError as error:
            raise DamagedBlob(f"blob {digest} cannot be read: {error.strerror}") from error
        with suppress(OSError):  # of another owner, or on a read-only disk
            os.utime(file.fileno(), ns=(self.stamp_ns, self.stamp_ns))
        status = os.fstat(file.fileno())
        if status.st_mtime_ns != self.stamp_ns:
            if len(self._known) >= _MANY:
                self._known.clear()
            self._known[_identity(status)] = None

    def finalize(self, part: Part | io.FileIO) -> None:
        """Make the bytes of a finished part durable and, where the file system has that, read-only. Raises StoreError."""
        with translated("make a finished file durable"):
            with suppress(OSError):
                os.fchmod(part.fileno(), 0o444)
            with suppress(OSError):  # without the stamp it is hashed once more before it is served
                os.utime(part.fileno(), ns=(self.stamp_ns, self.stamp_ns))
            part.sync() if isinstance(part, Part) else os.fsync(part.fileno())

    def adopt(self, path: str, digest: str, size: int) -> Path:
        """Make a finalized file the blob of its digest; its own name stays, as a second one. Raises StoreError.

        A blob that exists already stays, if it is sound. Durable once the returned directory was given to `settle`.
        """
        target = self.path(digest)
        with translated(f"put {path} into {self._root}"):
            try:
                self._place(target, partial(os.link, path, target))
            except FileExistsError:
                try:
                    self.open(digest, size).close()
                except DamagedBlob:
                    second = Path(f"{path}.again")
                    second.unlink(missing_ok=True)
                    os.link(path, second)
                    second.rename(target)
        return target.parent

    def publish(self, part: Part, digest: str) -> Path:
        """Make a finalized part the blob of its digest. Raises StoreError.

        The part has no other name afterwards; open descriptors stay valid. A blob that exists already is replaced by the
        same bytes, which also repairs one that rotted. Durable once the returned directory was given to `settle`.
        """
        target = self.path(digest)
        with translated(f"put a finished download into {self._root}"):
            if not os.path.samestat(os.fstat(part.fileno()), part.path.stat()):  # its name was given to another file
                raise OSError(errno.ESTALE, f"{part.path} is another file by now")
            self._place(target, partial(part.path.rename, target))
        return target.parent

    def _place(self, target: Path, put: Callable[[], object]) -> None:
        """Put a blob into its directory, which is made if needed."""
        try:
            put()
        except FileNotFoundError:
            target.parent.mkdir(exist_ok=True)
            sync_directory(self._root)
            put()

    def settle(self, directories: Iterable[Path]) -> None:
        """Make what was published into these directories durable. Raises StoreError."""
        with translated(f"make finished downloads in {self._root} durable"):
            for directory in directories:
                sync_directory(directory)

    @contextmanager
    def holding(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep blobs from being removed, from before they are published until the registry has them. Raises StoreError.

        Any number of threads and processes may hold the same one. Waits while another is removing it. In a store that may
        only be read it does nothing.
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
        """Unlink the file of a blob; readers that have it open go on. The caller claimed it."""
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove blob {digest}: {error.strerror}") from error


def _has_small(connection: Connection) -> bool:
    """Whether there is a table of bodies: a reader that may not write cannot complete a registry of the former version."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'small'").fetchone() is not None


def body_of(connection: Connection, digest: str) -> bytes | None:
    """The bytes in the row of a digest, right or wrong."""
    row = connection.execute(_BODY, (digest,)).fetchone()
    return None if row is None else bytes(row[0])


def put_bodies(connection: Connection, bodies: Sequence[tuple[str, bytes]]) -> None:
    """Write the rows of bodies, and repair those that rotted."""
    otherwise = "ON CONFLICT (digest) DO UPDATE SET body = excluded.body WHERE body <> excluded.body"
    connection.insert_rows("INSERT INTO small", bodies, otherwise, at_a_time=_BODIES_AT_A_TIME)


def became_file(connection: Connection, digest: str) -> None:
    """Delete the row of a digest: its bytes are a file, which the caller holds."""
    connection.execute("DELETE FROM small WHERE digest = ?", (digest,))


def file_in_memory(name: str, body: bytes) -> io.FileIO:
    """An unnamed file of these bytes in memory, at its start; /proc shows it by `name`. Raises OSError."""
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
    """Identifies a file and its state."""
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _lock_of(digest: str) -> str:
    """The name of a blob's lock. No key begins like this."""
    return f"blob:{digest}"


def _open_at_once(path: str, flags: int) -> int:
    """Open what is at the path without waiting: opening a pipe would else wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def hash_file(
    descriptor: int, size: int, algorithm: str = "sha256", pace: Callable[[int], None] | None = None
) -> "hashlib._Hash":
    """The hash of the first `size` bytes of a file, wherever its position is.

    `pace` is called with the number of bytes after each block, and may wait.
    """
    digest, at, most = hasher(algorithm), 0, _BLOCK if pace is None else _PACED_BLOCK
    while at < size and (block := os.pread(descriptor, min(most, size - at), at)):
        digest.update(block)
        at += len(block)
        if pace is not None:
            pace(len(block))
    return digest
