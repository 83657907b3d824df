"""Where log records go. The only place that configures logging."""

import logging
import logging.handlers
import sys
from pathlib import Path

from package_cache.cli import output
from package_cache.config import Config
from package_cache.errors import PackageCacheError

_SOCKET = "/dev/log"
_PATIENCE = 0.02
"""Seconds that a message waits for the system log, which may be busy; after a failure, the next one does not wait."""


class CannotLog(PackageCacheError):
    """The system log cannot be reached."""


class _Formatter(logging.Formatter):
    """Escapes what could look like another line or steer a terminal, wherever in a message it comes from."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the standard library's
        return output.shown(super().formatMessage(record))


class _SystemLog(logging.handlers.SysLogHandler):
    """Writes to standard error what the system log does not take: it may not run yet, be restarting, or be too busy."""

    _hangs = False
    _fails = False

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, and wait only a moment if there is no room for it: the thread that logs may serve many clients."""
        self._fails = False
        super().emit(record)
        self._hangs = self._fails

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the standard library's
        self._fails = True
        sys.stderr.write(f"{self.format(record)}\n")

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)  # type: ignore[misc]
        self.socket.settimeout(0 if self._hangs else _PATIENCE)  # type: ignore[attr-defined]


def configure(config: Config) -> None:
    """Send records of WARNING and above, and with each -v one level more, to standard error or the system log.

    That the settings were read again is logged at any level: whoever sent the signal waits for it.

    Raises CannotLog.
    """
    level = max(logging.DEBUG, logging.WARNING - 10 * config.verbose)
    handler: logging.Handler
    if config.syslog:
        handler = system_log()
        handler.setFormatter(_Formatter("package-cache[%(process)d]: %(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("package_cache.server.reloading").setLevel(min(level, logging.INFO))


def check(config: Config) -> None:
    """Raise CannotLog if `configure` would."""
    if config.syslog:
        system_log().close()


def leave_failures_to_the_command(config: Config) -> None:
    """Do not log why a download failed, unless -v is given: the command prints that at its end."""
    if not config.verbose:
        logging.getLogger("package_cache.engine").setLevel(logging.ERROR)


def system_log() -> logging.Handler:
    """The handler that sends to the system log. Raises CannotLog."""
    address = _SOCKET if Path(_SOCKET).exists() else ("127.0.0.1", logging.handlers.SYSLOG_UDP_PORT)
    try:
        return _SystemLog(address, facility=logging.handlers.SysLogHandler.LOG_DAEMON)
    except OSError as error:
        raise CannotLog(f"cannot reach the system log at {address}: {error.strerror or error}") from error
