"""`rm`, `restore`, `purge`: delete in two steps."""

import time
from argparse import ArgumentParser, Namespace

from package_cache import compose
from package_cache.cli import output
from package_cache.cli.command import DONE, Command
from package_cache.cli.paths import CannotDo, add_path, named, nothing
from package_cache.config import Config
from package_cache.model import Entry, Key
from package_cache.storage.inventory import Inventory
from package_cache.storage.removal import Place, Removable, Removal, Removed
from package_cache.storage.stores import Stores
from package_cache.units import parse_duration, size_text


def _add_versions(it: ArgumentParser) -> None:
    add_path(it)
    it.add_argument("--version", metavar="N", help="this version alone (default: all versions)")


def _version(given: Namespace) -> int | None:
    text: str | None = given.version
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise CannotDo(f"--version: {text!r} is not a number; show PATH lists the versions")
    return int(text)


def _rm(given: Namespace, config: Config) -> int:
    name, version = named(given), _version(given)
    with compose.opened(config) as stores:
        inventory = Inventory(stores.registry.database)
        if name.key in inventory.pins():
            raise CannotDo(f"{name.key} is pinned; unpin it first")
        moved = inventory.discard(name.key, version)
        if not moved:
            raise nothing(name, inventory, "that can be served is stored" if version is None else f"of version {version}")
    _say("put into the trash", moved)
    return DONE


def _restore(given: Namespace, config: Config) -> int:
    name, version = named(given), _version(given)
    with compose.opened(config) as stores:
        inventory = Inventory(stores.registry.database)
        moved = inventory.restore(name.key, version)
        if not moved:
            raise nothing(name, inventory, "is in the trash")
    _say("restored", moved)
    return DONE


def _say(deed: str, entries: list[Entry]) -> None:
    for entry in sorted(entries, key=lambda entry: entry.version):
        output.line(f"{deed}: {entry.key} version {entry.version}, {size_text(entry.size)}")


RM = Command(
    "put a name into the trash",
    """
Clients do not get it from here any more; the next one has it fetched anew. It can be restored for 7 days, unless the
space is needed before.""",
    _add_versions,
    _rm,
)
RESTORE = Command("take a name out of the trash", "", _add_versions, _restore)


def _add_purge(it: ArgumentParser) -> None:
    add_path(it, optional=True)
    it.add_argument("--all", action="store_true", help="all that is in the trash")
    it.add_argument("--older", metavar="TIME", help="what was put there so long ago or earlier, such as 2d")


def _purge(given: Namespace, config: Config) -> int:
    if sum((given.path is not None, given.all, given.older is not None)) != 1:
        raise CannotDo("purge what? Give one of PATH, --all and --older TIME")
    name = None if given.path is None else named(given)
    try:
        until = time.time() - (parse_duration(given.older) if given.older is not None else 0.0)
    except ValueError as error:
        raise CannotDo(f"--older: {error}") from None
    with compose.opened(config) as stores:
        found, removed = _purge_all(stores, until, name.key if name else None)
        if name is not None and not found:
            raise nothing(name, Inventory(stores.registry.database), "is in the trash")
    output.line(f"purged: {output.count(removed.entries, 'version', 'versions')}, {size_text(removed.bytes)} freed")
    if found > removed.entries:
        raise CannotDo(f"{found - removed.entries} of {found} are in use or were restored meanwhile; try again")
    return DONE


def _purge_all(stores: Stores, until: float, key: Key | None) -> tuple[int, Removed]:
    """How many versions were found, and what went."""
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
    "remove what is in the trash for good",
    "Without it, that happens after 7 days, or when the space is needed.",
    _add_purge,
    _purge,
)
