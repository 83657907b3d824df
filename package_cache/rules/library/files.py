"""How the file of an item is called: its name as the caller knows it, and the extension of its path in the cache."""

import re

from package_cache.errors import ArgumentError
from package_cache.rules.library.attributes import sound

_LONGEST = 100
_EXTENSION = re.compile(r"\.((?:tar\.)?[A-Za-z0-9_+]{1,16})$")


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
    if "/" in plain or "\0" in plain or len(plain.encode("utf-8")) > _LONGEST:
        raise ArgumentError(f"ext: {ext!r} cannot be the end of a file's name")
    return plain or None
