"""The cache as commands see it, what the proxy has and what the library has, and how they describe both."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from package_cache import compose
from package_cache.config import Config
from package_cache.library.core import Core, directory
from package_cache.model import Entry, Status
from package_cache.rules.library.attributes import load
from package_cache.rules.library.searching import Criteria
from package_cache.storage.cache_directory import CacheDirectory
from package_cache.storage.inventory import Inventory, Pin
from package_cache.storage.items.rows import ItemRow

_ID_DIGITS = 12

IN_TRASH = Criteria(status=frozenset((int(Status.TRASH),)))
"""All items in the trash."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """`core` has the items of the library, `inventory` the files of the proxy."""

    core: Core
    inventory: Inventory

    @property
    def stores(self) -> CacheDirectory:
        """What is in the cache directory."""
        return self.core.stores


@contextmanager
def opened(config: Config, *, reading: bool = False) -> Iterator[Holdings]:
    """The cache that is there already, within a with-block; with `reading` it is only read. Raises StoreError."""
    core = Core(directory(compose.require_cache(config), None), reading=reading)
    try:
        yield Holdings(core, Inventory(core.stores.registry.database))
    finally:
        core.close()


def item_id(row: ItemRow) -> str:
    """The ID of an item, by which it can be named instead of by its uri."""
    return f"{row.key[:_ID_DIGITS]}-{row.version}"


def title(row: ItemRow) -> str:
    """The name of an item for people: the URL of a download, and its path outside of the cache; else uri and parameters."""
    url, place = load(row.details.attrs).get("url"), load(row.details.params).get("dest")
    if isinstance(url, str):
        return f"{url} -> {place}" if isinstance(place, str) and row.digest is None else url
    return row.details.uri if row.details.params == "{}" else f"{row.details.uri} {row.details.params}"


def entry_as_json(entry: Entry, pin: Pin | None) -> dict[str, object]:
    """A version of a file of the proxy."""
    return {
        "kind": "proxy",
        "key": entry.key,
        "version": entry.version,
        "status": entry.status.name,
        "size": entry.size,
        "sha256": entry.digest,
        "stored": entry.created,
        "used": entry.used,
        "source": entry.representation.source,
        "pinned": pin is not None,
    }


def item_as_json(row: ItemRow, pin: Pin | None, held: Holdings) -> dict[str, object]:
    """A version of an item of the library."""
    details = row.details
    return {
        "kind": "item",
        "key": row.key,
        "version": row.version,
        "version_id": row.name,
        "status": Status(row.status).name,
        "size": row.size,
        "sha256": row.digest,
        "uri": details.uri,
        "params": plain(load(details.params)),
        "attrs": plain(load(details.attrs)),
        "label": details.label,
        "filename": details.filename,
        "ext": details.ext,
        "date": details.date / 1e6,
        "used": row.used,
        "read_count": row.read_count,
        "path": held.core.files.path(row),
        "pinned": pin is not None,
    }


def plain(value: object) -> object:
    """A value as JSON has it: times in ISO 8601, bytes in base64, sets and tuples as lists, NaN and so on as strings."""
    match value:
        case Mapping():
            return {name: plain(one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(one) for one in value]
        case datetime():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case float() if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - what NaN alone is
            return str(value)
        case _:
            return value
