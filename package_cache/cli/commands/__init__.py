"""The commands beside serving, by name, and how one of them is run."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from package_cache import compose
from package_cache.cli import arguments, logs, output, owners
from package_cache.cli.command import DONE, FAILED, INTERRUPTED, WRONG_OPTIONS, Command
from package_cache.config import NAMES, Config
from package_cache.config.files import configured
from package_cache.config.nearest import nearest
from package_cache.config.settings import FILE
from package_cache.errors import ArgumentError, ConfigError, PackageCacheError


@dataclass(frozen=True, slots=True)
class Home:
    """Where a command is: the module here that has it, under its name in capitals. `summary` is its line in --help."""

    module: str
    summary: str


COMMANDS: Mapping[str, Home] = {
    "get": Home("getting", "download a URL into the cache, or find it there"),
    "cat": Home("reading", "write what is stored to standard output, decompressed"),
    "add": Home("adding", "store a file as the next version of an item"),
    "ls": Home("listing", "list what is stored"),
    "show": Home("showing", "show every version of what is called so"),
    "why": Home("explaining", "explain what would happen if a client asked for a path"),
    "gc": Home("freeing", "remove what the bounds want removed, now"),
    "fsck": Home("fsck", "check everything that is stored, and mend it"),
    "rm": Home("deleting", "put a name into the trash"),
    "restore": Home("deleting", "take a name out of the trash"),
    "purge": Home("deleting", "remove what is in the trash for good"),
    "pin": Home("pinning", "never cull a name"),
    "unpin": Home("pinning", "undo a pin"),
    "health": Home("asking", "ask a running server whether it can serve"),
    "config": Home("configuring", "check the settings, show where each comes from, write a first file"),
    "import": Home("importing", "take an older cache, a DISTDIR or a mirror on disk over"),
    "export": Home("exporting", "make a plain tree of files, or a mirror on disk, of what the proxy has"),
    "warm": Home("warming", "have files in the cache before a client asks for them"),
}
"""None is loaded before it is used: the others, and the server, start without what it needs."""

_EPILOG = """\
Settings can be given in the environment instead: PACKAGE_CACHE_CACHE for --cache, and so on. The command line wins.

exit codes: 0 done, 1 failed or nothing found, 2 wrong options or arguments, 130 interrupted"""


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
        near = nearest(name, COMMANDS)
        told = f"the nearest is {near!r}" if near else f"known are {', '.join(COMMANDS)}"
        return fail(WRONG_OPTIONS, f"{name!r} is not a command; {told}. Without one, package-cache serves")
    try:
        command = load(name)
        namespace, config = _read(command, parser(name, command), rest)
        return _perform(command, namespace, config)
    except ConfigError as error:
        return fail(WRONG_OPTIONS, *error.problems)
    except KeyboardInterrupt:
        return fail(INTERRUPTED, "interrupted")


def _perform(command: Command, namespace: argparse.Namespace, config: Config) -> int:
    try:
        logs.configure(config)
        with owners.left_to_owner(partial(compose.cache_directory, config)):
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


def _read(command: Command, it: argparse.ArgumentParser, words: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    namespace, unknown = it.parse_known_intermixed_args(words)
    given = arguments.texts(namespace)
    problems = arguments.problems(unknown, it)
    config = Config()
    settings = {setting: text for setting, text in given.items() if setting in (*NAMES, FILE)}
    try:
        config = config if command.own_settings else configured(os.environ, settings, secret=command.asks_sources).config
    except ConfigError as error:
        problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return namespace, replace(config, syslog=False)


def parser(name: str, command: Command) -> argparse.ArgumentParser:
    """The parser of one command."""
    summary = COMMANDS[name].summary
    it = argparse.ArgumentParser(
        prog=f"package-cache {name}",
        description=f"{summary[0].upper()}{summary[1:]}.\n{command.detail.strip()}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS if command.like_serving else None,
        allow_abbrev=False,
    )
    command.add(it)
    if command.like_serving:
        arguments.add_serving(it)
    else:
        arguments.add_common(it)
    return it


def fail(code: int, *lines: str) -> int:
    """Say what is wrong, if anybody can be told; the exit code."""
    try:
        for line in lines:
            print(f"package-cache: {output.shown(line)}", file=sys.stderr, flush=True)  # noqa: T201 - the person at the keyboard
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="ascii")  # noqa: SIM115 - its failure would be the exit code
    return code
