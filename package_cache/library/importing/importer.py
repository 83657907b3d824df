"""Puts what is found in an older cache into the store, in groups; what is there already costs one look."""

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from package_cache.errors import ArgumentError
from package_cache.library.importing.finds import Find, Refused, Skipped
from package_cache.library.opening import Library
from package_cache.model import Representation, Status
from package_cache.rules.library.attributes import dump, load
from package_cache.storage.items.intake import CHANGED, Copy, Intake, Unfit, Version, discard
from package_cache.storage.items.rows import Details, ItemRow
from package_cache.storage.parts.part import translated

_MOST_FILES = 200
_MOST_BYTES = 256 << 20
_MOST_SECONDS = 5.0


@dataclass
class Tally:
    """What was done so far; `size` is of what was imported, in bytes."""

    imported: int = 0
    size: int = 0
    here: int = 0
    removed: int = 0
    refused: list[Refused] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """How many finds there were."""
        return self.imported + self.here + self.removed + len(self.refused) + len(self.skipped)


class Importer:
    """Takes finds into a cache. Raises StoreError where that refuses.

    With `link`, files that never change under their names are not copied but become the cache's own, where they can.
    """

    def __init__(self, library: Library, *, link: bool = False) -> None:
        self._library = library
        self._link = link
        stores = library.stores
        self._intake = Intake(stores.root, stores.registry.database, stores.blobs)
        self._group: list[tuple[Find, Version, Copy | None]] = []
        self._since = 0.0
        self.tally = Tally()

    def run(self, finds: Iterable[Find | Refused | Skipped], step: Callable[[], object]) -> None:
        """Take all in; `step` is called after each. What was copied before an interruption is kept."""
        with self._intake:
            try:
                for find in finds:
                    self._take(find)
                    step()
                self._commit()
            except KeyboardInterrupt:
                self._commit()
                raise
            finally:
                for *_, copy in self._group:
                    if copy is not None:
                        discard(copy.part)

    def _take(self, find: Find | Refused | Skipped) -> None:
        if isinstance(find, Refused):
            self.tally.refused.append(find)
            return
        if isinstance(find, Skipped):
            self.tally.skipped.append(find)
            return
        standing = self._intake.standing(find.key, find.number)
        if standing is not None:
            self._skip(find, removed=standing.removed, size=standing.size)
            return
        try:
            copy = self._copied(find)
        except Unfit as error:
            self._refuse(find, str(error))
            return
        wrong = self._wrong(find, copy)
        if wrong is not None:
            if copy is not None:
                discard(copy.part)
            self._refuse(find, wrong)
            return
        self._group.append((find, _version(find, copy), copy))
        self._since = self._since or time.monotonic()
        size = sum(copy.size for *_, copy in self._group if copy is not None)
        if len(self._group) >= _MOST_FILES or size > _MOST_BYTES or time.monotonic() - self._since > _MOST_SECONDS:
            self._commit()

    def _copied(self, find: Find) -> Copy | None:
        if find.file is None or find.draft:
            return None
        linked = self._intake.link(find.file) if self._link and find.lasting else None
        return linked or self._intake.copy(find.file)

    def _skip(self, find: Find, *, removed: bool, size: int | None) -> None:
        if removed:
            self.tally.removed += 1
        elif find.number is None or find.file is None or find.draft or size is None or size == _size(find.file):
            self.tally.here += 1
        else:
            self._refuse(find, f"the cache has another version {find.number} of it, of {size} bytes")

    @staticmethod
    def _wrong(find: Find, copy: Copy | None) -> str | None:
        if copy is None or find.sha256 in (None, copy.digest):
            return None
        return "its bytes are not those that were downloaded: their SHA-256 is another one"

    def _refuse(self, find: Find, reason: str) -> None:
        self.tally.refused.append(Refused(find.name, reason))

    def _commit(self) -> None:
        group, self._group, self._since = [one for one in self._group if self._is_still(*one)], [], 0.0
        if not group:
            return
        numbers = self._intake.take_in([(version, copy) for _, version, copy in group])
        for (find, version, copy), number in zip(group, numbers, strict=True):
            if number is None:
                self.tally.here += 1
                continue
            self.tally.imported += 1
            self.tally.size += copy.size if copy is not None else 0
            if version.details is not None:
                self._place(find, version, version.details, number, copy)

    def _is_still(self, find: Find, _: Version, copy: Copy | None) -> bool:
        """Whether a file that was not copied is what it was when it was read."""
        if copy is None or copy.is_still():
            return True
        discard(copy.part)
        self._refuse(find, CHANGED)
        return False

    def _place(self, find: Find, version: Version, details: Details, number: int, copy: Copy | None) -> None:
        """Have the path of an item lead to its bytes, or hold what was being written."""
        digest, size = (copy.digest, copy.size) if copy is not None else (None, None)
        row = ItemRow(0, find.key, number, version.status, digest, size, details, None, None, 0, 0.0)
        files = self._library.files
        path = Path(files.path(row))
        if copy is not None and version.status == Status.READY:
            files.link(row)
        elif find.draft and find.file is not None:
            files.prepare(row)
            with translated(f"copy {find.file} into the cache"):
                shutil.copyfile(find.file, path)
        else:
            return
        self._intake.own(path.parent.parent, path.parent, path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _version(find: Find, copy: Copy | None) -> Version:
    size = copy.size if copy is not None else None
    representation = Representation(find.fields, size, find.source, find.received or time.time())
    details = find.details
    if details is not None and find.measured and copy is not None:
        with suppress(ArgumentError):
            measures = {"size": copy.size, "sha256": copy.digest}
            details = replace(details, attrs=dump({**load(details.attrs), **measures}, "attrs"))
    return Version(
        find.key, find.number, find.status, representation, details, find.before, find.last_read, find.read_count
    )
