"""Requests for several ranges at once (RFC 9110, section 14.2), and the body that answers them (section 15.3.7.2).

Bounded, since one short request could otherwise ask for a file many times over: what overlaps is sent once, and where the
whole file is no longer than the parts with the lines between them, it is sent instead. Ranges with a gap between them stay
as they were asked for, and in their order: there are clients that take the parts for their ranges one by one.
"""

from bisect import bisect_right
from collections.abc import Sequence

from package_cache.model import Span
from package_cache.rules.http.fields import Unsatisfiable, parse_range

MOST = 256
"""Ranges of one request; what asks for more is answered with the whole. Clients of zchunk ask for nearly as many."""

Piece = bytes | Span
"""A part of a body: lines between the ranges, or bytes of the file."""


def parse_ranges(text: str, size: int) -> tuple[Span, ...] | Unsatisfiable | None:
    """The parts of `size` bytes that a Range value asks for, in its order; None if it is to be ignored."""
    unit, _, listed = text.partition("=")
    specs = [spec for part in listed.split(",") if (spec := part.strip(" \t"))]
    if len(specs) > MOST or "," not in listed:
        found = parse_range(text, size) if len(specs) == 1 else None
        return (found,) if isinstance(found, Span) else found
    unit = unit.strip(" \t")
    asked = [parse_range(f"{unit}={spec}", size) for spec in specs]
    if not asked or None in asked:
        return None
    spans = [span for span in asked if isinstance(span, Span)]
    return _merged(spans) if spans else Unsatisfiable()


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
