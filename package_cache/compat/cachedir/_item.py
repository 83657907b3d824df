"""Items, with the attributes and the types that cachedir gave."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Literal

from package_cache.compat.cachedir._open import Opener
from package_cache.compat.gone import Vanished, gone
from package_cache.library import items
from package_cache.library.cache import Cache
from package_cache.model import Status
from package_cache.rules.library.attributes import load, moment
from package_cache.rules.library.naming import library_key
from package_cache.storage.items.rows import ItemRow

_SEARCHES = "searches are not recorded; last_read and read_count tell of use"


class CacheItem(items.CacheItem):
    """A `package_cache.CacheItem`; `params` has the uri in it as `_uri`, and dates are texts in local time."""

    def __init__(self, key: str, *more: object, **others: object) -> None:  # noqa: ARG002
        gone("making a CacheItem by hand", "Cache.create() makes one")

    @classmethod
    def of(cls, cache: Cache, row: ItemRow) -> "CacheItem":
        """The item of a row."""
        one = cls.__new__(cls)
        items.CacheItem.__init__(one, cache._core, row)
        one.cache = cache
        return one

    cache: Cache
    last_search = Vanished(_SEARCHES)
    search_count = Vanished(_SEARCHES)

    @classmethod
    def new(cls, *given: object, **named: object) -> "CacheItem":  # noqa: ARG003
        """Raises: there is no item that is not in a cache."""
        gone("CacheItem.new()", "Cache.create() makes an item")

    @staticmethod
    def serialize(params: dict[str, object] | None = None) -> str:
        """The key of the uri in `_uri` and the other parameters."""
        rest = dict(params or {})
        return library_key(str(rest.pop("_uri", "")), rest)

    @property
    def _id(self) -> int:
        return self.id

    @property
    def params(self) -> dict[str, object]:
        """The parameters, and the uri as `_uri`."""
        return {"_uri": self.uri, **load(self._row.details.params)}

    @property
    def date(self) -> str:  # type: ignore[override]
        """When it was made, or what `update_date` said."""
        return written(moment(self._row.details.date))

    @property
    def last_read(self) -> str | None:  # type: ignore[override]
        """When it was last opened, or found as the best."""
        last = super().last_read
        return None if last is None else written(last)

    def open(  # type: ignore[override]
        self,
        *,
        needed: Collection[str] | None = None,
        large: bool = True,
        default_mode: Literal["r", "rb"] = "r",
        encoding: str | None = None,
        ext: str | None = None,
    ) -> Opener | None:
        """Its file, opened; None if it is not READY."""
        if self.status != Status.READY:
            return None
        self._row = self._core.again(self._row)
        path = self._core.sound_path(self._row)
        self.accessed()
        return Opener(path, ext, needed, large, default_mode, encoding)

    def update(self, **changes: Any) -> None:
        """Change `attrs` (those that are named), `label`, `file_name`, `date`, `last_read` or `status`."""
        self.cache.update(key=self.key, version=self.version, include_removed=True, update=changes)
        self._refresh()


def written(moment: datetime) -> str:
    """A time as cachedir wrote it: local, without a zone, to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
