"""`why`: what would happen if a client asked for a path now, and for what reasons."""

import math
import os
import time
from argparse import ArgumentParser, Namespace
from contextlib import closing, suppress
from dataclasses import asdict, dataclass

from package_cache import compose
from package_cache.cli import arguments, holdings, output, paths
from package_cache.cli.command import DONE, Command
from package_cache.cli.commands.showing import STATES
from package_cache.cli.names import name_of
from package_cache.cli.paths import CannotDo, Named, add_accept
from package_cache.config import Config
from package_cache.errors import ArgumentError, StoreError
from package_cache.model import Entry, Fresh, Freshness, Repository, Source, Status
from package_cache.rules.repositories.freshness import Policy, is_good
from package_cache.storage.inventory import Inventory, Pin
from package_cache.storage.reports import Report, Reports
from package_cache.storage.stores import Stores
from package_cache.units import duration_text, size_text


def _add(it: ArgumentParser) -> None:
    it.add_argument("name", metavar="PATH", help="what a client asks for: /file or a URL")
    add_accept(it)
    it.add_argument("--json", action="store_true", help="one JSON object, with times as seconds")
    arguments.add_source(it)


@dataclass(frozen=True, slots=True)
class _Explanation:
    """What there is to say. `asked` are the sources that would be, in this order. What is `nowhere` is in no repository.

    `variants` are the other Accept fields under which something is stored.
    """

    name: Named
    policy: Policy
    rule: Fresh
    decided_by: str
    versions: list[Entry]
    variants: list[str]
    pin: Pin | None
    download: str | None
    asked: list["_Asked"]
    nowhere: bool

    @property
    def served(self) -> Entry | None:
        """The version that can be served."""
        return next((entry for entry in self.versions if entry.status is Status.READY), None)

    @property
    def good_until(self) -> float | None:
        """Until when that one is good, in seconds of the epoch: infinity, if for ever; None if there is none."""
        served = self.served
        return self.policy.good_until(self.name.target, served.representation) if served else None


def _run(given: Namespace, config: Config) -> int:
    given.kind = None
    name = name_of(given, config)
    with holdings.opened(config, reading=True) as held:
        if not name.entries(held) and name.items(held):
            raise CannotDo(f"why tells what a client of the proxy would get; {name.text} is in the library: see show")
        if name.file is None:
            raise ArgumentError(f"{name.text!r} is not what a client would ask for; that is /file or a URL")
        explanation = _explain(name.file, held.stores, config)
    if given.json:
        output.document(_as_json(explanation))
    else:
        _print(explanation)
    return DONE


