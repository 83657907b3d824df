"""A whole commit on trial: a file is written, synced and given its place where downloads are, and removed again.

What a disk refuses is so told before a download meets it. One process at a time tries; what a killed one left is replaced.
"""

import errno
import os
import time
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.storage.blobs import sync_directory
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.parts.part import translated

_LOCK = "upkeep:trial"
"""No key begins like this."""
_NAME = "trial"
_SIZE = 65536
"""Bytes: more than a file system keeps beside the name of a file."""
_TURN = 0.01


class Apart(StoreError):
    """What is downloaded and what is stored are on different file systems: nothing could ever be stored."""


def try_commit(parts: Path, blobs: Path, locks: NameLocks) -> None:
    """Store a file and remove it. Raises StoreError; Apart where it will never be otherwise."""
    with translated(f"lock a file in {parts.parent}"):
        while not locks.take(_LOCK):
            time.sleep(_TURN)
    try:
        _look_through(blobs)
        with translated(f"write to {parts}"):
            _write(parts / _NAME)
        _put(parts / _NAME, blobs / _NAME)
    finally:
        with translated(f"unlock a file in {parts.parent}"):
            locks.free(_LOCK)


def _look_through(blobs: Path) -> None:
    """See whether what is stored has its place in directories that this user may write."""
    with translated(f"write to {blobs}"):
        for entry in os.scandir(blobs):
            if entry.is_dir() and not os.access(entry.path, os.W_OK | os.X_OK):
                raise StoreError(f"cannot write to {entry.path}: {os.strerror(errno.EACCES)}")


def _write(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            if file.write(bytes(_SIZE)) < _SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _put(path: Path, target: Path) -> None:
    try:
        try:
            path.rename(target)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        sync_directory(target.parent)
        target.unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise Apart(
                f"{target.parent} is on another file system than {path.parent}, so nothing can be stored: have the whole"
                f" directory {path.parent.parent} there, by a link or --cache PATH"
            ) from error
        raise StoreError(f"cannot write to {target.parent}: {error.strerror}") from error
