"""Request targets: from the text in a request to a `Target`, and from that to a key.

Decides which targets name the same thing, and which name nothing and are refused; in which repository a target is, is
decided by `rules.repositories.routes`. Every segment is decoded once and encoded again in one normal form, so that `+` and
`%2B` are one key, while `%253a` stays what it is. Stored files are named by digests, so no text from here ever becomes a
path in the cache.
"""

import re
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

from package_cache.errors import BadRequest, TargetTooLong
from package_cache.model import Key, Target

MAX_TARGET = 8000
"""Characters of a target in normal form."""

# pchar of RFC 3986 without "+", which object stores read as a space, while %2B is understood everywhere.
_SEGMENT_SAFE = "!$&'()*,;=:@"
# What RFC 3986 allows in a query; anything else that clients do not encode there is encoded.
_QUERY_SAFE = _SEGMENT_SAFE + "+/?%"
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# Nearly every path is in normal form as it is sent.
_NORMAL = re.compile(r"(?:/(?!\.{1,2}(?:[/;]|$))[A-Za-z0-9\-._~!$&'()*,;=:@]+)+/?")
_PORTS = {"http": 80, "https": 443}
_ACCEPT = "#accept="
"""No target has a fragment."""
_DOTS = frozenset({b".", b".."})
_UNRESERVED = re.compile(r"[A-Za-z0-9\-._~]")


def parse_target(text: str) -> tuple[str | None, Target]:
    """The authority and the path and query in the target of a GET or HEAD request (RFC 9112, section 3.2).

    The authority is None in origin-form, else in lower case without its scheme's port. Raises `BadRequest` for a target
    that names nothing.
    """
    if _NORMAL.fullmatch(text) and len(text) <= MAX_TARGET:
        return None, Target(text)
    if not _VISIBLE.fullmatch(text):
        raise BadRequest("the request target holds characters that must be percent-encoded")
    authority = None
    if not text.startswith("/"):
        authority, text = _from_absolute_form(text)
    path, mark, query = text.partition("?")
    if "#" in text:
        raise BadRequest("the request target has a fragment")
    target = Target(_normal_path(path), _normal_query(query) if mark and query else None)
    if len(target.text) > MAX_TARGET:
        raise TargetTooLong(f"the request target is longer than {MAX_TARGET} characters")
    return authority, target


def _from_absolute_form(text: str) -> tuple[str, str]:
    try:
        parts = urlsplit(text)
        authority = authority_of(parts)
    except ValueError:
        raise BadRequest("the request target is not a valid URL") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise BadRequest("the request target is neither a path nor an http URL")
    after = text.partition("://")[2]
    tail = re.search(r"[/?#].*", after)
    path = tail.group() if tail else "/"
    return authority, path if path.startswith("/") else "/" + path


def authority_of(parts: SplitResult) -> str:
    """The host of a URL, with its port if that is not the scheme's. Raises ValueError for a port that is no number."""
    host = (parts.hostname or "").rstrip(".")
    port = parts.port
    host = f"[{host}]" if ":" in host else host
    return host if port is None or port == _PORTS.get(parts.scheme.lower()) else f"{host}:{port}"


def _normal_path(path: str) -> str:
    if _NORMAL.fullmatch(path):
        return path
    if _BROKEN_ESCAPE.search(path):
        raise BadRequest("the request target has a '%' without two hexadecimal digits")
    decoded = unquote_to_bytes(path)
    if _CONTROL.search(decoded):
        raise BadRequest("the request target has a control character")
    try:
        decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("the request target is not UTF-8") from None
    kept: list[bytes] = []
    segments = [unquote_to_bytes(segment) for segment in path[1:].split("/")]
    for position, segment in enumerate(segments):
        _check_segment(segment)
        if segment == b"..":
            if not kept:
                raise BadRequest("the request target climbs above the root")
            kept.pop()
        elif segment != b".":
            kept.append(segment)
            continue
        if position == len(segments) - 1:
            kept.append(b"")
    return "/" + "/".join(quote(segment, safe=_SEGMENT_SAFE) for segment in kept)


def _check_segment(segment: bytes) -> None:
    if segment in _DOTS or b"." not in segment:
        return
    # A server that decodes %2F before it splits, or drops parameters or spaces, would climb where this one does not.
    parts = [part.partition(b";")[0].strip(b" ") for part in re.split(rb"[/\\]", segment)]
    if not _DOTS.isdisjoint(parts):
        raise BadRequest("the request target hides a dot segment")


def _normal_query(query: str) -> str:
    if _BROKEN_ESCAPE.search(query):
        raise BadRequest("the query has a '%' without two hexadecimal digits")
    if _CONTROL.search(unquote_to_bytes(query)):
        raise BadRequest("the query has a control character")
    return _ESCAPE.sub(_normal_escape, quote(query, safe=_QUERY_SAFE))


def _normal_escape(match: re.Match[str]) -> str:
    character = chr(int(match.group(1), 16))
    return character if _UNRESERVED.fullmatch(character) else match.group().upper()


def key_of(target: Target, accept: str | None = None) -> Key:
    """The key of a target. With `accept`, responses that depend on Accept have keys of their own."""
    text = target.text
    return Key(text if accept is None else f"{text}{_ACCEPT}{accept}")


def parts_of(key: Key) -> tuple[str, str | None]:
    """The target and the Accept in a key, both as text."""
    text, mark, accept = key.partition(_ACCEPT)
    return text, accept if mark else None
