"""Opens a cache directory for the library: what is in it, and what the parts of the library share."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from package_cache.engine.upkeep.damage import Damages
from package_cache.errors import ArgumentError, DamagedBlob, ItemError
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import hash_file
from package_cache.storage.items.files import ItemFiles
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.items.table import Items
from package_cache.storage.stores import Stores, default_directory, open_stores

_REMEDY = "Give a directory that this user may write: --cache PATH, or path=... in Python"


def directory(path: str | os.PathLike[str] | None, pkg: str | None) -> Path:
    """Where the cache is: at `path`; else the cache directory of the program `pkg`; else that of package-cache itself.

    Raises ArgumentError for a path that is a file.
    """
    if path is None:
        return default_directory(pkg) if pkg else default_directory()
    found = Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - links in it stay as they are
    if os.path.exists(found) and not os.path.isdir(found):  # noqa: PTH110, PTH112 - nothing is said of what is out of reach
        raise ArgumentError(f"path: {found} is a file; give the directory of the cache")
    return found


@dataclass(frozen=True, slots=True)
class Library:
    """What is in the cache directory, as the library sees it."""

    stores: Stores
    items: Items
    files: ItemFiles
    damages: Damages

    def adopt(self, item: ItemRow) -> ItemRow:
        """Make the file that a caller wrote the bytes of an item, which is READY then. Raises ItemError, StoreError.

        A crash at any moment leaves the item as it was, with its file, or READY.
        """
        path, blobs = self.files.path(item), self.stores.blobs
        with self.files.open(item) as draft:
            size = os.fstat(draft.fileno()).st_size
            digest = hash_file(draft.fileno(), size).hexdigest()
            blobs.seal(draft)
            with blobs.holding([digest]):
                blobs.settle([blobs.adopt(path, digest, size)])
                ready = self.items.adopt(item, digest, size)
        self.files.link(ready)
        return ready

    def is_sound(self, item: ItemRow) -> bool:
        """Whether an item that should have bytes has them, at its path; one that has not is taken out of service.

        Costs one look at the path. Raises StoreError.
        """
        if item.digest is None:
            return True
        try:
            status = os.stat(self.files.path(item))  # noqa: PTH116 - often
            if status.st_size == item.size and status.st_mtime_ns == self.stores.blobs.seal_ns:
                return True
        except OSError:
            pass
        try:
            self.stores.blobs.as_file(item.digest, item.size if item.size is not None else -1)
        except DamagedBlob:
            self.damages.take_out(item.digest, item.size or 0)
            return False
        self.files.link(item)
        return True

    def sound(self, item: ItemRow) -> str:
        """The path of the bytes of an item, which were looked at. Raises ItemError if it has none."""
        if item.digest is None:
            raise ItemError(f"{item.details.uri} version {item.version} has no bytes: write {self.files.path(item)}")
        if not self.is_sound(item):
            raise ItemError(f"{item.details.uri} version {item.version}: its file was damaged, and is put aside")
        return self.files.path(item)


def open_library(root: Path, *, reading: bool = False) -> Library:
    """Open a cache directory, made if it is not there; with `reading`, it may be one to read alone. Raises StoreError."""
    stores = open_stores(root, _REMEDY, reading=reading)
    database = stores.registry.database
    damages = Damages(stores.registry, Audit(database), stores.blobs, stores.quarantine)
    return Library(stores, Items(database, stores.blobs), ItemFiles(root / "items-v1"), damages)


def now() -> int:
    """Microseconds of the epoch."""
    return int(time.time() * 1e6)
