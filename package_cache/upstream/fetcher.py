"""The one way out: opens a URL of a source, whatever its scheme, and notes how the source fared."""

import time
from dataclasses import dataclass, replace
from itertools import takewhile

from package_cache.errors import UpstreamError
from package_cache.model import Repository, Source, Target
from package_cache.rules.repositories.addressed import addressed
from package_cache.rules.repositories.presets import tells_by_suffix
from package_cache.rules.transfers.disguise import is_doubtful
from package_cache.rules.transfers.steps import Ask
from package_cache.upstream.answers import Answer
from package_cache.upstream.files import open_file
from package_cache.upstream.http import HttpFetcher
from package_cache.upstream.layouts import Distfile, Layouts, split
from package_cache.upstream.linked import open_linked
from package_cache.upstream.mirrors import Mirrors
from package_cache.upstream.watched import Watched

_NO_HEAD = frozenset({405, 501})
"""What a source says that does not know the method (RFC 9110, sections 15.5.6 and 15.6.2)."""


class Fetcher:
    """Opens what the sources offer. Safe for any number of threads."""

    def __init__(self, http: HttpFetcher, mirrors: Mirrors, crawl: float) -> None:
        self._http = http
        self._mirrors = mirrors
        self._layouts = Layouts(self.open, time.monotonic)
        self._crawl = crawl

    def offer(self, repository: Repository, target: Target, accept: str | None) -> "SourceOffer":
        """What the sources of a repository have at a target; `accept` is sent to them as Accept."""
        return SourceOffer(self, self._mirrors, repository, target, accept)

    def urls(self, repository: Repository, target: Target) -> tuple[str, ...]:
        """The URLs to ask for a target, best first. May ask a source where it keeps what."""
        sources = self._mirrors.order(repository.sources)
        place = _distfile(repository, target)
        if place is not None:
            # Of the others, it is asked once they are the first: nobody waits for many sources.
            silent = tuple(takewhile(lambda source: not self._layouts.learn(source.base + place.folder), sources))
            sources = (*sources[len(silent) :], *silent)
        return self._urls(sources, target, place)

    def _urls(self, sources: tuple[Source, ...], target: Target, place: Distfile | None) -> tuple[str, ...]:
        if place is None:
            return tuple(source.base + target.asked for source in sources)
        return tuple(url for source in sources for url in self._layouts.urls(source.base + place.folder, place.name))

    def open(self, ask: Ask, accept: str | None = None, method: str = "GET", *, named: bool = True) -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError.

        `named` says that the URL tells by its suffix what is there. Where a head alone cannot be had, or not be believed,
        the answer to GET is given instead.
        """
        begun = time.monotonic()
        try:
            answer = open_file(ask) if ask.url.startswith("file:") else self._http.open(ask, accept, method)
        except UpstreamError as error:
            if not error.again:
                self._mirrors.failed(ask.url, str(error))
            raise
        self._mirrors.answered(ask.url, answer.head.status, time.monotonic() - begun)
        if method == "GET" and answer.head.status in (200, 206):
            return self._watched(ask, answer, named=named)
        if method == "HEAD" and (answer.head.status in _NO_HEAD or (named and _is_doubtful(ask, answer))):
            answer.close()
            return self.open(ask, accept, named=named)
        if answer.head.status in (403, 404, 410) or (method == "HEAD" and answer.head.status == 200):
            self._mirrors.well(ask.url)
        return answer

    def _watched(self, ask: Ask, answer: Answer, *, named: bool) -> Watched:
        watched = Watched(answer, self._crawl, self._mirrors.sent)
        try:
            if named and answer.head.status == 200:
                watched.look(ask.url)
        except BaseException:
            watched.close()
            raise
        return watched

    def rival(self, answer: Answer, repository: Repository, target: Target, left: int | None) -> str | None:
        """Where the rest of an answer, of so many bytes, would come from a good deal faster, if that is known by now."""
        if not self._mirrors.balance or not isinstance(answer, Watched) or answer.pace.recent is None:
            return None
        rate, answer.pace.recent = answer.pace.recent, None
        urls = self._urls(repository.sources, target, _distfile(repository, target))
        return self._mirrors.rival(answer.head.representation.source, urls, rate, left)

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()


@dataclass(frozen=True, slots=True)
class SourceOffer:
    """A target, as all sources together offer it."""

    _fetcher: Fetcher
    _mirrors: Mirrors
    repository: Repository
    target: Target
    accept: str | None

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs that may have it, best first, as things are now."""
        return self._fetcher.urls(self.repository, self.target)

    def open(self, ask: Ask, method: str = "GET") -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError."""
        named = tells_by_suffix(self.repository.preset, self.target.path)

        def opened(ask: Ask) -> Answer:
            return self._addressed(self._fetcher.open(ask, self.accept, method, named=named))

        if not self.repository.links:
            return opened(ask)
        return open_linked(opened, ask, self.repository.links, whole=method == "GET")

    def _addressed(self, answer: Answer) -> Answer:
        """The answer, held to the digest in its URL besides those that the source declares of the whole."""
        coding = answer.head.representation.get("content-encoding") or "identity"
        digest = addressed(self.repository.preset, self.target)
        if digest is not None and coding.lower() == "identity":
            answer.head = replace(answer.head, digests=(*answer.head.digests, digest))
        return answer

    def rival(self, answer: Answer, left: int | None) -> str | None:
        """Where the rest of an answer would come from a good deal faster."""
        return self._fetcher.rival(answer, self.repository, self.target, left)

    def failed(self, url: str, reason: str) -> None:
        """What was opened there came to nothing, and that is the source's fault."""
        self._mirrors.failed(url, reason)

    def delivered(self, url: str) -> None:
        """What was opened there is what was asked for, whole."""
        self._mirrors.well(url)


def _distfile(repository: Repository, target: Target) -> Distfile | None:
    return split(target) if repository.may_have_distfiles else None


def _is_doubtful(ask: Ask, answer: Answer) -> bool:
    head = answer.head
    return head.status == 200 and is_doubtful(ask.url.partition("?")[0], head.representation.get("content-type"))
