"""The commands beside serving, by name, and how one of them is run."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from package_cache.cli import arguments, logs, output
from package_cache.cli.arguments import DONE, FAILED, INTERRUPTED, WRONG_OPTIONS, Command
from package_cache.config import NAMES, Config
from package_cache.config.layers import configured
from package_cache.config.parsing import nearest
from package_cache.config.settings import FILE
from package_cache.errors import ArgumentError, ConfigError, PackageCacheError


@dataclass(frozen=True, slots=True)
class Home:
    """Where a command is: in that module here, under its name in capitals. `summary` is its line in --help."""

    module: str
    summary: str


COMMANDS: Mapping[str, Home] = {
    "get": Home("content", "download a URL into the cache, or find it there"),
    "cat": Home("content", "write what is stored to standard output, decompressed"),
    "add": Home("content", "store a file as the next version of an item"),
    "ls": Home("showing", "list what is stored"),
    "show": Home("showing", "list all versions of NAME"),
    "info": Home("info", "say how much is stored, and what state the cache is in"),
    "why": Home("showing", "explain what would happen if a client asked for a path"),
    "gc": Home("removing", "evict now what exceeds the bounds"),
    "fsck": Home("fsck", "check everything that is stored, and repair it"),
    "rm": Home("removing", "put a name into the trash"),
    "restore": Home("removing", "take a name out of the trash"),
    "purge": Home("removing", "remove what is in the trash for good"),
    "pin": Home("removing", "never evict a name"),
    "unpin": Home("removing", "undo a pin"),
    "health": Home("health", "ask a running server whether it can serve"),
    "config": Home("configuring", "check the settings, show where each comes from, write a first file"),
    "import": Home("moving", "take an older cache, a DISTDIR or a mirror on disk over"),
    "export": Home("moving", "make a plain tree of files, or a mirror on disk, of what the proxy has"),
    "warm": Home("moving", "fetch files into the cache before a client asks for them"),
}
"""No module is loaded before it is used: the other commands and the server start without it."""

_CALLED = {
    **dict.fromkeys(("list", "find", "search"), "ls"),
    **dict.fromkeys(("status", "ping"), "health"),
    **dict.fromkeys(("stats", "statistics", "df", "du"), "info"),
    **dict.fromkeys(("remove", "delete", "del"), "rm"),
    **dict.fromkeys(("clean", "evict", "prune"), "gc"),
    **dict.fromkeys(("check", "verify", "scrub", "repair"), "fsck"),
    **dict.fromkeys(("fetch", "download"), "get"),
    **dict.fromkeys(("prefetch", "preload", "mirror"), "warm"),
    **dict.fromkeys(("explain", "debug"), "why"),
    **dict.fromkeys(("start", "run", "server", "daemon"), "serve"),
    **dict.fromkeys(("undelete", "undo"), "restore"),
}
"""What other programs call a command."""

_EPILOG = """\
Settings can be given in the environment instead: PACKAGE_CACHE_CACHE for --cache, and so on. The command line wins.

