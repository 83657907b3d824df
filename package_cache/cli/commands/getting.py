"""`get`: downloads into the cache, to a file, or to standard output."""

import hashlib
import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from package_cache import compose
from package_cache.cli import logs, output
from package_cache.cli.command import DONE, Command
from package_cache.cli.conditions import pairs, value_of
from package_cache.config import Config
from package_cache.errors import ArgumentError, StoreError
from package_cache.library.downloads.bodies import File
from package_cache.library.downloads.descriptors import Descriptor
from package_cache.library.downloads.manager import DownloadManager
from package_cache.library.downloads.options import REFRESH
from package_cache.units import parse_size

logger = logging.getLogger(__name__)

_DOCUMENT = "json-metadata"


def _add(it: ArgumentParser) -> None:
    it.add_argument("url", metavar="URL", help="what to download: http:// or https://")
    it.add_argument("-o", "--output", metavar="FILE", help="write it to FILE, in one step; - is standard output")
    asked = it.add_argument_group("what is asked for")
    asked.add_argument("--query", metavar="NAME=VALUE", action="append", help="add to the URL's query (repeat it)")
    asked.add_argument("--header", metavar="'NAME: VALUE'", action="append", help="send a header field (repeat it)")
    asked.add_argument("--post", metavar="NAME=VALUE", action="append", help="POST a form with this field (repeat it)")
    asked.add_argument("--json", metavar="DATA", help="POST this JSON document")
    asked.add_argument(
        "--file", metavar="NAME=PATH", action="append", help="POST files, with the fields of --post (repeat it)"
    )
    how = it.add_argument_group("how it is downloaded")
    how.add_argument("--mirror", metavar="URL", action="append", help="ask here too, after URL (repeat it)")
    how.add_argument("--sha256", metavar="HEX", help="what it must be; anything else is not stored")
    how.add_argument(
        "--refresh",
        choices=(*REFRESH, _DOCUMENT),
        default="never",
        help="if it is here: take that; ask whether there is another one; download it again; or ask only when the JSON"
        " document's own metadata.timestamp and metadata.ttl are over (default: never)",
    )
    how.add_argument("--retries", metavar="INT", help="how often all URLs are tried (default: 3)")
    how.add_argument("--timeout", metavar="SECONDS", help="how long a server may be silent (default: 30)")
    how.add_argument("--max-size", metavar="SIZE", dest="most", help="give up what is larger, such as 200M")
    how.add_argument("--label", metavar="TEXT", help="a word to find it by in the cache")


def _run(given: Namespace, config: Config) -> int:
    logs.leave_failures_to_the_command(config)
    if given.output == "":
        raise ArgumentError("-o: the name of the file is empty; - is standard output")
    descriptor, terms = _descriptor(given), _terms(given)
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
            _pour(result.path)
    return DONE


def _document(manager: DownloadManager, descriptor: Descriptor, terms: Any) -> Any:
    """Have a JSON document with a time to live in the cache; the terms by which the cache gives just that."""
    document = manager.get_json(descriptor, **terms)
    if document.stale:
        logger.warning("%s is stale: %s", descriptor.url, document.reason)
    with Path(document.path).open("rb") as file:
        return {**terms, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _pour(path: str) -> None:
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
        json=None if given.json is None else _json(given.json),
        headers=given.header,
    )


def _json(text: str) -> object:
    value = value_of(text)
    if value is None or isinstance(value, bool):
        raise ArgumentError(f"--json: {text!r} alone cannot be sent")
    if value == text:
        raise ArgumentError(f"--json: {text!r} is not JSON")
    return value


def _terms(given: Namespace) -> Any:
    try:
        most = None if given.most is None else parse_size(given.most)
    except ValueError as error:
        raise ArgumentError(f"--max-size: {error}") from None
    return {
        "fallback_urls": given.mirror or (),
        "sha256": given.sha256,
        "refresh": "never" if given.refresh == _DOCUMENT else given.refresh,
        "retries": _number("--retries", given.retries, int),
        "max_size": most,
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
Prints the path of the file, which stays the same. With -o nothing is printed: FILE is replaced in one step when all of the
download is there. A download that broke off, or was killed, is gone on with by the next one. Whatever makes the answer
another one (query, header fields, form, JSON, files) makes another item; --json and --file send a POST. A bar shows how far
it is, on a terminal only; -v says where it came from and why.""",
    _add,
    _run,
)
