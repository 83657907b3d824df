"""All settings: the frozen `Config`, and the table of what each is called, how it is read, and what it is for.

The command line, the environment and the configuration file know the same settings, by names that follow from the one here;
`--help` and the manual say what is said here. A `Config` says nothing of where its values came from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from package_cache.config import parsing
from package_cache.config.parsing import TcpAddress, UnixAddress
from package_cache.model import Repository, Source
from package_cache.units import Share, parse_bound, parse_duration, parse_share

PREFIX = "PACKAGE_CACHE_"
FILE = "config"
"""Names the configuration file, on the command line and in the environment."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits on silence, in seconds.

    Towards a source: `connect` to accept a connection, `head` for the whole head of an answer, `stall` between two
    blocks of a body, `crawl` for as many KiB of it.
    Towards a client: `request` for a whole request head, `idle` for the next request, `send` to take more of an answer,
    `graceful` for running answers when the server is told to stop, `tunnel` for any byte in a tunnel.
    """

    connect: float = 5.0
    head: float = 10.0
    stall: float = 4.0
    request: float = 10.0
    idle: float = 60.0
    send: float = 60.0
    graceful: float = 300.0
    crawl: float = 30.0
    tunnel: float = 600.0


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. `cache` is None for the user's cache directory.

    `source` are the sources of the repository at `/`, `connect` the ends that tunnels may have. `max_size` is in bytes and
    `max_age` in seconds; a bound that is None does not exist. `scrub` is the time, in seconds, in which every stored file
    is read once; None for never.
    """

    source: tuple[Source, ...] = ()
    repository: tuple[Repository, ...] = ()
    balance: bool = False
    cache: Path | None = None
    listen: tuple[TcpAddress | UnixAddress, ...] = ()
    host: str = "localhost"
    port: int = 4000
    allow: tuple[IPv4Network | IPv6Network, ...] = ()
    connect: tuple[TcpAddress, ...] = ()
    server: str = "wsgiref"
    workers: int = 2
    threads: int = 128
    connections: int = 8192
    downloads: int = 64
    verbose: int = 0
    syslog: bool = False
    access_log: str = ""
    access_format: str = "combined"
    max_size: int | None = None
    min_free: Share | None = None
    max_age: float | None = None
    scrub: float | None = 30 * 86400.0
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def addresses(self) -> tuple[TcpAddress | UnixAddress, ...]:
        """Where to listen: `listen` takes the place of `host` and `port`."""
        return self.listen or (TcpAddress(self.host, self.port),)

    @property
    def repositories(self) -> tuple[Repository, ...]:
        """All repositories: `source` are the sources of the one at `/`, however else that is configured."""
        if not self.source:
            return self.repository
        if any(not one.home for one in self.repository):
            return tuple(one if one.home else replace(one, sources=self.source) for one in self.repository)
        return (Repository("root", self.source), *self.repository)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of all repositories, each once."""
        return tuple({source.base: source for one in self.repositories for source in one.sources}.values())


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `name` is that of its option, with underscores; `looks` is what a value looks like, "" for a switch.

    `default` is in words. A setting that may be given `several` times is a list in the configuration file.
    """

    name: str
    parse: Callable[[str], Any]
    looks: str
    text: str
    default: str
    several: bool = False

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return f"--{self.key}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"{PREFIX}{self.name.upper()}"

    @property
    def key(self) -> str:
        """Its name in the configuration file."""
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
        "network or address of the clients to serve, such as 192.168.0.0/16 (repeat it)",
        *("everybody", True),
    ),
    Setting(
        *("connect", parsing.parse_connect, "HOST:PORT"),
        "where a tunnel of a client (CONNECT) may lead, such as mirror.example:443 (repeat it)",
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
        "requests with content that a process passes on at the same time",
        str(_DEFAULT.threads),
    ),
    Setting("connections", parsing.parse_many, "INT", "connections at once in a process", str(_DEFAULT.connections)),
    Setting("downloads", parsing.parse_count, "INT", "large downloads at once in a process", str(_DEFAULT.downloads)),
    Setting("verbose", parsing.parse_level, "", "log more: 1 each request, 2 each decision", "0"),
    Setting("syslog", parsing.parse_switch, "", "log to the system log instead of standard error", "no"),
    Setting(
        *("access_log", parsing.parse_text, "PATH"),
        "write a line per request to this file (-: to standard error)",
        "none",
    ),
    Setting(
        *("access_format", parsing.parse_format, "|".join(parsing.ACCESS_FORMATS)),
        "format of that line",
        _DEFAULT.access_format,
    ),
    Setting("max_size", parse_bound, "SIZE", "store at most this many bytes, such as 200G", "no bound"),
    Setting("min_free", parse_share, "SIZE", "keep this much of the file system free, such as 10G or 5%", "no bound"),
    Setting("max_age", parse_duration, "TIME", "remove files that were not used for this long, such as 365d", "no bound"),
    Setting(
        *("scrub", parsing.parse_period, "TIME|never"),
        "read every stored file once in this time, to find damage",
        "30d",
    ),
)
SETTINGS = {setting.name: setting for setting in _ALL}
"""By name. Those of `Timeouts` are not among them."""

_LIMITS = {
    "connect": "for a source's name to be looked up and an address to accept",
    "head": "for the whole head of a source's answer",
    "stall": "between two blocks of a body from a source",
    "crawl": "for a source to send as many KiB of a body",
    "request": "for the whole head of a client's request",
    "idle": "for a client's next request",
    "send": "for a client to take more of an answer",
    "graceful": "for running answers, when the server is told to stop",
    "tunnel": "for any byte in a tunnel, in either direction",
}
TIMEOUTS = {
    f"{one.name}_timeout": Setting(
        f"{one.name}_timeout", parsing.parse_seconds, "SECONDS", _LIMITS[one.name], f"{getattr(Timeouts(), one.name):g}"
    )
    for one in fields(Timeouts)
}
"""By name. They have no options; in the configuration file they are the table `timeouts`, without their last word."""

NAMES = (*SETTINGS, *TIMEOUTS)
"""Every setting, by the name of its option with underscores."""


def setting_of(name: str) -> Setting:
    """The setting of a name in `NAMES`."""
    return SETTINGS.get(name) or TIMEOUTS[name]