exit codes: 0 done, 1 failed or nothing found, 2 wrong options or arguments, 130 interrupted"""


def plain(words: Sequence[str]) -> Sequence[str]:
    """The command line without the words `serve`, `help` and `version`, which stand for options."""
    match words:
        case ["serve", *options]:
            return options
        case ["help", name, *_] if name != "serve":
            return [name, "--help"]
        case ["help", *_]:
            return ["--help"]
        case ["version"]:
            return ["--version"]
        case _:
            return words


def summaries() -> dict[str, str]:
    """What each command does, in a line."""
    return {name: home.summary for name, home in COMMANDS.items()}


def load(name: str) -> Command:
    """The command of a name in `COMMANDS`."""
    command: Command = getattr(import_module(f"package_cache.cli.commands.{COMMANDS[name].module}"), name.upper())
    return command


def run(words: Sequence[str]) -> int:
    """Run the command that the first word names; the exit code."""
    name, *rest = words
    if name not in COMMANDS:
        return fail(WRONG_OPTIONS, f"{name!r} is not a command; {_advice(name)}. Without one, package-cache serves")
    try:
        command = load(name)
        namespace, config = _read(command, build_parser(name, command), rest)
        return _perform(command, namespace, config)
    except ConfigError as error:
        return fail(WRONG_OPTIONS, *error.problems)
    except KeyboardInterrupt:
        return fail(INTERRUPTED, "interrupted")


def _advice(name: str) -> str:
    """A hint for an unknown command: its name here, or the nearest one."""
    if name in _CALLED:
        return f"it is called {_CALLED[name]!r} here"
    near = nearest(name, COMMANDS)
    return f"the nearest is {near!r}" if near else f"known are {', '.join(COMMANDS)}"


def _perform(command: Command, namespace: argparse.Namespace, config: Config) -> int:
    try:
        logs.configure(config)
        with _left_to_owner(config):
            code = command.run(namespace, config)
        sys.stdout.flush()
    except PackageCacheError as error:
        lines = error.problems if isinstance(error, ConfigError) else (str(error),)
        return fail(WRONG_OPTIONS if isinstance(error, ConfigError | ArgumentError) else FAILED, *lines)
    except OSError as error:  # those of the cache and of servers come as PackageCacheError
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever reads has seen enough
            return DONE
        return fail(FAILED, f"cannot write the output: {error.strerror or error}")
    return code


def _read(command: Command, parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    namespace, unknown = parser.parse_known_intermixed_args(words)
    given = arguments.texts(namespace)
    problems = arguments.problems(unknown, parser)
    config = Config()
    settings = {setting: text for setting, text in given.items() if setting in (*NAMES, FILE)}
    try:
        config = config if command.own_settings else configured(os.environ, settings, secret=command.asks_sources).config
    except ConfigError as error:
        problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return namespace, replace(config, syslog=False)


def build_parser(name: str, command: Command) -> argparse.ArgumentParser:
    """The parser of one command."""
    summary = COMMANDS[name].summary
    parser = argparse.ArgumentParser(
        prog=f"package-cache {name}",
        description=f"{summary[0].upper()}{summary[1:]}.\n{command.detail.strip()}",
        epilog=_EPILOG,
        formatter_class=arguments.Paragraphs,
        argument_default=argparse.SUPPRESS if command.like_serving else None,
        allow_abbrev=False,
    )
    command.add(parser)
    if command.like_serving:
        arguments.add_serving(parser)
    else:
        arguments.add_common(parser)
    return parser


def fail(code: int, *lines: str) -> int:
    """Print the problems to standard error, if it can be written; the exit code."""
    try:
        for line in lines:
            print(f"package-cache: {output.shown(line)}", file=sys.stderr, flush=True)  # noqa: T201 - the person at the keyboard
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="ascii")  # noqa: SIM115 - its failure would be the exit code
    return code


_SLACK = 2.0
"""Seconds by which the times of a file system may be behind the clock."""
_SHARDED = ("blobs-v1", "items-v1")
_FLAT = ("leases-v2", "parts-v1", "quarantine-v1", "sources-v1", "bounds-v1")


@contextmanager
def _left_to_owner(config: Config) -> Iterator[None]:
    """Give what root makes in the cache to the owner of the cache: otherwise the service could not use it."""
    begun = time.time() - _SLACK
    try:
        yield
    finally:
        if os.geteuid() == 0:
            from package_cache import compose  # noqa: PLC0415 - not every command needs all parts

            root = compose.cache_directory(config)
            with suppress(OSError):
                owner = root.stat()
                if owner.st_uid != 0:
                    _give(root, owner, begun)


def _give(root: Path, owner: os.stat_result, since: float) -> None:
    directories = [root, *(root / name for name in (*_SHARDED, *_FLAT))]
    for tree in _SHARDED:
        with suppress(FileNotFoundError):
            directories += [path for path in (root / tree).iterdir() if path.is_dir()]
    for directory in directories:
        with suppress(FileNotFoundError):
            # A new file changes the time of its directory: only directories changed since then are looked through.
            if directory != root and directory.stat().st_mtime < since:
                continue
            with os.scandir(directory) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        if entry.stat(follow_symlinks=False).st_uid == 0:
                            os.chown(entry.path, owner.st_uid, owner.st_gid, follow_symlinks=False)
