"""The cache, with the arguments in the order in which cachedir took them."""

import logging
import os
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Unpack

from package_cache.compat.cachedir._item import CacheItem
from package_cache.compat.gone import Vanished, gone
from package_cache.errors import ArgumentError
from package_cache.library import cache
from package_cache.rules.library.searching import LATEST, Criteria, Selection
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.items.table import New

logger = logging.getLogger(__name__)

Attributes = Mapping[str, object]
Moment = str | datetime
State = int | str
States = State | Collection[State]
Several = int | Collection[int]

_SQL = "the registry is not to be written by others; every method of Cache is one transaction"
_OLD = "cache.sqlite"
_COUNTERS = {"last_search", "search_count", "read_count"}


class Cache(cache.Cache):
    """A `package_cache.Cache`; its items are those of this package.

    `path` is a directory; without it, `pkg` names the program whose cache directory it is. The files and the registry of
    cachedir itself stay as they are: `package-cache import` takes them over.
    """

    con = Vanished(_SQL)
    cur = Vanished(_SQL)

    def __init__(self, path: str | os.PathLike[str] | None = None, pkg: str | None = None) -> None:
        if path is None and pkg is None:
            raise ArgumentError("Cache: give path, the directory of the cache, or pkg, the name of the program")
        if path is not None and Path(path).suffix == ".sqlite":
            gone(f"Cache({os.fspath(path)!r}), a registry of another name", "give the directory of the cache")
        super().__init__(path, pkg)
        if (Path(self.dir) / _OLD).exists() and not len(self):
            logger.warning(
                "%s has the items of cachedir: package-cache import %s --cache %s takes them over", *(self.dir,) * 3
            )

    def search(  # type: ignore[override]
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        status: States | None = None,
        version: Several | None = None,
        newer_than: Moment | None = None,
        older_than: Moment | None = None,
        ext: str | None = None,
        label: str | None = None,
        filename: str | None = None,
        key: str | None = None,
        attrs: Attributes | None = None,
        include_removed: bool = False,
        ids: Several | None = None,
        uri_glob: str | None = None,
    ) -> list[CacheItem]:
        """See `package_cache.Cache.search`."""
        return super().search(  # type: ignore[return-value]  # `_item` makes them
            uri,
            params,
            status=status,
            version=version,
            newer_than=newer_than,
            older_than=older_than,
            ext=ext,
            label=label,
            filename=filename,
            key=key,
            attrs=attrs or None,
            include_removed=include_removed,
            ids=ids,
            uri_glob=uri_glob,
        )

    def update(  # type: ignore[override]
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        attrs: Attributes | None = None,
        status: States | None = None,
        version: Several | None = None,
        ext: str | None = None,
        label: str | None = None,
        newer_than: Moment | None = None,
        older_than: Moment | None = None,
        key: str | None = None,
        update: Mapping[str, Any] | None = None,
        include_removed: bool = False,
    ) -> int:
        """See `package_cache.Cache.update`; the name of the file may be called `file_name`."""
        changes = dict(update or {})
        for name in changes.keys() & _COUNTERS:
            gone(f"update={{{name!r}: ...}}", "reads are counted by themselves, and searches are not")
        if "file_name" in changes:
            changes["filename"] = changes.pop("file_name")
        wanted: dict[str, Any] = {
            "attrs": attrs or None,
            "status": status,
            "version": version,
            "ext": ext,
            "label": label,
            "newer_than": newer_than,
            "older_than": older_than,
            "key": key,
            "include_removed": include_removed,
        }
        if "last_read" in changes:
            meant = [item._row for item in self.search(uri, params, **wanted)]
            self._core.update_date(meant, "last_read", changes.pop("last_read"))
        return super().update(uri, params, update=changes, **wanted)

    def update_date(
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        version: Several | None = LATEST,
        status: States | None = None,
        key: str | None = None,
        newdate: Moment | None = None,
        datefield: str = "date",
    ) -> int:
        """See `package_cache.Cache.update_date`."""
        if datefield == "last_search":
            gone("datefield='last_search'", "searches are not recorded; last_read tells of use")
        return super().update_date(uri, params, version, status, key, newdate, datefield)

    def remove(  # type: ignore[override]
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        version: Several | None = None,
        attrs: Attributes | None = None,
        status: States | None = None,
        ext: str | None = None,
        label: str | None = None,
        newer_than: Moment | None = None,
        older_than: Moment | None = None,
        key: str | None = None,
        disk: bool = False,
        keep_record: bool = True,
        *,
        everything: bool = False,
    ) -> int:
        """See `package_cache.Cache.remove`: all criteria count, and without one `everything=True` has to be said."""
        return super().remove(
            uri,
            params,
            disk=disk,
            keep_record=keep_record,
            everything=everything,
            version=version,
            attrs=attrs or None,
            status=status,
            ext=ext,
            label=label,
            newer_than=newer_than,
            older_than=older_than,
            key=key,
        )

    def _criteria(self, uri: str | None, params: Attributes | None, **wanted: Unpack[Selection]) -> Criteria:
        return super()._criteria(uri, _without_uri(params), **wanted)

    def _new(self, uri: str, params: Attributes | None, *more: Any) -> New:
        return super()._new(uri, _without_uri(params), *more)

    def _item(self, row: ItemRow) -> CacheItem:
        return CacheItem.of(self, row)


def _without_uri(params: Attributes | None) -> Attributes | None:
    """Parameters as `CacheItem.params` gives them, without the uri that is among those."""
    return {name: value for name, value in params.items() if name != "_uri"} if params and "_uri" in params else params
