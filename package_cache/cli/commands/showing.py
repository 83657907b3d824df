"""`ls`, `show` and `why`: what is stored, and what would happen if a client asked for it."""

import json
import math
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace

from package_cache import compose
from package_cache.cli import arguments, holdings, output
from package_cache.cli.arguments import DONE, Command
from package_cache.cli.holdings import Holdings, entry_as_json, item_as_json, item_id, plain, title
from package_cache.cli.names import (
    ITEM,
    NAMES,
    PROXY,
    VALUES,
    CannotDo,
    FileName,
    add_accept,
    add_criteria,
    add_kind,
    add_name,
    criteria_of,
    glob_of,
    name_of,
    pattern_of,
    variants_hint,
)
from package_cache.config import Config
from package_cache.errors import ArgumentError, StoreError
from package_cache.model import Entry, Freshness, Repository, Source, Status
from package_cache.rules.http.caching import is_fresh
from package_cache.rules.library.attributes import load
from package_cache.rules.library.searching import Criteria
from package_cache.storage.cache_directory import CacheDirectory
from package_cache.storage.inventory import Inventory, Pin
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.notes import Reports, SourceReport
from package_cache.units import duration_text, size_text

_LS_HEAD = f"{'SIZE':>6}  {'LAST USE':19}  {'STATUS':8}  {'ITEM':15}  NAME"
_STATES = {
    Status.READY: "ready",
    Status.TRASH: "in the trash",
    Status.FAILED: "damaged, taken out of service",
    Status.WRITE: "being written",
    Status.UNINITIALIZED: "not begun",
    Status.DELETED: "deleted",
}
"""The state of a version, in words."""


# -- ls


def _add_ls(parser: ArgumentParser) -> None:
    parser.add_argument("glob", metavar="GLOB", nargs="?", default="*", help="which names to list (default: all)")
    parser.add_argument("--trash", action="store_true", help="list what is in the trash, and since when")
    add_kind(parser)
    add_criteria(parser)
    parser.add_argument(
        "--json", action="store_true", help="a JSON object a line, with sizes in bytes and times as seconds"
    )


def _ls(given: Namespace, config: Config) -> int:
    given.status = [*(given.status or ()), "trash"] if given.trash else given.status
    wanted = criteria_of(given)
    glob = glob_of(given.glob)
    of_items = given.kind == ITEM or given.attr is not None or given.label is not None
    with holdings.opened(config, reading=True) as held:
        pins = held.inventory.pins()
        found = False
        for one in _listed(held, glob, wanted, given.kind, of_items=of_items):
            if not found and not given.json and sys.stdout.isatty():
                output.line(_LS_HEAD)
            found = True
            if given.json:
                pin = pins.get(one.key)
                output.document(entry_as_json(one, pin) if isinstance(one, Entry) else item_as_json(one, pin, held))
            else:
                output.line(_ls_row(one, is_pinned=one.key in pins))
    narrowed = glob != "*" or wanted != Criteria() or given.kind is not None
    if not found and narrowed:
        raise CannotDo("there is nothing to list")
    return DONE


def _listed(held: Holdings, glob: str, wanted: Criteria, kind: str | None, *, of_items: bool) -> Iterator[Entry | ItemRow]:
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


def _ls_row(one: Entry | ItemRow, *, is_pinned: bool) -> str:
    size = "-" if one.size is None else size_text(one.size)
    status = "pinned" if is_pinned and one.status == Status.READY else Status(one.status).name.lower()
    number, name = ("-", one.key) if isinstance(one, Entry) else (item_id(one), title(one))
    return f"{size:>6}  {output.moment(one.used)}  {status:8}  {number:15}  {name}"


LS = Command(
    f"""
Prints one line for each name: size, last use, status, item, name. For a file of the proxy, whose item is -, it shows the
newest version that can be served; for an item of the library the highest version that meets all criteria, with its ID,
which other commands take too. GLOB is compared with the path, or with the uri, URL or ID of an item: * matches anything
(slashes too), ? one character and [...] one of several; a GLOB that ends with a slash matches everything below it. Quote it
for the shell.

--attr and --label list items only; --attr may be repeated, and all conditions must hold. Operators are >= <= > < = !=, and
~ for strings that match a pattern.

{VALUES}""",
    _add_ls,
    _ls,
)


