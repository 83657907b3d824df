"""The `package-cache` command: options to settings, settings to a running server, errors to exit codes."""

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from package_cache import compose
from package_cache.cli import arguments, commands, hosts, logs
from package_cache.cli.command import FAILED, WRONG_OPTIONS
from package_cache.config import PREFIX, Config, files
from package_cache.config.files import configured
from package_cache.errors import ConfigError, PackageCacheError
from package_cache.server import outlets

logger = logging.getLogger(__name__)


class _Terminated(BaseException):
    """SIGTERM or SIGINT arrived. No `Exception`: whoever handles all of those must not swallow it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code. Where that is a server which came to its end, the process ends with it."""
    _have_standard_streams()
    words = sys.argv[1:] if argv is None else argv
    if words and not words[0].startswith("-"):
        return commands.run(words)
    sys.stderr = outlets.unfailing(2, sys.stderr.encoding)  # who reads there, and whether, is no condition for a service

    def read() -> Config:
        return _configuration(*arguments.read(words, commands.summaries()))

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _terminate)
        config = read()
        hosts.require_gunicorn(config)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)  # the settings were read a moment ago, and the logs opened
        logs.configure(config)
        totals = compose.prepare(config)
        logger.info("the cache holds %d entries, %d files, %d bytes", totals.entries, totals.blobs, totals.bytes)
        from package_cache.cli.serving import serve  # noqa: PLC0415 - the other commands start without a server

        _leave(serve(config, read))
    except ConfigError as error:
        return commands.fail(WRONG_OPTIONS, *error.problems)
    except PackageCacheError as error:
        return commands.fail(FAILED, str(error))
    except _Terminated:
        return 0


def _have_standard_streams() -> None:
    """Where one of the three was closed, put something in its place: a file of the cache would be opened as that one.

    It can be neither read nor written, as the one that is closed, but for errors, which are told to nobody then.
    """
    for number, flag in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flag)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - a number, for as long as the process lives
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _configuration(options: Mapping[str, str], problems: list[str]) -> Config:
    """Raises ConfigError with every problem of every kind."""
    config = None
    try:
        config = configured(os.environ, options).config
        compose.require_ways(config)
    except ConfigError as error:
        problems.extend(error.problems)
    if not (config.sources if config else files.names_sources(os.environ, options)):
        problems.append(compose.NO_SOURCE)
    server = config.server if config else options.get("server") or os.environ.get(f"{PREFIX}SERVER") or Config().server
    if server == "wsgiref" and options.get("workers", "1") != "1":
        problems.append("--workers: wsgiref runs in one process; add --server gunicorn for several")
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _leave(code: int) -> NoReturn:
    """End at once: a thread that sends to a slow client would keep the process.

    And while an interpreter comes to its own end, a signal meets its default action, as if the server had been killed.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    logging.shutdown()
    os._exit(code)


def _terminate(_number: int, _frame: object) -> None:
    # A second signal finds the default action, and ends what this one could not.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    raise _Terminated
