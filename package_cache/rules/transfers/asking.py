"""What a request for bytes says, where a redirect leads, and what the head of an answer means to a transfer."""

import string
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from package_cache.model import Fields, Representation
from package_cache.rules.http.digests import DIGEST_FIELDS, declared, declared_of_part
from package_cache.rules.http.fields import parse_content_range, parse_date, parse_length, parse_retry_after
from package_cache.rules.transfers.steps import Ask, Head

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AS_GET = frozenset({301, 302, 303})
"""After these a question is asked again with GET, as every client does (RFC 9110, sections 15.4.2 to 15.4.4)."""

_BUSY = frozenset({429, 503})
"""What a source says that wants fewer requests (RFC 6585, section 4; RFC 9110, section 15.6.4)."""
_MADE_OVER = 203
_OF_CONNECTION = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "set-cookie", "set-cookie2", "content-range"),
    }
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: those who share it trust each other (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        """The origin of a URL. Raises ValueError if its port is not a number."""
        parts = urlsplit(url)
        return cls(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def places_of(status: int, fields: Fields) -> tuple[str, ...]:
    """Where an answer leads to, by each of its Location fields once; nowhere, if it is no redirect."""
    if status not in REDIRECTS:
        return ()
    return tuple(dict.fromkeys(value for name, value in fields if name.lower() == "location"))


def following(url: str, places: tuple[str, ...]) -> str:
    """Where a redirect from `url` leads that names `places`. Raises ValueError, saying why, where nobody may follow.

    A place has a character for each byte: those that no URL has are taken as bytes of the name, as clients do.
    """
    if len(places) != 1:
        raise ValueError("redirects to two places at once")
    location = places[0]
    try:
        target = urljoin(url, quote(location, safe=string.punctuation, encoding="latin-1")).partition("#")[0]
        origin = Origin.of(target)
    except ValueError:
        raise ValueError("redirects to something that is not a URL") from None
    if origin.scheme not in ("http", "https") or not origin.host:
        raise ValueError("redirects to something that is not an http URL")
    if url.startswith("https:") and origin.scheme != "https":
        raise ValueError("redirects from https down to http")
    return target


def becomes_get(status: int, method: str) -> bool:
    """Whether a redirect is followed by a GET without the body that was sent."""
    return status in _AS_GET and method not in ("GET", "HEAD")


def condition_fields(ask: Ask) -> list[tuple[str, str]]:
    """Range and conditions of a request (RFC 9110, sections 13.1 and 14.2)."""
    fields: list[tuple[str, str]] = []
    if ask.offset:
        fields.append(("Range", f"bytes={ask.offset}-{'' if ask.stop is None else ask.stop - 1}"))
        fields.append(("If-Range", ask.if_range or ""))
    elif ask.condition:
        if ask.condition.etag:
            fields.append(("If-None-Match", ask.condition.etag))
        if ask.condition.last_modified:
            fields.append(("If-Modified-Since", ask.condition.last_modified))
    return fields


def head_of(status: int, said: Fields, kept: Fields, url: str, received: float, *, marked: bool) -> Head:
    """The head of an answer from `url`, of whose fields `kept` are kept. `marked`: the end of the body will be told.

    What a proxy on the way made over is a whole answer like any other, and may be stored (RFC 9110, section 15.3.4).
    """
    status = 200 if status == _MADE_OVER else status
    fields = {name.lower(): value for name, value in reversed(said)}
    busy = status in _BUSY
    parts = len({value for name, value in said if name.lower() == "content-range"})
    whole, coded = status == 200, fields.get("content-encoding", "identity").lower() != "identity"
    return Head(
        status,
        Representation(kept, None if marked else parse_length(fields.get("content-length")), url, received),
        chunked=marked,
        content_range=parse_content_range(fields.get("content-range")) if parts == 1 else None,
        digests=declared({name: fields.get(name) for name in DIGEST_FIELDS}, whole=whole, coded=coded),
        part_digests=declared_of_part(fields.get("content-digest")) if status == 206 else (),
        retry_after=parse_retry_after(fields.get("retry-after"), parse_date(fields.get("date")) or received)
        if busy
        else None,
    )


def told_fields(said: Fields) -> Fields:
    """The fields of an answer that are kept for the one who asked: all but those of the connection, and cookies."""
    return tuple(pair for pair in said if pair[0].lower() not in _OF_CONNECTION)
