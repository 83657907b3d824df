"""`info`: how much is stored, and what state the cache is in."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass

from package_cache.cli import arguments, holdings, output
from package_cache.cli.arguments import DONE, Command
from package_cache.cli.holdings import Holdings
from package_cache.config import Config
from package_cache.storage.inventory import Counts
from package_cache.storage.notes import SourceReport
from package_cache.storage.registry import Totals
from package_cache.storage.system import file_system_of
from package_cache.units import duration_text, size_text


@dataclass(frozen=True, slots=True)
class _Info:
    """What `info` prints. `free` and `size` are bytes of the file system that the cache is on."""

    cache: str
    totals: Totals
    counts: Counts
    free: int
    size: int
    sources: dict[str, SourceReport | None]


def _add(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object, with sizes in bytes and times as seconds")
    arguments.add_source(parser)
    arguments.add_bounds(parser)


def _run(given: Namespace, config: Config) -> int:
    with holdings.opened(config, reading=True) as held:
        info = _look(held, config)
    if given.json:
        output.document(_document(info, config))
    else:
        for title, text in _lines(info, config):
            output.line(f"{title:<10} {text}")
    return DONE


def _look(held: Holdings, config: Config) -> _Info:
    """Raises StoreError."""
    stores = held.stores
    status = file_system_of(stores.root)
    return _Info(
        str(stores.root),
        stores.registry.totals(),
        held.inventory.counts(),
        status.f_bavail * status.f_frsize,
        status.f_blocks * status.f_frsize,
        {source.base: stores.reports.last(source.base) for source in config.sources},
    )


def _document(info: _Info, config: Config) -> dict[str, object]:
    counts = info.counts
    return {
        "cache": info.cache,
        "bytes": info.totals.bytes,
        "blobs": info.totals.blobs,
        "files": counts.files,
        "items": counts.items,
        "trash": counts.trash,
        "damaged": counts.damaged,
        "pinned": counts.pinned,
        "first_use": counts.first_use,
        "last_use": counts.last_use,
        "free_bytes": info.free,
        "max_size": config.max_size,
        "max_age": config.max_age,
        "sources": {
            base: None if report is None else {"said": report.said, "when": report.when, "aside_until": report.aside_until}
            for base, report in info.sources.items()
        },
    }


def _lines(info: _Info, config: Config) -> Iterator[tuple[str, str]]:
    counts, totals = info.counts, info.totals
    yield "cache", info.cache
    yield "stored", f"{size_text(totals.bytes)} in {output.count(totals.blobs, 'file', 'files')} on the disk"
    names = output.count(counts.files, "version of a file of the proxy", "versions of files of the proxy")
    yield "holds", f"{names}, {output.count(counts.items, 'item of the library', 'items of the library')}"
    yield "besides", f"{counts.trash} in the trash, {counts.damaged} damaged and out of service, {counts.pinned} pinned"
    if counts.first_use is not None and counts.last_use is not None:
        yield "used", f"last {output.moment(counts.last_use)}; what was used longest ago: {output.moment(counts.first_use)}"
    yield "free", f"{size_text(info.free)} of {size_text(info.size)} on the file system"
    yield "bounds", ", ".join(_bounds(info, config)) or "none: --max-size, --min-free and --max-age set some"
    for base, report in info.sources.items():
        yield "source", f"{base}/ {_told(report)}"


def _bounds(info: _Info, config: Config) -> Iterator[str]:
    if config.max_size is not None:
        yield f"at most {size_text(config.max_size)} are stored"
    if config.min_free is not None:
        yield f"at least {size_text(config.min_free.of(info.size))} stay free"
    if config.max_age is not None:
        yield f"what was not used for {duration_text(config.max_age)} goes"


def _told(report: SourceReport | None) -> str:
    if report is None:
        return "was not asked yet"
    return f"{report.said} on {output.moment(report.when)}"


INFO = Command(
    """
Tells what a look at the cache directory tells, also while no server runs: how much is stored of what kind, what is out of
service, when it was used, what room and bounds there are by these settings, and what each source said last. Whether a
running server can serve, health tells; what is stored under which name, ls.""",
    _add,
    _run,
)
