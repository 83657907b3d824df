"""Builds the object graph from a `Config`: the only module that knows every part."""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

from package_cache.config import Config, TcpAddress, parse_source
from package_cache.config.layers import configured
from package_cache.engine.checks import Checks
from package_cache.engine.fills.running import Fills
from package_cache.engine.health import Health, look_at
from package_cache.engine.service import Service
from package_cache.engine.upkeep.caretaker import Caretaker
from package_cache.engine.upkeep.culling import Culler
from package_cache.engine.upkeep.last_use import LastUse
from package_cache.engine.upkeep.room import Room
from package_cache.engine.upkeep.space import Space
from package_cache.engine.upkeep.verification import Checker, Refetch, Scrub, Sweep
from package_cache.errors import ConfigError, StoreError
from package_cache.model import Source
from package_cache.rules.repositories.routes import Routes
from package_cache.server.access import AccessLog, FileSink, LoggerSink
from package_cache.server.admission import Admission
from package_cache.server.app import Application
from package_cache.server.tunnels import Tunnels
from package_cache.storage.cache_directory import Apart, CacheDirectory, default_directory, open_cache_directory, try_commit
from package_cache.storage.notes import Peers, Reports
from package_cache.storage.registry import Totals
from package_cache.storage.removal import Removal
from package_cache.storage.system import installation
from package_cache.upstream.answers import Throttle
from package_cache.upstream.fetcher import Fetcher
from package_cache.upstream.mirrors import Mirrors
from package_cache.upstream.reach import problems, software

logger = logging.getLogger(__name__)

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def cache_directory(config: Config) -> Path:
    """The cache directory: the configured one, else that of this user."""
    return config.cache or default_directory()


def prepare(config: Config) -> Totals:
    """Make the cache directory usable, and return what it holds already. Raises StoreError with what to do."""
    stores = _open_stores(config, reading=True)
    totals = stores.registry.totals()
    _try(stores)
    stores.registry.close()
    return totals


def _try(stores: CacheDirectory) -> None:
    """Tell at once that nothing can be stored; raise StoreError where nothing ever could be."""
    try:
        try_commit(stores.root / "parts-v1", stores.root / "blobs-v1", stores.blobs.locks)
    except Apart:
        raise
    except StoreError as error:
        logger.warning("nothing can be stored for now, only what is here is served without a source: %s", error)


def require_cache(config: Config) -> Path:
    """The directory of an existing cache. Raises StoreError."""
    root = cache_directory(config)
    try:
        found = (root / "blobs-v1").is_dir()
    except OSError as error:
        raise StoreError(f"cannot look into {root}: {error.strerror}") from error
    if not found:
        raise StoreError(f"there is no cache in {root}; --cache PATH (or PACKAGE_CACHE_CACHE) says where it is")
    return root


@contextmanager
def opened(config: Config, *, reading: bool = False) -> Iterator[CacheDirectory]:
    """The existing cache, open within a with-block; with `reading` it is only read. Raises StoreError."""
    require_cache(config)
    stores = _open_stores(config, reading=reading)
    try:
        yield stores
    finally:
        stores.registry.close()


def _open_stores(config: Config, *, reading: bool = False) -> CacheDirectory:
    remedy = "Give a directory this user may write with --cache PATH"
    return open_cache_directory(cache_directory(config), remedy, reading=reading)


def build_service(config: Config, throttle: Throttle | None = None) -> Service:
    """The service of a configuration, with `throttle` to limit the speed of downloads. Opens the store, starts nothing."""
    stores = _open_stores(config, reading=True)
    registry = stores.registry
    via = _via(stores)
    space, culler = build_culler(config, stores)
    fills = Fills(stores.parts, config.downloads)
    return Service(
        registry,
        stores.blobs,
        fills,
        _fetcher(config, via, stores.reports, throttle),
        LastUse(registry, time.time),
        Room(space, culler),
        stores.damages,
        Checks(stores.blobs, stores.damages, fills.threads.run),
        _caretaker(config, stores, culler),
        Health(partial(look_at, stores, config.repositories), fills.threads.run),
        via,
        routes_of(config),
    )


def _via(stores: CacheDirectory) -> str:
    """The name of this cache in Via (RFC 9110, section 7.6.3)."""
    return f"package-cache-{installation(stores.registry.instance, stores.root)}"


def routes_of(config: Config) -> Routes:
    """The repositories of a configuration, by which a request's is found."""
    own = (address.host.lower() for address in config.addresses if isinstance(address, TcpAddress) and address.host)
    return Routes(config.repositories, _LOCAL.union(own))


def build_culler(config: Config, stores: CacheDirectory) -> tuple[Space, Culler]:
    """The parts that keep a store within the bounds of a configuration. Starts nothing."""
    space = Space(stores.root, stores.registry, config.max_size, config.min_free, config.max_age)
    removal = Removal(stores.registry.database, stores.blobs)
    peers = Peers(stores.root / "bounds-v1", stores.blobs.locks)
    return space, Culler(removal, stores.blobs.locks, space, time.time, peers)


