"""`show`: every version of what is called so."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from package_cache.cli import holdings, output
from package_cache.cli.command import DONE, Command
from package_cache.cli.describing import entry_as_json, item_as_json, plain
from package_cache.cli.holdings import Holdings
from package_cache.cli.names import NAMES, add_name, name_of
from package_cache.config import Config
from package_cache.model import Entry, Status
from package_cache.rules.library.attributes import load
from package_cache.storage.inventory import Pin
from package_cache.storage.items.rows import ItemRow


def _add(it: ArgumentParser) -> None:
    add_name(it)
    it.add_argument(
        "--json", action="store_true", help="a JSON object for each thing, with sizes in bytes, times as seconds"
    )


def _run(given: Namespace, config: Config) -> int:
    name = name_of(given, config)
    with holdings.opened(config, reading=True) as held:
        pins = held.inventory.pins()
        entries, items = name.entries(held), _by_key(name.items(held))
        if not entries and not items:
            raise name.nothing(held)
        if entries:
            _show_file(entries, pins.get(entries[0].key), as_json=given.json)
        for at, several in enumerate(items):
            if (at or entries) and not given.json:
                output.line()
            _show_item(several, pins.get(several[0].key), held, as_json=given.json)
    return DONE


def _by_key(rows: list[ItemRow]) -> list[list[ItemRow]]:
    """The versions of each key, newest first."""
    found: dict[str, list[ItemRow]] = {}
    for row in sorted(rows, key=lambda one: -one.version):
        found.setdefault(row.key, []).append(row)
    return sorted(found.values(), key=lambda several: (several[0].details.uri, several[0].id))


def _show_file(entries: list[Entry], pin: Pin | None, *, as_json: bool) -> None:
    key = entries[0].key
    if as_json:
        details = [
            {**entry_as_json(entry, pin), "received": entry.representation.received, "fields": entry.representation.fields}
            for entry in entries
        ]
        output.document({"kind": "proxy", "key": key, "pin": asdict(pin) if pin else None, "versions": details})
        return
    output.line(key)
    _show_pin(pin)
    for entry in entries:
        _show_version(entry)


def _show_pin(pin: Pin | None) -> None:
    if pin is not None:
        output.line(f"pinned by {pin.who} on {output.moment(pin.since)}")


def _show_version(entry: Entry) -> None:
    head = entry.representation
    output.line()
    output.line(f"version {entry.version}: {STATES[entry.status]}")
    _show_lines(
        ("size", f"{entry.size} bytes"),
        ("sha256", entry.digest),
        ("source", head.source),
        ("stored", output.moment(entry.created)),
        ("confirmed", output.moment(head.received)),
        ("last use" if entry.status is Status.READY else "since", output.moment(entry.used)),
    )
    for name, value in head.fields:
        output.line(f"  {name}: {value}")


def _show_lines(*pairs: tuple[str, str | None]) -> None:
    for name, value in pairs:
        if value is not None:
            output.line(f"  {name:10} {value}")


def _show_item(rows: list[ItemRow], pin: Pin | None, held: Holdings, *, as_json: bool) -> None:
    newest = rows[0]
    params = plain(load(newest.details.params))
    if as_json:
        head = {"kind": "item", "key": newest.key, "uri": newest.details.uri, "params": params}
        versions = [item_as_json(row, pin, held) for row in rows]
        output.document({**head, "pin": asdict(pin) if pin else None, "versions": versions})
        return
    output.line(newest.details.uri)
    if params:
        output.line(f"params {json.dumps(params, ensure_ascii=False)}")
    output.line(f"key {newest.key}")
    _show_pin(pin)
    for row in rows:
        _show_row(row, held)


def _show_row(row: ItemRow, held: Holdings) -> None:
    details, status = row.details, Status(row.status)
    output.line()
    output.line(f"version {row.version}: {'failed' if status is Status.FAILED else STATES[status]}")
    _show_lines(
        ("id", holdings.item_id(row)),
        ("size", "no bytes" if row.size is None else f"{row.size} bytes"),
        ("sha256", row.digest),
        ("path", held.core.files.path(row) if status is Status.WRITE or (row.digest and status >= 0) else None),
        ("filename", details.filename),
        ("label", details.label),
        ("made", output.moment(details.date / 1e6)),
        ("since" if status is Status.TRASH else "last use", f"{output.moment(row.used)}, read {row.read_count} times"),
    )
    for name, value in load(details.attrs).items():
        output.line(f"  {name}: {value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)}")


STATES = {
    Status.READY: "ready",
    Status.TRASH: "in the trash",
    Status.FAILED: "damaged, taken out of service",
    Status.WRITE: "being written",
    Status.UNINITIALIZED: "not begun",
    Status.DELETED: "deleted",
}
"""The state of a version, in words."""

SHOW = Command(
    f"""
With digests, header fields, sources, attributes and times.

{NAMES}""",
    _add,
    _run,
)
