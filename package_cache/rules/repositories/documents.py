"""JSON documents that say how long they are fresh: `metadata.timestamp` and `metadata.ttl`, in seconds.

A document may be compressed with gzip or bzip2. It is fresh up to and including `timestamp + ttl`, by its publisher's
clock; after that it is requested again, but not more often than once in an interval.
"""

import bz2
import json
import math
import zlib
from dataclasses import dataclass
from typing import Any

LONGEST = 256 << 20
"""Bytes that a document may have, inflated."""
INTERVAL = 60.0
"""Seconds between two requests for a document that is no longer fresh."""
_GZIP, _BZIP2 = b"\x1f\x8b", b"BZh"
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class TimedDocument:
    """A document. `timestamp` is in seconds of the epoch, `ttl` in seconds."""

    content: dict[str, Any]
    timestamp: float
    ttl: float

    @property
    def metadata(self) -> dict[str, Any]:
        """Its object `metadata`."""
        metadata: dict[str, Any] = self.content["metadata"]
        return metadata

    def fresh_until(self, checked: float, interval: float = INTERVAL) -> float:
        """The last moment at which it is fresh, if it was requested at `checked`; in seconds of the epoch."""
        return max(self.timestamp + self.ttl, checked + interval)

    def is_fresh(self, now: float, checked: float, interval: float = INTERVAL) -> bool:
        """Whether it need not be requested again."""
        return now <= self.fresh_until(checked, interval)


def parse(body: bytes, longest: int = LONGEST) -> TimedDocument:
    """The document in a body. Raises ValueError, saying what is wrong with it."""
    plain = inflated(body, longest)
    try:
        content = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    metadata = content.get("metadata") if isinstance(content, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("it has no object named metadata")
    return TimedDocument(content, _number(metadata, "timestamp"), _number(metadata, "ttl"))


def _number(metadata: dict[str, Any], name: str) -> float:
    value = metadata.get(name)
    if value is None:
        raise ValueError(f"its metadata has no {name}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"its metadata.{name} is {value!r}, and not a number of seconds")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or abs(seconds) > 1e15 or (name == "ttl" and seconds < 0):
        raise ValueError(f"its metadata.{name} is {value!r}, which is no such time")
    return seconds


def inflated(body: bytes, longest: int = LONGEST) -> bytes:
    """The bytes of a body, decompressed if its first bytes are those of gzip or bzip2. Raises ValueError."""
    if body.startswith(_GZIP):
        return _inflated(body, lambda: zlib.decompressobj(_GZIP_WINDOW), longest, "gzip")
    if body.startswith(_BZIP2):
        return _inflated(body, bz2.BZ2Decompressor, longest, "bzip2")
    if len(body) > longest:
        raise ValueError(f"it has more than {longest} bytes")
    return body


def _inflated(body: bytes, make: Any, longest: int, name: str) -> bytes:
    """All members of a compressed body, decompressed."""
    found = bytearray()
    rest = body
    while rest:
        member = make()
        try:
            found += member.decompress(rest, longest + 1 - len(found))
        except (zlib.error, OSError, ValueError) as error:
            if found:
                raise ValueError(f"its {name} is broken: {error}") from None
            raise ValueError(f"it is no {name}, though it begins so: {error}") from None
        if len(found) > longest:
            raise ValueError(f"it has more than {longest} bytes, inflated")
        if not member.eof:
            raise ValueError(f"its {name} ends too early")
        rest = member.unused_data
    return bytes(found)
