"""The versioned file cache: files with parameters and attributes, to be found again by them."""

import os
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload
from weakref import finalize

from package_cache.errors import ArgumentError, UnknownCriterion
from package_cache.library import cleaning
from package_cache.library.cleaning import Report
from package_cache.library.core import Core, check_changes
from package_cache.library.forms import Attributes, Content, State, content_of, new_item
from package_cache.library.items import CacheItem
from package_cache.library.opening import directory
from package_cache.library.writing import BinaryWriter, TextWriter, Writing
from package_cache.model import Status
from package_cache.rules.library.searching import LATEST, Selection, condition, criteria, status_of
from package_cache.storage.items.rows import ItemRow

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open. What this object's items were writing may be taken over by others."""
        self._core.close()

    def reload(self) -> None:
        """Close what is open, and look at the directory anew."""
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
        """The next version of a thing: write its file at `item.path`, then call `item.ready()`.

        In WRITE it is this object's to write: `best_or_new` waits for it elsewhere. The file's name is that in the uri, and
        `ext` that of the file's name, unless they are given.
        """
        return self._held(self._core.create(new_item(uri, params, attrs, status, ext, label, filename)))

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
    ) -> Writing[BinaryWriter]: ...

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
    ) -> Writing[TextWriter]: ...

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

        It is READY at the end, or, if that comes by an exception, FAILED and without a file. Text is UTF-8 or `encoding`.
        """
        return Writing(self._core, new_item(uri, params, attrs, Status.WRITE, ext, label, filename), mode, encoding)

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

        The uri is the file's name if none is given. The status stays WRITE until `ready()`, unless another one is given.
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

        One that is READY has its bytes, or was set READY by hand and never had any. Damaged ones are put out of service.
        """
        wanted = criteria(uri, params, status=status, newer_than=newer_than, older_than=older_than)
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

        A version that failed, or whose writer is gone, is begun anew. While somebody else writes one, waits for it, for
        `timeout` seconds at most (ItemBusy); the thread that writes it gets the same item again. Without `wait`, makes a
        version of its own.
        """
        wanted = criteria(uri, params, status=status, newer_than=newer_than, older_than=older_than)
        new = new_item(uri, params, attrs, new_status, ext, label, filename)
        if not wait or new.status != Status.WRITE:
            row = self._core.best(wanted)
            return self._held(self._core.create(new)) if row is None else self._read(row)
        found = self._core.best_or_begin(new, wanted, timeout)
        if isinstance(found, CacheItem):
            return found
        assert isinstance(found, ItemRow)
        return self._read(found) if found.status == Status.READY else self._held(found)

    def search(
        self, uri: str | None = None, params: Attributes | None = None, **wanted: Unpack[Selection]
    ) -> list[CacheItem]:
        """All items that meet every criterion, in the order in which they were made; without any, all.

        `uri` is the thing without parameters, or with `params`; `uri_glob` a pattern with `*` and `?`, whatever the
        parameters; `params` alone are those of any uri. `status`, `version` and `ids` may be several; `version` -1 is the
        highest of each thing. `newer_than` and `older_than` are of `date`. `ext`, `label`, `filename` and `key` are equal.
        `attrs`: see `by_attrs`. What is removed is found only if `status` or `include_removed` asks for it.
        """
        return [CacheItem(self._core, row) for row in self._core.items.find(criteria(uri, params, **wanted))]

    def by_attrs(self, attrs: Attributes) -> set[int]:
        """The numbers (`item.id`) of all items, removed ones too, whose attributes or parameters meet conditions.

        `{"rows>=": 100}` or `{"rows": (">=", 100)}`; operators are `=` (or none), `!=`, `>=`, `<=`, `>`, `<`, and `~` for
        texts that match a pattern with `*`, `?` and `[...]`. A name is that of a value anywhere in dicts and lists, or all
        names that lead to it, joined by dots. A list is any of its values (with `!=`, none). `DATE:` begins a date.
        All must hold; with `"__and": False` any. `"__or": [{...}, {...}]` is a group.
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
        """Change items that `search` would find: some of `attrs` (those named), `label`, `filename`, `date`, `status`.

        How many there were.
        """
        check_changes(update)
        return self._core.update(self._core.items.find(criteria(uri, params, **wanted)), update)

    def update_status(
        self,
        uri: str | None = None,
        params: Attributes | None = None,
        version: Several | None = LATEST,
        status: State = Status.READY,
        key: str | None = None,
    ) -> int:
        """Give the highest version, or others, any status, by hand; how many there were.

        READY takes over what was written at the path, and otherwise the bytes that the item had before. An item that has
        none may be READY too: it is a record, and nobody is ever served it.
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
        """Say that nothing came of the highest version, or of others; how many there were."""
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
        """Set `date` or `last_read`, or an attribute of another name, to a time, now without one; of how many items."""
        rows = self._core.items.find(criteria(uri, params, version=version, status=status, key=key))
        return self._core.update_date(rows, datefield, newdate)

    def _versions(
        self, uri: str | None, params: Attributes | None, version: Several | None, key: str | None
    ) -> list[ItemRow]:
        if uri is None and key is None:
            raise ArgumentError("which item? Give its uri, and params if it has any, or its key")
        return self._core.items.find(criteria(uri, params, version=version, key=key))

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
        meant = criteria(uri, params, **wanted)
        if meant.is_open and not everything:
            raise ArgumentError("remove what? Give uri, attrs or another criterion, or everything=True")
        rows = self._core.items.find(meant)
        if disk or not keep_record:
            return self._core.remove(rows, keep_record=keep_record)
        return self._core.set_status(rows, Status.TRASH)

    def restore(self, uri: str | None = None, params: Attributes | None = None, **wanted: Unpack[Selection]) -> int:
        """Take items out of the trash, all without a criterion, as they were before; how many there were."""
        return self._core.restore(self._trash(uri, params, wanted))

    def purge(self, uri: str | None = None, params: Attributes | None = None, **wanted: Unpack[Selection]) -> int:
        """Delete what is in the trash, all without a criterion, for good; how many items there were."""
        return self._core.remove(self._trash(uri, params, wanted), keep_record=False)

    def _trash(self, uri: str | None, params: Attributes | None, wanted: Selection) -> list[ItemRow]:
        if "status" in wanted:
            raise UnknownCriterion("what is in the trash has the status TRASH; nothing can be selected by status")
        wanted["status"] = Status.TRASH
        return self._core.items.find(criteria(uri, params, **wanted))

    def clean_db(self) -> int:
        """Delete the records of items without a file, but not of those that are being written; how many there were."""
        return cleaning.clean_db(self._core)

    def clean_disk(self) -> int:
        """Delete files under the paths of items that no item has; how many there were."""
        return cleaning.clean_disk(self._core)

    def autoclean(self) -> int:
        """Keep of each thing the highest version that is READY, else in WRITE; and what is being written, and the trash.

        The others are deleted, then follows `clean_disk`; how many these were.
        """
        return cleaning.autoclean(self._core)

    def fsck(self, *, repair: bool = False) -> Report:
        """What does not fit together; with `repair`, it is deleted, but for files that were begun."""
        return cleaning.check(self._core, repair=repair)

    @property
    def free_space(self) -> int:
        """Bytes that are free where the cache is."""
        return self._core.free_space

    def does_it_fit(self, size: int) -> bool:
        """Whether so many bytes are free."""
        return size <= self._core.free_space

    def _read(self, row: ItemRow) -> CacheItem:
        if row.status == Status.READY:
            self._core.reads.note(row.id)
        return CacheItem(self._core, row)

    def _held(self, row: ItemRow) -> CacheItem:
        """The item of a new row, with the lease that came with it."""
        item = CacheItem(self._core, row)
        if row.status == Status.WRITE:
            self._core.writers.hold(row.name, item)
        return item
