"""Ranges: what a Range or Content-Range value means (RFC 9110, section 14), and the body that answers several ranges.

What a Range asks for is bounded, since one short request could otherwise ask for a file many times over: what overlaps is
sent once, and if the whole file is no longer than the parts with the lines between them, it is sent instead. Ranges with a
gap between them stay as they were asked for, in their order: some clients take the parts for their ranges one by one. A
value that cannot be read gives None and is ignored. When a range applies at all (If-Range) is decided by `answer`.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from package_cache.model import Span

MOST = 256
"""Ranges of one request; what asks for more is answered with the whole. Clients of zchunk ask for nearly as many."""

Piece = bytes | Span
"""A part of a multipart body: the lines between ranges, or bytes of the file."""

# Spaces are taken once and for all: trying every way to divide them costs the square of their number.
_RANGE = re.compile(r"[ \t]*+([0-9]{0,32})[ \t]*+-[ \t]*+([0-9]{0,32})[ \t]*+")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """A range that lies outside the representation: 416 (RFC 9110, section 15.5.17)."""


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Where the body of a 206 lies in the whole of `total` bytes."""

    span: Span
    total: int


def parse_content_range(text: str | None) -> ContentRange | None:
    """The Content-Range of a 206 (section 14.4); None without a total, or if it contradicts itself."""
    match = _CONTENT_RANGE.fullmatch((text or "").strip(" \t"))
    if match is None:
        return None
    first, last, total = (int(part) for part in match.groups())
    return ContentRange(Span(first, last + 1), total) if first <= last < total else None


def parse_ranges(text: str, size: int) -> tuple[Span, ...] | Unsatisfiable | None:
    """The parts of `size` bytes that a Range value asks for, in its order; None if the value is to be ignored."""
    unit, _, listed = text.partition("=")
    ranges = [one for part in listed.split(",") if (one := part.strip(" \t"))]
    if unit.strip(" \t").lower() != "bytes" or not 0 < len(ranges) <= MOST:
        return None
    asked = [_parse_range(one, size) for one in ranges]
    if None in asked:
        return None
    spans = tuple([span for span in asked if isinstance(span, Span)])
    return (_merged(spans) if spans[1:] else spans) or Unsatisfiable()


def _parse_range(text: str, size: int) -> Span | Unsatisfiable | None:
    """One range, `first-last`, `first-` or `-length` (section 14.1.2)."""
    match = _RANGE.fullmatch(text)
    if match is None or text == "-":
        return None
    first, last = match.groups()
    start, stop = int(first or 0), int(last) + 1 if last else size
    if not first:
        start, stop = max(0, size - int(last)), size
    elif last and stop <= start:
        return None
    return Span(start, min(stop, size)) if start < size else Unsatisfiable()


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans without what overlaps, each where it was first asked for."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start < merged[-1].stop:
            merged[-1] = Span(merged[-1].start, max(merged[-1].stop, span.stop))
        else:
            merged.append(span)
    starts = [span.start for span in merged]
    return tuple(dict.fromkeys(merged[bisect_right(starts, span.start) - 1] for span in spans))


def body_of(spans: Sequence[Span], size: int, content_type: str | None, boundary: str) -> tuple[Piece, ...]:
    """The body of type multipart/byteranges with these parts of a file of `size` bytes."""
    kind = f"Content-Type: {content_type}\r\n" if content_type is not None else ""
    pieces: list[Piece] = []
    for span in spans:
        place = f"Content-Range: bytes {span.start}-{span.stop - 1}/{size}\r\n"
        pieces += [f"\r\n--{boundary}\r\n{kind}{place}\r\n".encode("latin-1"), span]
    return (*pieces, f"\r\n--{boundary}--\r\n".encode("ascii"))
