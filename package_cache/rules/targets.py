"""Request targets: text on the wire -> `Target` -> key -> the URLs to ask.

Decides which targets name the same thing, and which name nothing and are refused. Every segment is decoded once and
encoded again in one normal form, so that `+` and `%2B` are one key while `%253a` stays what it is. Knows nothing of
disks: stored names are digests, so no text from here ever becomes a path in the cache.
"""

import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

from package_cache.errors import BadRequest, ForeignHost, TargetTooLong
from package_cache.model import Key, Source, Target

MAX_TARGET = 8000
"""Characters of a target in normal form."""

# pchar of RFC 3986 without "+": an object store reads it as a blank, and %2B is understood everywhere.
_SEGMENT_SAFE = "!$&'()*,;=:@"
# What RFC 3986 allows in a query; anything else that clients send there bare is encoded.
_QUERY_SAFE = _SEGMENT_SAFE + "+/?%"
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# Nearly every path: in normal form as it stands.
_NORMAL = re.compile(r"(?:/(?!\.{1,2}(?:[/;]|$))[A-Za-z0-9\-._~!$&'()*,;=:@]+)+/?")
_DOTS = frozenset({b".", b".."})
_UNRESERVED = re.compile(r"[A-Za-z0-9\-._~]")


def parse_target(text: str, hosts: frozenset[str]) -> Target:
    """Read the target of a GET or HEAD request (RFC 9112, section 3.2).

    `hosts` are the lower-case host names that an absolute-form target may name.
    Raises `BadRequest` for what names nothing, `ForeignHost` for another host's file.
    """
    if not _VISIBLE.fullmatch(text):
        raise BadRequest("the request target holds characters that must be percent-encoded")
    if not text.startswith("/"):
        text = _from_absolute_form(text, hosts)
    path, mark, query = text.partition("?")
    if "#" in text:
        raise BadRequest("the request target has a fragment")
    target = Target(_normal_path(path), _normal_query(query) if mark and query else None)
    if len(target.text) > MAX_TARGET:
        raise TargetTooLong(f"the request target is longer than {MAX_TARGET} characters")
    return target


def _from_absolute_form(text: str, hosts: frozenset[str]) -> str:
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise BadRequest("the request target is not a valid URL") from None
    if parts.scheme.lower() not in ("http", "https") or not host or "@" in parts.netloc:
        raise BadRequest("the request target is neither a path nor an http URL")
    if host not in hosts:
        raise ForeignHost(f"this cache does not serve {host}: it is none of its sources")
    after = text.partition("://")[2]
    tail = re.search(r"[/?#].*", after)
    path = tail.group() if tail else "/"
    return path if path.startswith("/") else "/" + path


def _normal_path(path: str) -> str:
    if _NORMAL.fullmatch(path):
        return path
    if _BROKEN_ESCAPE.search(path):
        raise BadRequest("the request target has a '%' without two hexadecimal digits")
    _check_bytes(unquote_to_bytes(path))
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


def _check_bytes(path: bytes) -> None:
    if _CONTROL.search(path):
        raise BadRequest("the request target has a control character")
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("the request target is not UTF-8") from None


def _check_segment(segment: bytes) -> None:
    if segment in _DOTS or b"." not in segment:
        return
    # A server that decodes %2F before it splits, or drops parameters or blanks, would climb where this one does not.
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
    """The key of a target. Answers that depend on Accept are kept apart by it."""
    return Key(target.text if accept is None else f"{target.text}#accept={accept}")


def candidates(target: Target, sources: tuple[Source, ...]) -> tuple[str, ...]:
    """The URLs that may have the target, in the order of the sources."""
    return tuple(source.base + target.text for source in sources)
