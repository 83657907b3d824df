"""The one way out: opens a URL of a source, whatever its scheme, and notes how the source fared."""

import time
from dataclasses import dataclass

from package_cache.errors import UpstreamError
from package_cache.model import Target
from package_cache.rules.disguise import is_doubtful
from package_cache.rules.steps import Ask
from package_cache.upstream.answers import Answer
from package_cache.upstream.files import open_file
from package_cache.upstream.http import HttpFetcher
from package_cache.upstream.mirrors import Mirrors
from package_cache.upstream.watched import Watched


class Fetcher:
    """Opens what the sources offer. Safe for any number of threads."""

    def __init__(self, http: HttpFetcher, mirrors: Mirrors, crawl: float) -> None:
        self._http = http
        self._mirrors = mirrors
        self._crawl = crawl

    def offer(self, target: Target, accept: str | None) -> "SourceOffer":
        """What the sources have at a target; `accept` is sent to them as Accept."""
        return SourceOffer(self, self._mirrors, target, accept)

    def open(self, ask: Ask, accept: str | None = None, method: str = "GET") -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError.

        Where a head alone cannot be believed, the answer to GET is given instead.
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
            return self._watched(ask, answer)
        if method == "HEAD" and answer.head.status == 200 and _is_doubtful(ask, answer):
            answer.close()
            return self.open(ask, accept)
        if answer.head.status in (403, 404, 410) or (method == "HEAD" and answer.head.status == 200):
            self._mirrors.well(ask.url)
        return answer

    def _watched(self, ask: Ask, answer: Answer) -> Watched:
        watched = Watched(answer, self._crawl, self._mirrors.sent)
        try:
            if answer.head.status == 200:
                watched.look(ask.url)
        except BaseException:
            watched.close()
            raise
        return watched

    def rival(self, answer: Answer, left: int | None) -> str | None:
        """Where the rest of an answer, of so many bytes, would come from a good deal faster, if that is known by now."""
        if not self._mirrors.balance or not isinstance(answer, Watched) or answer.pace.recent is None:
            return None
        rate, answer.pace.recent = answer.pace.recent, None
        return self._mirrors.rival(answer.head.representation.source, rate, left)

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()


@dataclass(frozen=True, slots=True)
class SourceOffer:
    """A target, as all sources together offer it."""

    _fetcher: Fetcher
    _mirrors: Mirrors
    target: Target
    accept: str | None

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs that may have it, best first, as things are now."""
        return self._mirrors.urls(self.target)

    def open(self, ask: Ask, method: str = "GET") -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError."""
        return self._fetcher.open(ask, self.accept, method)

    def rival(self, answer: Answer, left: int | None) -> str | None:
        """Where the rest of an answer would come from a good deal faster."""
        return self._fetcher.rival(answer, left)

    def failed(self, url: str, reason: str) -> None:
        """What was opened there came to nothing, and that is the source's fault."""
        self._mirrors.failed(url, reason)

    def delivered(self, url: str) -> None:
        """What was opened there is what was asked for, whole."""
        self._mirrors.well(url)


def _is_doubtful(ask: Ask, answer: Answer) -> bool:
    return is_doubtful(ask.url.partition("?")[0], answer.head.representation.get("content-type"))
