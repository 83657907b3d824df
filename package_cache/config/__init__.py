"""Settings: what can be set, where it is written, and what is said of what is wrong."""

from package_cache.config.layers import Layered, layered
from package_cache.config.parsing import ACCESS_FORMATS, SERVERS, parse_address, parse_network, parse_source
from package_cache.config.settings import NAMES, PREFIX
from package_cache.config.values import Config, TcpAddress, Timeouts, UnixAddress

__all__ = [
    "ACCESS_FORMATS",
    "NAMES",
    "PREFIX",
    "SERVERS",
    "Config",
    "Layered",
    "TcpAddress",
    "Timeouts",
    "UnixAddress",
    "layered",
    "parse_address",
    "parse_network",
    "parse_source",
]
