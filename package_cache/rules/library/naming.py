"""How a downloaded file is called: by the server's Content-Disposition, else by its URL. Only a base name, never a path."""

import re
from urllib.parse import unquote, unquote_to_bytes, urlsplit

_PARAMETER = re.compile(r";[ \t]*([!#$&+.^_`|~0-9A-Za-z-]+\*?)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^;\"]*))", re.DOTALL)
_EXTENDED = re.compile(r"(?i:(utf-8|iso-8859-1))'[^']*'(.*)", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_DOUBLE = re.compile(r"(\.tar)?\.[A-Za-z0-9]{1,10}$")
_LONGEST = 255
"""Bytes that a file name may have on every system."""


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
    if len(encoded) <= _LONGEST:
        return encoded.decode("utf-8")
    suffix = suffix_of(name).encode()
    return encoded[: _LONGEST - len(suffix)].decode("utf-8", "ignore") + suffix.decode()


def suffix_of(name: str | None) -> str:
    """The suffix of a name with its dot, `.tar.gz` as one; empty if there is none."""
    match = _DOUBLE.search(name or "")
    return match[0] if match and match.start() else ""
