"""The settings of a running cache: frozen values, which say nothing of where they came from."""

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from package_cache.model import Repository, Source
from package_cache.units import Share


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits on silence, in seconds.

    Towards a source: `connect` to accept a connection, `head` for the whole head of an answer, `stall` between two
    blocks of a body, `crawl` for as many KiB of it.
    Towards a client: `request` for a whole request head, `idle` for the next request, `send` to take what was sent,
    `graceful` for running answers when the server is told to stop, `tunnel` for anything to move in a tunnel.
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
class TcpAddress:
    """Where to listen. `host` is None for all addresses of the machine, `port` 0 for any free one."""

    host: str | None
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket to listen on, by its absolute path."""

    path: Path


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. `cache` is None where the user's cache directory of the system is meant.

    `source` are the sources of the repository at `/`, `connect` is where tunnels may lead. `max_size` is in bytes and
    `max_age` in seconds; a bound that is None is not kept. `scrub` is in how many seconds every stored file is read through
    once; None if that is not done.
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
        """All repositories: `source` are the sources of the one at `/`, whatever else is said of that one."""
        if not self.source:
            return self.repository
        if any(not one.home for one in self.repository):
            return tuple(one if one.home else replace(one, sources=self.source) for one in self.repository)
        return (Repository("root", self.source), *self.repository)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of all repositories, each once."""
        return tuple({source.base: source for one in self.repositories for source in one.sources}.values())
