"""How a request for a representation is answered: conditions, ranges, header fields (RFC 9110).

The only place that forms status and header fields of a hit. A file that is still arriving is answered by the same function,
so a hit and the fill before it differ in `Cache-Status`, `Age` and digest only.
"""

import hashlib
from binascii import b2a_base64
from dataclasses import replace

from package_cache.model import ErrorResponse, Fields, Representation, Request, Span, frozen
from package_cache.rules.http.caching import divided, initial_age
from package_cache.rules.http.fields import is_strong, is_strong_date, parse_date, tag_listed
from package_cache.rules.http.ranges import Piece, Unsatisfiable, body_of, parse_ranges

METHODS = ("GET", "HEAD")
_ALLOW = ("Allow", ", ".join(METHODS))
RETRY_SECONDS = 10
"""Retry-After of a 503 if nothing better is known, such as with too many connections."""


_OF_BODY = frozenset({"content-type", "content-encoding", "content-language", "content-disposition"})
"""Fields that a 304 leaves out, since they describe a body it does not have (RFC 9110, section 15.4.5)."""


@frozen
class Reply:
    """Status, fields and the part of the body to send. `span` is None if no body follows, or if its length is unknown.

    A body of unknown length is `open_ended`. With `pieces`, the body is made of them, and `span` is as long as they are.
    """

    status: int
    fields: Fields
    span: Span | None = None
    open_ended: bool = False
    pieces: tuple[Piece, ...] = ()


@frozen
class Serving:
    """What this cache adds to a reply: `cache_status` as RFC 9211 defines it, `via` its own name, `digest` in hex."""

    cache_status: str
    via: str
    now: float
    digest: str | None = None


def decide(request: Request, representation: Representation, serving: Serving) -> Reply:
    """The reply to a GET or HEAD request for `representation`."""
    stored, anew = divided(representation)
    etag = entity_tag(anew.get("etag"), serving.digest)
    passed_on = int(initial_age(anew, representation.received) + max(0.0, serving.now - representation.received))
    common = _common_fields(stored, passed_on, representation.size, serving, etag)
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
    fields = (*common, ("Content-Length", f"{span.stop - span.start}"))
    if part is not None:
        fields = (*fields, ("Content-Range", f"bytes {span.start}-{span.stop - 1}/{size}"))
    return Reply(200 if part is None else 206, fields, span if request.method == "GET" else None)


def whole_of(representation: Representation, digest: str, via: str) -> tuple[bytes, bytes, float]:
    """What `decide` replies to a plain request for a stored file, formed once for the hot set.

    That is the fields up to the value of Age, the fields after Cache-Status, both with the line ends before them, and when
    the age was 0, in seconds of the epoch.
    """
    stored, anew = divided(representation)
    received, size = representation.received, representation.size
    common = _common_fields(stored, 0, size, Serving("", via, received, digest), entity_tag(anew.get("etag"), digest))
    age = len(stored)  # and Cache-Status is behind it
    lines = [f"\r\n{name}: {value}" for name, value in common]
    front, back = "".join(lines[:age]), "".join(lines[age + 2 :])
    whole = f"{back}\r\nContent-Length: {size}\r\n\r\n"
    return f"{front}\r\nAge: ".encode("latin-1"), whole.encode("latin-1"), received - int(initial_age(anew, received))


def _several(parts: tuple[Span, ...], representation: Representation, serving: Serving, size: int) -> Reply | None:
    """The multipart reply, but for the fields that all replies have; None if it would be no shorter than the whole."""
    # No file contains its own digest, and none was made with the moment in mind at which it would arrive here.
    known = f"{serving.digest} {representation.received!r}"
    boundary = hashlib.sha256(known.encode()).hexdigest()[:32]
    pieces = body_of(parts, size, representation.get("content-type"), boundary)
    length = sum(len(piece) for piece in pieces)
    kind = f"multipart/byteranges; boundary={boundary}"
    fields = (("Content-Type", kind), ("Content-Length", str(length)))
    return Reply(206, fields, Span(0, length), pieces=pieces) if length < size else None


def whole(request: Request) -> Request:
    """The request without its ranges."""
    return request._replace(fields={name: value for name, value in request.fields.items() if name != "range"})


def entity_tag(etag: str | None, digest: str | None) -> str | None:
    """The source's ETag if it is strong, else one made of the digest; None while the digest is not known."""
    if is_strong(etag):
        return etag
    return f'"{digest}"' if digest else None


def _traces(serving: Serving) -> Fields:
    return (("Cache-Status", f"package-cache; {serving.cache_status}"), ("Via", f"1.1 {serving.via}"))


def _common_fields(
    stored: list[tuple[str, str]], seconds: int, size: int | None, serving: Serving, etag: str | None
) -> Fields:
    fields = [*stored, ("Age", f"{seconds}"), *_traces(serving)]
    if size is not None:
        fields += (("Accept-Ranges", "bytes"),)
    if etag is not None:
        fields += (("ETag", etag),)
    if serving.digest is not None:
        digest = str(b2a_base64(bytes.fromhex(serving.digest), newline=False), "ascii")
        fields += (("Repr-Digest", f"sha-256=:{digest}:"),)
    return tuple(fields)


def _is_not_modified(request: Request, representation: Representation, etag: str | None) -> bool:
    """Whether a condition makes it a 304: If-None-Match if there is one, else If-Modified-Since (RFC 9110, 13.2.2)."""
    asked = request.fields
    if "if-none-match" in asked:
        return tag_listed(etag, asked["if-none-match"])
    since = parse_date(asked["if-modified-since"]) if "if-modified-since" in asked else None
    if since is None:
        return False
    modified = parse_date(representation.get("last-modified"))
    return modified is not None and modified <= since


def _asked_parts(
    request: Request, representation: Representation, etag: str | None, size: int
) -> tuple[Span, ...] | Unsatisfiable | None:
    """The ranges to send; None for the whole."""
    if "range" not in request.fields or request.method != "GET" or not _if_range_holds(request, representation, etag):
        return None
    return parse_ranges(request.fields["range"], size)


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
    """The reply to a request that failed, with one line of plain text; `retry_after` is in seconds."""
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


def refused(response: ErrorResponse, serving: Serving, retry_after: int | None = None) -> Reply:
    """The reply to a request that the sources refuse, with what one of them said; `retry_after` is in seconds."""
    names = {name.lower() for name, _ in response.fields}
    fields: Fields = (*response.fields, ("Content-Length", str(len(response.body))), *_traces(serving))
    if "content-type" not in names:
        fields = (("Content-Type", "application/octet-stream"), *fields)
    if "retry-after" not in names and retry_after is not None:
        fields = (*fields, ("Retry-After", str(retry_after)))
    return Reply(response.status, fields, Span(0, len(response.body)))


def passed(answer: int, fields: Fields, size: int, serving: Serving) -> Reply:
    """The reply to a POST: what a source answered, of `size` bytes; `fields` are as `kept_fields` gives them."""
    kept = tuple(pair for pair in fields if pair[0].lower() not in ("date", "age"))
    return Reply(answer, (*kept, ("Content-Length", str(size)), *_traces(serving)), Span(0, size))
