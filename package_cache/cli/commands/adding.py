"""`add`: a file of one's own as a new version of an item."""

from argparse import ArgumentParser, Namespace

from package_cache import compose
from package_cache.cli import output
from package_cache.cli.command import DONE, Command
from package_cache.cli.conditions import VALUES, assignments
from package_cache.config import Config
from package_cache.errors import ArgumentError
from package_cache.library.cache import Cache
from package_cache.model import Status


def _add(it: ArgumentParser) -> None:
    it.add_argument("file", metavar="FILE", help="what to store; it stays where it is")
    it.add_argument("--uri", metavar="URI", required=True, help="what to call it: a URL, or any other text")
    it.add_argument("--param", metavar="NAME=VALUE", action="append", help="a part of its name: others make another item")
    it.add_argument("--attr", metavar="NAME=VALUE", action="append", help="an attribute to find it by (repeat it)")
    it.add_argument("--label", metavar="TEXT", help="a word to find it by")
    it.add_argument("--ext", metavar="EXT", help="extension of its path (default: that of FILE)")


def _run(given: Namespace, config: Config) -> int:
    if not given.uri:
        raise ArgumentError("--uri is empty; it is a URL, or any other text, by which the item is found")
    params, attrs = assignments("--param", given.param or ()), assignments("--attr", given.attr or ())
    with Cache(compose.cache_directory(config)) as cache:
        item = cache.move_in(given.file, given.uri, params, attrs, Status.READY, given.ext, given.label)
        output.path(item.path)
    return DONE


ADD = Command(
    f"""
Prints the path under which its bytes are from now on.

{VALUES}""",
    _add,
    _run,
)
