"""Files under the paths of items that no item has: what removed items, culled ones and killed processes left."""

import os
from collections.abc import Iterator
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.model import Key
from package_cache.rules.library.searching import Criteria
from package_cache.storage.items.files import ItemFiles
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.items.table import Items

_MOMENT = 60.0
"""Seconds: no link waits so long to be given its name."""


def strays(items: Items, files: ItemFiles, before: float) -> Iterator[Path]:
    """Files that no item has and that were made before a moment, in seconds of the epoch. Raises StoreError."""
    for name, path in files.names():
        if not _is_old(path, before):
            continue
        if not name:
            if files.is_temporary(path) and _is_old(path, before - _MOMENT):
                yield path
            continue
        item = item_named(items, name)
        if item is None or not _belongs(files, path, item):
            yield path


def remove_stray(path: Path) -> None:
    """Remove one of them. Raises StoreError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}") from error


def item_named(items: Items, name: str) -> ItemRow | None:
    """The item of that key and version, removed or not. Raises StoreError."""
    key, _, version = name.rpartition("-")
    return items.best(Criteria(key=Key(key), version=frozenset((int(version),)), include_removed=True))


def _belongs(files: ItemFiles, path: Path, item: ItemRow) -> bool:
    """Whether a file is where the item has one: a link only if there are bytes."""
    if item.status < -1 or str(path) != files.path(item):
        return False
    return item.digest is not None or not path.is_symlink()


def _is_old(path: Path, before: float) -> bool:
    try:
        return os.lstat(path).st_ctime < before
    except OSError:
        return False
