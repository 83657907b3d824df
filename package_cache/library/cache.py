"""The versioned file cache: files with parameters and attributes, which can be found by these.

This is the public interface: what it does is in `core` and `cleaning`.
"""

import io
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack, overload
from weakref import finalize

from package_cache.errors import ArgumentError, ItemError, UnknownCriterion
from package_cache.library import cleaning
from package_cache.library.cleaning import Report
from package_cache.library.core import Attributes, Core, State, check_changes, directory, new_item
from package_cache.library.items import CacheItem
from package_cache.model import Status
from package_cache.rules.library.searching import LATEST, Criteria, Selection, condition, criteria, status_of
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.items.table import New
from package_cache.storage.system import translated


class BinaryWriter(io.BufferedWriter):
    """A binary file; `item` is what is written."""

    item: CacheItem


class TextWriter(io.TextIOWrapper):
    """A text file; `item` is what is written."""

    item: CacheItem


def _is_text_encoding(name: str) -> bool:
    try:
        "".encode(name)
    except LookupError:
        return False
    return True


class Content(TypedDict):
    """What `Cache.contents` says of an item; `disk_fname` is None if there is no file."""

    status: int
    fname: str
    last_read: datetime | None
    read_count: int
    item: CacheItem
    disk_fname: str | None


Moment = str | datetime
Several = int | Collection[int]


