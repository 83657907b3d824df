"""`rm`, `restore`, `purge`, `pin`, `unpin` and `gc`: what is removed, and what is kept."""

import os
import pwd
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict

from package_cache import compose
from package_cache.cli import arguments, holdings, output
from package_cache.cli.arguments import DONE, Command, parsed
from package_cache.cli.holdings import Holdings
from package_cache.cli.names import ITEM, NAMES, PROXY, CannotDo, Name, add_name, name_of, names_of
from package_cache.config import Config
from package_cache.engine.upkeep.culling import Culler, Report, Tally
from package_cache.errors import ArgumentError
from package_cache.model import Entry, Key, Status
from package_cache.storage.cache_directory import CacheDirectory
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.removal import Position, Removal, Removed
from package_cache.units import duration_text, parse_duration, size_text

# -- rm, restore, purge

_THERE = frozenset(status for status in Status if status >= 0)
_TRASH = frozenset((Status.TRASH,))


def _add_versions(parser: ArgumentParser) -> None:
    add_name(parser, "+")
    parser.add_argument("--version", metavar="N", help="this version alone (default: all versions)")


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
    """Everything that is to be changed, before anything is. Raises CannotDo if nothing has one of the names."""
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
A file of the proxy is not served from the cache any more; the next client that asks for it has it fetched again. It can be
restored for 7 days, unless the space is needed before. An item of the library is not found by any search, and stays in the
trash until it is purged, or the space is needed. If nothing has one of several names, nothing is changed. A pattern may be
one of paths, too: '/debian/*'.

{NAMES}""",
    _add_versions,
    _rm,
)
RESTORE = Command(f"\n{NAMES}", _add_versions, _restore)


def _add_purge(parser: ArgumentParser) -> None:
    add_name(parser, "?")
    parser.add_argument("--all", action="store_true", help="everything that is in the trash")
    parser.add_argument("--older", metavar="TIME", help="what was put there at least so long ago, such as 2d")


def _purge(given: Namespace, config: Config) -> int:
    if sum((given.name is not None, given.all, given.older is not None)) != 1:
        raise ArgumentError("purge what? Give one of NAME, --all and --older TIME")
    name = None if given.name is None else name_of(given, config)
    until = time.time() - (parsed("--older", given.older, parse_duration) or 0.0)
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
    """The items that were put into the trash at `until`, in seconds of the epoch, or before."""
    if kind == PROXY:
        return []
    return [item for item in held.core.items.find(holdings.IN_TRASH) if item.used <= until]


def _purge_items(held: Holdings, items: list[ItemRow]) -> int:
    """Remove items for good; how many bytes that freed."""
    held.core.remove(items, keep_record=False)
    sizes = {item.digest: item.size or 0 for item in items if item.digest is not None}
    return sum(size for digest, size in sizes.items() if not held.stores.blobs.has(digest))


def _purge_all(stores: CacheDirectory, until: float, key: Key | None) -> tuple[int, Removed]:
    """How many versions of the proxy were found in the trash, and what was removed."""
    removal = Removal(stores.registry.database, stores.blobs)
    removal.finish()
    after, found, fates = Position(), 0, []
    while page := removal.trashed(after, until, key):
        found += len(page)
        fates += removal.remove(page)
        after = Position(page[-1].used, page[-1].id)
    return found, Removed(*(sum(one) for one in zip(*((f.entries, f.files, f.bytes) for f in fates), strict=True)))


PURGE = Command(
    f"""
Without it, files of the proxy are removed after 7 days, and all when the space is needed.

