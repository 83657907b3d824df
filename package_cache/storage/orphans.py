"""Orphans: files in the cache directory that nothing refers to any more.

Killed processes leave parts and journals of downloads that nobody resumes, and files that were being written; items of the
library that were removed leave the links at their paths. Blobs without an entry are found elsewhere, by `audit`.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from package_cache.model import Key
from package_cache.rules.library.searching import Criteria
from package_cache.storage.items.files import ItemFiles
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.items.table import Items
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.system import translated

ORPHAN_SECONDS = 86400.0
"""How long nothing happened to a file before it counts as an orphan."""
SET_ASIDE_SECONDS = 30 * 86400.0
"""How long a damaged registry that was set aside stays."""
_LINK_SECONDS = 60.0
"""No link waits so long to be given its name."""

_OF_DOWNLOAD = re.compile(r"([0-9a-f]{64})\.(?:fill|\d+\.part)")
_SET_ASIDE = re.compile(r"registry-v1\.db\.damaged-.*")
_UNFINISHED = re.compile(r"(?:registry-v1\.db|ledger-v1|scrub-v1|fsck-v1)\.new(?:-journal|-wal|-shm)?")


@dataclass(frozen=True, slots=True)
class Orphan:
    """The files of one download, or a single file; `detail` says what it is."""

    name: str
    paths: tuple[Path, ...]
    detail: str
    is_download: bool = False


def orphans(root: Path, items: Items, locks: NameLocks, now: float) -> Iterator[Orphan]:
    """All orphans of a cache directory but blobs. Raises StoreError."""
    yield from orphaned_downloads(root / "parts-v1", locks, now)
    yield from _unfinished_files(root, now)
    for path in orphaned_item_files(items, ItemFiles(root / "items-v1"), now - ORPHAN_SECONDS):
        yield Orphan(path.name, (path,), "a file of an item that is gone")


def remove(orphan: Orphan, locks: NameLocks, now: float) -> bool:
    """Remove it; False if it is a download that was resumed meanwhile. Raises StoreError."""
    if not orphan.is_download:
        remove_files(orphan.paths)
        return True
    if not locks.take_hashed(orphan.name):
        return False
    try:
        if not _is_old(orphan.paths, now):
            return False
        remove_files(orphan.paths)
        return True
    finally:
        locks.free_hashed(orphan.name)


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files, as far as they exist. Raises StoreError."""
    for path in paths:
        with translated(f"remove {path}"):
            path.unlink(missing_ok=True)


def orphaned_downloads(parts: Path, locks: NameLocks, now: float) -> Iterator[Orphan]:
    """Downloads that nobody leads, and that nothing happened to for a day. Raises StoreError."""
    found: dict[str, list[Path]] = {}
    with translated(f"list {parts}"):
        for entry in os.scandir(parts):
            match = _OF_DOWNLOAD.fullmatch(entry.name)
            if match:
                found.setdefault(match[1], []).append(Path(entry.path))
    for name, paths in sorted(found.items()):
        if _is_old(paths, now) and locks.take_hashed(name):
            locks.free_hashed(name)
            detail = f"{_size(paths)} bytes of a download that nobody resumes"
            yield Orphan(name, tuple(paths), detail, is_download=True)


def _unfinished_files(root: Path, now: float) -> Iterator[Orphan]:
    """Files that a killed process was writing and that nobody finishes; and registries that were set aside long ago."""
    for entry in os.scandir(root):
        path = Path(entry.path)
        if (_UNFINISHED.fullmatch(entry.name) and _is_old([path], now)) or (
            _SET_ASIDE.fullmatch(entry.name) and entry.stat().st_ctime < now - SET_ASIDE_SECONDS
        ):
            yield Orphan(entry.name, (path,), f"{_size([path])} bytes, of no use any more")


def orphaned_item_files(items: Items, files: ItemFiles, before: float) -> Iterator[Path]:
    """Files under the paths of items that no item has, made before a moment, in seconds of the epoch. Raises StoreError."""
    for name, path in files.names():
        if not _was_made(path, before):
            continue
        if not name:
            if files.is_temporary(path) and _was_made(path, before - _LINK_SECONDS):
                yield path
            continue
        key, _, version = name.rpartition("-")
        item = items.best(Criteria(key=Key(key), version=frozenset((int(version),)), include_removed=True))
        if item is None or not _belongs(files, path, item):
            yield path


def _belongs(files: ItemFiles, path: Path, item: ItemRow) -> bool:
    """Whether a file is where the item has one: a link only if there are bytes."""
    if item.status < -1 or str(path) != files.path(item):
        return False
    return item.digest is not None or not path.is_symlink()


def _was_made(path: Path, before: float) -> bool:
    try:
        return os.lstat(path).st_ctime < before
    except OSError:
        return False


def _is_old(paths: Iterable[Path], now: float) -> bool:
    """Whether nothing happened to any of the files for a day; those that no longer exist do not count."""
    moments = [status.st_mtime for status in _statuses(paths)]
    return bool(moments) and max(moments) < now - ORPHAN_SECONDS


def _size(paths: Iterable[Path]) -> int:
    return sum(status.st_size for status in _statuses(paths))


def _statuses(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    for path in paths:
        with suppress(FileNotFoundError):
            yield path.stat()
