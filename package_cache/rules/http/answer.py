"""How a request for a representation is answered: conditions, ranges, header fields (RFC 9110).

The only place that forms status and header fields of a hit. A file that is still arriving is answered by the same
function, so that a hit and the fill before it differ in `Cache-Status`, `Age` and digest only.
"""

import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass, replace

from package_cache.model import Fields, Representation, Request, Span
from package_cache.rules.http.fields import (
    Unsatisfiable,
    is_strong,
    is_strong_date,
    parse_date,
    tag_listed,
)
from package_cache.rules.http.ranges import Piece, body_of, parse_ranges

_KEPT = frozenset(
    {
        "content-type",
        "content-encoding",
        "content-language",
        "content-disposition",
        "last-modified",
        "etag",
        "date",
        "age",
        "cache-control",
        "expires",
        "vary",
        "link",
    }
)
"""What is stored of a source's answer. Hop-by-hop fields and Set-Cookie are not among it."""

METHODS = ("GET", "HEAD")
_ALLOW = ("Allow", ", ".join(METHODS))
_DIGITS = 15
"""Of a number with more, the first ones say enough: that is for ever."""
_RESOLUTION = 2.0
"""Seconds by which a date may be past that was written just now: it has no fractions, and the answer was on its way."""
RETRY_SECONDS = 10
"""When a client that was turned away for want of room may come again."""

_FOLD = re.compile(r"[ \t]*\r?\n[ \t]+")
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_OWN = frozenset({"etag", "date", "age"})
"""Fields of the stored answer that this cache states itself."""

_OF_BODY = frozenset({"content-type", "content-encoding", "content-language", "content-disposition"})
"""Fields that a 304 leaves out, since they describe a body it does not have (RFC 9110, section 15.4.5)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, fields and the part of the body to send. `span` is None where no body follows.

    A `span` whose end is unknown is not a Reply's business: it is answered as `open_ended`. With `pieces`, the body is made
    of them, and `span` says how long that is.
    """

    status: int
    fields: Fields
    span: Span | None = None
    open_ended: bool = False
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Serving:
    """What this cache has to say about an answer: `cache_status` after RFC 9211, `via` its name, `digest` in hex."""

    cache_status: str
    via: str
    now: float
    digest: str | None = None


def kept_fields(fields: Fields) -> Fields:
    """The fields of a source's answer that are stored and served again.

    A value written over several lines becomes one line (RFC 9112, section 5.2); one that cannot be sent again is dropped.
    """
    unfolded = ((name, _FOLD.sub(" ", value).strip(" \t")) for name, value in fields if name.lower() in _KEPT)
    return tuple((name, value) for name, value in unfolded if not _UNSENDABLE.search(value))


def decide(request: Request, representation: Representation, serving: Serving) -> Reply:
    """The reply to a GET or HEAD request for `representation`."""
    etag = entity_tag(representation, serving.digest)
    common = _common_fields(representation, serving, etag)
    if _is_not_modified(request, representation, etag):
        return Reply(304, tuple(pair for pair in common if pair[0].lower() not in _OF_BODY))
    size = representation.size
    if size is None:
        return Reply(200, common, open_ended=request.method == "GET")
    parts = _asked_parts(request, representation, etag, size)
    if isinstance(parts, Unsatisfiable):
        unsatisfiable = (("Content-Range", f"bytes */{size}"), ("Content-Length", "0"), *_traces(serving))
        return Reply(416, unsatisfiable)
    several = _several(parts, representation, serving, size) if parts and len(parts) > 1 else None
    if several is not None:
        return replace(several, fields=(*(pair for pair in common if pair[0].lower() != "content-type"), *several.fields))
    part = parts[0] if parts and len(parts) == 1 else None
    span = part or Span(0, size)
    fields = (*common, ("Content-Length", str(len(span))))
    if part is not None:
        fields = (*fields, ("Content-Range", f"bytes {span.start}-{span.stop - 1}/{size}"))
    return Reply(200 if part is None else 206, fields, span if request.method == "GET" else None)


def _several(parts: tuple[Span, ...], representation: Representation, serving: Serving, size: int) -> Reply | None:
    """The reply with several parts, as far as it differs from others; None if it were no shorter than the whole.

    No file can have its own digest in it, and none was made with the moment in mind at which it would arrive here.
    """
    known = f"{serving.digest} {representation.received!r}"
    boundary = hashlib.sha256(known.encode()).hexdigest()[:32]
    pieces = body_of(parts, size, representation.get("content-type"), boundary)
    length = sum(len(piece) for piece in pieces)
    kind = f"multipart/byteranges; boundary={boundary}"
    fields = (("Content-Type", kind), ("Content-Length", str(length)))
    return Reply(206, fields, Span(0, length), pieces=pieces) if length < size else None


