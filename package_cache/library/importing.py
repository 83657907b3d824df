"""Puts the items of an older cache into the store, in groups; an item that is in the store already costs one look-up.

Where items come from is not known here: see `older` and `trees`.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from package_cache.errors import ArgumentError
from package_cache.library.core import Core
from package_cache.model import Fields, Key, Representation, Status
from package_cache.rules.library.attributes import dump, load
from package_cache.storage.items.intake import CHANGED, Copy, Intake, Unfit, Version, discard
from package_cache.storage.items.rows import Details, ItemRow
from package_cache.storage.system import translated


@dataclass(frozen=True, slots=True)
class OlderItem:
    """One version of a file or an item in an older cache. `name` is what to call it, `file` has its bytes.

    `fields`, `source` and `received` (seconds of the epoch) are what is known of the answer that the bytes came with, and
    `sha256` is their digest. With `measured`, size and digest are recorded as attributes. A `draft` was still being
    written. A `lasting` file never changes under its name.
    """

    name: str
    key: Key
    number: int | None
    status: Status = Status.READY
    file: Path | None = None
    fields: Fields = ()
    source: str = ""
    received: float = 0.0
    details: Details | None = None
    before: int | None = None
    last_read: int | None = None
    read_count: int = 0
    sha256: str | None = None
    measured: bool = False
    draft: bool = False
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that cannot be imported, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is not to be imported, and why."""

    name: str
    reason: str


class OlderCache(Protocol):
    """An older cache. `title` says what it is."""

    title: str

    def count(self) -> int:
        """How many it will yield."""

    def __iter__(self) -> Iterator[OlderItem | Refused | Skipped]: ...


_MOST_FILES = 200
_MOST_BYTES = 256 << 20
_MOST_SECONDS = 5.0


@dataclass
class Imported:
    """What was done so far; `size` is of what was imported, in bytes."""

    imported: int = 0
    size: int = 0
    here: int = 0
    removed: int = 0
    refused: list[Refused] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """How many items there were."""
        return self.imported + self.here + self.removed + len(self.refused) + len(self.skipped)


class Importer:
    """Imports items into a cache. Raises StoreError where the disk or the registry refuses.

    With `link`, files that never change under their names become files of the cache by hard link, where that is possible.
    """

    def __init__(self, core: Core, *, link: bool = False) -> None:
        self._core = core
        self._link = link
        stores = core.stores
        self._intake = Intake(stores.root, stores.registry.database, stores.blobs)
        self._group: list[tuple[OlderItem, Version, Copy | None]] = []
        self._since = 0.0
        self.done = Imported()

    def run(self, items: Iterable[OlderItem | Refused | Skipped], step: Callable[[], object]) -> None:
        """Import all; `step` is called after each. What was copied before an interruption is kept."""
        with self._intake:
            try:
                for item in items:
                    self._take(item)
                    step()
                self._commit()
            except KeyboardInterrupt:
                self._commit()
                raise
            finally:
                for *_, copy in self._group:
                    if copy is not None:
                        discard(copy.part)

    def _take(self, item: OlderItem | Refused | Skipped) -> None:
        if isinstance(item, Refused):
            self.done.refused.append(item)
            return
        if isinstance(item, Skipped):
            self.done.skipped.append(item)
            return
        standing = self._intake.standing(item.key, item.number)
        if standing is not None:
            self._skip(item, removed=standing.removed, size=standing.size)
            return
        try:
            copy = self._copied(item)
        except Unfit as error:
            self._refuse(item, str(error))
            return
        wrong = self._wrong(item, copy)
        if wrong is not None:
            if copy is not None:
                discard(copy.part)
            self._refuse(item, wrong)
            return
        self._group.append((item, _version(item, copy), copy))
        self._since = self._since or time.monotonic()
        size = sum(copy.size for *_, copy in self._group if copy is not None)
        if len(self._group) >= _MOST_FILES or size > _MOST_BYTES or time.monotonic() - self._since > _MOST_SECONDS:
            self._commit()

    def _copied(self, item: OlderItem) -> Copy | None:
        if item.file is None or item.draft:
            return None
        linked = self._intake.link(item.file) if self._link and item.lasting else None
        return linked or self._intake.copy(item.file)

    def _skip(self, item: OlderItem, *, removed: bool, size: int | None) -> None:
        if removed:
            self.done.removed += 1
        elif item.number is None or item.file is None or item.draft or size is None or size == _size(item.file):
            self.done.here += 1
        else:
            self._refuse(item, f"the cache has another version {item.number} of it, of {size} bytes")

    @staticmethod
    def _wrong(item: OlderItem, copy: Copy | None) -> str | None:
        if copy is None or item.sha256 in (None, copy.digest):
            return None
        return "its bytes are not those that were downloaded: their SHA-256 is another one"

    def _refuse(self, item: OlderItem, reason: str) -> None:
        self.done.refused.append(Refused(item.name, reason))

    def _commit(self) -> None:
        group, self._group, self._since = [one for one in self._group if self._is_still(*one)], [], 0.0
        if not group:
            return
        numbers = self._intake.take_in([(version, copy) for _, version, copy in group])
        for (item, version, copy), number in zip(group, numbers, strict=True):
            if number is None:
                self.done.here += 1
                continue
            self.done.imported += 1
            self.done.size += copy.size if copy is not None else 0
            if version.details is not None:
                self._place(item, version, version.details, number, copy)

    def _is_still(self, item: OlderItem, _: Version, copy: Copy | None) -> bool:
        """Whether a file that was linked, and not copied, is unchanged since it was read."""
        if copy is None or copy.is_still():
            return True
        discard(copy.part)
        self._refuse(item, CHANGED)
        return False

    def _place(self, item: OlderItem, version: Version, details: Details, number: int, copy: Copy | None) -> None:
        """Link the path of an item to its bytes, or copy there what was being written."""
        digest, size = (copy.digest, copy.size) if copy is not None else (None, None)
        row = ItemRow(0, item.key, number, version.status, digest, size, details, None, None, 0, 0.0)
        files = self._core.files
        path = Path(files.path(row))
        if copy is not None and version.status == Status.READY:
            files.link(row)
        elif item.draft and item.file is not None:
            files.prepare(row)
            with translated(f"copy {item.file} into the cache"):
                shutil.copyfile(item.file, path)
        else:
            return
        self._intake.own(path.parent.parent, path.parent, path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _version(item: OlderItem, copy: Copy | None) -> Version:
    size = copy.size if copy is not None else None
    representation = Representation(item.fields, size, item.source, item.received or time.time())
    details = item.details
    if details is not None and item.measured and copy is not None:
        with suppress(ArgumentError):
            measures = {"size": copy.size, "sha256": copy.digest}
            details = replace(details, attrs=dump({**load(details.attrs), **measures}, "attrs"))
    return Version(
        item.key, item.number, item.status, representation, details, item.before, item.last_read, item.read_count
    )
