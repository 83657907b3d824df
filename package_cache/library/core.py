"""What can be done with items of one cache directory: `Cache` and `CacheItem` are faces of this."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from package_cache.errors import ArgumentError, ItemBusy, ItemError, StoreError
from package_cache.library.opening import now, open_library
from package_cache.library.reads import Reads
from package_cache.library.writers import Writers
from package_cache.model import Status
from package_cache.rules.library.attributes import dump, load, moment
from package_cache.rules.library.searching import Criteria, date, status_of
from package_cache.storage.items.rows import Details, ItemRow
from package_cache.storage.items.table import New, Outcome
from package_cache.storage.parts.part import translated

_CHANGEABLE = ("attrs", "label", "filename", "date", "status")
_FIXED = ("key", "version", "uri", "params", "ext", "path")
_LEAST, _MOST = 0.002, 0.1
"""Seconds between two looks at whether a writer is done."""


class Core:
    """The items of one cache directory. Safe for any number of threads and processes. Methods raise StoreError."""

    def __init__(self, root: Path, *, reading: bool = False) -> None:
        self.root = root
        self.library = open_library(root, reading=reading)
        self.items = self.library.items
        self.files = self.library.files
        self.writers: Writers[object] = Writers(root / "leases-v1")
        self.reads = Reads(self.items)

    def close(self) -> None:
        """Give leases back, and `rest`."""
        self.writers.close()
        self.rest()

    def rest(self) -> None:
        """Write what is left, and close what is open until it is needed again."""
        self.reads.flush()
        self.library.stores.registry.close()

    # -- finding

    def best(self, wanted: Criteria) -> ItemRow | None:
        """The highest version of those that are meant, one with all its bytes if it should have any."""
        while True:
            item = self.items.best(wanted)
            if item is None or item.status != Status.READY or self.library.is_sound(item):
                return item

    def again(self, item: ItemRow) -> ItemRow:
        """An item as it is now. Raises ItemError if it is gone."""
        found = self.items.best(Criteria(ids=frozenset((item.id,)), key=item.key, include_removed=True))
        if found is None or found.version != item.version:
            raise ItemError(f"{item.details.uri} version {item.version} was removed, its record too")
        return found

    # -- making

    def create(self, new: New) -> ItemRow:
        """The next version."""
        item = self.items.create(new, self.writers)
        self.files.prepare(item)
        return item

    def begin(self, new: New) -> ItemRow:
        """A version to be written, and its lease: one that failed or was abandoned, else the next."""
        return self._begun(*self.items.reserve(new, None, self.writers))

    def _begun(self, outcome: Outcome, item: ItemRow) -> ItemRow:
        if outcome is Outcome.MINE:
            self.files.prepare(item)
        return item

    def best_or_begin(self, new: New, wanted: Criteria, timeout: float | None) -> ItemRow | object:
        """The best item; else a version to be written, and its lease; else what this thread is writing already.

        While somebody else writes it, waits until that is over, for `timeout` seconds at most. Raises ItemBusy.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _LEAST
        while True:
            best = self.best(wanted)
            if best is not None:
                return best
            outcome, item = self.items.reserve(new, wanted, self.writers)
            if outcome is Outcome.MINE or (outcome is Outcome.FOUND and item.status != Status.READY):
                return self._begun(outcome, item)
            if outcome is Outcome.BUSY:
                mine = self.writers.mine(item.name)
                if mine is not None:
                    return mine
                if deadline is not None and time.monotonic() >= deadline:
                    raise ItemBusy(f"{item.details.uri} is still being written by somebody else after {timeout} seconds")
                time.sleep(pause)
                pause = min(_MOST, pause * 1.5)

    def move_in(self, item: ItemRow, source: Path, *, copy: bool) -> None:
        """Give an item, which is being written, a file's bytes. Raises StoreError."""
        path = self.files.path(item)
        with translated(f"move {source} into the cache"):
            if not copy and not source.is_symlink():
                with suppress(OSError):  # on another file system it is copied
                    source.rename(path)
                    return
            shutil.copyfile(source, path)
            if not copy:
                source.unlink()

    # -- changing

    def ready(self, item: ItemRow) -> ItemRow:
        """Take an item's file over. Nothing to be done for one that is READY and has bytes. Raises ItemError."""
        item = self.again(item)
        if item.status != Status.READY or item.digest is None or self.files.has_draft(item):
            item = self.library.adopt(item)
        self.writers.give_back(item.name)
        return item

    def set_status(self, items: Sequence[ItemRow], status: Status) -> int:
        """Give items a status, whatever they had; how many there were. With READY, a file at the path is taken over."""
        if status == Status.DELETED:
            return self.remove(items, keep_record=True)
        drafts = [item for item in items if status == Status.READY and self.files.has_draft(item)]
        for item in drafts:
            self.library.adopt(item)
        taken = {item.id for item in drafts}
        rest = [item for item in items if item.id not in taken]
        count = len(drafts) + self.items.move(rest, status)
        for item in rest:
            if status == Status.READY and item.digest is not None:
                self.files.link(item)
            elif status not in (Status.READY, Status.TRASH):
                self.files.unlink(item)
        if status != Status.WRITE:
            self._give_back(items)
        return count

    def _give_back(self, items: Sequence[ItemRow]) -> None:
        for item in items:
            self.writers.give_back(item.name)

    def remove(self, items: Sequence[ItemRow], *, keep_record: bool) -> int:
        """Give up the bytes of items, and their records if these are not to be kept; how many there were."""
        self.items.drop(items, keep_record=keep_record)
        for item in items:
            self.files.remove(item)
        self._give_back(items)
        return len(items)

    def restore(self, items: Sequence[ItemRow]) -> int:
        """Take items out of the trash; how many there were."""
        found = self.items.restore(items)
        for item in found:
            if item.status == Status.READY and item.digest is not None:
                self.files.link(item)
        return len(found)

    def update(self, items: Sequence[ItemRow], changes: Mapping[str, object]) -> int:
        """Change some of `attrs` (those that are named), `label`, `filename`, `date`, `status`; how many items there were.

        Raises ArgumentError for anything else.
        """
        check_changes(changes)
        count = len(items)
        if changes.keys() - {"status"}:
            count = self.items.rewrite(items, lambda details: changed(details, changes))
        if "status" in changes:
            count = self.set_status(items, status_of(changes["status"]))
        return count

    def update_date(self, items: Sequence[ItemRow], field: str, newdate: object) -> int:
        """Set a time of items, now without a `newdate`; how many there were."""
        when = now() if newdate is None else date(newdate, "newdate")
        if field == "last_read":
            return self.items.set_read(items, when)
        return self.items.rewrite(items, lambda details: dated(details, field, when))

    def is_written(self, item: ItemRow) -> bool:
        """Whether somebody holds the lease of an item."""
        return self.writers.is_written(item.name)

    @property
    def free_space(self) -> int:
        """Bytes that this user may still write to the file system."""
        try:
            status = os.statvfs(self.root)
        except OSError as error:
            raise StoreError(f"cannot look how much of {self.root} is free: {error.strerror}") from error
        return status.f_bavail * status.f_frsize


