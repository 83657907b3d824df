"""`pin` and `unpin`: what is never culled."""

import os
import pwd
from argparse import Namespace

from package_cache.cli import holdings, output
from package_cache.cli.command import DONE, Command
from package_cache.cli.holdings import Holdings
from package_cache.cli.names import NAMES, Name, add_name, name_of
from package_cache.cli.paths import CannotDo
from package_cache.config import Config
from package_cache.model import Key


def _pin(given: Namespace, config: Config) -> int:
    name = name_of(given, config)
    with holdings.opened(config) as held:
        entries, items = name.entries(held), name.items(held)
        name.check_kind(entries, items)
        for key, what in _keys(name, held):
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
        found = [(key, what) for key, what in _keys(name, held) if key in pins]
        for key, what in found:
            held.inventory.unpin(key)
            output.line(f"unpinned: {what}")
        if not found:
            raise CannotDo(f"{name.text} is not pinned; ls shows what is")
    return DONE


def _keys(name: Name, held: Holdings) -> list[tuple[Key, str]]:
    """What can be pinned under a name, and how it is called. Raises CannotDo if there is nothing."""
    items = name.items(held)
    if items:
        return list({item.key: holdings.title(item) for item in items}.items())
    if name.file is None:
        raise name.nothing(held)
    return [(name.file.key, name.file.key)]


def _who() -> str:
    """The login name of the person."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


PIN = Command(
    f"""
A pin holds for all versions to come. That of a file of the proxy may be set before there is one, and its old versions go
all the same; of an item of the library all versions stay.

{NAMES}""",
    add_name,
    _pin,
)
UNPIN = Command(f"\n{NAMES}", add_name, _unpin)
