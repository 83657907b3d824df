"""URLs of downloads in one form: what is the same request is the same text."""

import re
from urllib.parse import quote, unquote, unquote_plus, urlencode, urlsplit

_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_PATH = "/%:@!$&'()*+,;=~-._"
_QUERY = _PATH + "?[]|"
_PORTS = {"http": 80, "https": 443}

Query = tuple[tuple[str, str | None], ...]
"""Names and values, decoded; None for a name without `=`."""


def clean(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL in normal form, and the user and password that stood in it.

    Raises ValueError, saying why, for what is not an http or https URL.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it cannot be read: {error}") from None
    if parts.scheme not in _PORTS:
        raise ValueError("it does not begin with http:// or https://")
    if not parts.hostname or _FORBIDDEN.search(parts.netloc):
        raise ValueError("it names no host")
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError("it has control characters")
    host = _host(parts.hostname)
    place = host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"
    path = _without_dots(quote(_STRAY_PERCENT.sub("%25", parts.path), safe=_PATH)) or "/"
    query = quote(_STRAY_PERCENT.sub("%25", parts.query), safe=_QUERY)
    login = None
    if parts.username is not None:
        login = unquote(parts.username), unquote(parts.password or "")
    return f"{parts.scheme}://{place}{path}" + (f"?{query}" if query else ""), login


def _host(name: str) -> str:
    if ":" in name:
        return f"[{name}]"
    try:
        return name.encode("ascii").decode("ascii")
    except UnicodeEncodeError:
        return name.encode("idna").decode("ascii")


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4: what every client makes of a path before it asks for it."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept) + ("/" if segments[-1] in (".", "..") else "")


def split_query(url: str) -> tuple[str, Query]:
    """A URL without its query, and the query."""
    base, _, text = url.partition("?")
    return base, tuple(_pair(part) for part in text.split("&") if part)


def _pair(part: str) -> tuple[str, str | None]:
    name, equals, value = part.partition("=")
    return unquote_plus(name), unquote_plus(value) if equals else None


def with_query(url: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """A URL with more names and values behind those it has."""
    if not pairs:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(pairs)}"


def canonical(query: Query) -> dict[str, object]:
    """A query as an object whose text is the same whatever the order of the names; of one name, the order counts."""
    found: dict[str, list[str | None]] = {}
    for name, value in query:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in sorted(found.items())}
