"""`ls` and `show`: what the cache holds."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from package_cache import compose
from package_cache.cli import output
from package_cache.cli.command import DONE, FAILED, Command
from package_cache.cli.paths import add_path, named, nothing
from package_cache.config import Config
from package_cache.model import Entry, Status
from package_cache.storage.inventory import Inventory, Pin
from package_cache.units import size_text


def _add_ls(it: ArgumentParser) -> None:
    it.add_argument("glob", metavar="GLOB", nargs="?", default="*", help="which names to list (default: all)")
    it.add_argument("--trash", action="store_true", help="list what is in the trash, and since when")
    it.add_argument("--json", action="store_true", help="a JSON object a line, with sizes in bytes and times as seconds")


def _ls(given: Namespace, config: Config) -> int:
    glob = given.glob + "*" if given.glob.endswith("/") else given.glob
    with compose.opened(config) as stores:
        inventory = Inventory(stores.registry.database)
        pins = inventory.pins()
        found = False
        for entry in inventory.trash(glob) if given.trash else inventory.entries(glob):
            if given.json:
                output.document(_summary(entry, pins.get(entry.key)))
            else:
                pinned = "pinned" if entry.key in pins else ""
                output.line(f"{size_text(entry.size):>6}  {output.moment(entry.used)}  {pinned:6}  {entry.key}")
            found = True
    return DONE if found else FAILED


LS = Command(
    "list what is stored",
    """
One line a name: size, last use, whether it is pinned, name. In GLOB, * stands for anything (slashes too), ? for one
character and [...] for one of several; a GLOB that ends with a slash means all below it. Quote it for the shell.""",
    _add_ls,
    _ls,
)


def _summary(entry: Entry, pin: Pin | None) -> dict[str, object]:
    return {
        "key": entry.key,
        "version": entry.version,
        "status": entry.status.name,
        "size": entry.size,
        "sha256": entry.digest,
        "stored": entry.created,
        "used": entry.used,
        "source": entry.representation.source,
        "pinned": pin is not None,
    }


def _add_show(it: ArgumentParser) -> None:
    add_path(it)
    it.add_argument("--json", action="store_true", help="one JSON object, with sizes in bytes and times as seconds")


def _show(given: Namespace, config: Config) -> int:
    name = named(given)
    with compose.opened(config) as stores:
        inventory = Inventory(stores.registry.database)
        versions = inventory.versions(name.key)
        pin = inventory.pins().get(name.key)
        if not versions:
            raise nothing(name, inventory)
    if given.json:
        details = [
            {**_summary(entry, pin), "received": entry.representation.received, "fields": entry.representation.fields}
            for entry in versions
        ]
        output.document({"key": name.key, "pin": asdict(pin) if pin else None, "versions": details})
        return DONE
    output.line(name.key)
    if pin is not None:
        output.line(f"pinned by {pin.who} on {output.moment(pin.since)}")
    for entry in versions:
        _show_version(entry)
    return DONE


def _show_version(entry: Entry) -> None:
    head = entry.representation
    output.line()
    output.line(f"version {entry.version}: {STATES[entry.status]}")
    for name, value in (
        ("size", f"{entry.size} bytes"),
        ("sha256", entry.digest),
        ("source", head.source),
        ("stored", output.moment(entry.created)),
        ("confirmed", output.moment(head.received)),
        ("last use" if entry.status is Status.READY else "since", output.moment(entry.used)),
    ):
        output.line(f"  {name:10} {value}")
    for name, value in head.fields:
        output.line(f"  {name}: {value}")


STATES = {
    Status.READY: "ready",
    Status.TRASH: "in the trash",
    Status.FAILED: "damaged, taken out of service",
    Status.WRITE: "being written",
    Status.UNINITIALIZED: "not begun",
    Status.DELETED: "deleted",
}
"""The state of a version, in words."""

SHOW = Command("show every version of a name", "With digests, header fields, sources and times.", _add_show, _show)
