"""What callers say of an item, in one form and checked; and what they are told of one."""

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict

from package_cache.library.core import optional_text
from package_cache.library.items import CacheItem
from package_cache.library.opening import now
from package_cache.rules.library.attributes import canonical, dump
from package_cache.rules.library.files import extension, file_name
from package_cache.rules.library.keys import key_of
from package_cache.rules.library.searching import status_of
from package_cache.storage.items.rows import Details
from package_cache.storage.items.table import New

Attributes = Mapping[str, object]
State = int | str
"""A `Status`, its number or its name."""


class Content(TypedDict):
    """What `Cache.contents` says of an item; `disk_fname` is None if there is no file."""

    status: int
    fname: str
    last_read: datetime | None
    read_count: int
    item: CacheItem
    disk_fname: str | None


def new_item(
    uri: str,
    params: Attributes | None,
    attrs: Attributes | None,
    status: State,
    ext: str | None,
    label: str | None,
    filename: str | None,
) -> New:
    """The item that is wanted. Raises ArgumentError."""
    text = canonical(params or {}, "params")
    key, name = key_of(uri, text), file_name(filename, uri)
    details = Details(
        str(uri), text, dump(attrs or {}, "attrs"), name, extension(ext, name), optional_text("label", label), now()
    )
    return New(key, details, status_of(status))


def content_of(item: CacheItem) -> Content:
    """What is told of an item."""
    return {
        "status": item.rstatus,
        "fname": item.cache_fname,
        "last_read": item.last_read,
        "read_count": item.read_count,
        "item": item,
        "disk_fname": None if item.size is None else item.cache_fname,
    }
