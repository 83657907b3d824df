"""Settings: what can be set, where it is written, and how errors in it are reported.

`layers`, which reads files, is imported by those who need it, and not from here: `rules` uses the rest.
"""

from package_cache.config.parsing import (
    ACCESS_FORMATS,
    SERVERS,
    TcpAddress,
    UnixAddress,
    parse_address,
    parse_network,
    parse_source,
)
from package_cache.config.settings import NAMES, PREFIX, Config, Timeouts

__all__ = [
    "ACCESS_FORMATS",
    "NAMES",
    "PREFIX",
    "SERVERS",
    "Config",
    "TcpAddress",
    "Timeouts",
    "UnixAddress",
    "parse_address",
    "parse_network",
    "parse_source",
]
