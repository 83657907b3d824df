"""The cache directory: where it is by default, what is in it, how it is opened, and whether files can be stored in it."""

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from package_cache.errors import StoreError
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import BlobStore
from package_cache.storage.damage import Damages, Quarantine
from package_cache.storage.notes import Reports
from package_cache.storage.parts.leases import PartStore
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.registry import Registry
from package_cache.storage.system import sync_directory, translated

_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# This directory is a cache of package-cache.\n"
_FOLDERS = ("blobs-v1", "parts-v1")
_REGISTRY = "registry-v1.db"
_TRIAL_LOCK = "upkeep:trial"
"""No key begins like this."""
_TRIAL = "trial"
_TRIAL_SIZE = 65536
"""Bytes: more than a file system keeps beside the name of a file."""
_TURN = 0.01


@dataclass(frozen=True, slots=True)
class CacheDirectory:
    """What is in the cache directory."""

    root: Path
    blobs: BlobStore
    parts: PartStore
    registry: Registry
    reports: Reports
    quarantine: Quarantine
    audit: Audit
    damages: Damages
    only_read: bool = False
    """Whether this user may only read it."""


def default_directory(name: str = "package-cache") -> Path:
    """The cache directory of a program: within `$SNAP_USER_COMMON` in a snap, else within the user's caches.

    Raises StoreError for a user without a home directory.
    """
    common = os.environ.get("SNAP_USER_COMMON")
    try:
        return Path(common) / name if common else platformdirs.user_cache_path(name)
    except RuntimeError:
        raise StoreError("this user has no home directory for a cache; say where it is to be, or set HOME") from None


def open_cache_directory(root: Path, remedy: str, *, reading: bool = False) -> CacheDirectory:
    """Open a cache directory, made if it does not exist. Raises StoreError, which ends with the remedy.

    With `reading`, one that this user may read but not write will do.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        only_read = not all(os.access(root / name, os.W_OK | os.X_OK) for name in _FOLDERS if (root / name).exists())
        tag = root / "CACHEDIR.TAG"
        if not only_read and not tag.exists():
            tag.write_bytes(_TAG)
        for name in _FOLDERS:
            (root / name).mkdir(exist_ok=True)
        parts = PartStore(root / "parts-v1", only_read=only_read)
    except OSError as error:
        raise StoreError(_unusable(root, error.strerror or str(error), remedy)) from error
    if only_read and not (reading and os.access(root / _REGISTRY, os.R_OK)):
        raise StoreError(_unusable(root, _why_not(root), remedy))
    registry = Registry(root / _REGISTRY, only_read=only_read)
    blobs = BlobStore(root / "blobs-v1", registry.database, only_read=only_read)
    quarantine, audit = Quarantine(root / "quarantine-v1"), Audit(registry.database, blobs)
    damages = Damages(registry, audit, blobs, quarantine)
    return CacheDirectory(root, blobs, parts, registry, Reports(root / "sources-v1"), quarantine, audit, damages, only_read)


def _unusable(root: Path, reason: str, remedy: str) -> str:
    return f"cannot use {root} as the cache: {reason}. {remedy}"


def _why_not(root: Path) -> str:
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        return "its file system is only read"
    try:
        owner = root.owner()
    except (KeyError, OSError):
        owner = "another user"
    return f"it belongs to {owner}, and this user may not write it"


class Apart(StoreError):
    """What is downloaded and what is stored are on different file systems: nothing could ever be stored."""


def try_commit(parts: Path, blobs: Path, locks: NameLocks) -> None:
    """Write, sync and publish a file where downloads are, as a commit does, and remove it again.

    So a disk that refuses is noticed before a download meets it. One process at a time tries; what a killed one left is
    replaced. Raises StoreError; Apart where it will never be otherwise.
    """
    with translated(f"lock a file in {parts.parent}"):
        while not locks.take(_TRIAL_LOCK):
            time.sleep(_TURN)
    try:
        with translated(f"write to {blobs}"):
            for entry in os.scandir(blobs):
                if entry.is_dir() and not os.access(entry.path, os.W_OK | os.X_OK):
                    raise StoreError(f"cannot write to {entry.path}: {os.strerror(errno.EACCES)}")
        _publish_trial(parts / _TRIAL, blobs / _TRIAL)
    finally:
        with translated(f"unlock a file in {parts.parent}"):
            locks.free(_TRIAL_LOCK)


def _publish_trial(path: Path, target: Path) -> None:
    try:
        with translated(f"write to {path.parent}"), path.open("wb", buffering=0) as file:
            if file.write(bytes(_TRIAL_SIZE)) < _TRIAL_SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        path.rename(target)
        sync_directory(target.parent)
        target.unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise Apart(
                f"{target.parent} is on another file system than {path.parent}, so nothing can be stored: have the whole"
                f" directory {path.parent.parent} there, by a link or --cache PATH"
            ) from error
        raise StoreError(f"cannot write to {target.parent}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