def _explain(name: Named, stores: Stores, config: Config) -> _Explanation:
    inventory, policy = Inventory(stores.registry.database), compose.routes_of(config).policy(name.target)
    versions = inventory.versions(name.key)
    served = next((entry for entry in versions if entry.status is Status.READY), None)
    kind = served.representation.get("content-type") if served else None
    return _Explanation(
        name,
        policy,
        policy.freshness(name.target, kind),
        policy.decided_by(name.target, kind),
        versions,
        paths.variants(name, inventory),
        inventory.pins().get(name.key),
        _download(name, stores),
        _asked(name, stores.reports, policy.repository, versions),
        bool(config.repositories) and not policy.repository.sources,
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A source: the URL it has the file at, what is stored from there, and what it said last of anything."""

    url: str
    gave: str
    report: Report | None

    @property
    def aside(self) -> float:
        """For how many seconds it is asked after the others."""
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


def _asked(name: Named, reports: Reports, repository: Repository, versions: list[Entry]) -> list[_Asked]:
    asked = (
        _Asked(source.base + name.target.asked, _gave(versions, source), reports.last(source.base))
        for source in repository.sources
    )
    return sorted(asked, key=lambda one: one.aside > 0)


def _download(name: Named, stores: Stores) -> str | None:
    """How far a download of the name is that runs, or broke off."""
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


def _request(it: _Explanation) -> str:
    """What a request would lead to."""
    served, until = it.served, it.good_until or 0.0
    if it.nowhere:
        return "the client is told 404: no repository has such a path"
    if it.rule.how is Freshness.NEVER:
        return "the file is passed on from the first source that has it, and not stored"
    if served is not None and is_good(until, served.representation.received, time.time()):
        how_long = "" if math.isinf(until) else f" until {output.moment(until)}"
        return f"version {served.version} is served from the cache{how_long}; no source is asked"
    if it.download is not None and it.download.startswith("is running"):
        return "the client gets what the running download brings"
    if served is None:
        return "the file is fetched from the first source that has it, and stored"
    validators = served.representation.validators
    how = f"ETag {validators.etag}" if validators.etag else f"Last-Modified {validators.last_modified}"
    asked = f"by its {how}" if validators else "by its bytes: it has neither ETag nor Last-Modified"
    stale = (
        "it is served as it is"
        if it.policy.may_be_stale(it.name.target, served.representation)
        else "the client is told so"
    )
    return f"a source is asked whether version {served.version} still holds ({asked}); if none answers, {stale}"


def _gave(versions: list[Entry], source: Source) -> str:
    """Which version is from there, wherever the source keeps it."""
    given = [entry for entry in versions if entry.representation.source.startswith(f"{source.base}/")]
    if not given:
        return "no stored version is from there"
    newest = max(given, key=lambda entry: entry.representation.received)
    received = newest.representation.received
    return f"gave version {newest.version} on {output.moment(received)} ({duration_text(time.time() - received)} ago)"


def _whose(repository: Repository) -> str:
    return f"the repository {repository.name}" if repository.name else "no repository that is configured"


def _print(it: _Explanation) -> None:
    output.line(f"key       {it.name.key}")
    output.line(f"of        {_whose(it.policy.repository)}")
    output.line(f"rule      {it.rule.text}: {it.decided_by}")
    output.line(f"request   {_request(it)}")
    if it.download:
        output.line(f"download  {it.download}")
    if it.pin:
        output.line(f"pin       by {it.pin.who} on {output.moment(it.pin.since)}: it is never culled")
    for entry in it.versions:
        used = (
            f"last used {output.moment(entry.used)}"
            if entry.status is Status.READY
            else f"since {output.moment(entry.used)}"
        )
        confirmed = f"confirmed {output.moment(entry.representation.received)}"
        output.line(f"version   {entry.version}: {STATES[entry.status]}, {size_text(entry.size)}, {confirmed}, {used}")
    if not it.versions:
        output.line(f"version   none is stored{paths.told(it.variants)}")
    for one in it.asked:
        output.line(f"source    {one.url}: {one.told}")
    if not it.asked and not it.nowhere:
        output.line("source    none is given here; with --source (or PACKAGE_CACHE_SOURCE) those of the service are shown")


def _as_json(it: _Explanation) -> dict[str, object]:
    return {
        "key": it.name.key,
        "repository": it.policy.repository.name or None,
        "rule": it.rule.text,
        "decided_by": it.decided_by,
        "good_until": None if it.good_until is None or math.isinf(it.good_until) else it.good_until,
        "request": _request(it),
        "download": it.download,
        "pin": asdict(it.pin) if it.pin else None,
        "versions": [
            {
                "version": entry.version,
                "status": entry.status.name,
                "size": entry.size,
                "sha256": entry.digest,
                "received": entry.representation.received,
                "used": entry.used,
            }
            for entry in it.versions
        ],
        "variants": it.variants,
        "sources": [
            {"url": one.url, "last": one.told, "report": asdict(one.report) if one.report else None} for one in it.asked
        ],
    }


WHY = Command(
    """
Which rule holds and why, what is stored, what would be asked of which source, and who pinned it. Items of the library are
never served.""",
    _add,
    _run,
)
