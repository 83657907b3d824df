"""The one way out: opens a URL of a source, whatever its scheme, and notes how the source fared."""

from package_cache.errors import UpstreamError
from package_cache.model import Target
from package_cache.rules.transfer import Ask
from package_cache.upstream.answers import Answer
from package_cache.upstream.files import open_file
from package_cache.upstream.http import HttpFetcher
from package_cache.upstream.mirrors import Mirrors


class Fetcher:
    """Opens what the sources offer. Safe for any number of threads."""

    def __init__(self, http: HttpFetcher, mirrors: Mirrors) -> None:
        self._http = http
        self._mirrors = mirrors

    def urls(self, target: Target) -> tuple[str, ...]:
        """The URLs that may have a target, best first."""
        return self._mirrors.urls(target)

    def open(self, ask: Ask, accept: str | None = None, method: str = "GET") -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError."""
        if ask.url.startswith("file:"):
            return open_file(ask)
        try:
            answer = self._http.open(ask, accept, method)
        except UpstreamError as error:
            if not error.again:
                self._mirrors.report(ask.url, well=False)
            raise
        self._mirrors.report(ask.url, well=True)
        return answer

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()