def whole(request: Request) -> Request:
    """The request without its ranges."""
    return replace(request, fields={name: value for name, value in request.fields.items() if name != "range"})


def entity_tag(representation: Representation, digest: str | None) -> str | None:
    """The source's strong tag, else one made of the digest; None while the digest is not known."""
    etag = representation.get("etag")
    if is_strong(etag):
        return etag
    return f'"{digest}"' if digest else None


def initial_age(representation: Representation) -> float:
    """Seconds that the answer was old when it came: by its source's word, or by its date (RFC 9111, section 4.2.3)."""
    date = parse_date(representation.get("date"))
    apparent = 0.0 if date is None else representation.received - date
    told = (representation.get("age") or "").strip(" \t")
    said = float(told[:_DIGITS]) if told.isascii() and told.isdigit() else 0.0
    return max(said, apparent if apparent >= _RESOLUTION else 0.0)


def age(representation: Representation, now: float) -> int:
    """Seconds since the source made or confirmed the answer (RFC 9111, section 4.2.3)."""
    return int(initial_age(representation) + max(0.0, now - representation.received))


def _traces(serving: Serving) -> Fields:
    return (("Cache-Status", f"package-cache; {serving.cache_status}"), ("Via", f"1.1 {serving.via}"))


def _common_fields(representation: Representation, serving: Serving, etag: str | None) -> Fields:
    stored = tuple((name, value) for name, value in representation.fields if name.lower() not in _OWN)
    fields: Fields = (*stored, ("Age", str(age(representation, serving.now))), *_traces(serving))
    if representation.size is not None:
        fields = (*fields, ("Accept-Ranges", "bytes"))
    if etag is not None:
        fields = (*fields, ("ETag", etag))
    if serving.digest is not None:
        fields = (*fields, ("Repr-Digest", f"sha-256=:{b64encode(bytes.fromhex(serving.digest)).decode('ascii')}:"))
    return fields


def _is_not_modified(request: Request, representation: Representation, etag: str | None) -> bool:
    """If-None-Match decides alone where it stands (RFC 9110, section 13.2.2)."""
    listed = request.fields.get("if-none-match")
    if listed is not None:
        return tag_listed(etag, listed)
    since = parse_date(request.fields.get("if-modified-since"))
    if since is None:
        return False
    modified = parse_date(representation.get("last-modified"))
    return modified is not None and modified <= since


def _asked_parts(
    request: Request, representation: Representation, etag: str | None, size: int
) -> tuple[Span, ...] | Unsatisfiable | None:
    asked = request.fields.get("range")
    if asked is None or request.method != "GET" or not _if_range_holds(request, representation, etag):
        return None
    return parse_ranges(asked, size)


def _if_range_holds(request: Request, representation: Representation, etag: str | None) -> bool:
    condition = request.fields.get("if-range")
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition == etag
    modified = representation.get("last-modified")
    date = parse_date(representation.get("date"))
    received = representation.received if date is None else date
    return condition == modified and is_strong_date(modified, received)


def problem(status: int, text: str, serving: Serving, retry_after: int | None = None) -> tuple[Reply, bytes]:
    """A reply that says what went wrong, in one line of plain text; and after how many seconds it may be right."""
    body = (text + "\n").encode("utf-8")
    fields: Fields = (
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("X-Content-Type-Options", "nosniff"),
        *_traces(serving),
    )
    if status == 405:
        fields = (*fields, _ALLOW)
    if retry_after is None and status == 503:
        retry_after = RETRY_SECONDS
    if retry_after is not None:
        fields = (*fields, ("Retry-After", str(retry_after)))
    return Reply(status, fields, Span(0, len(body))), body


def passed(answer: int, fields: Fields, size: int, serving: Serving) -> Reply:
    """The reply to a POST, which is what a source answered, in so many bytes; `fields` are as `kept_fields` gives them."""
    own = frozenset({"date", "age"})
    kept = tuple(pair for pair in fields if pair[0].lower() not in own)
    return Reply(answer, (*kept, ("Content-Length", str(size)), *_traces(serving)), Span(0, size))


_CONFIRMED = frozenset({"date", "age", "cache-control", "expires"})


def refreshed(stored: Representation, confirmation: Representation) -> Representation:
    """The stored head after a 304 confirmed it (RFC 9111, section 3.2). What describes the body stays as it was.

    Where the 304 has no date, the answer is as old as its arrival says (RFC 9110, section 6.6.1).
    """
    news = tuple(pair for pair in confirmation.fields if pair[0].lower() in _CONFIRMED)
    replaced = {"age", "date", *(name.lower() for name, _ in news)}
    kept = tuple(pair for pair in stored.fields if pair[0].lower() not in replaced)
    return replace(stored, fields=(*kept, *news), received=confirmation.received)
