#!/usr/bin/env python3
"""Compares package-cache with other caches and with nginx, on loopback, in one run.

    python contrib/benchmarks/compare.py [--quick] [--servers goals] [--cases hits,herd] [--runs N] [--markdown FILE]

Starts every server itself, in a temporary folder, on free ports, with two processes where a server has any choice. In each
round every server is measured once, in turn; a ratio is the median of the ratios of the rounds. Figures of one run can be
compared with each other, not with those of another machine or day. At the end comes what the product wants to reach, and
what it has reached. Exit code 1: a body was wrong or a request failed; a goal that is missed changes nothing.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import servers
from cases import FULL, QUICK, Case, Clients, ColdLarge, ColdSmall, Hits, LargeHits, Scale, Turn
from cases_cold import Crowded, FirstByte, Late, Range
from cases_crowd import AfterMany, ManyIdle, SlowReaders
from cases_index import Revalidated
from cases_many import ColdHttps, HotInStorm, Stored
from cases_registry import Entries
from clients import MIB
from processes import Unusable
from report import Sample, Table, judged, tabulate
from servers import Server

CASES: Sequence[type[Case]] = (
    *(Clients, Hits, Revalidated, Stored, LargeHits),
    *(ColdLarge, ColdSmall, ColdHttps, HotInStorm),
    *(Range, FirstByte, Crowded, Late),
    *(SlowReaders, ManyIdle, AfterMany, Entries),
)

IN_VIEW = "gunicorn"
"""Whose figures the goals are about."""

LARGE = 1 * MIB
"""Bytes from which on a file of a finished case is removed at once."""


def chosen(text: str, known: Sequence[str], aliases: dict[str, tuple[str, ...]], what: str) -> list[str]:
    """The names of a list with commas, in the order of `known`."""
    names: set[str] = set()
    for word in filter(None, text.split(",")):
        names |= set(aliases.get(word, (word,)))
    if unknown := sorted(names - set(known)):
        raise argparse.ArgumentTypeError(
            f"there is no {what} {', '.join(unknown)}; there are {', '.join((*known, *aliases))}"
        )
    return [name for name in known if name in names]


def parse() -> argparse.Namespace:
    known = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round of everything, for a look; with the servers of the goals if you name none",
    )
    parser.add_argument("--runs", type=int, metavar="N", help=f"rounds (default: {FULL.runs}; with --quick {QUICK.runs})")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file, too")
    parser.add_argument(
        "--servers",
        type=lambda text: chosen(text, list(servers.KINDS), servers.ALIASES, "server"),
        metavar="LIST",
        help=f"of {', '.join((*servers.KINDS, *servers.ALIASES))} (default: all that are installed)",
    )
    parser.add_argument(
        "--cases",
        type=lambda text: chosen(text, known, {}, "case"),
        metavar="LIST",
        help=f"of {', '.join(known)} (default: all)",
    )
    options = parser.parse_args()
    options.scale = QUICK if options.quick else FULL
    if options.servers is None:
        options.servers = list(servers.ALIASES["goals"] if options.quick else servers.KINDS)
    options.cases = options.cases or known
    options.runs = options.scale.runs if options.runs is None else options.runs
    if options.runs < 1:
        parser.error("--runs: at least 1")
    return options


def set_aside(folder: Path) -> None:
    """Give the room of large files back, and leave the rest for the end of the run.

    ext4 does not use an inode again within minutes of its removal, and walks past all of these whenever it makes a file:
    after some thousands of removed files every file that a cache makes costs 0.7 ms.
    """
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in names):
            if path.is_file() and not path.is_symlink() and path.stat().st_size >= LARGE:
                path.unlink()


def progress(text: str) -> None:
    """Say on a terminal, in one line that the next replaces, what is done now."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class Run:
    """Runs cases with the servers of `names`."""

    def __init__(self, names: Sequence[str], scale: Scale, runs: int, show: Callable[[Table], None]) -> None:
        self._names = names
        self._scale = scale
        self._runs = runs
        self._show = show
        self.faults: list[str] = []
        self.reached: list[list[str]] = []

    def case(self, kind: type[Case], folder: Path) -> None:
        """Measure one case and show its tables."""
        case = kind(self._scale, folder, self._runs)
        samples: dict[str, dict[str, list[Sample]]] = {variant: {} for variant in case.shown()}
        progress(f"{case.name}: files")
        rows = case.rows(self._names)
        with case.stage() as sources:
            for batch, (numbers, names) in enumerate(self._batches(case, rows)):
                with self._running(case, names, folder / f"servers-{batch}", sources) as running:
                    self._rounds(case, running, numbers, samples)
                set_aside(folder / f"servers-{batch}")
        sizes = {"large", "cold_large", "paced"}
        words = {name: value // MIB if name in sizes else value for name, value in asdict(self._scale).items()}
        for goal in case.goals:
            metric = next(one for one in case.metrics if one.key == goal.key)
            if row := judged(goal, metric, samples.get(goal.variant, {}), IN_VIEW):
                self.reached.append([row[0].format(**words), *row[1:]])
        for variant, by_server in samples.items():
            title = case.title.replace("{variant}", variant).format(**words)
            self._show(tabulate(f"{title}; median of {self._runs}", case.metrics, by_server))
            for name, of_one in by_server.items():
                self.faults += [f"{case.name}, {name}: {fault}" for sample in of_one for fault in sample.faults]

    def _batches(self, case: Case, names: Sequence[str]) -> list[tuple[Sequence[int], Sequence[str]]]:
        """Which rounds go by with the same servers, and which servers those are."""
        if case.alone:
            return [([number], [name]) for number in range(self._runs) for name in names]
        return [([number], names) for number in range(self._runs)] if case.fresh else [(range(self._runs), names)]

    @contextlib.contextmanager
    def _running(self, case: Case, names: Sequence[str], folder: Path, sources: Sequence[Server]) -> Iterator[list[Server]]:
        progress(f"{case.name}: starting {', '.join(names)}")
        with case.start(names, folder, sources[0].address) as (found, failed):
            for name, reason in failed.items():
                print(f"{name}: left out of {case.name}: {reason}", flush=True)
                self.faults.append(f"{case.name}, {name}: it did not start")
            yield [*(sources if case.direct else []), *found]

    def _rounds(
        self, case: Case, running: Sequence[Server], numbers: Sequence[int], samples: dict[str, dict[str, list[Sample]]]
    ) -> None:
        warmed = {}
        for server in running:
            progress(f"{case.name}: warming {server.name}")
            try:
                warmed[server.name] = case.warm(server)
            except (OSError, subprocess.SubprocessError) as error:
                warmed[server.name] = [f"not warmed: {error}"]
        for variant, by_server in samples.items():
            for number in numbers:
                for server in running:
                    progress(f"{case.name} {variant}: {server.name}, {number + 1} of {self._runs}")
                    sample = _measured(case, Turn(server, variant, number))
                    sample.faults[:0] = warmed.pop(server.name, [])
                    by_server.setdefault(server.name, []).append(sample)
        progress("")


def _measured(case: Case, turn: Turn) -> Sample:
    try:
        return case.sample(turn)
    except (OSError, subprocess.SubprocessError) as error:
        return Sample({}, [f"failed: {error}"])


def main() -> int:
    options = parse()
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    print(f"load before the run: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores", flush=True)
    names = []
    for name in options.servers:
        if reason := servers.missing(name):
            print(f"{name}: left out, {reason}", flush=True)
        else:
            names.append(name)
    tables: list[Table] = []

    def show(table: Table) -> None:
        tables.append(table)
        print(f"\n{table.text()}", flush=True)

    run = Run(names, options.scale, options.runs, show)
    with tempfile.TemporaryDirectory(prefix="package-cache-benchmark-") as folder:
        Path(folder).chmod(0o711)  # for a server that is another user
        for case in CASES:
            if case.name in options.cases:
                try:
                    run.case(case, Path(folder) / case.name)
                except Unusable as reason:
                    print(f"\n{case.name}: left out, {reason}", flush=True)
                set_aside(Path(folder) / case.name)
        if run.reached:
            print(f"\n{Table(f'Goals of {IN_VIEW}', ['', 'figure', 'goal', 'met'], run.reached).text()}", flush=True)
        if options.markdown:
            options.markdown.write_text("\n\n".join(table.markdown() for table in tables) + "\n", encoding="utf-8")
        _heedless()
    return 1 if run.faults else 0


def _heedless() -> None:
    """Nothing interrupts the clean-up from here on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _interrupted(number: int, _: object) -> None:
    _heedless()
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        progress("")
        print("interrupted", file=sys.stderr)
        sys.exit(130)
