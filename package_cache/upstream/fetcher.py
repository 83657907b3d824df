"""The one way out: opens a URL of a source, whatever its scheme, and notes how the source fared."""

import time
from dataclasses import dataclass, replace
from itertools import takewhile

from package_cache.errors import UpstreamError, UpstreamLie
from package_cache.model import Fields, Repository, Source, Target
from package_cache.rules.repositories.addressed import addressed
from package_cache.rules.repositories.links import has_links
from package_cache.rules.repositories.presets import tells_by_suffix
from package_cache.rules.transfers.disguise import is_doubtful
from package_cache.rules.transfers.steps import Ask, Head
from package_cache.upstream.answers import Answer
from package_cache.upstream.decoded import decoded, uncoded
from package_cache.upstream.files import open_file
from package_cache.upstream.http import HttpFetcher
from package_cache.upstream.layouts import Distfile, Layouts, split
from package_cache.upstream.mirrors import Mirrors
from package_cache.upstream.watched import Watched

_NO_HEAD = frozenset({405, 501})
"""What a source says that does not know the method (RFC 9110, sections 15.5.6 and 15.6.2)."""

_POSTS = 2
"""How often a POST is sent to a source: a connection that was kept may be over just then."""
_LONGEST = 64 << 20
"""Bytes of an answer to a POST."""
_TOLD = (2, 4)
"""Classes of statuses that the client is told."""


class Fetcher:
    """Opens what the sources offer. Safe for any number of threads."""

    def __init__(self, http: HttpFetcher, mirrors: Mirrors, crawl: float) -> None:
        self._http = http
        self._mirrors = mirrors
        self._layouts = Layouts(self.open, time.monotonic)
        self._crawl = crawl

    def offer(self, repository: Repository, target: Target, accept: str | None, via: str | None = None) -> "SourceOffer":
        """What the sources of a repository have at a target; `accept` is sent to them as Accept.

        `via` is the Via of whoever asks, so that caches which lead to each other find that out.
        """
        return SourceOffer(self, self._mirrors, repository, target, accept, via)

    def are_aside(self, repository: Repository) -> bool:
        """Whether all sources of a repository are set aside: whoever has something to give need not wait for them."""
        return self._mirrors.are_aside(repository.sources)

    def may_look(self, repository: Repository) -> bool:
        """Whether the caller is to find out how the sources of a repository are, though it has an answer without them."""
        return self._mirrors.may_look(repository.sources)

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
        urls: list[str] = []
        for source in sources:
            urls += self._layouts.urls(source.base + place.folder, place.name)
            if target.spelled is not None:
                urls.append(source.base + target.spelled)
        return tuple(dict.fromkeys(urls))

    def open(
        self, ask: Ask, accept: str | None = None, method: str = "GET", *, via: str | None = None, named: bool = True
    ) -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError.

        `named` says that the URL tells by its suffix what is there. Where a head alone cannot be had, or not be believed,
        the answer to GET is given instead.
        """
        self._mirrors.check(ask.url)
        begun = time.monotonic()
        try:
            answer = open_file(ask) if ask.url.startswith("file:") else self._http.open(ask, accept, method, via)
        except UpstreamError as error:
            if not error.again:
                self._mirrors.failed(ask.url, str(error))
            raise
        self._mirrors.answered(ask.url, answer.head.status, time.monotonic() - begun)
        if answer.head.retry_after is not None:
            self._mirrors.rest(ask.url, answer.head.retry_after)
        if method == "GET" and answer.head.status in (200, 206):
            return self._watched(ask, answer, named=named)
        if method == "HEAD" and (answer.head.status in _NO_HEAD or (named and _is_doubtful(ask, answer))):
            answer.close()
            return self.open(ask, accept, via=via, named=named)
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

    def post(self, repository: Repository, target: Target, said: Fields, content: bytes) -> tuple[Head, bytes]:
        """What the first source answers that can, and all of its body. Raises UpstreamError.

        What is sent is a question: asking it again does no harm.
        """
        trouble = UpstreamError("no source takes what is sent")
        for source in self._mirrors.order(repository.sources):
            url = source.base + target.asked
            for _ in range(_POSTS if url.startswith("http") else 0):
                try:
                    return self._post(url, said, content)
                except UpstreamError as error:
                    trouble = type(error)(f"{url} {error}", again=error.again)
                    if not error.again:
                        self._mirrors.failed(url, str(error))
                        break
        raise trouble

    def _post(self, url: str, said: Fields, content: bytes) -> tuple[Head, bytes]:
        answer = self._http.post(url, said, content)
        try:
            if answer.head.status // 100 not in _TOLD:
                raise UpstreamError(f"answered {answer.head.status}")
            if answer.head.representation.size is None and not answer.head.chunked:
                raise UpstreamError("sent an answer whose end is not marked")
            return answer.head, _whole(answer)
        finally:
            answer.close()

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
    via: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs that may have it, best first, as things are now."""
        return self._fetcher.urls(self.repository, self.target)

    def open(self, ask: Ask, method: str = "GET") -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError."""
        named = tells_by_suffix(self.repository.preset, self.target.path)
        answer = self._addressed(self._fetcher.open(ask, self.accept, method, via=self.via, named=named))
        has_own = self.repository.links or self.repository.tarballs
        if has_own and has_links(answer.head.representation.get("content-type"), None):
            return decoded(answer, ask.url)  # nobody asked for a coding, and the links are inside
        return uncoded(answer, ask.url)

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


def _whole(answer: Answer) -> bytes:
    """All of a body that is not kept. Raises UpstreamError."""
    blocks: list[bytes] = []
    have = 0
    while block := answer.read():
        have += len(block)
        if have > _LONGEST:
            raise UpstreamLie(f"sent more than {_LONGEST} bytes")
        blocks.append(block)
    return b"".join(blocks)


def _distfile(repository: Repository, target: Target) -> Distfile | None:
    return split(target) if repository.may_have_distfiles else None


def _is_doubtful(ask: Ask, answer: Answer) -> bool:
    head = answer.head
    return head.status == 200 and is_doubtful(ask.url.partition("?")[0], head.representation.get("content-type"))
