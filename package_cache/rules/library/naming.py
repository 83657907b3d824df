"""How downloads and items are named: URLs in normal form, keys of items, file names and extensions.

URLs that make the same request become the same text. A file name is the base name only, never a path.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote, unquote_plus, unquote_to_bytes, urlencode, urlsplit

from package_cache.errors import ArgumentError
from package_cache.model import Key
from package_cache.rules.library.attributes import canonical, sound

_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_PATH = "/%:@!$&'()*+,;=~-._"
_QUERY = _PATH + "?[]|"
_PORTS = {"http": 80, "https": 443}

Query = tuple[tuple[str, str | None], ...]
"""Names and values, decoded; None for a name without `=`."""
_PARAMETER = re.compile(r";[ \t]*([!#$&+.^_`|~0-9A-Za-z-]+\*?)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^;\"]*))", re.DOTALL)
_EXTENDED = re.compile(r"(?i:(utf-8|iso-8859-1))'[^']*'(.*)", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_DOUBLE = re.compile(r"(\.tar)?\.[A-Za-z0-9]{1,10}$")
_LONGEST_NAME = 255
"""Bytes that a file name may have on every system."""
_LONGEST_EXTENSION = 100
_EXTENSION = re.compile(r"\.((?:tar\.)?[A-Za-z0-9_+]{1,16})$")


def normal_url(url: str) -> tuple[str, tuple[str, str] | None]:
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
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode("ascii")
    host = f"[{host}]" if ":" in host else host
    place = host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"
    path = _without_dots(quote(_STRAY_PERCENT.sub("%25", parts.path), safe=_PATH)) or "/"
    query = quote(_STRAY_PERCENT.sub("%25", parts.query), safe=_QUERY)
    login = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    return f"{parts.scheme}://{place}{path}" + (f"?{query}" if query else ""), login


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
    pairs = (part.partition("=") for part in text.split("&") if part)
    return base, tuple((unquote_plus(name), unquote_plus(value) if equals else None) for name, equals, value in pairs)


def with_query(url: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """A URL with names and values appended to its query."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(pairs)}" if pairs else url


def canonical_query(query: Query) -> dict[str, object]:
    """A query as an object whose JSON does not depend on the order of the names; the order of one name's values counts."""
    found: dict[str, list[str | None]] = {}
    for name, value in query:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in sorted(found.items())}


def library_key(uri: str, params: Mapping[str, object] | None = None) -> Key:
    """The key of an item: SHA-256, in hex, over the canonical JSON of uri and parameters. Raises ArgumentError.

    The order of names does not matter; the order of elements in a list does, and so does every type: 1, 1.0, True and "1"
    make four keys. No parameters are the same as empty ones. Equal times are equal, whatever their zones.
    """
    return item_key(uri, canonical(params or {}, "params"))


def item_key(uri: object, params: str) -> Key:
    """The `library_key` for parameters that are canonical JSON already."""
    if not isinstance(uri, str) or not uri:
        raise ArgumentError(f"uri: a text that names the item is needed, not {uri!r}")
    text = f'{{"params":{params},"uri":{json.dumps(sound(str(uri), "uri"))}}}'
    return Key(hashlib.sha256(text.encode("ascii")).hexdigest())


def filename_of(disposition: str | None, url: str) -> str | None:
    """The name of a download: `filename*`, else `filename` (RFC 6266), else the last segment of the URL's path."""
    said = dict[str, str]()
    for name, quoted, token in _PARAMETER.findall(";" + (disposition or "").partition(";")[2]):
        said.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted else token.strip(" \t"))
    candidates = (
        _decoded(said.get("filename*", "")),
        said.get("filename", ""),
        unquote(urlsplit(url).path.rpartition("/")[2]),
    )
    return next((clean for text in candidates if (clean := base_name(text))), None)


def _decoded(text: str) -> str:
    """The value of an extended parameter (RFC 8187); nothing if it cannot be read."""
    match = _EXTENDED.fullmatch(text)
    if match is None:
        return ""
    try:
        return unquote_to_bytes(match[2]).decode(match[1].lower())
    except UnicodeDecodeError:
        return ""


def base_name(text: str) -> str:
    """The last part of what may be a path of any system, without what cannot be shown; empty if nothing is left."""
    name = _UNPRINTABLE.sub("", re.split(r"[/\\]", text)[-1]).strip()
    if name in ("", ".", ".."):
        return ""
    encoded = name.encode("utf-8", "ignore")
    if len(encoded) <= _LONGEST_NAME:
        return encoded.decode("utf-8")
    suffix = suffix_of(name).encode()
    return encoded[: _LONGEST_NAME - len(suffix)].decode("utf-8", "ignore") + suffix.decode()


def suffix_of(name: str | None) -> str:
    """The suffix of a name with its dot, `.tar.gz` as one; empty if there is none."""
    match = _DOUBLE.search(name or "")
    return match[0] if match and match.start() else ""


def file_name(filename: str | None, uri: str) -> str | None:
    """The name given, else the last part of the uri; None if that is empty. Raises ArgumentError."""
    if filename is not None:
        if not isinstance(filename, str):
            raise ArgumentError(f"filename: a text is needed, not {filename!r}")
        return sound(filename, "filename") or None
    return re.split("[?#]", uri, maxsplit=1)[0].rpartition("/")[2] or None


def extension(ext: str | None, filename: str | None) -> str | None:
    """The extension given, without its first dot, else that of the file name; `.tar.gz` is one. Raises ArgumentError."""
    if ext is None:
        match = _EXTENSION.search(filename or "", 1)
        return match[1] if match else None
    if not isinstance(ext, str):
        raise ArgumentError(f"ext: a text is needed, not {ext!r}")
    plain = sound(ext, "ext").strip().lstrip(".")
    if "/" in plain or "\0" in plain or len(plain.encode("utf-8")) > _LONGEST_EXTENSION:
        raise ArgumentError(f"ext: {ext!r} cannot be the end of a file's name")
    return plain or None
