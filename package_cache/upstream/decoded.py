"""A body whose content coding is taken off while it is read.

Nobody asked for a coding, and some servers send one all the same. What is behind it is the file, unless the file is itself
compressed, and the coding only said so. A part of such a body cannot be asked for: places in it are not those in the file.
"""

import re
import zlib
from dataclasses import replace

from package_cache.errors import UpstreamError, UpstreamLie
from package_cache.model import Fields
from package_cache.rules.http.fields import media_type
from package_cache.rules.transfers.steps import Head
from package_cache.upstream.answers import Answer

_GZIP, _ZLIB, _BARE = 31, 15, -15
"""What zlib calls these formats."""
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_BLOCK = 1 << 20
_COMPRESSED_NAME = re.compile(r"\.(gz|tgz|taz|crate|svgz|apk|ipk|z)$", re.IGNORECASE)
_COMPRESSED_TYPE = re.compile(r"application/(x-)?(gzip|gtar-compressed|compressed-tar|tgz)")
_DROPPED = frozenset(
    {"content-encoding", "content-length", "content-md5", "digest", "repr-digest", "content-digest", "date"}
)
"""What does not hold for the decoded body; and the date, without which Last-Modified proves nothing of a part."""


def decoded(answer: Answer, url: str) -> Answer:
    """The answer without its content coding, where that is one that can be taken off."""
    said = answer.head.representation
    window = _WINDOWS.get((said.get("content-encoding") or "").strip(" \t").lower())
    if window is None or answer.head.status != 200:
        return answer
    if _COMPRESSED_NAME.search(url.partition("?")[0]) or _COMPRESSED_TYPE.fullmatch(media_type(said.get("content-type"))):
        return answer
    return _Decoded(answer, window)


class _Decoded:
    """The body inside."""

    def __init__(self, answer: Answer, window: int) -> None:
        self._answer = answer
        self._window = window
        self._inflating = zlib.decompressobj(window)
        self._rest = b""
        self._begun = False
        self.head = _head_inside(answer.head)

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        while True:
            if not self._rest:
                self._rest = self._answer.read()
                if not self._rest:
                    if self._begun and not self._inflating.eof:
                        raise UpstreamError("ended within its content coding", again=True)
                    return b""
            data = self._inflate()
            if data:
                return data

    def _inflate(self) -> bytes:
        if self._inflating.eof:
            if self._window != _GZIP:
                raise UpstreamLie("sent more behind the end of its content coding")
            self._inflating = zlib.decompressobj(self._window)  # the next member
        try:
            data = self._inflating.decompress(self._rest, _BLOCK)
        except zlib.error as error:
            if self._begun or self._window != _ZLIB:
                raise UpstreamLie(f"sent a body that is not in the coding it declares: {error}") from error
            # Some servers leave the frame away that RFC 9110 (section 8.4.1.2) wants around it.
            self._window = _BARE
            self._inflating = zlib.decompressobj(_BARE)
            return self._inflate()
        self._begun = True
        self._rest = self._inflating.unused_data if self._inflating.eof else self._inflating.unconsumed_tail
        return data

    def close(self) -> None:
        """Give the connection back."""
        self._answer.close()


def _head_inside(head: Head) -> Head:
    said = head.representation
    kept: Fields = tuple(
        (name, f"W/{value}" if name.lower() == "etag" and not value.startswith("W/") else value)
        for name, value in said.fields
        if name.lower() not in _DROPPED
    )
    return replace(head, representation=replace(said, fields=kept, size=None), chunked=True, digests=(), part_digests=())
