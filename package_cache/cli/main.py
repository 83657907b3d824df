"""The `package-cache` command: options to settings, settings to a running server, errors to exit codes."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from package_cache import compose
from package_cache.cli import arguments, logs
from package_cache.config import Config, build
from package_cache.errors import ConfigError, StoreError
from package_cache.server.gunicorn import GunicornServer
from package_cache.server.standalone import StandaloneServer

logger = logging.getLogger(__name__)

CANNOT_SERVE = 1
WRONG_OPTIONS = 2


class _TerminatedError(Exception):
    """SIGTERM or SIGINT arrived."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    try:
        options = arguments.settings(arguments.parser().parse_args(argv))
        config = build(os.environ, options)
        compose.require_sources(config)
        _check_workers(config, options)
    except ConfigError as error:
        return _fail(WRONG_OPTIONS, *error.problems)
    try:
        logs.configure(config)
        totals = compose.prepare(config)
        logger.info("the cache holds %d entries, %d files, %d bytes", totals.entries, totals.blobs, totals.bytes)
        _serve(config)
    except StoreError as error:
        return _fail(CANNOT_SERVE, str(error))
    except OSError as error:
        return _fail(CANNOT_SERVE, _listening(config, error))
    except _TerminatedError:
        return 0
    return 0


def _fail(code: int, *lines: str) -> int:
    for line in lines:
        print(f"package-cache: {line}", file=sys.stderr)  # noqa: T201 - the person at the keyboard
    return code


def _check_workers(config: Config, options: dict[str, str]) -> None:
    if config.server == "wsgiref" and config.workers > 1 and "workers" in options:
        raise ConfigError(["--workers: wsgiref runs in one process; add --server gunicorn for several"])


def _listening(config: Config, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"cannot listen on {config.host} port {config.port}: {reason}. Give another one with --host or --port"


def _announce(config: Config, url: str) -> None:
    """Say that clients are answered from now on: the line a person or a script waits for."""
    sources = ", ".join(source.base + "/" for source in config.source)
    text = f"serving {sources} at {url} (cache in {compose.cache_directory(config)})"
    if config.syslog:
        logging.getLogger("package_cache").warning("%s", text)
    else:
        print(f"package-cache: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _serve(config: Config) -> None:
    if config.server == "gunicorn":
        GunicornServer(config, lambda: compose.build_application(config), lambda url: _announce(config, url)).run()
        return
    address = (config.host, config.port)
    server = StandaloneServer(address, compose.build_application(config), config, compose.software())
    try:
        signal.signal(signal.SIGTERM, lambda *_: server.stop())
        signal.signal(signal.SIGINT, lambda *_: server.stop())
        _announce(config, server.url)
        server.serve()
    finally:
        server.close()


def _terminate(_number: int, _frame: object) -> None:
    raise _TerminatedError
