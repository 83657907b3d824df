"""What a caller of the library asks for, as the download loop sees it: a call that can be made at several URLs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from package_cache.errors import UpstreamError, UpstreamLie
from package_cache.library.downloads.results import Attempt
from package_cache.rules.http.digests import Digest
from package_cache.rules.transfers.steps import Ask
from package_cache.upstream.answers import Answer
from package_cache.upstream.asking import Call, open_call
from package_cache.upstream.bounded import Bounded
from package_cache.upstream.calls import Backend
from package_cache.upstream.decoded import decoded
from package_cache.upstream.watched import Watched


@dataclass(frozen=True, slots=True)
class Limits:
    """What a download must be: at most `max_size` bytes, of that SHA-256 in hex, and what `check` does not complain of.

    `check` is given the whole body, and returns what is wrong with it. `crawl` is a time in seconds: who sends less than a
    KiB a second for so long is given up.
    """

    crawl: float
    max_size: int | None = None
    sha256: str | None = None
    check: Callable[[bytes], str | None] | None = None


class Offer:
    """A call at each of `urls`. Notes what was answered. For one download at a time."""

    def __init__(self, backend: Callable[[], Backend], call: Call, urls: tuple[str, ...], limits: Limits) -> None:
        self.urls = urls
        self.attempts: list[Attempt] = []
        self.retry_after: int | None = None
        self._backend = backend
        self._call = call
        self._limits = limits
        self._resolved: dict[str, str] = {}

    def prepare(self) -> None:
        """Load what sends the requests. Raises ConfigError if that cannot be done."""
        self._backend()

    def open(self, ask: Ask, method: str = "GET") -> Answer:
        """Make the call. Raises UpstreamError."""
        assert method == "GET"
        try:
            answer = open_call(self._backend(), self._call, ask)
        except UpstreamError as error:
            self.attempts.append(Attempt(ask.url, None, str(error)))
            raise
        status = answer.head.status
        self.attempts.append(Attempt(ask.url, status))
        self._resolved[ask.url] = answer.url
        rest = answer.head.retry_after
        self.retry_after = None if rest is None else math.ceil(rest)
        if status not in (200, 206):
            return answer
        try:
            return self._within(answer, ask)
        except UpstreamError as error:
            answer.close()
            self.attempts[-1] = Attempt(ask.url, status, str(error))
            raise
        except BaseException:
            answer.close()
            raise

    def _within(self, raw: Answer, ask: Ask) -> Answer:
        """The answer, held to the limits."""
        limits = self._limits
        answer: Answer = Watched(decoded(raw, ask.url), limits.crawl, _note_nothing)
        if answer.head.status == 200:
            assert isinstance(answer, Watched)
            answer.look(ask.url)
        if limits.max_size is not None:
            answer = Bounded(answer, ask.offset if answer.head.status == 206 else 0, limits.max_size)
        if limits.check is not None:
            answer = _Checked(answer, limits.check)
        if limits.sha256 is not None:
            wanted = Digest("sha256", bytes.fromhex(limits.sha256))
            answer.head = replace(answer.head, digests=(*answer.head.digests, wanted))
        return answer

    def resolved(self, url: str) -> str:
        """Where the redirects from a URL led to."""
        return self._resolved.get(url, url)

    def rival(self, answer: Answer, left: int | None) -> str | None:  # noqa: ARG002 - no speeds are measured
        """Nothing is known of the speed of these."""
        return None

    def failed(self, url: str, reason: str) -> None:
        """Noted with the attempt."""
        for at in range(len(self.attempts) - 1, -1, -1):
            if self.attempts[at].url == url:
                self.attempts[at] = replace(self.attempts[at], error=reason)
                return

    def delivered(self, url: str) -> None:
        """That needs no note."""


def _note_nothing(url: str, size: int, seconds: float) -> None:
    pass


class _Checked:
    """An answer of which the last bytes are given only if nothing is wrong with the whole."""

    def __init__(self, answer: Answer, check: Callable[[bytes], str | None]) -> None:
        self.head = answer.head
        self.close = answer.close
        self._read = answer.read
        self._check = check
        self._blocks: list[bytes] = []

    def read(self) -> bytes:
        """The next bytes. Raises UpstreamLie at the end of a body that is not what it should be."""
        data = self._read()
        self._blocks.append(data)
        if not data:
            wrong = self._check(b"".join(self._blocks))
            if wrong is not None:
                raise UpstreamLie(wrong)
        return data
