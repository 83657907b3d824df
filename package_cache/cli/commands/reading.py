"""`cat`: the content of what is stored, decompressed."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from contextlib import closing
from typing import BinaryIO

from package_cache import compose
from package_cache.cli import holdings, logs, output
from package_cache.cli.command import DONE, Command
from package_cache.cli.holdings import Holdings, item_id
from package_cache.cli.names import NAMES, Name, add_name, name_of
from package_cache.cli.paths import CannotDo
from package_cache.config import Config
from package_cache.errors import ArchiveTooLarge, ArgumentError, StoreError
from package_cache.library.archives.inflating import allowance, compression, inflated
from package_cache.library.downloads.manager import DownloadManager
from package_cache.model import Status
from package_cache.storage.items.rows import ItemRow
from package_cache.units import parse_size

_HEAD = 16


def _add(it: ArgumentParser) -> None:
    add_name(it)
    it.add_argument("--raw", action="store_true", help="as it is stored, without decompressing it")
    it.add_argument(
        "--max-size", metavar="SIZE", dest="most", help="what may come of it at most (default: 1G, or 256 times its size)"
    )


def _run(given: Namespace, config: Config) -> int:
    try:
        most = None if given.most is None else parse_size(given.most)
    except ValueError as error:
        raise ArgumentError(f"--max-size: {error}") from None
    name = name_of(given, config)
    if given.kind != "proxy" and name.text.lower().startswith(("http://", "https://")):
        _of_url(name.text, config, raw=given.raw, most=most)
        return DONE
    with holdings.opened(config, reading=True) as held, closing(_open(name, held)) as file:
        _pour(file, name.text, raw=given.raw, most=most)
    return DONE


def _of_url(url: str, config: Config, *, raw: bool, most: int | None) -> None:
    logs.leave_failures_to_the_command(config)
    with DownloadManager(compose.cache_directory(config)) as manager:
        assert manager.cache is not None
        item = manager.cache.best(url)
        path = item.path if item is not None and item.sha256 is not None else manager.fetch(url).path
        assert path is not None  # there is a cache
        with closing(_open_path(path)) as file:
            _pour(file, url, raw=raw, most=most)


def _open(name: Name, held: Holdings) -> BinaryIO:
    """The newest version of what is called so and has bytes. Raises CannotDo."""
    items = [one for one in name.items(held, {Status.READY}) if one.digest is not None]
    entries = name.entries(held, Status.READY)
    name.check_kind(entries, items)
    if entries:
        return held.stores.blobs.open(entries[0].digest, entries[0].size)
    newest = {item.key: item for item in sorted(items, key=lambda one: one.version)}
    if not newest:
        raise name.nothing(held, "that can be read is stored")
    if len(newest) > 1:
        raise CannotDo(f"{name.text} names {len(newest)} items: {_listed(newest.values())}; give the ID of one")
    [row] = newest.values()
    held.core.reads.note(row.id)
    return _open_path(held.core.library.sound(row))


def _listed(rows: Iterable[ItemRow]) -> str:
    ids = [item_id(row) for row in rows]
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")


def _open_path(path: str) -> BinaryIO:
    try:
        return open(path, "rb", buffering=0)  # noqa: PTH123 - the caller closes it
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from error


def _pour(file: BinaryIO, name: str, *, raw: bool, most: int | None) -> None:
    kind = None if raw else compression(file.read(_HEAD))
    file.seek(0)
    if kind is None:
        output.pour(iter(lambda: file.read(output.CHUNK), b""))
        return
    allowed = allowance(os.fstat(file.fileno()).st_size, most)
    try:
        output.pour(inflated(file, kind, name, allowed))
    except ArchiveTooLarge:
        raise CannotDo(
            f"{name} inflates to more than {allowed} bytes; if you trust it, give --max-size, or --raw for what is stored"
        ) from None


CAT = Command(
    f"""
gz, bz2, xz and zst are known by their first bytes; of a compressed tar comes the tar. A URL that is not in the library is
downloaded into the cache, as get does; --kind proxy looks for it among the files of the proxy. Of several versions the
newest is meant.

{NAMES}""",
    _add,
    _run,
)