# -- show


def _add_show(parser: ArgumentParser) -> None:
    add_name(parser)
    parser.add_argument(
        "--json", action="store_true", help="a JSON object for each thing, with sizes in bytes, times as seconds"
    )


def _show(given: Namespace, config: Config) -> int:
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
    output.line(f"version {entry.version}: {_STATES[entry.status]}")
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
    output.line(f"version {row.version}: {'failed' if status is Status.FAILED else _STATES[status]}")
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


SHOW = Command(
    f"""
Shows digests, header fields, sources, attributes and times of each.

{NAMES}""",
    _add_show,
    _show,
)


# -- why


def _add_why(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="PATH", help="what a client asks for: /file or a URL")
    add_accept(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object, with times as seconds")
    arguments.add_source(parser)


def _why(given: Namespace, config: Config) -> int:
    given.kind = None
    name = name_of(given, config)
    with holdings.opened(config, reading=True) as held:
        if not name.entries(held) and name.items(held):
            raise CannotDo(f"why tells what a client of the proxy would get; {name.text} is in the library: see show")
        if name.file is None:
            raise ArgumentError(f"{name.text!r} is not what a client would ask for; that is /file or a URL")
        why = _Explanation(name.file, held.stores, config)
    if given.json:
        output.document(why.as_json())
    else:
        for line in why.lines():
            output.line(line)
    return DONE


class _Explanation:
    """What there is to say about a file, read from the store when this is made.

    `asked` are the sources that would be asked, in this order; `nowhere`: no repository has the path; `variants`: the other
    Accept fields under which something is stored.
    """

    def __init__(self, name: FileName, stores: CacheDirectory, config: Config) -> None:
        inventory = Inventory(stores.registry.database)
        self.key = name.key
        self.policy = compose.routes_of(config).policy(name.target).at(name.target)
        self.versions = inventory.versions(name.key)
        self.served = next((entry for entry in self.versions if entry.status is Status.READY), None)
        kind = self.served.representation.get("content-type") if self.served else None
        self.rule = self.policy.freshness(kind)
        self.decided_by = self.policy.decided_by(kind)
        self.variants = name.variants(inventory)
        self.pin = inventory.pins().get(name.key)
        self.download = _running_download(name, stores)
        self.asked = _asked_sources(name, stores.reports, self.policy.repository, self.versions)
        self.nowhere = bool(config.repositories) and not self.policy.repository.sources
        self.good_until = self.policy.good_until(self.served.representation) if self.served else None
        """Until when the served version is fresh, in seconds of the epoch: infinity for an immutable one."""
        self.outcome = self._outcome()

    def _outcome(self) -> str:
        """What a request would lead to, in words."""
        served, until = self.served, self.good_until or 0.0
        if self.nowhere:
            return "the client is told 404: no repository has such a path"
        if self.rule.how is Freshness.NEVER:
            return "the file is passed on from the first source that has it, and not stored"
        if served is not None and is_fresh(until, served.representation.received, time.time()):
            how_long = "" if math.isinf(until) else f" until {output.moment(until)}"
            return f"version {served.version} is served from the cache{how_long}; no source is asked"
        if self.download is not None and self.download.startswith("is running"):
            return "the client gets what the running download brings"
        if served is None:
            return "the file is fetched from the first source that has it, and stored"
        validators = served.representation.validators
        how = f"ETag {validators.etag}" if validators.etag else f"Last-Modified {validators.last_modified}"
        asked = f"by its {how}" if validators else "by its bytes: it has neither ETag nor Last-Modified"
        stale = "it is served as it is" if self.policy.may_be_stale(served.representation) else "the client is told so"
        return f"a source is asked whether version {served.version} still holds ({asked}); if none answers, {stale}"

    def lines(self) -> Iterator[str]:
        """For people."""
        repository = self.policy.repository.name
        yield f"key       {self.key}"
        yield f"of        {f'the repository {repository}' if repository else 'no repository that is configured'}"
        yield f"rule      {self.rule.text}: {self.decided_by}"
        yield f"request   {self.outcome}"
        if self.download:
            yield f"download  {self.download}"
        if self.pin:
            yield f"pin       by {self.pin.who} on {output.moment(self.pin.since)}: it is never evicted"
        for entry in self.versions:
            used = "last used" if entry.status is Status.READY else "since"
            yield (
                f"version   {entry.version}: {_STATES[entry.status]}, {size_text(entry.size)},"
                f" confirmed {output.moment(entry.representation.received)}, {used} {output.moment(entry.used)}"
            )
        if not self.versions:
            yield f"version   none is stored{variants_hint(self.variants)}"
        for one in self.asked:
            yield f"source    {one.url}: {one.told}"
        if not self.asked and not self.nowhere:
            yield "source    none is given here; with --source (or PACKAGE_CACHE_SOURCE) those of the service are shown"

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "key": self.key,
            "repository": self.policy.repository.name or None,
            "rule": self.rule.text,
            "decided_by": self.decided_by,
            "good_until": None if self.good_until is None or math.isinf(self.good_until) else self.good_until,
            "request": self.outcome,
            "download": self.download,
            "pin": asdict(self.pin) if self.pin else None,
            "versions": [
                {
                    "version": entry.version,
                    "status": entry.status.name,
                    "size": entry.size,
                    "sha256": entry.digest,
                    "received": entry.representation.received,
                    "used": entry.used,
                }
                for entry in self.versions
            ],
            "variants": self.variants,
            "sources": [
                {"url": one.url, "last": one.told, "report": asdict(one.report) if one.report else None}
                for one in self.asked
            ],
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    """A source: its URL of the file, what is stored from there, and what it answered last to any request."""

    url: str
    gave: str
    report: SourceReport | None

    @property
    def aside(self) -> float:
        """Seconds for which it stays set aside: it is asked only after the others."""
        return max(0.0, self.report.aside_until - time.time()) if self.report else 0.0

    @property
    def told(self) -> str:
        """All of that in one line."""
        report = self.report
        if report is None:
            return self.gave
        what = "" if report.url == self.url else f" ({report.url})"
        said = f"{self.gave}; {duration_text(max(0.0, time.time() - report.when))} ago it {report.said}{what}"
        return f"{said}, so it is asked last for another {duration_text(self.aside)}" if self.aside else said


def _asked_sources(name: FileName, reports: Reports, repository: Repository, versions: list[Entry]) -> list[_Asked]:
    asked = (
        _Asked(source.base + name.target.asked, _given_by(versions, source), reports.last(source.base))
        for source in repository.sources
    )
    return sorted(asked, key=lambda one: one.aside > 0)


def _running_download(name: FileName, stores: CacheDirectory) -> str | None:
    """How far a download of the file is that is running, or was interrupted."""
    watch = stores.parts.watch(name.key)
    with closing(watch):
        running = False
        with suppress(StoreError):  # of another user, nobody is told
            running = stores.parts.is_led(name.key)
        with suppress(OSError, ValueError):
            head = watch.refresh().head
            part = watch.open_part()
            if part is not None:
                with closing(part):
                    have = size_text(os.fstat(part.fileno()).st_size)
                size = size_text(head.size) if head and head.size is not None else "an unknown size"
                return f"is running: {have} of {size} are here" if running else f"broke off after {have} of {size}"
    return "is running" if running else None


def _given_by(versions: list[Entry], source: Source) -> str:
    """Which version came from a source, whatever its path there."""
    given = [entry for entry in versions if entry.representation.source.startswith(f"{source.base}/")]
    if not given:
        return "no stored version is from there"
    newest = max(given, key=lambda entry: entry.representation.received)
    received = newest.representation.received
    return f"gave version {newest.version} on {output.moment(received)} ({duration_text(time.time() - received)} ago)"


WHY = Command(
    """
Shows which rule applies and why, what is stored, which source would be asked for what, and who pinned it. Items of the
library are never served.""",
    _add_why,
    _why,
)
