"""`package-cache export`: a plain tree of what the proxy has."""

from argparse import ArgumentParser, Namespace

from package_cache import compose
from package_cache.cli import output
from package_cache.cli.command import DONE, FAILED, INTERRUPTED, Command
from package_cache.cli.names import glob_of
from package_cache.cli.paths import folder
from package_cache.cli.status import StatusLine
from package_cache.config import Config
from package_cache.library.exporting.exporter import Exporter, Tally, Terms
from package_cache.library.exporting.place import Place, Way
from package_cache.library.importing.trees import prefix_of
from package_cache.rules.repositories.layouts import FLAT, HASHED
from package_cache.units import size_text

_LAYOUTS = {"flat": FLAT, "hashed": HASHED}
_DONE = {Way.REFLINK: "reflinked", Way.LINK: "linked", Way.COPY: "copied"}


def _add(it: ArgumentParser) -> None:
    it.add_argument("directory", metavar="DIR", help="where the tree is, or is to be")
    it.add_argument("glob", metavar="GLOB", nargs="?", help="which paths (default: all; as of ls, quote it for the shell)")
    it.add_argument(
        "--prefix",
        metavar="PATH",
        help="put only what is below PATH there, without it; a URL will do (default: /distfiles, of the repository with the"
        " preset gentoo, for a directory of that name or with a layout.conf; otherwise nothing)",
    )
    it.add_argument(
        "--layout",
        choices=_LAYOUTS,
        help="how distfiles are laid out: all in one folder, or in folders by a hash of their names, as on the mirrors of"
        " Gentoo (default: as layout.conf there says, else flat)",
    )
    way = it.add_mutually_exclusive_group()
    for one, text in (
        (Way.REFLINK, "make nothing but files that share their bytes with the cache (Btrfs, XFS and the like)"),
        (Way.LINK, "make nothing but hard links of package files; see above. Indexes are copied"),
        (Way.COPY, "make nothing but copies"),
    ):
        way.add_argument(f"--{one}", dest="way", action="store_const", const=one, help=text)
    it.add_argument("--json", action="store_true", help="print the report as one JSON object")


def _run(given: Namespace, config: Config) -> int:
    directory = folder(given.directory)
    routes = compose.routes_of(config)
    prefix = prefix_of(routes, directory, given.prefix)
    ways = tuple(Way) if given.way is None else (given.way,)
    terms = Terms(prefix, _LAYOUTS.get(given.layout), ways)
    glob = given.glob and glob_of(given.glob)
    with compose.opened(config, reading=True) as stores, Place(directory, stores.root) as place:
        exporter = Exporter(stores, routes, place, terms)
        status = _status_line(exporter.tally)
        whole = status.through(lambda: exporter.run(glob, status.step))
    _report(exporter.tally, prefix, as_json=given.json, whole=whole)
    if not whole:
        return INTERRUPTED
    return FAILED if exporter.tally.refused else DONE


def _status_line(tally: Tally) -> StatusLine:
    return StatusLine(lambda: f"{sum(tally.put.values())} exported, {size_text(tally.size)}, {tally.here} there already")


def _report(tally: Tally, prefix: str, *, as_json: bool, whole: bool) -> None:
    if as_json:
        output.document(
            {
                "whole": whole,
                "prefix": prefix,
                **{name: tally.put[way] for way, name in _DONE.items()},
                "bytes": tally.size,
                "here": tally.here,
                "skipped": [{"path": one.key, "reason": one.reason} for one in tally.skipped],
                "refused": [{"path": one.key, "reason": one.reason} for one in tally.refused],
            }
        )
        return
    for one in tally.refused:
        output.line(f"refused {one.key}: {one.reason}")
    parts = [f"{count} {_DONE[way]}" for way, count in tally.put.items() if count] or ["nothing new"]
    parts += [f"{tally.size} bytes"] if tally.size else []
    parts += [f"{tally.here} there already"] if tally.here else []
    parts += [f"{len(tally.skipped)} without a place in a tree"] if tally.skipped else []
    parts += [f"{len(tally.refused)} refused"] if tally.refused else []
    output.line(f"{prefix or '/'}: {', '.join(parts)}")
    if not whole:
        output.line("interrupted: run it again to go on from here")


EXPORT = Command(
    """
DIR gets the newest version of each file that clients were given, by the paths they asked for: a mirror that any server can
serve, or the distfiles of this machine (--prefix /distfiles). What is there already with the same bytes is left alone, and
nothing is ever removed; an index with other bytes is replaced, a package file with other bytes is refused. A file is there
whole or not at all, so it may be interrupted and run again, also beside the service. Package files come before indexes.
Queries, answers that depend on the client's Accept and pages of folders have no place in a tree (-v names them).

Where the file system can do it (Btrfs, XFS and the like), files share their bytes with the cache and are otherwise files of
their own, with the date of Last-Modified. Where it cannot, package files are hard links, and indexes copies. A hard link is
the file of the cache: it is read-only (mode 0444), its date is 2000-01-01, and its space is free when both names are gone.
Programs that replace or remove it do no harm (Portage, rsync, package managers); whoever writes into it damages what is
served until that is noticed. --copy is for a tree that others write into, or where dates matter. On another file system
everything is copied.

A folder distfiles gets a layout.conf that says how it is laid out.

Exit codes: 0 all of it is there, 1 something was refused, or DIR cannot be used, 130 interrupted.""",
    _add,
    _run,
)
