"""Requests to sources: their bytes, their conditions, where a redirect leads, and what the head of an answer means.

What all GET requests to one source have in common is prepared once, in a `RequestTemplate`.
"""

import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote, urljoin, urlsplit

from package_cache.model import Fields, Representation, frozen
from package_cache.rules.http.digests import DIGEST_FIELDS, Digest, declared, declared_of_part
from package_cache.rules.http.fields import parse_date, parse_length, parse_retry_after
from package_cache.rules.http.ranges import parse_content_range
from package_cache.rules.transfers.steps import Answered, Ask
from package_cache.rules.transfers.ways import Origin, Way

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
KEEPING = frozenset({307, 308})
"""After these the same request is sent again (RFC 9110, sections 15.4.8 and 15.4.9)."""
_AS_GET = frozenset({301, 302, 303})
"""After these every client sends a GET, whatever it sent before (RFC 9110, sections 15.4.2 to 15.4.4)."""

_OF_REDIRECT = frozenset({"x-linked-etag", "x-linked-size", "x-repo-commit"})
"""Fields by which a redirect tells of the file that it leads to: the store at its end knows only its own names."""

_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_BUSY = frozenset({429, 503})
"""By these a source asks for fewer requests (RFC 6585, section 4; RFC 9110, section 15.6.4)."""
_OF_CONNECTION = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "set-cookie", "set-cookie2", "content-range"),
    }
)
_UNWRITABLE = re.compile(r"[\x00-\x20\x7f]")
"""In a target."""
_BLANK = "it has a space or a control character where none may be"
_OF_ASK = frozenset({"range", "if-range", "if-none-match", "if-modified-since"})
_URL = re.compile(r"(https?)://(?:[^/?#]*@)?([^/?#@]+)([^#]*)(?:#.*)?", re.DOTALL)


def locations_of(status: int, fields: Fields) -> tuple[str, ...]:
    """The different values of Location in a redirect; none in any other answer."""
    if status not in REDIRECTS:
        return ()
    return tuple(dict.fromkeys(value for name, value in fields if name.lower() == "location"))


def told_on_the_way(before: Fields, fields: Fields) -> Fields:
    """What redirects told of the file at their end: first `before`, then, by these `fields`, one more."""
    known = _OF_REDIRECT - {name.lower() for name, _ in before}
    return (*before, *(pair for pair in fields if pair[0].lower() in known))


def led_to(fields: Fields, told: Fields) -> Fields:
    """The fields of an answer, with what the redirects `told` that led to it."""
    if not told:
        return fields
    replaced = {name.lower() for name, _ in told}
    return (*(pair for pair in fields if pair[0].lower() not in replaced), *told)


def redirect_target(url: str, places: tuple[str, ...]) -> str:
    """Where a redirect from `url` to `places` leads. Raises ValueError, saying why, if it must not be followed.

    A place has a character for each byte. Those that no URL may have are percent-encoded, as clients do.
    """
    if len(places) != 1:
        raise ValueError("redirects to two places at once")
    location = places[0]
    try:
        target = urljoin(url, quote(location, safe=string.punctuation, encoding="latin-1")).partition("#")[0]
        target = _ESCAPE.sub(lambda found: found[0].upper(), target)  # RFC 3986, section 6.2.2.1
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


def answered(
    status: int, fields: Fields, said: Mapping[str, str], kept: Fields, url: str, received: float, *, marked: bool
) -> Answered:
    """What the head of an answer from `url` means to a transfer. `marked` says that the end of its body is marked.

    `said` is the first value of each field, by its name in lower case; `kept` are the fields to store.
    """
    # What a proxy on the way transformed is a whole answer like any other, and may be stored (RFC 9110, section 15.3.4).
    status = 200 if status == 203 else status
    known = Representation(kept, None if marked else parse_length(said.get("content-length")), url, received)
    place = None
    if "content-range" in said:
        places = {value for name, value in fields if name.lower() == "content-range"}
        place = parse_content_range(places.pop()) if len(places) == 1 else None
    digests: tuple[Digest, ...] = ()
    if not DIGEST_FIELDS.isdisjoint(said):
        coded = said.get("content-encoding", "identity").lower() != "identity"
        digests = declared(said, whole=status == 200, coded=coded)
    of_part = declared_of_part(said.get("content-digest")) if status == 206 else ()
    rest = None
    if status in _BUSY:
        rest = parse_retry_after(said.get("retry-after"), parse_date(said.get("date")) or received)
    return Answered(status, known, marked, place, digests, of_part, rest)


