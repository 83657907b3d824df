"""`import`, `export` and `warm`: many files into the cache, or out of it.

They take long: each shows how far it is, can be interrupted and run again, and prints a report at its end.
"""

import queue
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from package_cache import compose
from package_cache.cli import arguments, logs, output
from package_cache.cli.arguments import Command, parsed
from package_cache.cli.names import CannotDo, add_accept, folder, glob_of
from package_cache.cli.output import StatusLine, percentage
from package_cache.config import Config
from package_cache.errors import ArgumentError
from package_cache.library.core import Core
from package_cache.library.exporting import Exporter, TargetDirectory, Way
from package_cache.library.importing import Importer
from package_cache.library.older import recognise
from package_cache.library.trees import prefix_of
from package_cache.library.warming import WarmedFile, Warmer, WarmStatus
from package_cache.rules.repositories.layouts import FLAT, HASHED
from package_cache.units import parse_size, size_text
from package_cache.upstream.answers import LEAST_RATE, Throttle

# -- import


def _add_import(parser: ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="the older cache, or the tree of files")
    parser.add_argument(
        "--prefix",
        metavar="PATH",
        help="of a tree: what clients put before its paths; a URL will do (default: /distfiles, of the repository with the"
        " preset gentoo, for a directory of that name or with a layout.conf; otherwise nothing)",
    )
    parser.add_argument(
        "--link",
        action="store_true",
        help="of a tree: import package files as hard links where that is possible, without a copy; see above",
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def _import(given: Namespace, config: Config) -> int:
    root, place = compose.cache_directory(config), folder(given.directory)
    try:
        older = recognise(place, root, compose.routes_of(config), given.prefix)
    except ArgumentError as error:
        raise CannotDo(str(error)) from error
    core = Core(root)
    try:
        importer = Importer(core, link=given.link)
        done = importer.done
        status = StatusLine(
            lambda: (
                f"{percentage(done.seen, total)}  {done.imported} imported, {size_text(done.size)},"
                f" {done.here} here already"
            )
        )
        total = older.count() if status.visible else 0
        whole = status.through(lambda: importer.run(older, status.step))
    finally:
        core.close()
    parts = [f"{done.imported} imported, {done.size} bytes"]
    parts += [f"{done.here} here already"] if done.here else []
    parts += [f"{done.removed} removed here since"] if done.removed else []
    parts += [f"{len(done.skipped)} skipped"] if done.skipped else []
    parts += [f"{len(done.refused)} refused"] if done.refused else []
    return output.report(
        {
            "kind": older.title,
            "imported": done.imported,
            "bytes": done.size,
            "here": done.here,
            "removed": done.removed,
            "refused": [{"name": one.name, "reason": one.reason} for one in done.refused],
            "skipped": [{"name": one.name, "reason": one.reason} for one in done.skipped],
        },
        [
            *(f"skipped {one.name}: {one.reason}" for one in done.skipped),
            *(f"refused {one.name}: {one.reason}" for one in done.refused),
            f"{older.title}: {', '.join(parts)}",
        ],
        as_json=given.json,
        whole=whole,
        failed=bool(done.refused),
    )


IMPORT = Command(
    """
DIR is recognised by what is in it: a cache of cachedir or dlmachine (cache.sqlite), a directory of UST-Download-Cache
(file_cache.json), or else a tree of files by their paths: that of package-cache 0.2, a DISTDIR, or a mirror on disk. The
date of a file becomes its Last-Modified. Below a folder distfiles the files may be flat or in folders by a hash of their
names (GLEP 75): they are served at the paths of both layouts.

Everything is copied (on Btrfs, XFS and the like as a reflink, which takes no space), and DIR stays as it is. What is in the
cache already is skipped, so the import may be interrupted and run again, also beside the service. Skipped, with a line that
says so, are unfinished downloads (NAME.__download__, NAME.part and so on), downloads found damaged, locks, symbolic links
that lead out of the tree, and what live ebuilds checked out; hidden files without one. Refused are empty files, and files
that a program has open for writing.

--link is for a tree that is about to be removed, or is only ever read: its package files become files of the cache, which
keep their old names. They become read-only (mode 0444), get the date 2000-01-01, and for root the owner of the cache. Who
writes into one afterwards, instead of replacing it, damages what is served until that is noticed; its space is free when
both names are gone. Indexes, and what is on another file system, are copied all the same.

Exit codes: 0 everything is in the cache, 1 something was refused, or DIR is none of these, 130 interrupted.""",
    _add_import,
    _import,
)


# -- export

_LAYOUTS = {"flat": FLAT, "hashed": HASHED}
_PUT = {Way.REFLINK: "reflinked", Way.LINK: "linked", Way.COPY: "copied"}


def _add_export(parser: ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="where the tree is, or is to be")
    parser.add_argument(
        "glob", metavar="GLOB", nargs="?", help="which paths, as for ls (default: all); quote it for the shell"
    )
    parser.add_argument(
        "--prefix",
        metavar="PATH",
        help="put only what is below PATH there, without it; a URL will do (default: /distfiles, of the repository with the"
        " preset gentoo, for a directory of that name or with a layout.conf; otherwise nothing)",
    )
    parser.add_argument(
        "--layout",
        choices=_LAYOUTS,
        help="how distfiles are laid out: all in one folder, or in folders by a hash of their names, as on the mirrors of"
        " Gentoo (default: as layout.conf there says, else flat)",
    )
    way = parser.add_mutually_exclusive_group()
    for one, text in (
        (Way.REFLINK, "make only files that share their bytes with the cache (Btrfs, XFS and the like)"),
        (Way.LINK, "make only hard links of package files; see above. Indexes are copied"),
        (Way.COPY, "make only copies"),
    ):
        way.add_argument(f"--{one}", dest="way", action="store_const", const=one, help=text)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def _export(given: Namespace, config: Config) -> int:
    directory = folder(given.directory)
    routes = compose.routes_of(config)
    prefix = prefix_of(routes, directory, given.prefix)
    ways = tuple(Way) if given.way is None else (given.way,)
    glob = given.glob and glob_of(given.glob)
    with compose.opened(config, reading=True) as stores, TargetDirectory(directory, stores.root) as target:
        exporter = Exporter(stores, routes, target, prefix, _LAYOUTS.get(given.layout), ways)
        done = exporter.done
        status = StatusLine(lambda: f"{sum(done.put.values())} exported, {size_text(done.size)}, {done.here} there already")
        whole = status.through(lambda: exporter.run(glob, status.step))
    parts = [f"{count} {_PUT[way]}" for way, count in done.put.items() if count] or ["nothing new"]
    parts += [f"{done.size} bytes"] if done.size else []
    parts += [f"{done.here} there already"] if done.here else []
    parts += [f"{len(done.skipped)} without a place in a tree"] if done.skipped else []
    parts += [f"{len(done.refused)} refused"] if done.refused else []
    return output.report(
        {
            "prefix": prefix,
            **{name: done.put[way] for way, name in _PUT.items()},
            "bytes": done.size,
            "here": done.here,
            "skipped": [{"path": one.key, "reason": one.reason} for one in done.skipped],
            "refused": [{"path": one.key, "reason": one.reason} for one in done.refused],
        },
        [*(f"refused {one.key}: {one.reason}" for one in done.refused), f"{prefix or '/'}: {', '.join(parts)}"],
        as_json=given.json,
        whole=whole,
        failed=bool(done.refused),
    )


EXPORT = Command(
    """
DIR gets the newest version of each file that clients were given, by the paths they asked for: a mirror that any server can
serve, or the distfiles of this machine (--prefix /distfiles). A file that is there already with the same bytes is left
alone, and nothing is ever removed; an index with other bytes is replaced, a package file with other bytes is refused. A
file is there whole or not at all, so the export may be interrupted and run again, also beside the service. Package files
come before indexes. Queries, answers that depend on the client's Accept and pages of folders have no place in a tree (-v
names them).

Where the file system can do it (Btrfs, XFS and the like), files share their bytes with the cache and are otherwise files of
their own, with the date of Last-Modified. Where it cannot, package files are hard links, and indexes copies. A hard link is
the file of the cache: it is read-only (mode 0444), its date is 2000-01-01, and its space is free when both names are gone.
Programs that replace or remove it do no harm (Portage, rsync, package managers); who writes into it damages what is served
until that is noticed. --copy is for a tree that others write into, or where dates matter. On another file system everything
is copied.

A folder distfiles gets a layout.conf that says how it is laid out.

Exit codes: 0 everything is there, 1 something was refused, or DIR cannot be used, 130 interrupted.""",
    _add_export,
    _export,
)


# -- warm

_JOBS = 4
_MOST_JOBS = 64
_LOOK_SECONDS = 0.2
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


def _add_warm(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a path or a URL a line; - is standard input")
    parser.add_argument("--jobs", metavar="INT", default=str(_JOBS), help=f"how many to fetch at once (default: {_JOBS})")
    parser.add_argument(
        "--rate", metavar="SIZE", help="how many bytes a second to take from the sources, all together, such as 10M"
    )
    add_accept(parser)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    arguments.add_source(parser)
    arguments.add_bounds(parser)


def _warm(given: Namespace, config: Config) -> int:
    if not given.jobs.isdecimal() or not 1 <= int(given.jobs) <= _MOST_JOBS:
        raise ArgumentError(f"--jobs: {given.jobs!r} is not a number from 1 to {_MOST_JOBS}")
    jobs = int(given.jobs)
    rate = parsed("--rate", given.rate, parse_size)
    if rate is not None and rate < jobs * LEAST_RATE:
        raise ArgumentError(
            f"--rate: {given.rate} is too little for {jobs} at once; give at least {size_text(jobs * LEAST_RATE)}"
        )
    compose.require_sources(config)
    names = list(dict.fromkeys(_names_in(given.file)))
    logs.leave_failures_to_the_command(config)
    # One client gets at most three quarters of the downloads. A source that is slow because of --rate is not to be left.
    config = replace(config, downloads=2 * jobs, scrub=None, balance=config.balance and rate is None)
    service = compose.build_service(config, None if rate is None else Throttle(rate, jobs))
    warmer = Warmer(service, given.accept)
    done = _WarmReport()
    status = StatusLine(lambda: f"{percentage(done.seen, len(names))}  {done.text(warmer.arrived)}")
    try:
        for outcome in _outcomes(warmer, names, jobs):
            if outcome is not None and done.add(outcome) is WarmStatus.FAILED and not given.json:
                status.clear()
                output.line(f"failed {outcome.name}: {outcome.reason}")
            status.step()
    except KeyboardInterrupt:
        pass
    finally:
        status.clear()
        service.close()
    return output.report(
        {
            "fetched": done.counts[WarmStatus.FETCHED],
            "bytes": done.size,
            "here": done.counts[WarmStatus.HERE],
            "failed": [{"name": one.name, "reason": one.reason} for one in done.failed],
        },
        [done.text()],
        as_json=given.json,
        whole=done.seen == len(names),
        failed=bool(done.failed),
    )


@dataclass
class _WarmReport:
    """What was done so far; `size` is of what was fetched, in bytes."""

    counts: Counter[WarmStatus] = field(default_factory=Counter)
    size: int = 0
    failed: list[WarmedFile] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """How many outcomes there were."""
        return self.counts.total()

    def add(self, outcome: WarmedFile) -> WarmStatus:
        """Count one more."""
        self.counts[outcome.status] += 1
        self.size += outcome.size
        if outcome.status is WarmStatus.FAILED:
            self.failed.append(outcome)
        return outcome.status

    def text(self, arrived: int = 0) -> str:
        """All of that in one line; `arrived` are bytes of files that are not complete."""
        parts = [f"{self.counts[WarmStatus.FETCHED]} fetched, {size_text(self.size + arrived)}"]
        parts += [f"{self.counts[WarmStatus.HERE]} here already"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return ", ".join(parts)


def _names_in(file: str) -> Iterator[str]:
    """The paths and URLs in a file. Raises ArgumentError."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ArgumentError(f"{file} cannot be read: {error.strerror}") from error
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        name = f" {line}".partition(" #")[0].strip()
        if name:
            # A list may have names that are not percent-encoded.
            yield quote(name.encode("utf-8", "surrogateescape"), safe=_VISIBLE)


def _outcomes(warmer: Warmer, names: Iterable[str], jobs: int) -> Iterator[WarmedFile | None]:
    """The outcome of each name, as soon as it is known; None from time to time until then."""
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[WarmedFile | None] = queue.SimpleQueue()
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

    # Daemons, which do not keep the process alive: after an interruption the next run resumes what was being downloaded.
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


WARM = Command(
    """
FILE has a line for each file: the path that a client would ask for, or a URL at a source, or at a host of a repository.
What follows " #" is a comment. Package files that are in the cache are not fetched again; indexes are revalidated, as for a
client. What a client of a running server downloads at the same time is downloaded once. If warm is interrupted, the next
run resumes it, also within a file.

Run it as the user of the service, with the same settings: --config, --cache and the bounds. With --rate, a client that
asks for a file that is being fetched gets it no faster.

Exit codes: 0 everything is in the cache, 1 something could not be fetched (a line says why), 2 wrong options,
130 interrupted.""",
    _add_warm,
    _warm,
    asks_sources=True,
)
