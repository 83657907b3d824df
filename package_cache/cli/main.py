"""The `package-cache` command: options to settings, settings to a running server, errors to exit codes."""

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from package_cache import compose
from package_cache.cli import arguments, commands, logs
from package_cache.cli.command import WRONG_OPTIONS
from package_cache.config import PREFIX, Config, build
from package_cache.errors import ConfigError, PackageCacheError
from package_cache.server import addresses, systemd
from package_cache.server.gunicorn import GunicornServer, upgraded
from package_cache.server.standalone import StandaloneServer
from package_cache.upstream.agent import software

logger = logging.getLogger(__name__)

CANNOT_SERVE = 1


class _Terminated(BaseException):
    """SIGTERM or SIGINT arrived. No `Exception`: whoever handles all of those must not swallow it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code. Where that is a server which came to its end, the process ends with it."""
    words = sys.argv[1:] if argv is None else argv
    if words and not words[0].startswith("-"):
        return commands.run(words)
    try:
        config = _configuration(*arguments.read(words, commands.summaries()))
    except ConfigError as error:
        return commands.fail(WRONG_OPTIONS, *error.problems)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _terminate)
        logs.configure(config)
        totals = compose.prepare(config)
        logger.info("the cache holds %d entries, %d files, %d bytes", totals.entries, totals.blobs, totals.bytes)
        _leave(_serve(config))
    except PackageCacheError as error:
        return commands.fail(CANNOT_SERVE, str(error))
    except _Terminated:
        return 0


def _configuration(options: Mapping[str, str], problems: list[str]) -> Config:
    """Raises ConfigError with every problem of every kind."""
    config = Config()
    try:
        config = build(os.environ, options)
    except ConfigError as error:
        problems.extend(error.problems)

    def text(name: str) -> str:
        return options.get(name) or os.environ.get(PREFIX + name.upper()) or ""

    if not text("source").strip():
        problems.append(compose.NO_SOURCE)
    if (text("server") or config.server) == "wsgiref" and options.get("workers", "1") != "1":
        problems.append("--workers: wsgiref runs in one process; add --server gunicorn for several")
    if problems:
        raise ConfigError(problems)
    return config


def _announce(config: Config, places: str) -> None:
    """Say that clients are answered from now on: the line a person or a script waits for."""
    sources = ", ".join(source.base + "/" for source in config.source)
    text = f"serving {sources} at {places} (cache in {compose.cache_directory(config)})"
    if config.syslog:
        logging.getLogger("package_cache").warning("%s", text)
    else:
        print(f"package-cache: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _serve(config: Config) -> int:
    # Taken out: other programs, and the arbiter of Gunicorn, would take what is meant for this process.
    notifier = systemd.Notifier(os.environ.pop("NOTIFY_SOCKET", ""))
    with _listen(config) as listening:
        if config.server == "gunicorn":
            return _serve_with_gunicorn(config, listening, notifier)
        return _serve_alone(config, listening, notifier)


def _listen(config: Config) -> addresses.Listening:
    """On the sockets this process was started with, else where the settings say."""
    sockets = systemd.inherited(os.environ)
    if sockets:
        return addresses.Listening(sockets)
    return (config.server == "gunicorn" and upgraded(os.environ)) or addresses.listen(config)


def _serve_alone(config: Config, listening: addresses.Listening, notifier: systemd.Notifier) -> int:
    server = StandaloneServer(config, listening, compose.build_application(config), software())
    try:
        signal.signal(signal.SIGTERM, lambda *_: _stop(server, notifier, config.timeouts.graceful))
        signal.signal(signal.SIGINT, lambda *_: _stop(server, notifier, 0.0))
        _announce(config, addresses.where(one.getsockname() for one in listening.sockets))
        notifier.ready()
        server.serve()
    finally:
        server.close()
    return 0


def _stop(server: StandaloneServer, notifier: systemd.Notifier, patience: float) -> None:
    server.stop(patience)
    notifier.stopping()
    # A second signal ends what the first one lets run.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop(0.0))


def _serve_with_gunicorn(config: Config, listening: addresses.Listening, notifier: systemd.Notifier) -> int:
    arbiter = os.getpid()
    try:
        GunicornServer(
            config,
            listening,
            lambda: compose.build_application(config),
            notifier,
            lambda places: _announce(config, places),
        ).run()
    except SystemExit as end:
        # The workers are forked in there; what their codes mean is between them and the arbiter.
        if os.getpid() != arbiter:
            raise
        return CANNOT_SERVE if end.code else 0
    return 0


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