def end_to_end(said: Fields) -> Fields:
    """The end-to-end fields of an answer, for a caller of the library: all but hop-by-hop fields and cookies."""
    return tuple(pair for pair in said if pair[0].lower() not in _OF_CONNECTION)


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """What GET requests for URLs that begin with `base` have in common. `folder` is the path of `base`.

    `lines` are the fields of all of them, `via` is how this cache names itself. `fixed` are the names, in lower case, of
    fields whose values come from the configuration, whatever a client sends.
    """

    base: str
    origin: Origin
    folder: str
    lines: str
    via: str
    fixed: frozenset[str]
    rest: str
    """Everything after the request line, for clients whose fields do not matter to the source."""

    @classmethod
    def of(cls, base: str, own: Mapping[str, str], via: str, private: Fields) -> "RequestTemplate":
        """For URLs that begin with `base`, which ends with a slash. Raises ValueError if its port is not a number.

        `own` are fields for every source, `private` those for this one, which take precedence.
        """
        parts = urlsplit(base)
        private = tuple(pair for pair in private if pair[0].lower() not in _OF_ASK)
        fixed = frozenset(name.lower() for name, _ in private)
        said = {"Host": parts.netloc.rpartition("@")[2], **own}
        fields = [(name, value) for name, value in said.items() if name.lower() not in fixed]
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*fields, *private))
        rest = f"{lines}\r\n" if "via" in fixed else f"{lines}Via: {via}\r\n\r\n"
        return cls(base, Origin.of(base), parts.path[:-1], lines, via, fixed, rest)

    def text(self, ask: Ask, accept: str | None, via: str | None) -> bytes:
        """The bytes of a request; `accept` and `via` are the client's fields.

        Raises ValueError for what cannot be written, or could be read as anything else than one request for this URL.
        """
        target = self.folder + ask.url[len(self.base) - 1 :]
        if _UNWRITABLE.search(target):
            raise ValueError(_BLANK)
        if not accept and not via and not ask.offset and ask.condition is None:
            return f"GET {target} HTTP/1.1\r\n{self.rest}".encode("latin-1")
        said: list[tuple[str, str]] = []
        if "via" not in self.fixed:
            said.append(("Via", f"{via}, {self.via}" if via else self.via))
        if accept and "accept" not in self.fixed:
            said.append(("Accept", accept))
        if ask.offset or ask.condition is not None:
            said += condition_fields(ask)
        more = "".join([f"{name}: {value}\r\n" for name, value in said])
        if "\0" in more or not more.count("\n") == more.count("\r") == len(said):
            raise ValueError(_BLANK)
        return f"GET {target} HTTP/1.1\r\n{self.lines}{more}\r\n".encode("latin-1")


class SupportsRead(Protocol):
    """The content of a request, read while it is sent."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; none at the end. Raises OSError."""
        ...


@frozen
class RawRequest:
    """A request as it is sent. `of_head` says that its answer has no body. A request with content is not sent twice."""

    way: Way
    text: bytes
    of_head: bool = False
    content: SupportsRead | None = None


def raw_request(
    method: str, url: str, fields: Iterable[tuple[str, str]], way: Way, content: SupportsRead | None = None
) -> RawRequest:
    """A request for a URL. Raises ValueError for what cannot be written as one."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("it is not a URL")
    scheme, authority, target = match.groups()
    if not target.startswith("/"):
        target = f"/{target}"
    proxy = way.proxy
    if proxy is not None and not way.tunnelled:
        target = f"{scheme}://{authority}{target}"
    lines = [f"{method} {target} HTTP/1.1\r\n"]
    said = tuple(fields)
    if not any(name.lower() == "host" for name, _ in said):
        lines.append(f"Host: {authority}\r\n")
    if proxy is not None and proxy.login and not way.tunnelled:
        lines.append(f"Proxy-Authorization: {proxy.login}\r\n")
    lines += [f"{name}: {value}\r\n" for name, value in said]
    text = "".join(lines)
    if " " in target or text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
        raise ValueError(_BLANK)
    return RawRequest(way, f"{text}\r\n".encode("latin-1"), method == "HEAD", content)
