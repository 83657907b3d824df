"""Files of the proxy and items of the library as JSON, for programs."""

import base64
from collections.abc import Mapping
from datetime import datetime

from package_cache.cli.holdings import Holdings
from package_cache.model import Entry, Status
from package_cache.rules.library.attributes import load
from package_cache.storage.inventory import Pin
from package_cache.storage.items.rows import ItemRow


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
    """A value as JSON has it: times as in ISO 8601, bytes as base64, sets and tuples as lists, NaN and so on as text."""
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
