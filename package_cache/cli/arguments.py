"""What a command is, and the options of the command line: how they become settings."""

import argparse
import re
import signal
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from package_cache.config import Config
from package_cache.config.layers import SYSTEM
from package_cache.config.parsing import hint
from package_cache.config.settings import FILE, SETTINGS, TIMEOUTS
from package_cache.errors import ArgumentError
from package_cache.upstream.reach import version_text

_T = TypeVar("_T")

DONE = 0
FAILED = 1
WRONG_OPTIONS = 2
INTERRUPTED = 128 + signal.SIGINT


@dataclass(frozen=True, slots=True)
class Command:
    """A command. `detail` is what its --help says after its summary.

    `add` adds its arguments and options to a parser. Those named like a setting are read as settings and reach `run` in the
    Config; the others reach it in the namespace. `run` returns the exit code and raises `PackageCacheError`. A command that
    is `like_serving` takes the options of the server too; one with `own_settings` reads the settings itself, and is given
    the defaults; one that `asks_sources` needs the credentials for them, which only the user of the service may read.
    """

    detail: str
    add: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Config], int]
    like_serving: bool = False
    own_settings: bool = False
    asks_sources: bool = False


class Paragraphs(argparse.HelpFormatter):
    """Help whose paragraphs are filled one by one to the width of the terminal; an indented line stays a line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled: list[str] = []
        for line in text.splitlines():
            if not line or line.startswith(" ") or not filled or not filled[-1] or filled[-1].startswith(" "):
                filled.append(line)
            else:
                filled[-1] += f" {line}"
        return "\n".join(textwrap.fill(one, width, initial_indent=indent, subsequent_indent=_hang(one)) for one in filled)


def _hang(line: str) -> str:
    """The indent of what follows the first line: of a table's row, up to its second column."""
    row = re.match(r" +(\S+ +(?=\S))?", line)
    return "" if row is None else " " * min(row.end(), _HANG)


_HANG = 12
"""Columns of it at most."""

_DESCRIPTION = """\
Serve a package mirror through a cache. The first request for a file fetches it from the first source that has it and
passes it on while it arrives; every later one is answered from disk. Clients use this machine as their mirror:
for Portage, GENTOO_MIRRORS="http://THIS-HOST:4000/" in make.conf."""

_EPILOG = """\
Every option can be set in the environment instead: PACKAGE_CACHE_PORT for --port, PACKAGE_CACHE_SOURCE for --source
(several URLs, addresses or networks separated by spaces), and so on; or in a file, config.toml, which can describe several
repositories. The environment wins over the file, and the command line over both. Without options, in seconds:
{timeouts}

package-cache COMMAND does something else with the cache, also while it is served (package-cache COMMAND --help):
{commands}

exit codes: 0 ended by SIGTERM or SIGINT, 1 cannot serve (port taken, cache not writable), 2 wrong options"""


_Holder = argparse._ActionsContainer
"""A parser, or a group of its options."""


def build_parser(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of `package-cache` itself, which serves; `commands` are the names and summaries of the others."""
    timeouts = "\n".join(f"  {one.variable} (default: {one.default}): {one.text}" for one in TIMEOUTS.values())
    parser = argparse.ArgumentParser(
        prog="package-cache",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(
            timeouts=timeouts, commands="\n".join(f"  {name:8} {text}" for name, text in commands.items())
        ),
        formatter_class=Paragraphs,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"package-cache {version_text()}")
    add_serving(parser)
    return parser


_GROUPS = {
    "what is served, and where it is kept": ("source", "balance", "cache", "scrub"),
    "how much is kept (what was used longest ago goes first, what is pinned stays)": ("max_size", "min_free", "max_age"),
    "how it is served": (
        *("listen", "allow", "connect", "host", "port", "server", "workers", "threads", "connections", "downloads"),
    ),
    "what is logged": ("verbose", "access_log", "access_format", "syslog"),
}


def add_serving(parser: argparse.ArgumentParser) -> None:
    """Add every option of the server."""
    for number, (title, names) in enumerate(_GROUPS.items()):
        group = parser.add_argument_group(title)
        if number == 0:
            add_config(group)
        for name in names:
            _add(group, name)


def _add(parser: _Holder, name: str) -> None:
    """Add the option of a setting; its help is in the table of settings."""
    setting = SETTINGS[name]
    text = setting.text.replace("%", "%%")
    if name == "verbose":
        parser.add_argument(
            "--verbose",
            "-v",
            action="count",
            default=argparse.SUPPRESS,
            help="log more: -v each request, -vv each decision",
        )
    elif not setting.looks:
        parser.add_argument(setting.option, action="store_true", default=argparse.SUPPRESS, help=text)
    elif setting.several:
        text += "" if setting.default == "none" else f" (default: {setting.default})"
        parser.add_argument(setting.option, metavar=setting.looks, action="append", default=argparse.SUPPRESS, help=text)
    else:
        text += f" (default: {setting.default})"
        parser.add_argument(setting.option, metavar=setting.looks, default=argparse.SUPPRESS, help=text)


def add_config(parser: _Holder) -> None:
    """Add `--config`."""
    parser.add_argument(
        f"--{FILE}",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"the file of configuration (default: that of the user, or {SYSTEM}; package-cache config init writes one)",
    )


def add_source(parser: _Holder) -> None:
    """Add `--source`."""
    _add(parser, "source")


def add_common(parser: _Holder) -> None:
    """Add the options that every command takes."""
    add_config(parser)
    _add(parser, "cache")
    _add(parser, "verbose")


def add_bounds(parser: argparse.ArgumentParser) -> None:
    """Add the options that bound the cache."""
    bounds = parser.add_argument_group("how much is kept (what was used longest ago goes first, what is pinned stays)")
    for name in ("max_size", "min_free", "max_age"):
        _add(bounds, name)


def read(words: Sequence[str], commands: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The settings on the command line, as strings for `config.build`; and what is wrong with the options' names."""
    parser = build_parser(commands)
    namespace, unknown = parser.parse_known_args(words)
    late = [f"{word!r} is a command: write it first, as in package-cache {word}" for word in unknown if word in commands]
    return texts(namespace), late[:1] or problems(unknown, parser)


def texts(namespace: argparse.Namespace) -> dict[str, str]:
    """The options that were given, as the strings that `config.build` reads."""
    return {name: " ".join(value) if isinstance(value, list) else str(value) for name, value in vars(namespace).items()}


def problems(unknown: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """A message about each word that a parser does not know."""
    # What follows an unknown option is most likely its value, and argparse has no public list of its options.
    options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    known = [option for action in parser._actions for option in action.option_strings]
    found = [f"{option}: there is no such option; {hint(option, known, '--help lists them')}" for option in options]
    return found or [f"{word!r} is not an option; --help lists them" for word in unknown]


def parsed(option: str, text: str | None, parse: Callable[[str], _T]) -> _T | None:
    """The value of an option, None if it was not given. A ValueError of `parse` becomes an ArgumentError that names it."""
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise ArgumentError(f"{option}: {error}") from None
