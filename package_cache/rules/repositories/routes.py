"""Which repository a request is for, and which path in it.

A repository is found by the host that a client believes it talks to, or else by the beginning of the path. So one cache
serves clients that are configured to use it, those whose requests a router redirects, and those that use it as a forward
proxy.
"""

from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from package_cache.errors import BadRequest, ForeignHost, NoRepository
from package_cache.model import Key, Repository, Request, Source, Target, VirtualHost
from package_cache.rules.http.targets import authority_of, parse_target, parts_of
from package_cache.rules.repositories.freshness import RepositoryPolicy
from package_cache.rules.repositories.layouts import DISTFILES_PATH, flat_path
from package_cache.rules.repositories.links import Base

RESERVED = "/-/"
"""The beginning of the paths of the cache's own pages, which belong to no repository."""
_OWN = RESERVED.rstrip("/")
_REMEMBERED = 1024


class Routes:
    """All repositories, and how one is found. `own` are the host names of this cache itself."""

    def __init__(self, repositories: tuple[Repository, ...], own: frozenset[str] = frozenset()) -> None:
        self.repositories = repositories
        self._own = own
        self._policies = {one.home: RepositoryPolicy(one) for one in (_UNKNOWN, *repositories)}
        self._by_home = tuple(sorted(repositories, key=lambda one: len(one.home), reverse=True))
        self._begins = tuple((f"{one.home}/", one) for one in self._by_home)
        self._by_authority = _by_authority(repositories)
        self._authorities: dict[str, str | None] = {}

    def find(self, text: str, host: str | None, own: str = "") -> Target:
        """What a request names, by its target and its Host; `own` is a further host name of this cache.

        Raises BadRequest for a target that names nothing, ForeignHost if it names a host that is not served, NoRepository
        for a path that no repository has. The cache's own pages are found, too; see `is_own`.
        """
        authority, target = parse_target(text)
        if self._by_authority:
            placed = self._by_host(self._of_host(host) if authority is None else authority, target)
            if placed is not None:
                return placed
        if authority is not None and urlsplit(f"//{authority}").hostname not in {own, *self._own}:
            raise ForeignHost(f"this cache has nothing of {authority}{self._have()}")
        if target.path.startswith(RESERVED):
            return Target(target.path.removeprefix(_OWN), target.query, _OWN)
        found = self._by_prefix(target)
        if found is not None:
            return found
        raise NoRepository(f"this cache has nothing at {target.path}{self._have()}")

    def passes_post(self, target: Target) -> bool:
        """Whether a POST to that target is passed on."""
        return not is_own(target) and self.policy(target).passes_post(target)

    def base(self, request: Request) -> Base:
        """Where the client finds this cache, and the repository of its target there."""
        authority, target = parse_target(request.text) if request.text else (None, request.target)
        host = request.fields.get("host") if authority is None else authority
        return Base(f"{request.scheme}://{host}" if host else "", target.path.removesuffix(request.target.path))

    def named(self, text: str) -> Target:
        """What a person means by a path, a URL of a source or of this cache, or a name that this cache printed.

        That may be a file of a repository that was removed from the configuration. Raises BadRequest for a text that names
        nothing, NoRepository for a file that has no name here.
        """
        authority, target = parse_target(text)
        placed = self._by_host(authority, target)
        if placed is not None:
            return placed
        return self._by_prefix(target) or _within(_UNKNOWN, target, 0)

    def of_key(self, key: Key) -> tuple[Target, str | None]:
        """The target that a key of the proxy names, and the Accept that is part of the key."""
        text, accept = parts_of(key)
        return self.named(text), accept

    def repository(self, target: Target) -> Repository:
        """The repository of a target."""
        return self.policy(target).repository

    def policy(self, target: Target) -> RepositoryPolicy:
        """What holds in the repository of a target."""
        return self._policies[target.home]

    def _by_prefix(self, target: Target) -> Target | None:
        """The target that a path names by its beginning; None if no repository has it."""
        for beginning, one in self._begins:
            if target.path.startswith(beginning):
                return _within(one, target, len(beginning) - 1)
        return None

    def _by_host(self, authority: str | None, target: Target) -> Target | None:
        """The target that is meant by clients that address that authority; None if no repository is there."""
        for path, repository in self._by_authority.get(authority, ()) if authority else ():
            if target.path.startswith(path + "/"):
                return self._linked(repository, target) or self._apart(_within(repository, target, len(path)), authority)
        return None

    def _linked(self, repository: Repository, target: Target) -> Target | None:
        """The target of a link in a repository's documents: it is found by its path alone, whatever the host."""
        linked = any(len(here) > 1 and target.path.startswith(here) for _, here in repository.links)
        return self._by_prefix(target) if linked else None

    def _of_host(self, host: str | None) -> str | None:
        """The authority in a Host field; None if it is invalid. Clients of one cache send few, so they are remembered."""
        if host is None or host in self._authorities:
            return self._authorities.get(host or "")
        if len(self._authorities) >= _REMEMBERED:
            self._authorities.clear()
        self._authorities[host] = authority = _authority(host)
        return authority

    def _apart(self, target: Target, authority: str | None) -> Target:
        """A target found by its host, unless its name here would be that of another repository's file."""
        for one in self._by_home:
            if one.home and not target.home and target.path.startswith(one.home + "/"):
                raise NoRepository(f"{one.home}/ is the repository {one.name} here, and nothing of {authority}")
        return target

    def _have(self) -> str:
        """What this cache has, for the message to a client that asked for something else."""
        paths = [f"{one.home}/" for one in self._by_home if not one.home.startswith(RESERVED)]
        hosts = [authority for authority in self._by_authority if authority]
        told = [f"paths that begin with {', '.join(paths)}"] if paths else []
        told += [f"what belongs to {', '.join(hosts)}"] if hosts else []
        return f"; it has {', and '.join(told)}" if told else ""


