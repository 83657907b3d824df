"""All of an answer from what is at hand: for a request that is known by its bytes, and for one that was parsed.

Knows the hot set, and where a small body is that had to leave it. Sends nothing; belongs to the loop's thread.
"""

from package_cache.engine.front import Front
from package_cache.engine.hotset import HotFile, HotSet
from package_cache.rules.http.fields import format_date
from package_cache.server.access import Said
from package_cache.server.connections import Known, KnownRequests


class Shown:
    """What is told of an answer from what is at hand: in Cache-Status (RFC 9211), which is `line`, and in the log."""

    def __init__(self, detail: str, kind: str) -> None:
        self.detail = detail
        self.kind = kind
        self.line = b"\r\nCache-Status: package-cache; " + detail.encode("ascii")


HIT = Shown("hit", "hit")
CONFIRMED = Shown("fwd=stale; fwd-status=304", "revalidated")

AtHand = tuple[bytes, bytes, bool, HotFile, Said]
"""All that is sent to answer a request; its first line; whether the connection persists; of what it is; who asks."""


class Hits:
    """What the event loop has at hand of one application."""

    def __init__(self, known: KnownRequests, hotset: HotSet, front: Front, software: str) -> None:
        self._known = known
        self._by_fields = known.by_fields
        self._hotset = hotset
        self._bodies = hotset.bodies
        self._front = front
        self._software = software
        self._second = -1
        self._fronts = b"", b""
        """How heads begin in that second, for a connection that ends and for one that persists."""

    def find(self, data: bytes, now: float, clock: float, *, may_keep: bool) -> AtHand | None:
        """All of the answer to a request that is known by its bytes. Not an object: it is done for each hit.

        `now` is of the machine's clock, `clock` of the monotonic one.
        """
        line, _, rest = data.partition(b"\r\n")
        known = self._by_fields.get(rest)
        if known is None:
            return None
        name = known.names.get(line)
        hot = None if name is None else self._hotset.get(name)
        body = None
        if hot is None:
            hot, body = self._find_stored(data, line, known, clock)
        elif hot.since <= now <= hot.until:
            body = self.body(hot, clock)
        if hot is None or body is None:
            return None
        keep = known.keep and may_keep
        return self.head(hot, now, keep=keep) + body, line, keep, hot, known.said

    def _find_stored(
        self, data: bytes, line: bytes, known: Known, clock: float
    ) -> tuple[HotFile, bytes | None] | tuple[None, None]:
        """What is not at hand, and comes to hand now, with its body."""
        met = self._known.meet(data, line, known)
        hot = None if met is None else self._front.stored(*met, clock)
        if met is None or hot is None:
            return None, None
        body = hot.body
        self._hotset.add(met[0], hot)
        self._known.add(line, known, met[0])
        return hot, body

    def head(self, hot: HotFile, now: float, *, keep: bool, said: bytes = HIT.line) -> bytes:
        """The head of the answer to a request that only names a file: most of it was formed when that became hot.

        `said` is its Cache-Status.
        """
        second = int(now)
        if second != self._second:
            self._second = second
            front = f"HTTP/1.1 200 OK\r\nServer: {self._software}\r\nDate: {format_date(second)}\r\nConnection: "
            self._fronts = f"{front}close".encode("latin-1"), f"{front}keep-alive".encode("latin-1")
        age = int(now - hot.born)
        return b"%b%b%d%b%b" % (self._fronts[keep], hot.front, age if age > 0 else 0, said, hot.back)

    def body(self, hot: HotFile, clock: float) -> bytes | None:
        """The body of a small file in the hot set; None of a large one, or where the disk is to be waited for."""
        body = hot.body if hot.body is not None else self._bodies.get(hot.place, hot.size)
        if body is None and hot.file is None:
            body = self._front.body(hot, clock)
            if body is not None:
                hot.place = self._bodies.put(body)  # it was asked for again: of many, nobody does
        return body
