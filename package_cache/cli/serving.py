"""Serving, from settings to the end of the server: where it listens, under which host, what it says when it is ready."""

import logging
import os
import signal
import sys
from collections.abc import Callable

from package_cache import compose
from package_cache.cli import logs
from package_cache.cli.arguments import FAILED
from package_cache.config import Config
from package_cache.engine.upkeep.memory import share_arena
from package_cache.server import addresses, systemd
from package_cache.server.app import Application
from package_cache.server.reloading import Settings
from package_cache.server.serving import Renewal, Serving, limits_of
from package_cache.upstream.reach import software


def serve(config: Config, read: Callable[[], Config]) -> int:
    """Serve until a signal ends it; the exit code. Raises PackageCacheError if it cannot start.

    At SIGHUP `read` returns the settings as they are then, or raises ConfigError.
    """
    share_arena()
    settings = Settings(config, read, compose.build_application, logs.configure)
    # Removed from the environment: other programs, and the arbiter of Gunicorn, would use what is meant for this process.
    notifier = systemd.Notifier(os.environ.pop("NOTIFY_SOCKET", ""))
    sockets = systemd.inherited(os.environ)
    inherited = addresses.Listening(sockets) if sockets else None
    if config.server == "gunicorn":
        return _serve_with_gunicorn(settings, inherited, notifier)
    return _serve_alone(settings, inherited, notifier)


def _announce(config: Config, places: str) -> None:
    """Print that clients are answered from now on: people and scripts wait for this line."""
    sources = ", ".join(source.base + "/" for source in config.sources)
    text = f"serving {sources} at {places} (cache in {compose.cache_directory(config)})"
    if config.syslog:
        logging.getLogger("package_cache").warning("%s", text)
    else:
        print(f"package-cache: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _serve_alone(settings: Settings, inherited: addresses.Listening | None, notifier: systemd.Notifier) -> int:
    config = settings.config

    def make() -> tuple[Config, Application] | None:
        notifier.reloading()
        application = settings.renew()
        return (settings.config, application) if application is not None else None

    with inherited or addresses.listen(config) as listening:
        server = Serving(settings.build(), listening, limits_of(config), software())
        renewal, terminal = Renewal(make, notifier.ready), _Terminal()
        try:
            signal.signal(signal.SIGTERM, lambda *_: _stop(server, notifier, settings.config.timeouts.graceful))
            signal.signal(signal.SIGINT, lambda *_: _stop(server, notifier, 0.0))
            signal.signal(
                signal.SIGHUP, lambda *_: _stop(server, notifier, 0.0) if terminal.is_gone() else server.renew(renewal)
            )
            signal.signal(signal.SIGUSR1, lambda *_: server.reopen_logs())
            _announce(config, addresses.where(one.getsockname() for one in listening.sockets))
            notifier.ready()
            server.serve()
        finally:
            server.close()
    return 0


class _Terminal:
    """The terminal that the command was started from, if any. When it is closed, it sends SIGHUP too."""

    def __init__(self) -> None:
        self._was_there = os.isatty(2)

    def is_gone(self) -> bool:
        """Whether it was closed: the server would go on unseen, and keep its port."""
        return self._was_there and not os.isatty(2)


def _stop(server: Serving, notifier: systemd.Notifier, patience: float) -> None:
    server.stop(patience)
    notifier.stopping()
    # A second signal ends the answers that the first one lets run.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop(0.0))


def _serve_with_gunicorn(settings: Settings, inherited: addresses.Listening | None, notifier: systemd.Notifier) -> int:
    from package_cache.server.gunicorn import GunicornServer, upgraded  # noqa: PLC0415 - the bare command does without

    arbiter = os.getpid()
    software()  # determined once, and not by each worker
    with inherited or upgraded(os.environ) or addresses.listen(settings.config) as listening:
        try:
            cache = compose.cache_directory(settings.config)
            GunicornServer(settings, listening, notifier, lambda places: _announce(settings.config, places), cache).run()
        except SystemExit as end:
            # The workers are forked in there; what their codes mean is between them and the arbiter.
            if os.getpid() != arbiter:
                raise
            return FAILED if end.code else 0
    return 0
