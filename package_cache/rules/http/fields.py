"""HTTP field values: text to value and back (RFC 9110).

A value that cannot be read gives None and is then ignored, as the RFC allows for optional fields; nothing here raises.
"""

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from package_cache.model import Span

# Blanks are taken once and for all, here and below: trying every way to divide them costs the square of their number.
_RANGE = re.compile(r"bytes[ \t]*+=[ \t]*+([0-9]{0,32})[ \t]*+-[ \t]*+([0-9]{0,32})[ \t]*+", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.IGNORECASE)
_OPAQUE = r'"[\x21\x23-\x7e\x80-\xff]*"'
_STRONG_TAG = re.compile(_OPAQUE)
_LISTED_TAG = re.compile(rf"((?:W/)?{_OPAQUE})[ \t]*+(?:,|$)")
_LENGTH = re.compile(r"[0-9]{1,19}")
LONGEST_REST = 3600.0
"""Seconds for which a source is left alone at most, whatever it says."""
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_XML = frozenset({"application/xml", "text/xml"})


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """A range that lies outside the representation: 416 (RFC 9110, section 15.5.17)."""


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Where the body of a 206 lies in the whole of `total` bytes."""

    span: Span
    total: int


# A comma stands behind the day of the week and nowhere else: with another one there are several dates, which are none.
_ONE_DATE = re.compile(r"[ \t]*(?:[A-Za-z]+,)?[^,]*")


def parse_date(text: str | None) -> float | None:
    """Seconds of the epoch, from any of the three forms of an HTTP-date (RFC 9110, section 5.6.7)."""
    if not text or not _ONE_DATE.fullmatch(text):
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def parse_retry_after(text: str | None, now: float) -> float | None:
    """For how many seconds a Retry-After wants to be left alone (RFC 9110, section 10.2.3), an hour at most.

    None if it is neither a number nor a date; 0 for a date that is over.
    """
    seconds: float | None = parse_length(text)
    if seconds is None:
        date = parse_date(text)
        seconds = None if date is None else date - now
    return None if seconds is None else min(max(0.0, seconds), LONGEST_REST)


def format_date(seconds: float) -> str:
    """The preferred form of an HTTP-date."""
    return formatdate(seconds, usegmt=True)


def parse_length(text: str | None) -> int | None:
    """A Content-Length in bytes; None unless it is digits only, blanks around them apart."""
    text = (text or "").strip(" \t")
    return int(text) if _LENGTH.fullmatch(text) else None


def is_strong(etag: str | None) -> bool:
    """Whether a tag may prove two bodies equal byte for byte (RFC 9110, section 8.8.3)."""
    return etag is not None and bool(_STRONG_TAG.fullmatch(etag))


def is_strong_date(last_modified: str | None, date: float | None) -> bool:
    """Whether a Last-Modified may be used as a strong validator: at least a second older than the answer (8.8.2.2)."""
    modified = parse_date(last_modified)
    return modified is not None and date is not None and modified + 1 <= date


def tag_listed(etag: str | None, listed: str) -> bool:
    """Whether an If-None-Match value names the tag, by the weak comparison (RFC 9110, section 13.1.2).

    `*` names whatever there is, a representation without a tag as well.
    """
    if listed.strip(" \t") == "*":
        return True
    opaque = (etag or "").removeprefix("W/")
    return any(tag.removeprefix("W/") == opaque for tag in _LISTED_TAG.findall(listed))


def parse_range(text: str, size: int) -> Span | Unsatisfiable | None:
    """The part of `size` bytes that a Range value with one range asks for; None if it is to be ignored."""
    match = _RANGE.fullmatch(text.strip(" \t"))
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        return _suffix(int(last), size) if last else None
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        return Unsatisfiable()
    return Span(start, min(int(last) + 1, size) if last else size)


def _suffix(length: int, size: int) -> Span | Unsatisfiable:
    if length == 0 or size == 0:
        return Unsatisfiable()
    return Span(max(0, size - length), size)


def parse_content_range(text: str | None) -> ContentRange | None:
    """The Content-Range of a 206 (RFC 9110, section 14.4); None without a total, or if it contradicts itself."""
    match = _CONTENT_RANGE.fullmatch((text or "").strip(" \t"))
    if match is None:
        return None
    first, last, total = (int(part) for part in match.groups())
    if not first <= last < total:
        return None
    return ContentRange(Span(first, last + 1), total)


def media_type(content_type: str | None) -> str:
    """Type and subtype in lower case, without parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_document(kind: str) -> bool:
    """Whether a media type, as `media_type` gives it, is that of a page or of JSON."""
    return is_page(kind) or kind == "application/json" or kind.endswith("+json")


def is_page(kind: str) -> bool:
    """Whether a media type is that of a page for people, which may stand under any name."""
    return kind in _PAGES


def is_xml(kind: str) -> bool:
    """Whether a media type is that of a document in XML."""
    return kind in _XML or kind.endswith("+xml")
