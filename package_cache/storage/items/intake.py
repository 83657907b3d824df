"""Takes files from elsewhere into the store, as versions of keys: copied or linked, hashed, and committed in groups.

Copies are made beside the parts of downloads, under names that the sweep takes for orphans once the lock of their maker is
free. One process at a time takes files in.
"""

import errno
import fcntl
import hashlib
import os
import signal
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from package_cache.errors import StoreError
from package_cache.model import Key, Representation, Status
from package_cache.storage.blobs import BlobStore, became_file, hash_file
from package_cache.storage.database.connections import Connection
from package_cache.storage.database.file import Database, retried
from package_cache.storage.items.rows import Details, insert_entry, write_item
from package_cache.storage.parts.part import Part
from package_cache.storage.system import translated

LOCK = "upkeep:import"
"""No key begins like this."""
_NAME = hashlib.sha256(LOCK.encode("ascii")).hexdigest()
_FICLONE = 0x40049409
_BLOCK = 1 << 20
_AT_ONCE = 16
"""How many files are made durable at once."""
CHANGED = "it changed while it was read"


class Unfit(Exception):
    """A file that cannot be taken in, and why. Others may still be."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a file, or a link to it. `digest` is SHA-256 in hex, `size` in bytes.

    `changed` is when a linked file was last written, in nanoseconds of the epoch.
    """

    part: Part
    digest: str
    size: int
    changed: int | None = None

    def is_still(self) -> bool:
        """Whether its bytes are still those that were read, as far as its size and time tell."""
        if self.changed is None:
            return True
        status = os.fstat(self.part.fileno())
        return (status.st_size, status.st_mtime_ns) == (self.size, self.changed)


@dataclass(frozen=True, slots=True)
class Version:
    """A version that is to be recorded; `number` None is the next one of its key. Times are as in `ItemRow`."""

    key: Key
    number: int | None
    status: Status
    representation: Representation
    details: Details | None = None
    before: int | None = None
    last_read: int | None = None
    read_count: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """A version that is in the registry, or was `removed`. `size` is in bytes, None if it has no bytes."""

    removed: bool
    size: int | None


class Intake:
    """Takes files in, within a with-block. Methods raise StoreError."""

    def __init__(self, root: Path, database: Database, blobs: BlobStore) -> None:
        self._parts = root / "parts-v1"
        self._database = database
        self._blobs = blobs
        self._count = 0
        # Root makes files for whom the cache belongs to.
        status = root.stat()
        self._owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 and status.st_uid != 0 else None

    def __enter__(self) -> Self:
        with translated("lock the store"):
            if not self._blobs.locks.take(LOCK):
                raise StoreError("another import is at work in this cache")
        self._clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._clear()
        finally:
            self._blobs.locks.free(LOCK)

    def _clear(self) -> None:
        with translated(f"tidy {self._parts}"):
            for path in self._parts.glob(f"{_NAME}.*.part"):
                path.unlink(missing_ok=True)

    def own(self, *paths: str | Path) -> None:
        """Give files that were made here to the owner of the cache."""
        if self._owner is not None:
            for path in paths:
                os.chown(path, *self._owner, follow_symlinks=False)

    # -- bytes

    def copy(self, source: Path) -> Copy:
        """A copy of a file; the two share their blocks where the file system can do that. Raises Unfit."""
        descriptor = open_plain(source)
        try:
            before = os.fstat(descriptor)
            with translated("copy a file into the cache"):
                part = Part(self._next(), create=True)
            try:
                size, digest = _copied(descriptor, part)
                after = os.fstat(descriptor)
                if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns) or size != after.st_size:
                    raise Unfit(CHANGED)
                if self._owner is not None:
                    os.fchown(part.fileno(), *self._owner)
            except BaseException:
                discard(part)
                raise
        finally:
            os.close(descriptor)
        return Copy(part, digest, size)

    def link(self, source: Path) -> Copy | None:
        """A link to the file itself; None where there cannot be one here. Raises Unfit.

        Once it is taken in, the file is a blob: read-only, with the time of blobs; if root does this, it belongs to the
        owner of the cache.
        """
        descriptor, path = open_plain(source), self._next()
        try:
            try:
                os.link(source, path, follow_symlinks=False)
                part = Part(path, create=False)
            except OSError:  # another file system, another owner, or too many names
                path.unlink(missing_ok=True)
                return None
            try:
                return self._linked(part, os.fstat(descriptor))
            except BaseException:
                discard(part)
                raise
        finally:
            os.close(descriptor)

    def _linked(self, part: Part, before: os.stat_result) -> Copy:
        try:
            copy = Copy(part, hash_file(part.fileno(), part.size).hexdigest(), part.size, before.st_mtime_ns)
        except OSError as error:
            raise Unfit(f"it cannot be read: {error.strerror}") from error
        if not os.path.samestat(before, os.fstat(part.fileno())) or not copy.is_still():
            raise Unfit(CHANGED)
        self.own(part.path)
        return copy

    def _next(self) -> Path:
        self._count += 1
        return self._parts / f"{_NAME}.{self._count}.part"

    # -- versions

    @retried
    def standing(self, key: Key, number: int | None) -> Standing | None:
        """What the registry has, or had, of a version; without a number, of the newest that is READY or in the trash."""
        with self._database.lent() as connection:
            return _standing(connection, key, number)

    def take_in(self, several: Sequence[tuple[Version, Copy | None]]) -> list[int | None]:
        """Make the copies blobs and record the versions, in one transaction; their numbers, None for what exists by now."""
        copies = [copy for _, copy in several if copy is not None]
        try:
            # One after the other each would wait for a turn of the disk of its own.
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(self._blobs.finalize, [copy.part for copy in copies]))
            with self._blobs.holding(copy.digest for copy in copies):
                directories = {self._blobs.publish(copy.part, copy.digest) for copy in copies}
                self.own(*directories)
                self._blobs.settle(directories)
                taken = self._record([(one, copy.digest if copy else None) for one, copy in several])
        finally:
            for copy in copies:
                copy.part.close()
        self._database.generation.bump_all()
        return taken

    @retried
    def _record(self, several: Sequence[tuple[Version, str | None]]) -> list[int | None]:
        self._database.generation.announce(one.key for one, _ in several)
        with self._database.writing(durable=True) as connection:
            return [_insert(connection, one, digest) for one, digest in several]


