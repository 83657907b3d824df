"""Where log records go. The only place that configures logging."""

import logging
import logging.handlers
import os
from pathlib import Path

from package_cache.config import Config

_SOCKET = "/dev/log"


def configure(config: Config) -> None:
    """Send records of WARNING and above, and with each -v one level more, to standard error or the system log.

    Raises OSError if the system log cannot be reached.
    """
    level = max(logging.DEBUG, logging.WARNING - 10 * config.verbose)
    handler: logging.Handler
    if config.syslog:
        address = _SOCKET if Path(_SOCKET).exists() else ("localhost", logging.handlers.SYSLOG_UDP_PORT)
        handler = logging.handlers.SysLogHandler(address, facility=logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.setFormatter(logging.Formatter(f"package-cache[{os.getpid()}]: %(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # How urllib3 fares with a connection is told by this package in its own words.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
