"""The `package-cache` command: options to settings, settings to a running server, errors to exit codes."""

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from package_cache.cli import arguments, commands, logs
from package_cache.cli.arguments import FAILED, WRONG_OPTIONS
from package_cache.config import PREFIX, Config
from package_cache.config.layers import configured, names_sources
from package_cache.errors import ConfigError, PackageCacheError
from package_cache.server import outlets

logger = logging.getLogger(__name__)


class _Terminated(BaseException):
    """SIGTERM or SIGINT arrived. Not an `Exception`, so that code which handles all of those does not swallow it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code. A server that ended normally ends the process and does not return."""
    _have_standard_streams()
    words = commands.plain(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        return commands.run(words)
    sys.stderr = outlets.unfailing(2, sys.stderr.encoding)  # a service runs whether or not its standard error is read

    def read() -> Config:
        return _configuration(*arguments.read(words, commands.summaries()))

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _terminate)
        config = read()
        from package_cache import compose  # noqa: PLC0415 - what only tells something starts without all parts
        from package_cache.cli.serving import serve  # noqa: PLC0415

        compose.require_gunicorn(config)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)  # the settings were read a moment ago, and the logs opened
        logs.configure(config)
        totals = compose.prepare(config)
        logger.info("the cache holds %d entries, %d files, %d bytes", totals.entries, totals.blobs, totals.bytes)
        _leave(serve(config, read))
    except ConfigError as error:
        return commands.fail(WRONG_OPTIONS, *error.problems)
    except PackageCacheError as error:
        return commands.fail(FAILED, str(error))
    except _Terminated:
        return 0


def _have_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed: else a file of the cache would get its descriptor.

    It is opened the wrong way round, so that reading and writing fail as they do on a closed stream; only standard error
    can be written, and nobody reads that.
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
    """The settings. Raises ConfigError with all problems at once."""
    from package_cache import compose  # noqa: PLC0415 - not where only --help or --version was asked for

    config = None
    try:
        config = configured(os.environ, options).config
        compose.require_ways(config)
    except ConfigError as error:
        problems.extend(error.problems)
    if not (config.sources if config else names_sources(os.environ, options)):
        problems.append(compose.NO_SOURCE)
    server = config.server if config else options.get("server") or os.environ.get(f"{PREFIX}SERVER") or Config().server
    if server == "wsgiref" and options.get("workers", "1") != "1":
        problems.append("--workers: wsgiref runs in one process; add --server gunicorn for several")
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _leave(code: int) -> NoReturn:
    """End the process at once: a thread that sends to a slow client would keep it alive.

    Besides, while the interpreter shuts down a signal has its default action, and the server would seem to be killed.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    logging.shutdown()
    os._exit(code)


def _terminate(_number: int, _frame: object) -> None:
    # A second signal has the default action, in case this one does not end the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    raise _Terminated
