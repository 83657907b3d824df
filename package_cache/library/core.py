"""All operations on the items of one cache directory; `Cache` and `CacheItem` are their public interface.

It opens the directory, checks what callers say of an item, and holds the leases of the items that are being written. It
knows nothing of downloads and archives.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from weakref import finalize

from package_cache.errors import ArgumentError, DamagedBlob, ItemBusy, ItemError, OnlyRead, StoreError
from package_cache.library.writers import Writers
from package_cache.model import Status
from package_cache.rules.library.attributes import canonical, dump, load, moment
from package_cache.rules.library.naming import extension, file_name, item_key
from package_cache.rules.library.searching import Criteria, date, status_of
from package_cache.storage.blobs import hash_file
from package_cache.storage.cache_directory import default_directory, open_cache_directory
from package_cache.storage.items.files import ItemFiles
from package_cache.storage.items.rows import Details, ItemRow
from package_cache.storage.items.table import Items, New, Outcome
from package_cache.storage.registry import Registry
from package_cache.storage.system import file_system_of, translated

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 30.0
"""How long reads may be noted only in memory."""
_CHANGEABLE = ("attrs", "label", "filename", "date", "status")
_FIXED = ("key", "version", "uri", "params", "ext", "path")
_LEAST, _MOST = 0.002, 0.1
"""The shortest and longest time in seconds between two looks at whether a writer is done."""
_REMEDY = "Give a directory that this user may write: --cache PATH, or path=... in Python"


def directory(path: str | os.PathLike[str] | None, pkg: str | None) -> Path:
    """Where the cache is: at `path`; else the cache directory of the program `pkg`; else that of package-cache itself.

    Raises ArgumentError for a path that is a file.
    """
    if path is None:
        return default_directory(pkg) if pkg else default_directory()
    found = Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - links in it stay as they are
    if os.path.exists(found) and not os.path.isdir(found):  # noqa: PTH110, PTH112 - nothing is said of what is out of reach
        raise ArgumentError(f"path: {found} is a file; give the directory of the cache")
    return found


def now() -> int:
    """Microseconds of the epoch."""
    return int(time.time() * 1e6)


class Reads:
    """When items of one `Cache` were read, and how often, as far as it is not in the registry yet: a write-behind buffer.

    It is written with the first read after half a minute, and at the end; a killed process loses no more. Safe for any
    number of threads.
    """

    def __init__(self, items: Items) -> None:
        self._items = items
        self._guard = threading.Lock()
        self._owner = os.getpid()
        self._noted: dict[int, tuple[int, int]] = {}
        self._since = time.monotonic()

    def note(self, number: int) -> None:
        """An item is being read."""
        with self._guarding():
            self._noted[number] = (int(time.time() * 1e6), self._noted.get(number, (0, 0))[1] + 1)
            is_due = time.monotonic() - self._since > FLUSH_SECONDS
        if is_due:
            self.flush()

    def of(self, number: int) -> tuple[int | None, int]:
        """When an item was last read, in microseconds of the epoch, and how often, as far as it is noted here."""
        with self._guarding():
            return self._noted.get(number, (None, 0))

    def flush(self) -> None:
        """Write the noted reads to the registry."""
        with self._guarding():
            noted, self._noted = self._noted, {}
            self._since = time.monotonic()
        if noted:
            try:
                self._items.read(noted)
            except OnlyRead:
                return
            except StoreError as error:
                logger.warning("the times at which items were read are lost: %s", error)

    def _guarding(self) -> threading.Lock:
        """The lock; a forked child starts with an empty buffer."""
        if self._owner != os.getpid():
            self._guard, self._noted, self._owner = threading.Lock(), {}, os.getpid()
        return self._guard


def _opened_anew(root: Path, reading: bool) -> "Core":
    core = Core(root, reading=reading)
    finalize(core, _rest, core.reads, core.stores.registry)
    return core


def _rest(reads: Reads, registry: Registry) -> None:
    reads.flush()
    registry.close()


class Core:
    """The items of one cache directory, made if it is missing. Safe for any number of threads and processes.

    With `reading`, it may be a directory that this user may only read. Methods raise StoreError.
    """

    def __init__(self, root: Path, *, reading: bool = False) -> None:
        self.root = root
        self.stores = open_cache_directory(root, _REMEDY, reading=reading)
        self.items = Items(self.stores.registry.database, self.stores.blobs)
        self.files = ItemFiles(root / "items-v1")
        self.writers: Writers[object] = Writers(root / "leases-v2")
        self.reads = Reads(self.items)
        self._reading = reading

    def __reduce__(self) -> tuple[object, ...]:
        """Items that pass to another process in one message share what it opens for them."""
        return _opened_anew, (self.root, self._reading)

    def close(self) -> None:
        """Release the leases, and `rest`."""
        self.writers.close()
        self.rest()

    def rest(self) -> None:
        """Write the noted reads, and close the registry until it is needed again."""
        _rest(self.reads, self.stores.registry)

    # -- finding

    def best(self, wanted: Criteria) -> ItemRow | None:
        """The highest version that meets the criteria, and has its bytes if it should have any."""
        while True:
            item = self.items.best(wanted)
            if item is None or item.status != Status.READY or self.is_sound(item):
                return item

    def again(self, item: ItemRow) -> ItemRow:
        """An item as it is now. Raises ItemError if it was removed."""
        found = self.items.best(Criteria(ids=frozenset((item.id,)), key=item.key, include_removed=True))
        if found is None or found.version != item.version:
            raise ItemError(f"{item.details.uri} version {item.version} was removed, its record too")
        return found

    # -- bytes

    def adopt(self, item: ItemRow) -> ItemRow:
        """Take over the file that a caller wrote as the bytes of an item. Raises ItemError, StoreError.

        A crash at any moment leaves the item either as it was, with its file, or READY.
        """
        path, blobs = self.files.path(item), self.stores.blobs
        with self.files.open(item) as draft:
            size = os.fstat(draft.fileno()).st_size
            digest = hash_file(draft.fileno(), size).hexdigest()
            blobs.finalize(draft)
            with blobs.holding([digest]):
                blobs.settle([blobs.adopt(path, digest, size)])
                ready = self.items.adopt(item, digest, size)
        self.files.link(ready)
        return ready

    def is_sound(self, item: ItemRow) -> bool:
        """Whether an item has the bytes that it should have, at its path; if not, it is taken out of service.

        Costs one look at the path. Raises StoreError.
        """
        if item.digest is None:
            return True
        try:
            status = os.stat(self.files.path(item))  # noqa: PTH116 - often
            if status.st_size == item.size and status.st_mtime_ns == self.stores.blobs.stamp_ns:
                return True
        except OSError:
            pass
        try:
            self.stores.blobs.as_file(item.digest, item.size if item.size is not None else -1)
        except DamagedBlob:
            self.stores.damages.take_out(item.digest, item.size or 0)
            return False
        self.files.link(item)
        return True

    def sound_path(self, item: ItemRow) -> str:
        """The path of the bytes of an item, after a look at them. Raises ItemError if it has none."""
        if item.digest is None:
            raise ItemError(f"{item.details.uri} version {item.version} has no bytes: write {self.files.path(item)}")
        if not self.is_sound(item):
            raise ItemError(f"{item.details.uri} version {item.version}: its file was damaged, and is in quarantine")
        return self.files.path(item)

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
        """The best item; else a version to be written, with its lease; else the one that this thread is writing already.

        While another writer has it, waits for that writer, for `timeout` seconds at most. Raises ItemBusy.
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
        """Give an item that is being written the bytes of a file. Raises StoreError."""
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
        """Take over the file at the path of an item, unless it is READY and has its bytes. Raises ItemError."""
        item = self.again(item)
        if item.status != Status.READY or item.digest is None or self.files.has_draft(item):
            item = self.adopt(item)
        self.writers.give_back(item.name)
        return item

    def set_status(self, items: Sequence[ItemRow], status: Status) -> int:
        """Set the status of items, whatever it was; how many there were. With READY, a file at the path is taken over."""
        if status == Status.DELETED:
            return self.remove(items, keep_record=True)
        drafts = [item for item in items if status == Status.READY and self.files.has_draft(item)]
        for item in drafts:
            self.adopt(item)
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
        """Delete the bytes of items, and their records unless these are to be kept; how many there were."""
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
        """Set a date of items, to now without a `newdate`; how many there were."""
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
        status = file_system_of(self.root)
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
    """A string, or None. Raises ArgumentError."""
    if value is None or isinstance(value, str):
        dump({name: value}, name)
        return value
    raise ArgumentError(f"{name}: a string is needed, not {value!r}")


def dated(details: Details, field: str, when: int) -> Details:
    """Details with another date: their own, or an attribute."""
    if field == "date":
        return replace(details, date=when)
    return replace(details, attrs=dump({**load(details.attrs), field: moment(when)}, "attrs"))


Attributes = Mapping[str, object]
State = int | str
"""A `Status`, its number or its name."""


def new_item(
    uri: str,
    params: Attributes | None,
    attrs: Attributes | None,
    status: State,
    ext: str | None,
    label: str | None,
    filename: str | None,
) -> New:
    """A new item, checked. Raises ArgumentError."""
    text = canonical(params or {}, "params")
    key, name = item_key(uri, text), file_name(filename, uri)
    details = Details(
        str(uri), text, dump(attrs or {}, "attrs"), name, extension(ext, name), optional_text("label", label), now()
    )
    return New(key, details, status_of(status))
