"""JSON documents that say for how long they are good: `metadata.timestamp` and `metadata.ttl`, in seconds.

The document may be compressed with gzip or bzip2. It is fresh up to and including `timestamp + ttl`, by the clock of its
publisher; where that has passed, it is asked for again, but not more often than at an interval.
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
"""Seconds between two questions for a document whose time has passed."""
_GZIP, _BZIP2 = b"\x1f\x8b", b"BZh"
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class Document:
    """A document. `timestamp` is in seconds of the epoch, `ttl` in seconds."""

    content: dict[str, Any]
    timestamp: float
    ttl: float

    @property
    def metadata(self) -> dict[str, Any]:
        """What it says of itself."""
        metadata: dict[str, Any] = self.content["metadata"]
        return metadata

    def fresh_until(self, checked: float, interval: float = INTERVAL) -> float:
        """The last moment in which it is fresh, if its publisher was asked at `checked`; in seconds of the epoch."""
        return max(self.timestamp + self.ttl, checked + interval)

    def is_fresh(self, now: float, checked: float, interval: float = INTERVAL) -> bool:
        """Whether its publisher need not be asked."""
        return now <= self.fresh_until(checked, interval)


def parse(body: bytes, longest: int = LONGEST) -> Document:
    """The document in a body. Raises ValueError, which says what is wrong with it."""
    plain = inflated(body, longest)
    try:
        content = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    metadata = content.get("metadata") if isinstance(content, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("it has no object named metadata")
    return Document(content, _number(metadata, "timestamp"), _number(metadata, "ttl"))


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
    """The bytes in a body that is plain, or compressed with gzip or bzip2: by its first bytes. Raises ValueError."""
    if body.startswith(_GZIP):
        return _inflated(body, lambda: zlib.decompressobj(_GZIP_WINDOW), longest, "gzip")
    if body.startswith(_BZIP2):
        return _inflated(body, bz2.BZ2Decompressor, longest, "bzip2")
    if len(body) > longest:
        raise ValueError(f"it has more than {longest} bytes")
    return body


def _inflated(body: bytes, make: Any, longest: int, name: str) -> bytes:
    """Every member of a compressed body, one after the other."""
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
