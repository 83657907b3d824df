"""The options of the command, and how a command line becomes settings."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from package_cache.config import ACCESS_FORMATS, PREFIX, SERVERS, Config, Timeouts
from package_cache.upstream.agent import version_text

_DESCRIPTION = """\
Serve a package mirror through a cache. The first request for a file fetches it from the first source that has it and
passes it on while it arrives; every later one is answered from disk. Clients use this machine as their mirror:
for Portage, GENTOO_MIRRORS="http://THIS-HOST:4000/" in make.conf."""

_EPILOG = """\
Every option can be set in the environment instead: PACKAGE_CACHE_PORT for --port, PACKAGE_CACHE_SOURCE for --source
(several URLs, addresses or networks separated by blanks), and so on. The command line wins. In the environment only, in
seconds:
{timeouts}

package-cache COMMAND does something else with the cache, also while it is served (package-cache COMMAND --help):
{commands}

exit codes: 0 ended by SIGTERM or SIGINT, 1 cannot serve (port taken, cache not writable), 2 wrong options"""


def parser(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of the `package-cache` command that serves; `commands` are the others, with what they do."""
    default = Config()
    timeouts = "\n".join(
        f"  {PREFIX}{name.upper()}_TIMEOUT (default: {value:g})" for name, value in asdict(Timeouts()).items()
    )
    it = argparse.ArgumentParser(
        prog="package-cache",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(
            timeouts=timeouts, commands="\n".join(f"  {name:8} {text}" for name, text in commands.items())
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    it.add_argument("--version", action="version", version=f"package-cache {version_text()}")
    where = it.add_argument_group("what is served, and where it is kept")
    add_source(where)
    where.add_argument("--balance", action="store_true", help="ask quick sources first, instead of in the order given")
    add_cache(where)
    where.add_argument(
        "--scrub",
        metavar="TIME|never",
        help="read every stored file through once in this time, to find damage (default: 30d; or 12h, 2w, 1y)",
    )
    add_bounds(it)
    listen = it.add_argument_group("how it is served")
    listen.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="where to listen instead of --host and --port: HOST:PORT, :PORT (all addresses) or unix:/PATH (repeat it)",
    )
    listen.add_argument(
        "--allow",
        metavar="NETWORK",
        action="append",
        help="network or address whose clients are answered, such as 192.168.0.0/16 (repeat it; default: everybody)",
    )
    listen.add_argument("--host", metavar="HOSTNAME", help=f"address to listen on (default: {default.host})")
    listen.add_argument("--port", metavar="INT", help=f"port to listen on (default: {default.port}; 0: any free one)")
    listen.add_argument(
        "--server",
        metavar="|".join(SERVERS),
        help=f"the server to run under (default: {default.server}, one process; gunicorn for production)",
    )
    listen.add_argument("--workers", metavar="INT", help=f"processes under gunicorn (default: {default.workers})")
    listen.add_argument(
        "--threads",
        metavar="INT",
        help=f"threads of a process, for what its event loop leaves (default: {default.threads})",
    )
    listen.add_argument(
        "--connections", metavar="INT", help=f"connections at once in a process (default: {default.connections})"
    )
    listen.add_argument("--downloads", metavar="INT", help=f"downloads at once in a process (default: {default.downloads})")
    log = it.add_argument_group("what is logged")
    add_verbose(log)
    log.add_argument("--access-log", metavar="PATH", help="write a line a request to this file (-: to standard error)")
    log.add_argument(
        "--access-format", metavar="|".join(ACCESS_FORMATS), help=f"form of that line (default: {default.access_format})"
    )
    log.add_argument("--syslog", action="store_true", help="log to the system log instead of standard error")
    return it


_Holder = argparse._ActionsContainer
"""A parser, or a group of its options."""


def add_source(it: _Holder) -> None:
    """Add `--source`."""
    it.add_argument(
        "--source",
        metavar="URL",
        action="append",
        default=argparse.SUPPRESS,
        help="mirror to fetch from: http://, https:// or file:// (repeat it: they are tried in this order)",
    )


def add_cache(it: _Holder) -> None:
    """Add `--cache`."""
    it.add_argument(
        "--cache",
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="directory of the cache (default: the user's cache directory)",
    )


def add_bounds(it: argparse.ArgumentParser) -> None:
    """Add the options that bound the cache."""
    bounds = it.add_argument_group("how much is kept (what was used longest ago goes first, what is pinned stays)")
    for option, metavar, text in (
        ("--max-size", "SIZE", "keep at most so many bytes, such as 200G (default: no bound)"),
        ("--min-free", "SIZE", "leave so much of the file system free, such as 10G or 5%% (default: no bound)"),
        ("--max-age", "TIME", "remove what was not used for so long, such as 365d (default: no bound)"),
    ):
        bounds.add_argument(option, metavar=metavar, default=argparse.SUPPRESS, help=text)


def add_verbose(it: _Holder) -> None:
    """Add `--verbose`."""
    it.add_argument(
        "--verbose",
        "-v",
        action="count",
        default=argparse.SUPPRESS,
        help="log more: -v each request, -vv each decision",
    )


def read(words: Sequence[str], commands: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What was given on the command line, as the text `config.build` reads; and what is wrong with the options' names."""
    it = parser(commands)
    namespace, unknown = it.parse_known_args(words)
    late = [f"{word!r} is a command: write it first, as in package-cache {word}" for word in unknown if word in commands]
    return texts(namespace), late[:1] or problems(unknown, it)


def texts(namespace: argparse.Namespace) -> dict[str, str]:
    """What was given, as the text `config.build` reads."""
    return {name: " ".join(value) if isinstance(value, list) else str(value) for name, value in vars(namespace).items()}


def problems(unknown: list[str], it: argparse.ArgumentParser) -> list[str]:
    """What is wrong with the words that a parser does not know."""
    # What follows an unknown option is most likely its value, and argparse has no public list of its options.
    options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    known = [option for action in it._actions for option in action.option_strings]
    found = []
    for option in options:
        near = difflib.get_close_matches(option, known, n=1, cutoff=0.0)
        found.append(f"{option}: there is no such option; the nearest is {near[0]}")
    return found or [f"{word!r} is not an option; --help lists them" for word in unknown]