class Cache:
    """The items in one cache directory. Safe for any number of threads, processes and objects at once.

    The directory is `path`; else that of the program `pkg` among the user's caches; else package-cache's own. All methods
    raise StoreError where the disk or the registry refuses, and ArgumentError where an argument cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, pkg: str | None = None) -> None:
        self._open(directory(path, pkg))

    def _open(self, root: Path) -> None:
        self._core = Core(root)
        finalize(self, self._core.rest)

    def __repr__(self) -> str:
        return f"Cache({self.dir!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Another process opens the directory for itself; what is being written stays with this one."""
        return type(self), (self.dir,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the cache. Others may then write the items that were being written through this object."""
        self._core.close()

    def reload(self) -> None:
        """Close the cache, and open the directory again."""
        self._core.close()
        self._open(self._core.root)

    def __len__(self) -> int:
        """How many items there are, removed ones too."""
        return self._core.items.count()

    @property
    def dir(self) -> str:
        """The directory."""
        return str(self._core.root)

    @property
    def path(self) -> str:
        """The registry."""
        return str(self._core.root / "registry-v1.db")

    # -- making

    def create(
        self,
        uri: str,
        params: Attributes | None = None,
        attrs: Attributes | None = None,
        status: State = Status.UNINITIALIZED,
        ext: str | None = None,
        label: str | None = None,
        filename: str | None = None,
    ) -> CacheItem:
        """The next version of an item: write its file at `item.path`, then call `item.ready()`.

        In WRITE only this object may write it: other callers of `best_or_new` wait for it. Unless they are given, the
        file's name is that in the uri, and `ext` is that of the file's name.
        """
        return self._held(self._core.create(self._new(uri, params, attrs, status, ext, label, filename)))

    @overload
    def writing(
        self,
        uri: str,
        params: Attributes | None = None,
        attrs: Attributes | None = None,
        *,
        ext: str | None = None,
        label: str | None = None,
        filename: str | None = None,
        mode: Literal["wb"] = "wb",
    ) -> AbstractContextManager[BinaryWriter]: ...

    @overload
    def writing(
        self,
        uri: str,
        params: Attributes | None = None,
        attrs: Attributes | None = None,
        *,
        ext: str | None = None,
        label: str | None = None,
        filename: str | None = None,
        mode: Literal["w", "wt"],
        encoding: str | None = None,
    ) -> AbstractContextManager[TextWriter]: ...

    def writing(
        self,
        uri: str,
        params: Attributes | None = None,
        attrs: Attributes | None = None,
        *,
        ext: str | None = None,
        label: str | None = None,
        filename: str | None = None,
        mode: Literal["wb", "w", "wt"] = "wb",
        encoding: str | None = None,
    ) -> Any:
        """A file to write the next version into, in a `with` statement; `.item` of the file is the item.

        At the end of the block it is READY; after an exception it is FAILED, and has no file. Text is UTF-8, or `encoding`.
        """
        if mode not in ("wb", "w", "wt"):
            raise ArgumentError(f"mode: {mode!r} does not write an item from its beginning; 'wb' and 'w' do")
        if mode == "wb" and encoding is not None:
            raise ArgumentError(f"encoding: {encoding!r} is for text; write mode='w'")
        if encoding is not None and not _is_text_encoding(encoding):
            raise ArgumentError(f"encoding: there is no text encoding {encoding!r}; write 'utf-8'")
        new = self._new(uri, params, attrs, Status.WRITE, ext, label, filename)
        return self._written(new, None if mode == "wb" else encoding or "utf-8")

    @contextmanager
    def _written(self, new: New, encoding: str | None) -> Iterator[BinaryWriter | TextWriter]:
        row = self._core.begin(new)
        item = self._item(row)
        self._core.writers.hold(row.name, item)
        with translated(f"write {item.path}"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            raw = io.FileIO(os.open(item.path, flags, 0o666), "wb")
        file: Any = BinaryWriter(raw) if encoding is None else TextWriter(io.BufferedWriter(raw), encoding=encoding)
        file.item = item
        with self._failing(item):
            try:
                yield file
            finally:
                with translated(f"write {item.path}"):
                    file.close()
            item.ready()

    @contextmanager
    def _failing(self, item: CacheItem) -> Iterator[None]:
        """An item fails, and loses its file, where the with-block does not come to its end."""
        try:
            yield
        except BaseException:
            with suppress(ItemError):  # its record may have been removed: the error to tell is what ended the writing
                row = self._core.again(item._row)
                if row.status == Status.WRITE:
                    self._core.files.remove(row)
                    item.failed()
            raise

    def move_in(
        self,
        path: str | os.PathLike[str],
        uri: str | None = None,
        params: Attributes | None = None,
        attrs: Attributes | None = None,
        status: State = Status.WRITE,
        ext: str | None = None,
        label: str | None = None,
        filename: str | None = None,
        *,
        copy: bool = True,
    ) -> CacheItem:
        """A new version with the bytes of a file, which stays where it is unless `copy` is False.

        Without a uri, it is the file's name. The status stays WRITE until `ready()` is called, unless another one is given.
        """
        source = Path(path)
        if not os.path.isfile(source):  # noqa: PTH113 - nor what it cannot look at
            raise ArgumentError(f"path: {source} is not a file")
        wanted = status_of(status)
        item = self.create(uri or source.name, params, attrs, Status.WRITE, ext, label, filename or source.name)
        try:
            self._core.move_in(item._row, source, copy=copy)
        except BaseException:
            item.failed()
            raise
        if wanted != Status.WRITE:
            item.status = wanted
        return item

    # -- finding

    def best(
        self,
        uri: str,
        params: Attributes | None = None,
        status: State | Collection[State] | None = Status.READY,
        newer_than: Moment | None = None,
        older_than: Moment | None = None,
    ) -> CacheItem | None:
        """The highest version that has one of these statuses; None if there is none.

        A version that is READY has its bytes, or was set READY by hand and never had any. Damaged ones are taken out of
        service.
        """
        wanted = self._criteria(uri, params, status=status, newer_than=newer_than, older_than=older_than)
        row = self._core.best(wanted)
        return None if row is None else self._read(row)

    def best_or_new(
        self,
        uri: str,
        params: Attributes | None = None,
        status: State | Collection[State] | None = Status.READY,
        newer_than: Moment | None = None,
        older_than: Moment | None = None,
        attrs: Attributes | None = None,
        ext: str | None = None,
        label: str | None = None,
        new_status: State = Status.WRITE,
        filename: str | None = None,
        *,
        wait: bool = True,
        timeout: float | None = None,
    ) -> CacheItem:
        """What `best` finds, else a version to be written, in one step over all threads and processes.

        A version that failed, or whose writer no longer exists, is written again. While another writer has it, waits for
        `timeout` seconds at most, then raises ItemBusy; the thread that writes it gets the same item again. Without
        `wait`, makes another version.
        """
        wanted = self._criteria(uri, params, status=status, newer_than=newer_than, older_than=older_than)
        new = self._new(uri, params, attrs, new_status, ext, label, filename)
        if not wait or new.status != Status.WRITE:
            row = self._core.best(wanted)
            return self._held(self._core.create(new)) if row is None else self._read(row)
        found = self._core.best_or_begin(new, wanted, timeout)
        if isinstance(found, CacheItem):
            return found
        assert isinstance(found, ItemRow)
        return self._read(found) if found.status == Status.READY else self._held(found)

    def get_or_create(
        self,
        uri: str,
        make: Callable[[str], object],
        params: Attributes | None = None,
        attrs: Attributes | None = None,
        *,
        newer_than: Moment | None = None,
        ext: str | None = None,
        label: str | None = None,
        filename: str | None = None,
        timeout: float | None = None,
    ) -> CacheItem:
        """What `best` finds; else what `make` makes, once over all threads and processes: it is given the path to write.

        Who comes meanwhile waits, for `timeout` seconds at most, then raises ItemBusy. What `make` raises reaches its
        caller, nothing of what it wrote is found, and one of those who wait makes it. Raises ItemError if there is no file.
        """
        item = self.best_or_new(
            uri, params, Status.READY, newer_than, None, attrs, ext, label, filename=filename, timeout=timeout
        )
        if item.rstatus != Status.READY:
            with self._failing(item):
                make(item.path)
                item.ready()
        return item

    def search(
        self, uri: str | None = None, params: Attributes | None = None, **wanted: Unpack[Selection]
    ) -> list[CacheItem]:
        """All items that meet every criterion, in the order in which they were made; without any, all.

        `uri` alone means the item without parameters, with `params` the one with these; `uri_glob` is a pattern with `*`
        and `?`, whatever the parameters; `params` alone are those of any uri. `status`, `version` and `ids` may be several;
        `version` -1 is the highest version of each item. `newer_than` and `older_than` are compared with `date`; `ext`,
        `label`, `filename` and `key` have to be equal. `attrs`: see `by_attrs`. Removed items are found only if `status`
        or `include_removed` asks for them.
        """
        return [self._item(row) for row in self._core.items.find(self._criteria(uri, params, **wanted))]

    def by_attrs(self, attrs: Attributes) -> set[int]:
        """The numbers (`item.id`) of all items, removed ones too, whose attributes or parameters meet conditions.

        `{"rows>=": 100}` or `{"rows": (">=", 100)}`; operators are `=` (or none), `!=`, `>=`, `<=`, `>`, `<`, and `~` for
        strings that match a pattern with `*`, `?` and `[...]`. A name is that of a value anywhere in dicts and lists, or
        all names that lead to it, joined by dots. A list means any of its values (with `!=`, none of them). `DATE:` begins
        a date. All conditions must hold; with `"__and": False` any of them. `"__or": [{...}, {...}]` is a group.
        """
        return self._core.items.numbers(condition(attrs)) if attrs else set()

    def by_key(self, key: str, version: int) -> CacheItem | None:
        """One version, removed or not; None if there is none."""
        return next(iter(self.search(key=key, version=version, include_removed=True)), None)

    def contents(self) -> dict[str, Content]:
        """All items, removed ones too, by key and version."""
        return {item.version_id: content_of(item) for item in self.search(include_removed=True)}

    # -- changing

    def update(
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        *,
        update: Attributes,
        **wanted: Unpack[Selection],
    ) -> int:
        """Change items that `search` would find; how many there were.

        `update` has new values of `label`, `filename`, `date`, `status`, and of the `attrs` that are named in it.
        """
        check_changes(update)
        return self._core.update(self._core.items.find(self._criteria(uri, params, **wanted)), update)

    def update_status(
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        version: Several | None = LATEST,
        status: State = Status.READY,
        key: str | None = None,
    ) -> int:
        """Set the status of the highest version, or of others, by hand; how many there were.

        READY takes over the file that was written at the path, else the bytes that the item had before. An item without
        bytes may be READY too: it is a record, and never served.
        """
        return self._core.set_status(self._versions(uri, params, version, key), status_of(status))

    def ready(
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        version: Several | None = LATEST,
        key: str | None = None,
    ) -> int:
        """Do what `item.ready` does with the highest version, or others. Raises ItemError where there is no file."""
        return len([self._core.ready(row) for row in self._versions(uri, params, version, key)])

    def failed(
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        version: Several | None = LATEST,
        key: str | None = None,
    ) -> int:
        """Give up the highest version, or others: they are FAILED. How many there were."""
        return self.update_status(uri, params, version, Status.FAILED, key)

    def update_date(
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        version: Several | None = LATEST,
        status: State | Collection[State] | None = None,
        key: str | None = None,
        newdate: Moment | None = None,
        datefield: str = "date",
    ) -> int:
        """Set `date`, `last_read` or an attribute to a time, or to now; how many items there were."""
        rows = self._core.items.find(self._criteria(uri, params, version=version, status=status, key=key))
        return self._core.update_date(rows, datefield, newdate)

    def _versions(
        self, uri: str | None, params: Attributes | None, version: Several | None, key: str | None
    ) -> list[ItemRow]:
        if uri is None and key is None:
            raise ArgumentError("which item? Give its uri, and params if it has any, or its key")
        return self._core.items.find(self._criteria(uri, params, version=version, key=key))

    # -- removing and cleaning

    def remove(
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        *,
        disk: bool = False,
        keep_record: bool = True,
        everything: bool = False,
        **wanted: Unpack[Selection],
    ) -> int:
        """Put items that `search` would find into the trash, out of which `restore` takes them; how many there were.

        With `disk` their bytes are deleted, and without `keep_record` their records, too. To remove all items say so:
        `everything=True`.
        """
        meant = self._criteria(uri, params, **wanted)
        if meant.is_open and not everything:
            raise ArgumentError("remove what? Give uri, attrs or another criterion, or everything=True")
        rows = self._core.items.find(meant)
        if disk or not keep_record:
            return self._core.remove(rows, keep_record=keep_record)
        return self._core.set_status(rows, Status.TRASH)

    def restore(self, uri: str | None = None, params: Attributes | None = None, **wanted: Unpack[Selection]) -> int:
        """Take items out of the trash, without a criterion all of them; how many there were."""
        return self._core.restore(self._trash(uri, params, wanted))

    def purge(self, uri: str | None = None, params: Attributes | None = None, **wanted: Unpack[Selection]) -> int:
        """Delete items in the trash for good, without a criterion all of them; how many there were."""
        return self._core.remove(self._trash(uri, params, wanted), keep_record=False)

    def _trash(self, uri: str | None, params: Attributes | None, wanted: Selection) -> list[ItemRow]:
        if "status" in wanted:
            raise UnknownCriterion("items in the trash have the status TRASH: they cannot be selected by status")
        wanted["status"] = Status.TRASH
        return self._core.items.find(self._criteria(uri, params, **wanted))

    def clean_db(self) -> int:
        """Delete the records of items without a file, but not of those that are being written; how many there were."""
        return cleaning.clean_db(self._core)

    def clean_disk(self) -> int:
        """Delete orphans: files below the paths of items that belong to no item. How many there were."""
        return cleaning.clean_disk(self._core)

    def autoclean(self) -> int:
        """Delete all versions but the highest that is READY, else in WRITE, of each item; how many these were.

        What is being written, and the trash, stay. Then `clean_disk` is done.
        """
        return cleaning.autoclean(self._core)

    def fsck(self, *, repair: bool = False) -> Report:
        """Find records without files and files without records; with `repair`, delete them, except files being written."""
        return cleaning.check(self._core, repair=repair)

    @property
    def free_space(self) -> int:
        """Bytes that are free where the cache is."""
        return self._core.free_space

    def does_it_fit(self, size: int) -> bool:
        """Whether so many bytes are free."""
        return size <= self._core.free_space

    def _criteria(self, uri: str | None, params: Attributes | None, **wanted: Unpack[Selection]) -> Criteria:
        return criteria(uri, params, **wanted)

    def _new(self, uri: str, params: Attributes | None, *more: Any) -> New:
        return new_item(uri, params, *more)

    def _item(self, row: ItemRow) -> CacheItem:
        return CacheItem(self._core, row)

    def _read(self, row: ItemRow) -> CacheItem:
        if row.status == Status.READY:
            self._core.reads.note(row.id)
        return self._item(row)

    def _held(self, row: ItemRow) -> CacheItem:
        """The item of a new row, with the lease that came with it."""
        item = self._item(row)
        if row.status == Status.WRITE:
            self._core.writers.hold(row.name, item)
        return item


def content_of(item: CacheItem) -> Content:
    """What `Cache.contents` says of an item."""
    return {
        "status": item.rstatus,
        "fname": item.cache_fname,
        "last_read": item.last_read,
        "read_count": item.read_count,
        "item": item,
        "disk_fname": None if item.size is None else item.cache_fname,
    }
