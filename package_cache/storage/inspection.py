"""Reads a blob through, slowly if need be, and says whether its bytes are those of its name."""

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.storage.blobs import BlobStore, flaw
from package_cache.storage.database.connections import FileId

BLOCK = 1 << 18

Pace = Callable[[int], None]
"""Called with the number of bytes read after each block; may wait."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a blob, None if nothing is; and which file that was said of, None if there is none.

    `is_there` says that there are any bytes, in a file or in a row.
    """

    damage: str | None = None
    file: FileId | None = None
    is_there: bool = True


def inspect_blob(blobs: BlobStore, digest: str, size: int, pace: Pace) -> Verdict:
    """Read a blob through, be it a file or a row. Raises StoreError where nothing can be said."""
    body = blobs.body(digest, size)
    if body is None:
        return inspect(blobs.path(digest), size, pace)
    pace(len(body))
    return Verdict(flaw(body, digest, size))


def inspect(path: Path, size: int, pace: Pace) -> Verdict:
    """Read a blob through. Raises StoreError where nothing can be said."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Verdict("is missing", is_there=False)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from error
    status = os.fstat(descriptor)
    file = status.st_dev, status.st_ino
    try:
        if status.st_size != size:
            return Verdict(f"has {status.st_size} bytes instead of {size}", file)
        if _hash(descriptor, pace) != path.name:
            return Verdict("has other bytes than its name says", file)
        return Verdict(file=file)
    except OSError as error:
        if error.errno != errno.EIO:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        return Verdict("cannot be read: the disk has an error there", file)
    finally:
        os.close(descriptor)


def _hash(descriptor: int, pace: Pace) -> str:
    digest, at = hashlib.sha256(), 0
    while block := os.pread(descriptor, BLOCK, at):
        digest.update(block)
        at += len(block)
        pace(len(block))
    # What is read here is no sign that it will be asked for: it must not push out what is.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return digest.hexdigest()
