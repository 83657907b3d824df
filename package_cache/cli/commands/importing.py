"""`package-cache import`: take an older cache or a tree of files over."""

from argparse import ArgumentParser, Namespace

from package_cache import compose
from package_cache.cli import output
from package_cache.cli.command import DONE, FAILED, INTERRUPTED, Command
from package_cache.cli.paths import CannotDo, folder
from package_cache.cli.status import StatusLine, percentage
from package_cache.config import Config
from package_cache.errors import ArgumentError
from package_cache.library.importing.finds import Older
from package_cache.library.importing.importer import Importer, Tally
from package_cache.library.importing.recognition import recognise
from package_cache.library.opening import open_library
from package_cache.units import size_text


def _add(it: ArgumentParser) -> None:
    it.add_argument("directory", metavar="DIR", help="the older cache, or the tree of files")
    it.add_argument(
        "--prefix",
        metavar="PATH",
        help="of a tree: what clients put before its paths; a URL will do (default: /distfiles, of the repository with the"
        " preset gentoo, for a directory of that name or with a layout.conf; otherwise nothing)",
    )
    it.add_argument(
        "--link",
        action="store_true",
        help="of a tree: take package files over by hard link where that is possible, without a copy; see above",
    )
    it.add_argument("--json", action="store_true", help="print the report as one JSON object")


def _run(given: Namespace, config: Config) -> int:
    root, place = compose.cache_directory(config), folder(given.directory)
    try:
        older = recognise(place, root, compose.routes_of(config), given.prefix)
    except ArgumentError as error:
        raise CannotDo(str(error)) from error
    library = open_library(root)
    try:
        importer = Importer(library, link=given.link)
        status = _status_line(older, importer.tally)
        whole = status.through(lambda: importer.run(older, status.step))
        _report(older, importer.tally, as_json=given.json, whole=whole)
    finally:
        library.stores.registry.close()
    if not whole:
        return INTERRUPTED
    return FAILED if importer.tally.refused else DONE


def _status_line(older: Older, tally: Tally) -> StatusLine:
    def text() -> str:
        share = percentage(tally.seen, total)
        return f"{share}  {tally.imported} imported, {size_text(tally.size)}, {tally.here} here already"

    status = StatusLine(text)
    total = older.count() if status.visible else 0
    return status


def _report(older: Older, tally: Tally, *, as_json: bool, whole: bool) -> None:
    if as_json:
        output.document(
            {
                "whole": whole,
                "kind": older.title,
                "imported": tally.imported,
                "bytes": tally.size,
                "here": tally.here,
                "removed": tally.removed,
                "refused": [{"name": one.name, "reason": one.reason} for one in tally.refused],
                "skipped": [{"name": one.name, "reason": one.reason} for one in tally.skipped],
            }
        )
        return
    for left in tally.skipped:
        output.line(f"skipped {left.name}: {left.reason}")
    for one in tally.refused:
        output.line(f"refused {one.name}: {one.reason}")
    parts = [f"{tally.imported} imported, {tally.size} bytes"]
    parts += [f"{tally.here} here already"] if tally.here else []
    parts += [f"{tally.removed} removed here since"] if tally.removed else []
    parts += [f"{len(tally.skipped)} skipped"] if tally.skipped else []
    parts += [f"{len(tally.refused)} refused"] if tally.refused else []
    output.line(f"{older.title}: {', '.join(parts)}")
    if not whole:
        output.line("interrupted: run it again to go on from here")


IMPORT = Command(
    """
DIR is recognised by what is in it: a cache of cachedir or dlmachine (cache.sqlite), a directory of UST-Download-Cache
(file_cache.json), or else a tree of files by their paths: that of package-cache 0.2, a DISTDIR, or a mirror on disk. The
date of a file becomes its Last-Modified. Below a folder distfiles it does not matter whether they are flat or in folders
by a hash of their names (GLEP 75): either way they are served at the paths of both.

Everything is copied (on Btrfs, XFS and the like as a reflink, which takes no space), and DIR stays as it is. What is here
already is skipped, so it may be interrupted and run again, also beside the service. Skipped, with a line that says so,
are unfinished downloads (NAME.__download__, NAME.part and so on), those found damaged, locks, symbolic links out of the
tree, and what live ebuilds checked out; hidden files without one. Refused are empty files, and those that somebody has
open to write them.

--link is for a tree that is about to go, or is only ever read: its package files become files of the cache, which keep
their old names. They become read-only (mode 0444), get the date 2000-01-01, and for root the owner of the cache. Whoever
writes into one afterwards, instead of replacing it, damages what is served until that is noticed; its space is free when
both names are gone. Indexes, and what is on another file system, are copied all the same.

Exit codes: 0 all is here, 1 something was refused, or DIR is none of these, 130 interrupted.""",
    _add,
    _run,
)
