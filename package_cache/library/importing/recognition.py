"""Which older cache is in a directory, by what is in it."""

import stat
from pathlib import Path

from package_cache.errors import ArgumentError
from package_cache.library.importing import file_caches, registries
from package_cache.library.importing.file_caches import FileCache
from package_cache.library.importing.finds import Older
from package_cache.library.importing.registries import ItemRegistry
from package_cache.library.importing.trees import Tree, prefix_of
from package_cache.rules.repositories.routes import Routes

_HEAD = b"SQLite format 3\0"
_OWN = "registry-v1.db"


def recognise(place: Path, cache: Path, routes: Routes, prefix: str | None = None) -> Older:
    """The older cache at a place, for the cache directory `cache`. Raises ArgumentError.

    `routes` and `prefix`, as a person writes it, are for trees.
    """
    mode = _mode_of(place)
    if stat.S_ISREG(mode):
        return ItemRegistry(_checked(place))
    if not stat.S_ISDIR(mode):
        raise ArgumentError(f"{place} is no directory")
    found: Older | None = None
    if (place / registries.NAME).is_file():
        found = ItemRegistry(_checked(place / registries.NAME))
    elif (place / file_caches.NAME).is_file():
        found = FileCache(place)
    if found is not None:
        if prefix is not None:
            raise ArgumentError(f"a prefix is for the paths of a tree, and {place} is {found.title}")
        return found
    if (place / _OWN).exists():
        raise ArgumentError(f"{place} is a cache of this version, with {_OWN}: use it with --cache {place}")
    tree = Tree(place, cache, routes, prefix_of(routes, place, prefix))
    if tree.is_empty():
        raise ArgumentError(
            f"{place} is no older cache: it has neither {registries.NAME} (cachedir, dlmachine), nor {file_caches.NAME}"
            " (UST-Download-Cache), nor any file at all, hidden ones aside (a tree, as of package-cache 0.2)"
        )
    return tree


def _mode_of(place: Path) -> int:
    """What is at a place. Raises ArgumentError if that cannot be told."""
    try:
        return place.stat().st_mode
    except FileNotFoundError:
        raise ArgumentError(f"{place} is no directory: there is nothing of that name") from None
    except OSError as error:
        raise ArgumentError(f"{place} cannot be looked at: {error.strerror}") from error


def _checked(place: Path) -> Path:
    try:
        with place.open("rb") as file:
            head = file.read(len(_HEAD))
    except OSError as error:
        raise ArgumentError(f"{place} cannot be read: {error.strerror}") from error
    if head != _HEAD:
        raise ArgumentError(f"{place} is no registry of cachedir: it is no SQLite database")
    return place