def is_own(target: Target) -> bool:
    """Whether it is one of the cache's own pages: never requested from a source, and never stored."""
    return target.home == _OWN


_UNKNOWN = Repository("", ())
"""Stands for repositories that are not configured any more."""


def _by_authority(repositories: tuple[Repository, ...]) -> dict[str, list[tuple[str, Repository]]]:
    """Repositories by authority, with the path of each there, the longest first; configured hosts win over sources."""
    named = [(host, one) for one in repositories for host in one.hosts]
    named += [(host, one) for one in repositories for host in _hosts_of(one.sources)]
    found = dict(reversed(named))  # of several, the first one
    by_authority: dict[str, list[tuple[str, Repository]]] = {}
    for host in sorted(found, key=lambda host: len(host.path), reverse=True):
        by_authority.setdefault(host.authority, []).append((host.path, found[host]))
    return by_authority


def _hosts_of(sources: Iterable[Source]) -> Iterable[VirtualHost]:
    """The hosts and paths of the sources themselves."""
    for source in sources:
        parts = urlsplit(source.base)
        if parts.scheme in ("http", "https"):
            with suppress(BadRequest):  # no request can name such a path
                _, target = parse_target(parts.path or "/")
                yield VirtualHost(authority_of(parts), target.path.rstrip("/"))


def _authority(host: str) -> str | None:
    try:
        return authority_of(urlsplit(f"http://{host}")) or None
    except ValueError:
        return None


def _within(repository: Repository, target: Target, start: int) -> Target:
    """A target in its repository, whose path begins at `start`."""
    path = spelled = target.path[start:]
    if DISTFILES_PATH in path and target.query is None and repository.may_have_distfiles:
        # A distfile has one name here, whatever layout the client knows (GLEP 75).
        folder, found, rest = path.partition(DISTFILES_PATH)
        path = folder + found + flat_path(rest)
    if path == spelled and not start and repository.home == target.home:
        return target
    return Target(path, target.query, repository.home, spelled if spelled != path else None)
