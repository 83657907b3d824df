"""The cache as commands see it: what the proxy has and what the library has, opened at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from package_cache import compose
from package_cache.config import Config
from package_cache.library.core import Core
from package_cache.library.opening import directory
from package_cache.model import Status
from package_cache.rules.library.attributes import load
from package_cache.rules.library.searching import Criteria
from package_cache.storage.inventory import Inventory
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.stores import Stores

_ID_DIGITS = 12

IN_TRASH = Criteria(status=frozenset((int(Status.TRASH),)))
"""All items in the trash."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """`core` has the items of the library, `inventory` the files of the proxy."""

    core: Core
    inventory: Inventory

    @property
    def stores(self) -> Stores:
        """What is in the cache directory."""
        return self.core.library.stores


@contextmanager
def opened(config: Config, *, reading: bool = False) -> Iterator[Holdings]:
    """The cache that is there already, within a with-block; with `reading` it is only read. Raises StoreError."""
    core = Core(directory(compose.require_cache(config), None), reading=reading)
    try:
        yield Holdings(core, Inventory(core.library.stores.registry.database))
    finally:
        core.close()


def item_id(row: ItemRow) -> str:
    """What an item may be called instead of its uri."""
    return f"{row.key[:_ID_DIGITS]}-{row.version}"


def title(row: ItemRow) -> str:
    """What an item is to a person: the URL of a download, and its place outside of the cache; else uri and parameters."""
    url, place = load(row.details.attrs).get("url"), load(row.details.params).get("dest")
    if isinstance(url, str):
        return f"{url} -> {place}" if isinstance(place, str) and row.digest is None else url
    return row.details.uri if row.details.params == "{}" else f"{row.details.uri} {row.details.params}"
