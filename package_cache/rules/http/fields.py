"""HTTP field values: text to value and back (RFC 9110).

A value that cannot be read gives None and is then ignored, as the RFC allows for optional fields; nothing here raises.
"""

import re
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache

from package_cache.model import Fields

# A comma stands behind the day of the week and nowhere else: with another one there are several dates, which are none.
_ONE_DATE = re.compile(r"[ \t]*(?:[A-Za-z]+,)?[^,]*")
_LONGEST_DATE = 64
"""Characters; none of the three forms has more than 33."""
# Spaces are taken once and for all: trying every way to divide them costs the square of their number.
_OPAQUE = r'"[\x21\x23-\x7e\x80-\xff]*"'
_STRONG_TAG = re.compile(_OPAQUE)
_LISTED_TAG = re.compile(rf"((?:W/)?{_OPAQUE})[ \t]*+(?:,|$)")
_LENGTH = re.compile(r"[0-9]{1,19}")
LONGEST_REST = 3600.0
"""Seconds for which a source is left alone at most, whatever it says."""
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_XML = frozenset({"application/xml", "text/xml"})
_TYPE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)/([!#$%&'*+.^_`|~0-9A-Za-z-]+)")
_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_PADDING = ' \t"'


def first_said(fields: Fields) -> dict[str, str]:
    """The first value of each field, by its name in lower case."""
    return {name.lower(): value for name, value in reversed(fields)}


def parse_date(text: str | None) -> float | None:
    """Seconds of the epoch, from any of the three forms of an HTTP-date (RFC 9110, section 5.6.7)."""
    return None if not text or len(text) > _LONGEST_DATE else _parse_date(text)


@lru_cache(maxsize=256)
def _parse_date(text: str) -> float | None:
    # Remembered, as what a source made in one second, or in one go, has the same date.
    if not _ONE_DATE.fullmatch(text):
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def parse_retry_after(text: str | None, now: float) -> float | None:
    """The seconds that a Retry-After asks to wait (RFC 9110, section 10.2.3), an hour at most.

    None if it is neither a number nor a date; 0 for a date in the past.
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
    """A Content-Length in bytes; None unless it is digits only, with or without spaces around them."""
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


def media_type(content_type: str | None) -> str:
    """Type and subtype in lower case, without parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_document(kind: str) -> bool:
    """Whether a media type, as `media_type` gives it, is that of a page or of JSON."""
    return is_page(kind) or kind == "application/json" or kind.endswith("+json")


def is_page(kind: str) -> bool:
    """Whether a media type is that of a page for people; servers send such pages in the place of any file."""
    return kind in _PAGES


def is_xml(kind: str) -> bool:
    """Whether a media type is that of a document in XML."""
    return kind in _XML or kind.endswith("+xml")


def quality(accept: str | None, content_type: str | None) -> float:
    """The weight that an Accept gives to a media type, from 0, not acceptable, to 1 (RFC 9110, section 12.5.1).

    Without an Accept everything is acceptable. The most specific range that covers the type counts; a range that cannot be
    read covers nothing.
    """
    if accept is None or not accept.strip():
        return 1.0
    kind = media_type(content_type)
    said = _parameters(content_type or "")
    found = (_covering(part, kind, said) for part in accept.split(","))
    return max((one for one in found if one is not None), default=((0, 0), 0.0))[1]


def _covering(text: str, kind: str, said: frozenset[str]) -> tuple[tuple[int, int], float] | None:
    """How specific a range is, and its weight; None if it does not cover a type with these parameters."""
    match = _TYPE.fullmatch(media_type(text))
    parameters = _parameters(text)
    weights = [one.removeprefix("q=") for one in parameters if one.startswith("q=")]
    asked = {one for one in parameters if not one.startswith("q=")}
    if match is None or not all(_QUALITY.fullmatch(weight) for weight in weights) or not asked <= said:
        return None
    if match[0] == "*/*":
        place = 0
    elif match[2] == "*" and kind.startswith(f"{match[1]}/"):
        place = 1
    elif match[0] == kind:
        place = 2
    else:
        return None
    return (place, len(asked)), float(weights[0]) if weights else 1.0


def _parameters(text: str) -> frozenset[str]:
    """The parameters of a type or a range, in one spelling."""
    _, *parts = text.split(";")
    pairs = (part.lower().partition("=") for part in parts)
    return frozenset(f"{name.strip()}={value.strip(_PADDING)}" for name, mark, value in pairs if mark)
