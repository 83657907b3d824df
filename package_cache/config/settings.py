"""The table of settings: what each is called, how it is read, and what it is for.

The command line, the environment and the file of configuration know the same settings, by names that follow from the one
here; `--help` and the manual say what is said here.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from package_cache.config import parsing
from package_cache.config.values import Config, Timeouts
from package_cache.units import parse_bound, parse_duration, parse_share

PREFIX = "PACKAGE_CACHE_"
FILE = "config"
"""What names the file of configuration, on the command line and in the environment."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `name` is its option's, with underscores; `looks` what a value looks like, "" for a switch.

    `default` is as a person reads it. One that may be given `several` times is a list in the file of configuration.
    """

    name: str
    parse: Callable[[str], Any]
    looks: str
    text: str
    default: str
    several: bool = False

    @property
    def option(self) -> str:
        """On the command line."""
        return f"--{self.key}"

    @property
    def variable(self) -> str:
        """In the environment."""
        return f"{PREFIX}{self.name.upper()}"

    @property
    def key(self) -> str:
        """In the file of configuration."""
        return self.name.replace("_", "-")


_DEFAULT = Config()

_ALL = (
    Setting(
        *("source", parsing.parse_sources, "URL"),
        "mirror to fetch from: http://, https:// or file:// (repeat it: they are tried in this order)",
        *("none", True),
    ),
    Setting("balance", parsing.parse_switch, "", "ask quick sources first, instead of in the order given", "no"),
    Setting("cache", parsing.parse_path, "PATH", "directory of the cache", "the user's cache directory"),
    Setting(
        *("listen", parsing.parse_listen, "ADDRESS"),
        "where to listen instead of --host and --port: HOST:PORT, :PORT (all addresses) or unix:/PATH (repeat it)",
        *("none", True),
    ),
    Setting("host", parsing.parse_text, "HOSTNAME", "address to listen on", _DEFAULT.host),
    Setting("port", parsing.parse_port, "INT", "port to listen on; 0: any free one", str(_DEFAULT.port)),
    Setting(
        *("allow", parsing.parse_allow, "NETWORK"),
        "network or address whose clients are answered, such as 192.168.0.0/16 (repeat it)",
        *("everybody", True),
    ),
    Setting(
        *("connect", parsing.parse_connect, "HOST:PORT"),
        "where clients may have a tunnel to, by CONNECT, such as mirror.example:443 (repeat it)",
        *("nowhere", True),
    ),
    Setting(
        *("server", parsing.parse_server, "|".join(parsing.SERVERS)),
        "the server to run under: wsgiref is one process, gunicorn is for production",
        _DEFAULT.server,
    ),
    Setting("workers", parsing.parse_count, "INT", "processes under gunicorn", str(_DEFAULT.workers)),
    Setting(
        *("threads", parsing.parse_count, "INT"),
        "threads of a process, for what its event loop leaves",
        str(_DEFAULT.threads),
    ),
    Setting("connections", parsing.parse_many, "INT", "connections at once in a process", str(_DEFAULT.connections)),
    Setting("downloads", parsing.parse_count, "INT", "downloads at once in a process", str(_DEFAULT.downloads)),
    Setting("verbose", parsing.parse_level, "", "log more: 1 each request, 2 each decision", "0"),
    Setting("syslog", parsing.parse_switch, "", "log to the system log instead of standard error", "no"),
    Setting(
        *("access_log", parsing.parse_text, "PATH"),
        "write a line a request to this file (-: to standard error)",
        "none",
    ),
    Setting(
        *("access_format", parsing.parse_format, "|".join(parsing.ACCESS_FORMATS)),
        "form of that line",
        _DEFAULT.access_format,
    ),
    Setting("max_size", parse_bound, "SIZE", "keep at most so many bytes, such as 200G", "no bound"),
    Setting("min_free", parse_share, "SIZE", "leave so much of the file system free, such as 10G or 5%", "no bound"),
    Setting("max_age", parse_duration, "TIME", "remove what was not used for so long, such as 365d", "no bound"),
    Setting(
        *("scrub", parsing.parse_period, "TIME|never"),
        "read every stored file through once in this time, to find damage",
        "30d",
    ),
)
SETTINGS = {setting.name: setting for setting in _ALL}
"""By name. Those of `Timeouts` are not among them."""

_LIMITS = {
    "connect": "for a source's name to be looked up and an address to accept",
    "head": "for the whole head of a source's answer",
    "stall": "between two blocks of a body from a source",
    "crawl": "for as many KiB of a body from a source",
    "request": "for the whole head of a client's request",
    "idle": "for a client's next request",
    "send": "for a client to take what was sent",
    "graceful": "for running answers, when the server is told to stop",
    "tunnel": "for anything to move in a tunnel",
}
TIMEOUTS = {
    f"{one.name}_timeout": Setting(
        f"{one.name}_timeout", parsing.parse_seconds, "SECONDS", _LIMITS[one.name], f"{getattr(Timeouts(), one.name):g}"
    )
    for one in fields(Timeouts)
}
"""By name. They have no options; in the file of configuration they are the table `timeouts`, without their last word."""

NAMES = (*SETTINGS, *TIMEOUTS)
"""Every setting, by the name of its option with underscores."""


def setting_of(name: str) -> Setting:
    """The setting of a name in `NAMES`."""
    return SETTINGS.get(name) or TIMEOUTS[name]
