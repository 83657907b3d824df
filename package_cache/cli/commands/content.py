"""`get`, `cat` and `add`: bytes into the cache, and out of it."""

import hashlib
import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from package_cache import compose
from package_cache.cli import holdings, logs, output
from package_cache.cli.arguments import DONE, Command, parsed
from package_cache.cli.holdings import Holdings, item_id
from package_cache.cli.names import NAMES, VALUES, CannotDo, Name, add_name, assignments, name_of, pairs, value_of
from package_cache.config import Config
from package_cache.errors import ArchiveTooLarge, ArgumentError, StoreError
from package_cache.library.archives.streams import allowance, compression, inflated
from package_cache.library.cache import Cache
from package_cache.library.downloads.descriptors import Descriptor, File
from package_cache.library.downloads.manager import DownloadManager
from package_cache.library.downloads.options import REFRESH
from package_cache.model import Status
from package_cache.storage.items.rows import ItemRow
from package_cache.units import parse_size

logger = logging.getLogger(__name__)

_DOCUMENT = "json-metadata"


# -- get


def _add_get(parser: ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="what to download: http:// or https://")
    parser.add_argument("-o", "--output", metavar="FILE", help="write it to FILE, in one step; - is standard output")
    asked = parser.add_argument_group("what is asked for")
    asked.add_argument("--query", metavar="NAME=VALUE", action="append", help="add to the URL's query (repeat it)")
    asked.add_argument("--header", metavar="'NAME: VALUE'", action="append", help="send a header field (repeat it)")
    asked.add_argument("--post", metavar="NAME=VALUE", action="append", help="POST a form with this field (repeat it)")
    asked.add_argument("--json", metavar="DATA", help="POST this JSON document")
    asked.add_argument(
        "--file", metavar="NAME=PATH", action="append", help="POST files, with the fields of --post (repeat it)"
    )
    how = parser.add_argument_group("how it is downloaded")
    how.add_argument("--mirror", metavar="URL", action="append", help="ask here too, after URL (repeat it)")
    how.add_argument("--sha256", metavar="HEX", help="what it must be; anything else is not stored")
    how.add_argument(
        "--refresh",
        choices=(*REFRESH, _DOCUMENT),
        default="never",
        help="if it is here: take that; ask whether there is another one; download it again; or ask only when the JSON"
        " document's own metadata.timestamp and metadata.ttl have expired (default: never)",
    )
    how.add_argument("--retries", metavar="INT", help="how many times all URLs are tried (default: 3)")
    how.add_argument("--timeout", metavar="SECONDS", help="how long a server may be silent (default: 30)")
    how.add_argument("--max-size", metavar="SIZE", dest="most", help="give up what is larger, such as 200M")
    how.add_argument("--label", metavar="TEXT", help="a word to find it by in the cache")


def _get(given: Namespace, config: Config) -> int:
    logs.leave_failures_to_the_command(config)
    if given.output == "":
        raise ArgumentError("-o: the name of the file is empty; - is standard output")
    descriptor, terms = _descriptor(given), _get_terms(given)
    timeout = _number("--timeout", given.timeout, float)
    with DownloadManager(compose.cache_directory(config), timeout=timeout) as manager:
        if given.refresh == _DOCUMENT:
            terms = _document(manager, descriptor, terms)
        result = manager.fetch(descriptor, None if given.output == "-" else given.output, **terms)
        logger.info("%s %s: %s", descriptor.url, result.verdict, result.reason)
        assert result.path is not None  # there is a cache
        if given.output is None:
            output.path(result.path)
        elif given.output == "-":
            _pour_path(result.path)
    return DONE