def discard(part: Part) -> None:
    """Remove a copy that is not taken in."""
    part.path.unlink(missing_ok=True)
    part.close()


def open_plain(source: Path) -> int:
    """A descriptor of a plain file that nobody has open to write; symbolic links are not followed. Raises Unfit."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Unfit("it is a symbolic link" if source.is_symlink() else f"it cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unfit("it is no plain file")
    if _is_written(descriptor):
        os.close(descriptor)
        raise Unfit("somebody has it open to write it")
    return descriptor


def _is_written(descriptor: int) -> bool:
    """Whether somebody has a file open for writing, where this user (its owner, or root) can know that."""
    try:
        # The kernel sends this if somebody opens the file to write while the lease is held: by default it does nothing.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _copied(source: int, part: Part) -> tuple[int, str]:
    """Copy all bytes; how many, and their digest."""
    try:
        fcntl.ioctl(part.fileno(), _FICLONE, source)
    except OSError:  # another file system, or one that cannot share
        digest = hashlib.sha256(usedforsecurity=False)
        while block := _read(source):
            digest.update(block)
            part.put(part.size, block)
        return part.size, digest.hexdigest()
    size = os.fstat(part.fileno()).st_size
    return size, hash_file(part.fileno(), size).hexdigest()


def _read(source: int) -> bytes:
    try:
        return os.read(source, _BLOCK)
    except OSError as error:
        raise Unfit(f"it cannot be read: {error.strerror}") from error


def _standing(connection: Connection, key: Key, number: int | None) -> Standing | None:
    if number is None:
        row = connection.execute(
            "SELECT blob.size FROM entry JOIN blob USING (digest) WHERE key = ? AND status IN (3, -1)"
            " ORDER BY version DESC LIMIT 1",
            (key,),
        ).fetchone()
        return Standing(removed=False, size=row[0]) if row else None
    row = connection.execute(
        "SELECT blob.size FROM entry LEFT JOIN blob USING (digest) WHERE key = ? AND version = ?", (key, number)
    ).fetchone()
    if row:
        return Standing(removed=False, size=row[0])
    gone = connection.execute("SELECT version FROM gone WHERE key = ?", (key,)).fetchone()
    return Standing(removed=True, size=None) if gone and gone[0] >= number else None


def _insert(connection: Connection, one: Version, digest: str | None) -> int | None:
    if _standing(connection, one.key, one.number) is not None:
        return None
    if digest is not None:
        connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?)", (digest, one.representation.size))
        became_file(connection, digest)
    row: Any = insert_entry(connection, one.key, one.number or None, one.status, digest, one.representation)
    if one.details is not None:
        write_item(connection, row[0], one.details)
        connection.execute(
            "UPDATE item SET before = ?, last_read = ?, read_count = ? WHERE entry = ?",
            (one.before, one.last_read, one.read_count, row[0]),
        )
    return int(row[2])
