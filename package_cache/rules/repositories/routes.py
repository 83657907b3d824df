"""Whose file a request names: which repository, and which path in it.

A repository is found by the host that a client believes it talks to, or else by the beginning of the path. So one cache
serves clients that were told of it, those whose requests a router redirects, and those that use it as a forward proxy.
"""

from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from package_cache.errors import BadRequest, ForeignHost, NoRepository, RequestError
from package_cache.model import Key, Place, Repository, Request, Source, Target
from package_cache.rules.http.targets import authority_of, parse_target, parts_of
from package_cache.rules.repositories.freshness import Policy
from package_cache.rules.repositories.layouts import DISTFILES, flat_path
from package_cache.rules.repositories.links import Base

RESERVED = "/-/"
"""The beginning of paths that are this cache's own business, and no repository's."""
_OWN = RESERVED.rstrip("/")
_REMEMBERED = 1024


class Routes:
    """All repositories, and how one is found. `own` are the hosts that this cache itself goes by."""

    def __init__(self, repositories: tuple[Repository, ...], own: frozenset[str] = frozenset()) -> None:
        self.repositories = repositories
        self._own = own
        self._policies = {one.home: Policy(one) for one in (_UNKNOWN, *repositories)}
        self._by_home = tuple(sorted(repositories, key=lambda one: len(one.home), reverse=True))
        self._by_place = _by_place(repositories)
        self._hosts: dict[str, str | None] = {}

    def find(self, text: str, host: str | None, own: str = "") -> Target:
        """What a request names, by its target and its Host; `own` is another host that this cache goes by.

        Raises BadRequest for what names nothing, ForeignHost where it is used as a proxy for a host that it does not serve,
        NoRepository for a path that no repository has. What is this cache's own business is found too; see `is_own`.
        """
        authority, target = parse_target(text)
        placed = self._placed(self._of_host(host) if authority is None else authority, target)
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

    def posted(self, method: str, text: str, host: str | None) -> Target | None:
        """What a POST is passed on to; None for any other request. For the arguments see `find`."""
        if method != "POST":
            return None
        try:
            target = self.find(text, host)
        except RequestError:
            return None
        return target if self.passes_post(target) else None

    def passes_post(self, target: Target) -> bool:
        """Whether a POST to that target is passed on."""
        return not is_own(target) and self.policy(target).passes_post(target)

    def base(self, request: Request) -> Base:
        """Where who asks finds this cache, and in it the repository of what it asks for."""
        authority, target = parse_target(request.text) if request.text else (None, request.target)
        host = request.fields.get("host") if authority is None else authority
        return Base(f"{request.scheme}://{host}" if host else "", target.path.removesuffix(request.target.path))

    def named(self, text: str) -> Target:
        """What a person means by a path, by a URL of a source or of this cache, or by a name that it told.

        Also what was stored for a repository that is no more. Raises BadRequest for what names nothing, NoRepository for
        what has no name here.
        """
        authority, target = parse_target(text)
        placed = self._placed(authority, target)
        if placed is not None:
            return placed
        return self._by_prefix(target) or _within(_UNKNOWN, target, 0)

    def of_key(self, key: Key) -> tuple[Target, str | None]:
        """What a key of the proxy names, and the Accept that is part of it."""
        text, accept = parts_of(key)
        return self.named(text), accept

    def repository(self, target: Target) -> Repository:
        """The repository of a target."""
        return self.policy(target).repository

    def policy(self, target: Target) -> Policy:
        """What holds in the repository of a target."""
        return self._policies[target.home]

    def _by_prefix(self, target: Target) -> Target | None:
        """What a path names here by its beginning; None if no repository has it."""
        for one in self._by_home:
            if target.path.startswith(one.home + "/"):
                return _within(one, target, len(one.home))
        return None

    def _placed(self, authority: str | None, target: Target) -> Target | None:
        """What is meant where clients believe in that authority; None if no repository is there."""
        for path, repository in self._by_place.get(authority, ()) if authority else ():
            if target.path.startswith(path + "/"):
                return self._linked(repository, target) or self._apart(_within(repository, target, len(path)), authority)
        return None

    def _linked(self, repository: Repository, target: Target) -> Target | None:
        """What the documents of a repository link to here: by its path alone, at whatever host they were asked for."""
        linked = any(len(here) > 1 and target.path.startswith(here) for _, here in repository.links)
        return self._by_prefix(target) if linked else None

    def _of_host(self, host: str | None) -> str | None:
        """The authority in a Host field; None if it names nobody. Clients of one cache name few, so they are remembered."""
        if host is None or host in self._hosts:
            return self._hosts.get(host or "")
        if len(self._hosts) >= _REMEMBERED:
            self._hosts.clear()
        self._hosts[host] = authority = _authority(host)
        return authority

    def _apart(self, target: Target, authority: str | None) -> Target:
        """What is asked for by its host, unless its name here would be that of another repository's file."""
        for one in self._by_home:
            if one.home and not target.home and target.path.startswith(one.home + "/"):
                raise NoRepository(f"{one.home}/ is the repository {one.name} here, and nothing of {authority}")
        return target

    def _have(self) -> str:
        """What there is, for those who asked for something else."""
        paths = [f"{one.home}/" for one in self._by_home if not one.home.startswith(RESERVED)]
        hosts = [authority for authority in self._by_place if authority]
        told = [f"paths that begin with {', '.join(paths)}"] if paths else []
        told += [f"what belongs to {', '.join(hosts)}"] if hosts else []
        return f"; it has {', and '.join(told)}" if told else ""


def is_own(target: Target) -> bool:
    """Whether it is this cache's own business: never asked of a source, and never stored."""
    return target.home == _OWN


_UNKNOWN = Repository("", ())
"""What is known of files whose repository is not configured."""


def _by_place(repositories: tuple[Repository, ...]) -> dict[str, list[tuple[str, Repository]]]:
    """Repositories by authority, with the path at which one is there, the longest first; what is configured goes first."""
    found: dict[Place, Repository] = {}
    for one in repositories:
        for place in one.places:
            found.setdefault(place, one)
    for one in repositories:
        for place in _places_of(one.sources):
            found.setdefault(place, one)
    by_authority: dict[str, list[tuple[str, Repository]]] = {}
    for place in sorted(found, key=lambda place: len(place.path), reverse=True):
        by_authority.setdefault(place.authority, []).append((place.path, found[place]))
    return by_authority


def _places_of(sources: Iterable[Source]) -> Iterable[Place]:
    """Where clients know the sources themselves to be."""
    for source in sources:
        parts = urlsplit(source.base)
        if parts.scheme in ("http", "https"):
            with suppress(BadRequest):  # nobody can ask for a path of that spelling
                _, target = parse_target(parts.path or "/")
                yield Place(authority_of(parts), target.path.rstrip("/"))


def _authority(host: str) -> str | None:
    try:
        return authority_of(urlsplit(f"http://{host}")) or None
    except ValueError:
        return None


def _within(repository: Repository, target: Target, start: int) -> Target:
    """A target in its repository, whose path begins there."""
    path = spelled = target.path[start:]
    if DISTFILES in path and target.query is None and repository.may_have_distfiles:
        # Whatever layout a client knows, a distfile has one name here (GLEP 75).
        folder, found, rest = path.partition(DISTFILES)
        path = folder + found + flat_path(rest)
    return Target(path, target.query, repository.home, spelled if spelled != path else None)