def _document(manager: DownloadManager, descriptor: Descriptor, terms: Any) -> Any:
    """Have a JSON document with a time to live in the cache; the terms by which `fetch` finds just that."""
    document = manager.get_json(descriptor, **terms)
    if document.stale:
        logger.warning("%s is stale: %s", descriptor.url, document.reason)
    with Path(document.path).open("rb") as file:
        return {**terms, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _pour_path(path: str) -> None:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a text, as the path is
            output.pour(iter(lambda: file.read(output.CHUNK), b""))
    except FileNotFoundError:
        raise StoreError(f"{path} was removed meanwhile; try again") from None


def _descriptor(given: Namespace) -> Descriptor:
    fields = None if given.post is None else pairs("--post", given.post)
    files = None if given.file is None else [(name, File(path)) for name, path in pairs("--file", given.file)]
    return Descriptor(
        given.url,
        query=None if given.query is None else pairs("--query", given.query),
        post=fields if files is None else None,
        multipart=None if files is None else [*(fields or ()), *files],
        json=None if given.json is None else _json_value(given.json),
        headers=given.header,
    )


def _json_value(text: str) -> object:
    value = value_of(text)
    if value is None or isinstance(value, bool):
        raise ArgumentError(f"--json: {text!r} alone cannot be sent")
    if value == text:
        raise ArgumentError(f"--json: {text!r} is not JSON")
    return value


def _get_terms(given: Namespace) -> Any:
    return {
        "fallback_urls": given.mirror or (),
        "sha256": given.sha256,
        "refresh": "never" if given.refresh == _DOCUMENT else given.refresh,
        "retries": _number("--retries", given.retries, int),
        "max_size": parsed("--max-size", given.most, parse_size),
        "label": given.label,
    }


def _number(option: str, text: str | None, kind: type[int] | type[float]) -> Any:
    try:
        number = None if text is None else kind(text)
    except ValueError:
        number = 0
    if number is not None and not 0 < number < 1e9:
        raise ArgumentError(f"{option}: {text!r} is not a {'whole ' if kind is int else ''}number above 0")
    return number


GET = Command(
    """
Prints the path of the file, which stays the same. With -o nothing is printed: FILE is replaced in one step when the
download is complete. A download that was interrupted or killed is resumed by the next run. Whatever changes the answer
(query, header fields, form, JSON, files) makes another item; --json and --file send a POST. On a terminal, a bar shows the
progress; -v says where the file came from and why.""",
    _add_get,
    _get,
)


_HEAD = 16


# -- cat


def _add_cat(parser: ArgumentParser) -> None:
    add_name(parser)
    parser.add_argument("--raw", action="store_true", help="write it as it is stored, without decompressing it")
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        dest="most",
        help="give up beyond so many decompressed bytes (default: 1G, or 256 times its size)",
    )


def _cat(given: Namespace, config: Config) -> int:
    most = parsed("--max-size", given.most, parse_size)
    name = name_of(given, config)
    if given.kind != "proxy" and name.text.lower().startswith(("http://", "https://")):
        _of_url(name.text, config, raw=given.raw, most=most)
        return DONE
    with holdings.opened(config, reading=True) as held, closing(_open_named(name, held)) as file:
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


def _open_named(name: Name, held: Holdings) -> BinaryIO:
    """The newest version with that name that has bytes. Raises CannotDo."""
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
    return _open_path(held.core.sound_path(row))


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
gz, bz2, xz and zst are recognised by their first bytes; a compressed tar is written as a tar. A URL that is not in the
library is downloaded into the cache, as by get; --kind proxy looks for it among the files of the proxy. Of several versions
the newest is written.

{NAMES}""",
    _add_cat,
    _cat,
)


# -- add


def _add_add(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what to store; it stays where it is")
    parser.add_argument("--uri", metavar="URI", required=True, help="what to call it: a URL, or any other string")
    parser.add_argument(
        "--param", metavar="NAME=VALUE", action="append", help="a part of its name: other values, another item"
    )
    parser.add_argument("--attr", metavar="NAME=VALUE", action="append", help="an attribute to find it by (repeat it)")
    parser.add_argument("--label", metavar="TEXT", help="a word to find it by")
    parser.add_argument("--ext", metavar="EXT", help="extension of its path (default: that of FILE)")


def _add_file(given: Namespace, config: Config) -> int:
    if not given.uri:
        raise ArgumentError("--uri is empty; it is a URL, or any other string, by which the item is found")
    params, attrs = assignments("--param", given.param or ()), assignments("--attr", given.attr or ())
    with Cache(compose.cache_directory(config)) as cache:
        item = cache.move_in(given.file, given.uri, params, attrs, Status.READY, given.ext, given.label)
        output.path(item.path)
    return DONE


ADD = Command(
    f"""
Prints the path where its bytes are from now on.

{VALUES}""",
    _add_add,
    _add_file,
)
