"""An answer under watch: its first bytes are looked at before anybody gets them, and its pace is measured."""

import time
from collections.abc import Callable

from package_cache.errors import UpstreamCrawl, UpstreamLie
from package_cache.rules.http.digests import hasher
from package_cache.rules.transfers.disguise import FIRST, is_known, unmask
from package_cache.rules.transfers.pace import LEAST, Pace
from package_cache.upstream.answers import Answer


class Watched:
    """The body of a 200 or 206."""

    def __init__(self, answer: Answer, crawl: float, sent: Callable[[str, int, float], None]) -> None:
        self.head = answer.head
        self.pace = Pace(crawl)
        self._answer = answer
        self._sent = sent
        self._first = b""
        self._ended = False
        self._hashes = [(hasher(it.algorithm), it.value) for it in answer.head.part_digests]

    def look(self, url: str) -> None:
        """Check that a whole body may be the file that `url` names. Raises UpstreamError."""
        path = url.partition("?")[0]
        if not is_known(path):
            return
        while len(self._first) < FIRST and not self._ended:
            data = self._next()
            self._first += data
            self._ended = not data
        said = self.head.representation
        reason = unmask(path, said.get("content-type"), said.get("content-encoding"), self._first[:FIRST])
        if reason is not None:
            raise UpstreamLie(reason)

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        if self._first:
            data, self._first = self._first, b""
            return data
        return b"" if self._ended else self._next()

    def _next(self) -> bytes:
        begun = time.monotonic()
        data = self._answer.read()
        if not self.pace.add(len(data), time.monotonic() - begun) and data:
            raise UpstreamCrawl(f"sent less than {LEAST} bytes a second for {self.pace.limit:g} seconds")
        for running, value in self._hashes:
            running.update(data)
            if not data and running.digest() != value:
                raise UpstreamLie("sent bytes that are not those of the digest it declares")
        return data

    def close(self) -> None:
        """Give the connection or the file back."""
        self._sent(self.head.representation.source, self.pace.size, self.pace.seconds)
        self._answer.close()