def _fetcher(config: Config, via: str, reports: Reports, throttle: Throttle | None = None) -> Fetcher:
    mirrors = Mirrors(config.sources, time.monotonic, balance=config.balance, tell=reports.tell)
    return Fetcher(config.sources, config.timeouts, software(), via, mirrors, throttle)


def _caretaker(config: Config, stores: CacheDirectory, culler: Culler) -> Caretaker:
    sweep = None if stores.only_read else Sweep(stores)
    scrub = Scrub(stores, config.scrub) if config.scrub and not stores.only_read else None
    return Caretaker(stores.registry, stores.blobs.locks, sweep, scrub, culler.start)


@contextmanager
def checker(config: Config, *, repair: bool) -> Iterator[tuple[Checker, CacheDirectory]]:
    """The check of the existing cache, which also repairs it with `repair`. Raises ConfigError, StoreError."""
    if repair and not config.sources:
        raise ConfigError(["--repair fetches damaged files again, but no source is given: name them with --source URL"])
    with opened(config) as stores:
        refetch = None
        if repair:
            fetcher = _fetcher(config, _via(stores), stores.reports)
            room = Room(*build_culler(config, stores))
            refetch = Refetch(stores, fetcher, routes_of(config), room)
        yield Checker(stores, refetch, time.time), stores


def build_application(config: Config) -> Application:
    """The WSGI callable of a configuration."""
    tunnels = Tunnels(frozenset(config.connect), config.timeouts)
    return Application(build_service(config), build_access_log(config), Admission(config.allow), tunnels)


def build_access_log(config: Config) -> AccessLog:
    """The access log of a configuration: a file, else the logger `package_cache.access`."""
    if config.access_log:
        with _writing(config.access_log):
            return AccessLog(FileSink(config.access_log), config.access_format)
    return AccessLog(LoggerSink(), config.access_format)


def check_access_log(config: Config) -> None:
    """Raise StoreError if the access log of a configuration cannot be written."""
    if config.access_log not in ("", "-"):
        with _writing(config.access_log):
            FileSink.check(config.access_log)


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write the access log {path}: {error.strerror}") from error


NO_SOURCE = (
    "no source given: name at least one mirror, for example --source http://distfiles.gentoo.org/"
    " (or set PACKAGE_CACHE_SOURCE, or write a config.toml: package-cache config init)"
)


def require_sources(config: Config) -> None:
    """Raise ConfigError if there is no source, or if the environment names a proxy for it that cannot be used."""
    if not config.sources:
        raise ConfigError([NO_SOURCE])
    require_ways(config)


def require_ways(config: Config) -> None:
    """Raise ConfigError if the environment names a proxy or certificates for the sources that cannot be used."""
    found = problems(config.sources, os.environ)
    if found:
        raise ConfigError(found)


_LEAST_GUNICORN = (20, 1)
"""The oldest Gunicorn whose arbiter works as `server.gunicorn` expects."""


def require_gunicorn(config: Config) -> None:
    """Raise ConfigError where the server is to run under Gunicorn, and there is none or too old a one."""
    if config.server != "gunicorn":
        return
    try:
        found = tuple(import_module("gunicorn").version_info)
    except ModuleNotFoundError as error:
        if error.name != "gunicorn":
            raise
        found = ()
    if found[:2] < _LEAST_GUNICORN:
        what = f"Gunicorn {'.'.join(map(str, found))} is too old" if found else "Gunicorn is not installed"
        raise ConfigError([f"--server gunicorn: {what}; it takes {'.'.join(map(str, _LEAST_GUNICORN))} or later"])


class Server(Application):
    """The WSGI callable for `sources`, an iterable of base URLs in order of preference, cached in the directory `cache`.

    Raises ConfigError for a source that is not one, StoreError for a cache that cannot be used.
    """

    def __init__(self, sources: Iterable[str], cache: str | os.PathLike[str]) -> None:
        if isinstance(sources, str):
            raise ConfigError([f"sources is a list of URLs: write [{sources!r}]"])
        config = Config(source=_parsed(sources), cache=Path(cache))
        require_sources(config)
        application = build_application(config)
        super().__init__(application.service, application.access)


def _parsed(sources: Iterable[str]) -> tuple[Source, ...]:
    parsed: list[Source] = []
    problems: list[str] = []
    for source in sources:
        try:
            parsed.append(parse_source(source))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    return tuple(parsed)


def create_app() -> Application:
    """The WSGI callable, configured by environment: `gunicorn 'package_cache:create_app()'`.

    Every option of the command is a variable: `PACKAGE_CACHE_SOURCE` (URLs separated by spaces), `PACKAGE_CACHE_CACHE`
    and so on; `PACKAGE_CACHE_CONFIG` names a configuration file. Raises ConfigError or StoreError.
    """
    config = configured(os.environ, {}).config
    require_sources(config)
    return build_application(config)
