"""Finds records without files, and files without records (orphans), and deletes them."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from package_cache.library.core import Core
from package_cache.library.items import CacheItem
from package_cache.model import Status
from package_cache.rules.library.searching import Criteria
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.orphans import orphaned_item_files, remove_files
from package_cache.storage.removal import PAGE

_ALL = Criteria(include_removed=True)
_UNFINISHED = (Status.UNINITIALIZED, Status.WRITE)


@dataclass(frozen=True, slots=True)
class Report:
    """What `fsck` found.

    `missing`: records without a file; `abandoned`: items that were begun and have no writer; `strays`: orphans, which are
    files without a record.
    """

    missing: tuple[CacheItem, ...]
    abandoned: tuple[CacheItem, ...]
    strays: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.missing or self.abandoned or self.strays)


def without_file(core: Core, items: Iterable[ItemRow]) -> list[ItemRow]:
    """The items that have no file, or a damaged one, and that are not being written."""
    return [item for item in items if not _has_file(core, item) and not core.is_written(item)]


def _has_file(core: Core, item: ItemRow) -> bool:
    return core.is_sound(item) if item.digest is not None else core.files.has_draft(item)


def clean_db(core: Core) -> int:
    """Delete the records of `without_file`; how many these were."""
    return delete(core, without_file(core, core.items.find(_ALL)))


def delete(core: Core, items: Sequence[ItemRow]) -> int:
    """Delete items and their records, except those that are being written or were changed; how many these were."""
    return sum(_delete_some(core, items[start : start + PAGE]) for start in range(0, len(items), PAGE))


def _delete_some(core: Core, items: Sequence[ItemRow]) -> int:
    held: list[ItemRow] = []
    try:
        # A version that failed may be written again under the same number: while we hold its lease, nobody does.
        held.extend(item for item in items if core.writers.take(item.name))
        now = core.items.find(Criteria(ids=frozenset(item.id for item in held), include_removed=True))
        before = {item.name: item for item in held}
        return core.remove([item for item in now if _is_unchanged(before.get(item.name), item)], keep_record=False)
    finally:
        for item in held:
            core.writers.give_back(item.name)


def _is_unchanged(before: ItemRow | None, now: ItemRow) -> bool:
    """Whether an item is still what it was, or has lost its bytes since."""
    if before is None:
        return False
    return (now.status, now.digest) == (before.status, before.digest) or now.status in (Status.FAILED, Status.DELETED)


def clean_disk(core: Core) -> int:
    """Delete the orphans; how many these were."""
    found = _strays(core)
    for path in found:
        remove_files([path])
    return len(found)


def _strays(core: Core) -> list[Path]:
    return list(orphaned_item_files(core.items, core.files, time.time()))


def autoclean(core: Core) -> int:
    """Delete all versions of each key but the highest that is READY, else the highest in WRITE; how many these were.

    Items that are being written, or are in the trash, stay.
    """
    versions: dict[str, list[ItemRow]] = {}
    for item in core.items.find(_ALL):
        if item.status != Status.TRASH:
            versions.setdefault(item.key, []).append(item)
    kept = {key: _kept(core, several) for key, several in versions.items()}
    superseded = [item for key, several in versions.items() for item in several if item is not kept[key]]
    count = delete(core, superseded)
    clean_disk(core)
    return count


def _kept(core: Core, several: Sequence[ItemRow]) -> ItemRow | None:
    for status in (Status.READY, Status.WRITE):
        for item in sorted(several, key=lambda one: -one.version):
            if item.status == status and (status != Status.READY or core.is_sound(item)):
                return item
    return None


def check(core: Core, *, repair: bool) -> Report:
    """Compare records and files; with `repair`, delete what was found, except files that are being written."""
    items, files = core.items.find(_ALL), _strays(core)
    missing = without_file(core, (item for item in items if item.status not in (*_UNFINISHED, Status.DELETED)))
    abandoned = [item for item in items if item.status in _UNFINISHED and not core.is_written(item)]
    report = Report(
        tuple(CacheItem(core, item) for item in missing),
        tuple(CacheItem(core, item) for item in abandoned),
        tuple(str(path) for path in files),
    )
    if repair:
        delete(core, [*missing, *without_file(core, abandoned)])
        for path in files:
            remove_files([path])
    return report