def check_changes(changes: Mapping[str, object]) -> None:
    """Raise ArgumentError for what cannot be changed."""
    if not isinstance(changes, Mapping):
        raise ArgumentError(f"update: a dict of what is to be changed is needed, not {changes!r}")
    for name in changes:
        if name in _FIXED:
            raise ArgumentError(f"update: the {name} of an item stays the same; create() another one")
        if name not in _CHANGEABLE:
            near = get_close_matches(str(name), _CHANGEABLE, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"an attribute is written {{'attrs': {{{name!r}: ...}}}}"
            raise ArgumentError(f"update: an item has no {name!r}; {hint}")


def changed(details: Details, changes: Mapping[str, object]) -> Details:
    """Details with some changes. Raises ArgumentError."""
    for name in ("label", "filename"):
        if name in changes:
            details = replace(details, **{name: optional_text(name, changes[name])})  # type: ignore[arg-type]
    if "date" in changes:
        details = replace(details, date=date(changes["date"], "date"))
    attrs = changes.get("attrs")
    if attrs is not None:
        if not isinstance(attrs, Mapping):
            raise ArgumentError(f"attrs: a dict of names and values is needed, not {attrs!r}")
        details = replace(details, attrs=dump({**load(details.attrs), **attrs}, "attrs"))
    return details


def optional_text(name: str, value: object) -> str | None:
    """A text, or None. Raises ArgumentError."""
    if value is None or isinstance(value, str):
        dump({name: value}, name)
        return value
    raise ArgumentError(f"{name}: a text is needed, not {value!r}")


def dated(details: Details, field: str, when: int) -> Details:
    """Details with another date: their own, or an attribute."""
    if field == "date":
        return replace(details, date=when)
    return replace(details, attrs=dump({**load(details.attrs), field: moment(when)}, "attrs"))
