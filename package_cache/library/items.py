"""One version of one thing in a cache, as a program holds it."""

import os
from collections.abc import Collection
from datetime import datetime
from functools import cached_property
from typing import Literal

from package_cache.errors import StoreError
from package_cache.library.archives.archive import Opened, open_archive
from package_cache.library.core import Core
from package_cache.model import Status
from package_cache.rules.library.attributes import load, moment
from package_cache.rules.library.searching import status_of
from package_cache.storage.items.rows import ItemRow


class CacheItem:
    """An item as it was when it was found; made by `Cache`, never by hand.

    Only `status` asks the registry each time. Methods raise `ItemError` if the record is gone, and `StoreError`. An item in
    WRITE belongs to its writer for as long as this object lives.
    """

    def __init__(self, core: Core, row: ItemRow) -> None:
        self._core = core
        self._row = row

    def __repr__(self) -> str:
        return f"CacheItem[{self.uri} V:{self.version} {Status(self.rstatus).name}]"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CacheItem):
            return NotImplemented
        return (self._core.root, self.version_id) == (other._core.root, other.version_id)

    def __hash__(self) -> int:
        return hash(self.version_id)

    # -- what it is

    @property
    def id(self) -> int:
        """Its number in this cache, as `by_attrs` gives it."""
        return self._row.id

    @property
    def key(self) -> str:
        """SHA-256 in hex of the uri and the parameters."""
        return self._row.key

    @property
    def version(self) -> int:
        """1 for the first of this key, and never given twice."""
        return self._row.version

    @property
    def version_id(self) -> str:
        """Key and version, joined by a hyphen."""
        return self._row.name

    @property
    def uri(self) -> str:
        """The uri that it was made with."""
        return self._row.details.uri

    @cached_property
    def params(self) -> dict[str, object]:
        """The parameters it was made with."""
        return load(self._row.details.params)

    @cached_property
    def attrs(self) -> dict[str, object]:
        """Its attributes, of the types they were stored with."""
        return load(self._row.details.attrs)

    @property
    def filename(self) -> str | None:
        """The name of the file outside of the cache."""
        return self._row.details.filename

    @property
    def ext(self) -> str | None:
        """The extension of the file's name, without its first dot."""
        return self._row.details.ext

    @property
    def label(self) -> str | None:
        """A word to find it by."""
        return self._row.details.label

    @property
    def date(self) -> datetime:
        """When it was made, or the date that `update_date` set."""
        return moment(self._row.details.date)

    @property
    def last_read(self) -> datetime | None:
        """When it was last opened, or found as the best."""
        known = [last for last in (self._row.last_read, self._core.reads.of(self.id)[0]) if last is not None]
        return moment(max(known)) if known else None

    @property
    def read_count(self) -> int:
        """How often it was opened, or found as the best."""
        return self._row.read_count + self._core.reads.of(self.id)[1]

    @property
    def sha256(self) -> str | None:
        """The digest of its bytes in hex, None if it has none yet."""
        return self._row.digest

    # -- its file

    @property
    def path(self) -> str:
        """Where its file is, the same for its whole life: write it there, then call `ready`."""
        return self._core.files.path(self._row)

    @property
    def cache_fname(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)  # noqa: PTH119 - a string, as the path is

    @property
    def size(self) -> int | None:
        """Bytes in the file, None if there is none."""
        try:
            return os.stat(self.path).st_size  # noqa: PTH116 - a string, as the path is
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot look at {self.path}: {error.strerror}") from error

    def open(
        self,
        *,
        needed: Collection[str] | None = None,
        large: bool = True,
        default_mode: Literal["r", "rb"] = "r",
        encoding: str | None = None,
    ) -> Opened:
        """Open the file by its content, plain, compressed or archive; see `open_archive`, which it calls.

        Raises ItemError if the item has no bytes, or damaged ones.
        """
        self._row = self._core.again(self._row)
        path = self._core.sound_path(self._row)
        self.accessed()
        return open_archive(path, needed=needed, large=large, default_mode=default_mode, encoding=encoding)

    # -- its state

    @property
    def rstatus(self) -> int:
        """The status it had when it was found."""
        return self._row.status

    @property
    def status(self) -> int:
        """The status it has now; DELETED if its record is gone. May be set to any: see `Cache.update_status`."""
        status = self._core.items.status(self._row)
        return Status.DELETED if status is None else status

    @status.setter
    def status(self, value: int | Status | str) -> None:
        status = status_of(value)
        row = self._core.again(self._row)
        if status == Status.WRITE and self._core.writers.take(row.name):
            self._core.writers.hold(row.name, self)
        self._core.set_status([row], status)
        self._refresh()

    def ready(self) -> None:
        """Take over the file that was written at `path`: the item is READY, and its bytes are kept as they are now.

        Raises ItemError if there is no file.
        """
        self._row = self._core.ready(self._row)

    def failed(self) -> None:
        """Give up writing it. The file stays until the next attempt, or until it is cleaned up."""
        self.status = Status.FAILED

    def accessed(self) -> None:
        """Note that it is read now."""
        self._core.reads.note(self.id)

    def update(self, **changes: object) -> None:
        """Change `attrs` (those that are named), `label`, `filename`, `date` or `status`. Raises ArgumentError."""
        self._core.update([self._core.again(self._row)], changes)
        self._refresh()

    def update_date(self, datefield: str = "date", newdate: str | datetime | None = None) -> None:
        """Set `date` or `last_read`, or an attribute of another name, to a time; now without one."""
        self._core.update_date([self._core.again(self._row)], datefield, newdate)
        self._refresh()

    def remove(self, disk: bool = False, keep_record: bool = True) -> None:
        """Put it into the trash; with `disk`, delete its bytes; without `keep_record`, its record too."""
        row = self._core.again(self._row)
        if disk or not keep_record:
            self._core.remove([row], keep_record=keep_record)
        else:
            self._core.set_status([row], Status.TRASH)
        if keep_record:
            self._refresh()

    def _refresh(self) -> None:
        self._row = self._core.again(self._row)
        for name in ("attrs", "params"):
            self.__dict__.pop(name, None)
