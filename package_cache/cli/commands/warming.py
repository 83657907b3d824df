"""`package-cache warm`: have files in the cache of the proxy before a client asks for them."""

import queue
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from package_cache import compose
from package_cache.cli import arguments, logs, output
from package_cache.cli.command import DONE, FAILED, INTERRUPTED, Command
from package_cache.cli.paths import add_accept
from package_cache.cli.status import StatusLine, percentage
from package_cache.config import Config
from package_cache.errors import ArgumentError
from package_cache.library.warming import Fate, Outcome, Warmer
from package_cache.units import parse_size, size_text
from package_cache.upstream.throttle import LEAST, Throttle

_JOBS = 4
_MOST_JOBS = 64
_LOOK_SECONDS = 0.2
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


def _add(it: ArgumentParser) -> None:
    it.add_argument("file", metavar="FILE", help="a path or a URL a line; - is standard input")
    it.add_argument("--jobs", metavar="INT", default=str(_JOBS), help=f"how many to fetch at once (default: {_JOBS})")
    it.add_argument(
        "--rate", metavar="SIZE", help="how many bytes a second to take from the sources, all together, such as 10M"
    )
    add_accept(it)
    it.add_argument("--json", action="store_true", help="print the report as one JSON object")
    arguments.add_source(it)
    arguments.add_bounds(it)


def _run(given: Namespace, config: Config) -> int:
    jobs = _jobs(given.jobs)
    throttle = _throttle(given.rate, jobs)
    compose.require_sources(config)
    names = list(dict.fromkeys(_names(given.file)))
    logs.leave_failures_to_the_command(config)
    # No client has more than three quarters of the downloads. What a bound slows down is no source to be left for another.
    config = replace(config, downloads=2 * jobs, scrub=None, balance=config.balance and throttle is None)
    service = compose.build_service(config, throttle)
    warmer = Warmer(service, given.accept)
    report = _Report(warmer, len(names), as_json=given.json)
    try:
        for outcome in _outcomes(warmer, names, jobs):
            report.add(outcome)
    except KeyboardInterrupt:
        pass
    finally:
        report.status.clear()
        service.close()
    report.print()
    if report.seen < len(names):
        return INTERRUPTED
    return FAILED if report.failed else DONE


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_JOBS:
        raise ArgumentError(f"--jobs: {text!r} is not a number from 1 to {_MOST_JOBS}")
    return int(text)


def _throttle(text: str | None, jobs: int) -> Throttle | None:
    if text is None:
        return None
    try:
        rate = parse_size(text)
    except ValueError as error:
        raise ArgumentError(f"--rate: {error}") from None
    if rate < jobs * LEAST:
        raise ArgumentError(f"--rate: {text} is too little for {jobs} at once; give at least {size_text(jobs * LEAST)}")
    return Throttle(rate, jobs)


def _names(file: str) -> Iterator[str]:
    """The paths and URLs in a file. Raises ArgumentError."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ArgumentError(f"{file} cannot be read: {error.strerror}") from error
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        name = f" {line}".partition(" #")[0].strip()
        if name:
            # A list may have names as they are.
            yield quote(name.encode("utf-8", "surrogateescape"), safe=_VISIBLE)


def _outcomes(warmer: Warmer, names: Iterable[str], jobs: int) -> Iterator[Outcome | None]:
    """What becomes of each, as soon as it is known; None from time to time until then."""
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    for name in names:
        todo.put(name)

    def work() -> None:
        try:
            while True:
                done.put(warmer.warm(todo.get_nowait()))
        except queue.Empty:
            pass
        finally:
            done.put(None)

    # They do not keep the process alive: what is under way when it is interrupted is gone on with by the next one.
    for number in range(jobs):
        threading.Thread(target=work, name=f"warm-{number}", daemon=True).start()
    running = jobs
    while running:
        try:
            outcome = done.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            yield None
            continue
        if outcome is None:
            running -= 1
        else:
            yield outcome


class _Report:
    """What became of all so far: failures at once, the rest at the end."""

    def __init__(self, warmer: Warmer, total: int, *, as_json: bool) -> None:
        self._total = total
        self._as_json = as_json
        self._fates: Counter[Fate] = Counter()
        self._size = 0
        self.failed: list[Outcome] = []
        self.status = StatusLine(lambda: f"{percentage(self.seen, total)}  {self._text(self._size + warmer.arrived)}")

    @property
    def seen(self) -> int:
        """Of how many it is known."""
        return self._fates.total()

    def add(self, one: Outcome | None) -> None:
        """One more, or just some time."""
        if one is not None:
            self._count(one)
        self.status.step()

    def _count(self, one: Outcome) -> None:
        self._fates[one.fate] += 1
        self._size += one.size
        if one.fate is Fate.FAILED:
            self.failed.append(one)
            if not self._as_json:
                self.status.clear()
                output.line(f"failed {one.name}: {one.reason}")

    def _text(self, size: int) -> str:
        parts = [f"{self._fates[Fate.FETCHED]} fetched, {size_text(size)}", f"{self._fates[Fate.HERE]} here already"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return ", ".join(parts)

    def print(self) -> None:
        """Say it."""
        if self._as_json:
            output.document(
                {
                    "whole": self.seen == self._total,
                    "fetched": self._fates[Fate.FETCHED],
                    "bytes": self._size,
                    "here": self._fates[Fate.HERE],
                    "failed": [{"name": one.name, "reason": one.reason} for one in self.failed],
                }
            )
            return
        output.line(self._text(self._size))
        if self.seen < self._total:
            output.line("interrupted: run it again to go on from here")


WARM = Command(
    """
FILE has a line for each file: its path, as a client would ask for it, or its URL at a source, or at a host of a repository.
What stands behind " #" is a comment. Package files that are here are not fetched again; indexes are confirmed, as for a
client. What a client of a running server downloads at the same time is downloaded once. Interrupted, it goes on where it
was when it is run again, also within a file.

Run it as the user of the service, with the same settings: --config, --cache and the bounds. With --rate, a client that
asks for a file that is being fetched gets it no faster.

Exit codes: 0 all is here, 1 something could not be had (a line says why), 2 wrong options, 130 interrupted.""",
    _add,
    _run,
    asks_sources=True,
)
