"""`pin` and `unpin`: what is never culled."""

import os
import pwd
from argparse import Namespace

from package_cache import compose
from package_cache.cli import output
from package_cache.cli.command import DONE, Command
from package_cache.cli.paths import CannotDo, add_path, named
from package_cache.config import Config
from package_cache.storage.inventory import Inventory


def _pin(given: Namespace, config: Config) -> int:
    name = named(given)
    with compose.opened(config) as stores:
        inventory = Inventory(stores.registry.database)
        fresh = inventory.pin(name.key, _who())
        stored = stores.registry.best(name.key) is not None
    output.line(
        f"{'pinned' if fresh else 'pinned already'}: {name.key}{'' if stored else ' (nothing is stored for it yet)'}"
    )
    return DONE


def _unpin(given: Namespace, config: Config) -> int:
    name = named(given)
    with compose.opened(config) as stores:
        if not Inventory(stores.registry.database).unpin(name.key):
            raise CannotDo(f"{name.key} is not pinned; ls shows what is")
    output.line(f"unpinned: {name.key}")
    return DONE


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
    "never cull a name",
    "A pin holds for all versions to come, and may be set before there is one. Old versions go all the same.",
    add_path,
    _pin,
)
UNPIN = Command("undo a pin", "", add_path, _unpin)
