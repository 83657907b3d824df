"""The settings of a running server, which may be read again: what changes at once, and what has to wait for a restart.

Decides that, and tells the log. Where settings come from, and how a server takes them over, is the business of others.
"""

import logging
from collections.abc import Callable
from dataclasses import fields, replace

from package_cache.config import Config
from package_cache.errors import ConfigError, PackageCacheError
from package_cache.server.app import Application

logger = logging.getLogger(__name__)

AT_START = frozenset({"cache", "listen", "host", "port", "server"})
"""Settings that a running server keeps: its sockets, its kind and its files are what they are."""
_KEPT = "the settings stay as they were: %s"


class Settings:
    """What holds now in `config`. `read` raises ConfigError; `configure_logs` puts the settings of the log into effect."""

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        build: Callable[[Config], Application],
        configure_logs: Callable[[Config], None],
    ) -> None:
        self.config = config
        self._read = read
        self._build = build
        self._configure_logs = configure_logs

    def build(self) -> Application:
        """The application of what holds now. Raises PackageCacheError."""
        return self._build(self.config)

    def renew(self) -> Application | None:
        """Read the settings again; the application of those that hold now.

        None if they cannot be used: the log says why, and the old ones hold.
        """
        try:
            config = self._mixed(self._read())
            application = self._build(config)
        except ConfigError as error:
            for problem in error.problems:
                logger.error(_KEPT, problem)
            return None
        except PackageCacheError as error:
            logger.error(_KEPT, error)
            return None
        try:
            self._configure_logs(config)
        except PackageCacheError as error:
            application.close()
            logger.error(_KEPT, error)
            return None
        self.config = config
        logger.info("the settings were read again")
        return application

    def _mixed(self, read: Config) -> Config:
        """What was read, but for what a running server keeps."""
        kept = {one.name: getattr(self.config, one.name) for one in fields(Config) if one.name in AT_START}
        for name, value in kept.items():
            if getattr(read, name) != value:
                logger.warning("%s is another one now; that takes effect at the next restart", name.replace("_", "-"))
        return replace(read, **kept)
