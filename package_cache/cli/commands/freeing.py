"""`gc`: cull now, or say what culling would remove."""

import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from package_cache import compose
from package_cache.cli import arguments, output
from package_cache.cli.command import DONE, Command
from package_cache.cli.paths import CannotDo
from package_cache.config import Config
from package_cache.engine.upkeep.culling import Culler, Report, Tally
from package_cache.units import duration_text, size_text

_PATIENCE = 30.0
"""Seconds to wait for a process that culls already."""


def _add(it: ArgumentParser) -> None:
    it.add_argument("--dry-run", action="store_true", help="change nothing, only say what would go")
    it.add_argument("--json", action="store_true", help="one JSON object, with sizes in bytes and times as seconds")
    arguments.add_bounds(it)


def _run(given: Namespace, config: Config) -> int:
    with compose.opened(config) as stores:
        _, culler = compose.build_culler(config, stores)
        report = _cull(culler, dry=given.dry_run)
    if given.json:
        output.document(_as_json(report, dry=given.dry_run))
    else:
        _print(report, config, dry=given.dry_run)
    return DONE


def _cull(culler: Culler, *, dry: bool) -> Report:
    deadline = time.monotonic() + _PATIENCE
    while (report := culler.cull(dry=dry, pause=0.0)) is None:
        if time.monotonic() > deadline:
            raise CannotDo("another process is culling this cache, and goes on; try again later")
        time.sleep(0.1)
    return report


def _as_json(report: Report, *, dry: bool) -> dict[str, object]:
    return {
        "dry_run": dry,
        **_tally(report.total),
        "lacking": report.lacking,
        "reasons": {reason.value: _tally(tally) for reason, tally in report.tallies.items()},
    }


def _tally(tally: Tally) -> dict[str, object]:
    return {**asdict(tally), "reach": tally.reach if tally.entries else None}


def _print(report: Report, config: Config, *, dry: bool) -> None:
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
ago), what was not used for --max-age, and what was used longest ago until --max-size and --min-free are kept. A running
service does the same in the background by its own settings; give the same ones here. -v names each entry.""",
    _add,
    _run,
)
