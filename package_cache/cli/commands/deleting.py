"""`rm`, `restore`, `purge`: delete in two steps."""

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from package_cache.cli import holdings, output
from package_cache.cli.command import DONE, Command
from package_cache.cli.holdings import Holdings
from package_cache.cli.names import ITEM, NAMES, PROXY, Name, add_name, add_names, name_of, names_of
from package_cache.cli.paths import CannotDo
from package_cache.config import Config
from package_cache.errors import ArgumentError
from package_cache.model import Entry, Key, Status
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.removal import Place, Removable, Removal, Removed
from package_cache.storage.stores import Stores
from package_cache.units import parse_duration, size_text

_THERE = frozenset(status for status in Status if status >= 0)
_TRASH = frozenset((Status.TRASH,))


def _add_versions(it: ArgumentParser) -> None:
    add_names(it)
    it.add_argument("--version", metavar="N", help="this version alone (default: all versions)")


def _version(given: Namespace) -> int | None:
    text: str | None = given.version
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ArgumentError(f"--version: {text!r} is not a number; show NAME lists the versions")
    return int(text)


def _rm(given: Namespace, config: Config) -> int:
    names, version = names_of(given, config), _version(given)
    missing = "that can be served is stored" if version is None else f"of version {version}"
    with holdings.opened(config) as held:
        entries, items = _found(names, held, (Status.READY, _THERE), version, missing)
        keys = {entry.key: entry.key for entry in entries} | {item.key: holdings.title(item) for item in items}
        pins = held.inventory.pins()
        pinned = next((what for key, what in keys.items() if key in pins), None)
        if pinned is not None:
            raise CannotDo(f"{pinned} is pinned; unpin it first")
        changed = _changed(held.inventory.discard, entries, version)
        held.core.set_status(items, Status.TRASH)
    _say("put into the trash", changed, items)
    return DONE


def _restore(given: Namespace, config: Config) -> int:
    names, version = names_of(given, config), _version(given)
    with holdings.opened(config) as held:
        entries, items = _found(names, held, (Status.TRASH, _TRASH), version, "is in the trash")
        changed = _changed(held.inventory.restore, entries, version)
        held.core.restore(items)
    _say("restored", changed, items)
    return DONE


def _found(
    names: list[Name], held: Holdings, status: tuple[Status, frozenset[Status]], version: int | None, missing: str
) -> tuple[list[Entry], list[ItemRow]]:
    """All that is to be changed, before anything is. Raises CannotDo where one of the names has nothing."""
    entries: list[Entry] = []
    items: dict[int, ItemRow] = {}
    of_proxy, of_library = status
    for name in names:
        files, rows = name.matching(held, of_proxy, version), name.items(held, of_library, version)
        name.check_kind(files, rows)
        if not files and not rows:
            raise name.nothing(held, missing)
        entries += files
        items |= {row.id: row for row in rows}
    return entries, list(items.values())


def _changed(change: Callable[[Key, int | None], list[Entry]], entries: list[Entry], version: int | None) -> list[Entry]:
    return [one for key in dict.fromkeys(entry.key for entry in entries) for one in change(key, version)]


def _say(deed: str, entries: list[Entry], items: list[ItemRow]) -> None:
    for entry in sorted(entries, key=lambda entry: (entry.key, entry.version)):
        output.line(f"{deed}: {entry.key} version {entry.version}, {size_text(entry.size)}")
    for item in items:
        size = "no bytes" if item.size is None else size_text(item.size)
        output.line(f"{deed}: {holdings.title(item)} version {item.version}, {size}")


RM = Command(
    f"""
Of the proxy: clients do not get it from here any more; the next one has it fetched anew. It can be restored for 7 days,
unless the space is needed before. Of the library: no search finds it. It stays in the trash until it is purged, or the
space is needed. Nothing is changed if one of several names has nothing. A pattern may be one of paths, too: '/debian/*'.

{NAMES}""",
    _add_versions,
    _rm,
)
RESTORE = Command(f"\n{NAMES}", _add_versions, _restore)


def _add_purge(it: ArgumentParser) -> None:
    add_name(it, optional=True)
    it.add_argument("--all", action="store_true", help="all that is in the trash")
    it.add_argument("--older", metavar="TIME", help="what was put there so long ago or earlier, such as 2d")


def _purge(given: Namespace, config: Config) -> int:
    if sum((given.name is not None, given.all, given.older is not None)) != 1:
        raise ArgumentError("purge what? Give one of NAME, --all and --older TIME")
    name = None if given.name is None else name_of(given, config)
    try:
        until = time.time() - (parse_duration(given.older) if given.older is not None else 0.0)
    except ValueError as error:
        raise ArgumentError(f"--older: {error}") from None
    with holdings.opened(config) as held:
        items = _trash(held, until, given.kind) if name is None else name.items(held, _TRASH)
        if name is not None:
            entries = name.entries(held, Status.TRASH)
            name.check_kind(entries, items)
        key = name.file.key if name is not None and name.file is not None else None
        of_proxy = given.kind != ITEM if name is None else key is not None and not items
        found, removed = _purge_all(held.stores, until, key) if of_proxy else (0, Removed())
        if name is not None and not found and not items:
            raise name.nothing(held, "is in the trash")
        freed = removed.bytes + _purge_items(held, items)
    output.line(f"purged: {output.count(removed.entries + len(items), 'version', 'versions')}, {size_text(freed)} freed")
    if found > removed.entries:
        raise CannotDo(f"{found - removed.entries} of {found} are in use or were restored meanwhile; try again")
    return DONE


def _trash(held: Holdings, until: float, kind: str | None) -> list[ItemRow]:
    """The items in the trash since `until` or longer, in seconds of the epoch."""
    if kind == PROXY:
        return []
    return [item for item in held.core.items.find(holdings.IN_TRASH) if item.used <= until]


def _purge_items(held: Holdings, items: list[ItemRow]) -> int:
    """Remove items for good; how many bytes that freed."""
    held.core.remove(items, keep_record=False)
    sizes = {item.digest: item.size or 0 for item in items if item.digest is not None}
    return sum(size for digest, size in sizes.items() if not held.stores.blobs.has(digest))


def _purge_all(stores: Stores, until: float, key: Key | None) -> tuple[int, Removed]:
    """How many versions of the proxy were found, and what went."""
    removal = Removal(stores.registry.database, stores.blobs)
    removal.finish()
    after, found, fates = Place(), 0, []
    while page := removal.trashed(after, until, key):
        found += len(page)
        fates += removal.remove(page)
        after = _behind(page)
    return found, Removed(*(sum(one) for one in zip(*((f.entries, f.files, f.bytes) for f in fates), strict=True)))


def _behind(page: list[Removable]) -> Place:
    return Place(page[-1].used, page[-1].id)


PURGE = Command(
    f"""
Without it, that happens to files of the proxy after 7 days, and to all when the space is needed.

{NAMES}""",
    _add_purge,
    _purge,
)
