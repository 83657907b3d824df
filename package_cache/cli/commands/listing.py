"""`ls`: the names of what the cache holds."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace

from package_cache.cli import holdings, output
from package_cache.cli.command import DONE, Command
from package_cache.cli.conditions import VALUES, add_criteria, criteria_of
from package_cache.cli.describing import entry_as_json, item_as_json
from package_cache.cli.holdings import Holdings, item_id, title
from package_cache.cli.names import ITEM, PROXY, add_kind, glob_of, pattern_of
from package_cache.cli.paths import CannotDo
from package_cache.config import Config
from package_cache.model import Entry, Status
from package_cache.rules.library.searching import Criteria
from package_cache.storage.items.rows import ItemRow
from package_cache.units import size_text


def _add(it: ArgumentParser) -> None:
    it.add_argument("glob", metavar="GLOB", nargs="?", default="*", help="which names to list (default: all)")
    it.add_argument("--trash", action="store_true", help="list what is in the trash, and since when")
    add_kind(it)
    add_criteria(it)
    it.add_argument("--json", action="store_true", help="a JSON object a line, with sizes in bytes and times as seconds")


def _run(given: Namespace, config: Config) -> int:
    given.status = [*(given.status or ()), "trash"] if given.trash else given.status
    wanted = criteria_of(given)
    glob = glob_of(given.glob)
    of_items = given.kind == ITEM or given.attr is not None or given.label is not None
    with holdings.opened(config, reading=True) as held:
        pins = held.inventory.pins()
        found = False
        for one in _all(held, glob, wanted, given.kind, of_items=of_items):
            if not found and not given.json and sys.stdout.isatty():
                output.line(_HEAD)
            found = True
            if given.json:
                pin = pins.get(one.key)
                output.document(entry_as_json(one, pin) if isinstance(one, Entry) else item_as_json(one, pin, held))
            else:
                output.line(_row(one, is_pinned=one.key in pins))
    if not found:
        raise CannotDo("there is nothing to list")
    return DONE


def _all(held: Holdings, glob: str, wanted: Criteria, kind: str | None, *, of_items: bool) -> Iterator[Entry | ItemRow]:
    statuses = wanted.status or {Status.READY}
    if not of_items:
        if Status.READY in statuses:
            yield from held.inventory.entries(glob)
        if Status.TRASH in statuses:
            yield from held.inventory.trash(glob)
    if kind != PROXY:
        like = None if glob == "*" else pattern_of(glob) or glob
        # What is in the trash is listed one by one, as it may be restored.
        found = held.core.items.find(replace(wanted, called_like=like, latest=Status.TRASH not in statuses))
        yield from sorted(found, key=lambda row: (title(row), row.key, row.version))


_HEAD = f"{'SIZE':>6}  {'LAST USE':19}  {'STATUS':8}  {'ITEM':15}  NAME"


def _row(one: Entry | ItemRow, *, is_pinned: bool) -> str:
    size = "-" if one.size is None else size_text(one.size)
    status = "pinned" if is_pinned and one.status == Status.READY else Status(one.status).name.lower()
    number, name = ("-", one.key) if isinstance(one, Entry) else (item_id(one), title(one))
    return f"{size:>6}  {output.moment(one.used)}  {status:8}  {number:15}  {name}"


LS = Command(
    f"""
One line a name: size, last use, status, item, name. Of a file of the proxy, for which the item is -, the newest version
that can be served; of an item of the library the highest that meets all criteria, with its ID, by which other commands
know it too. In GLOB, * stands for anything (slashes too), ? for one character and [...] for one of several; a GLOB that
ends with a slash means all below it. It is for the path, or for the uri, URL or ID of an item. Quote it for the shell.

--attr and --label list items only; --attr may be repeated, and all must hold. Operators are >= <= > < = != and ~, for texts
that match a pattern.

{VALUES}""",
    _add,
    _run,
)
