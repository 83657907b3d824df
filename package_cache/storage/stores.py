"""What is in a cache directory, and how it is opened; where the directory is if nobody says."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from package_cache.errors import StoreError
from package_cache.storage.blobs import BlobStore
from package_cache.storage.parts.leases import PartStore
from package_cache.storage.quarantine import Quarantine
from package_cache.storage.registry import Registry
from package_cache.storage.reports import Reports
from package_cache.storage.small import SmallBodies

_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# This directory is a cache of package-cache.\n"
_FOLDERS = ("blobs-v1", "parts-v1")
_REGISTRY = "registry-v1.db"


@dataclass(frozen=True, slots=True)
class Stores:
    """What is in the cache directory."""

    root: Path
    blobs: BlobStore
    parts: PartStore
    registry: Registry
    reports: Reports
    quarantine: Quarantine
    only_read: bool = False
    """Whether this user may read it alone."""


def default_directory(name: str = "package-cache") -> Path:
    """The cache directory of a program: within `$SNAP_USER_COMMON` in a snap, else within the user's caches.

    Raises StoreError for a user without a home directory.
    """
    common = os.environ.get("SNAP_USER_COMMON")
    try:
        return Path(common) / name if common else platformdirs.user_cache_path(name)
    except RuntimeError:
        raise StoreError("this user has no home directory for a cache; say where it is to be, or set HOME") from None


def open_stores(root: Path, remedy: str, *, reading: bool = False) -> Stores:
    """Open a cache directory, made if it is not there. Raises StoreError, which ends with the remedy.

    With `reading`, one that can be read and not written will do.
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
    registry, reports = Registry(root / _REGISTRY, only_read=only_read), Reports(root / "sources-v1")
    blobs = BlobStore(root / "blobs-v1", SmallBodies(registry.database), only_read=only_read)
    return Stores(root, blobs, parts, registry, reports, Quarantine(root / "quarantine-v1"), only_read)


def _unusable(root: Path, reason: str, remedy: str) -> str:
    return f"cannot use {root} as the cache: {reason}. {remedy}"


def _why_not(root: Path) -> str:
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        return "its file system is only read"
    return f"it belongs to {_owner(root)}, and this user may not write it"


def _owner(root: Path) -> str:
    try:
        return root.owner()
    except (KeyError, OSError):
        return "another user"