{NAMES}""",
    _add_purge,
    _purge,
)


# -- pin, unpin


def _pin(given: Namespace, config: Config) -> int:
    name = name_of(given, config)
    with holdings.opened(config) as held:
        entries, items = name.entries(held), name.items(held)
        name.check_kind(entries, items)
        for key, what in _pinnable(name, held):
            fresh = held.inventory.pin(key, _who())
            stored = items or held.stores.registry.best(key) is not None
            said = "pinned" if fresh else "pinned already"
            output.line(f"{said}: {what}{'' if stored else ' (nothing is stored for it yet)'}")
    return DONE


def _unpin(given: Namespace, config: Config) -> int:
    name = name_of(given, config)
    with holdings.opened(config) as held:
        pins = held.inventory.pins()
        items = [item for item in name.items(held) if item.key in pins]
        name.check_kind(name.file is not None and name.file.key in pins, items)
        found = [(key, what) for key, what in _pinnable(name, held) if key in pins]
        for key, what in found:
            held.inventory.unpin(key)
            output.line(f"unpinned: {what}")
        if not found:
            raise CannotDo(f"{name.text} is not pinned; ls shows what is")
    return DONE


def _pinnable(name: Name, held: Holdings) -> list[tuple[Key, str]]:
    """The keys that a name has, each with its name for people. Raises CannotDo if there are none."""
    items = name.items(held)
    if items:
        return list({item.key: holdings.title(item) for item in items}.items())
    if name.file is None:
        raise name.nothing(held)
    return [(name.file.key, name.file.key)]


def _who() -> str:
    """The login name of the user, also under sudo."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


PIN = Command(
    f"""
A pin holds for all versions to come. A file of the proxy may be pinned before it is stored, and its old versions are
removed all the same; of an item of the library all versions stay.

{NAMES}""",
    add_name,
    _pin,
)
UNPIN = Command(f"\n{NAMES}", add_name, _unpin)


# -- gc

_PATIENCE = 30.0
"""Seconds to wait for another process that is evicting."""


def _add_gc(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="change nothing, only say what would be removed")
    parser.add_argument("--json", action="store_true", help="one JSON object, with sizes in bytes and times as seconds")
    arguments.add_bounds(parser)


def _gc(given: Namespace, config: Config) -> int:
    with compose.opened(config) as stores:
        _, culler = compose.build_culler(config, stores)
        report = _cull(culler, dry=given.dry_run)
    if given.json:
        output.document(_gc_as_json(report, dry=given.dry_run))
    else:
        _print_gc(report, config, dry=given.dry_run)
    return DONE


def _cull(culler: Culler, *, dry: bool) -> Report:
    deadline = time.monotonic() + _PATIENCE
    while (report := culler.cull(dry=dry, pause=0.0)) is None:
        if time.monotonic() > deadline:
            raise CannotDo("another process is still evicting from this cache; try again later")
        time.sleep(0.1)
    return report


def _gc_as_json(report: Report, *, dry: bool) -> dict[str, object]:
    return {
        "dry_run": dry,
        **_tally(report.total),
        "lacking": report.lacking,
        "reasons": {reason.value: _tally(tally) for reason, tally in report.tallies.items()},
    }


def _tally(tally: Tally) -> dict[str, object]:
    return {**asdict(tally), "reach": tally.reach if tally.entries else None}


def _print_gc(report: Report, config: Config, *, dry: bool) -> None:
    if config.max_size is None and config.min_free is None and config.max_age is None:
        output.line("no bounds are given (--max-size, --min-free, --max-age): only the trash and old versions may go")
    if not report.tallies:
        output.line("nothing would be removed" if dry else "nothing was removed")
    else:
        output.line("would be removed:" if dry else "removed:")
        rows = [(reason.value, *_cells(tally)) for reason, tally in report.tallies.items()]
        output.table(
            ("", "entries", "files", "bytes", "last use of the newest of them"), [*rows, ("in all", *_cells(report.total))]
        )
    if report.lacking:
        output.line(f"{size_text(report.lacking)} more would have to go, but all else is pinned or was used a moment ago")


def _cells(tally: Tally) -> tuple[str, str, str, str]:
    reach = f"{output.moment(tally.reach)} ({duration_text(time.time() - tally.reach)} ago)"
    return str(tally.entries), str(tally.files), size_text(tally.bytes), reach


GC = Command(
    """
Removes, in this order: what was in the trash for a week, old versions (more than 2 besides the newest, or replaced 30 days
ago), what was not used for --max-age, and the least recently used until --max-size and --min-free are kept. A running
service does the same in the background by its own settings; give the same ones here. -v names each entry.""",
    _add_gc,
    _gc,
)
