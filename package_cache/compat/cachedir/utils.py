"""Helpers of cachedir that other programs used."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from package_cache.compat.cachedir._item import CacheItem, written
from package_cache.compat.gone import gone, missing
from package_cache.rules.library.attributes import moment
from package_cache.rules.library.searching import date

_KEY = "item.key is the key of an item: SHA-256 over the JSON of uri and params"
__getattr__ = missing(
    __name__,
    {
        "serialize": _KEY,
        "parse_attr": "attributes keep their types by themselves",
        "parse_attr_search": "Cache.by_attrs() and search(attrs=) read the same language",
    },
)


def hash(params: object) -> str:  # noqa: A001 - its old name
    """The key of parameters that have the uri among them as `_uri`; another one than cachedir's. Raises Gone for others."""
    if not isinstance(params, Mapping) or "_uri" not in params:
        gone(f"utils.hash({params!r})", _KEY)
    return CacheItem.serialize(dict(params))


def list_like(value: object) -> bool:
    """Whether it has elements, and is no text."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray) and not isinstance(value, type)


def parse_time(value: str | datetime | None = None) -> str:
    """A time, now without a value, as local time without a zone, to the second. Raises ArgumentError."""
    return written(datetime.now().astimezone() if value is None else moment(date(value, "value")))
