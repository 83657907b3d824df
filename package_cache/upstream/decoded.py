"""A body whose content coding is taken off while it is read.

Nobody asked for a coding, and some servers send one all the same. What is behind it is the file, unless the file is itself
compressed, and the coding only said so. A part of such a body cannot be asked for: places in it are not those in the file.
"""

import re
import zlib
from dataclasses import replace

from package_cache.errors import UpstreamError, UpstreamLie
from package_cache.model import Fields
from package_cache.rules.http.digests import hasher
from package_cache.rules.http.fields import media_type
from package_cache.rules.transfers.disguise import is_known
from package_cache.rules.transfers.steps import Head
from package_cache.upstream.answers import Answer

_GZIP, _ZLIB, _BARE = 31, 15, -15
"""What zlib calls these formats."""
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_BLOCK = 1 << 20
LONGEST = 1 << 30
"""Bytes of a document that may come out of a coding that nobody asked for."""
_COMPRESSED_NAME = re.compile(r"\.(gz|tgz|taz|crate|svgz|apk|ipk|z)$", re.IGNORECASE)
_COMPRESSED_TYPE = re.compile(r"application/(x-)?(gzip|gtar-compressed|compressed-tar|tgz)|.*\+gzip")
_DOCUMENT_TYPE = re.compile(r"text/.*|application/(json|xml|javascript)|.*\+(json|xml)")
"""What servers code on the fly. What else is said to be coded may as well be a file that was compressed before."""
_DIGEST_NAME = re.compile(r"[0-9a-f]{32,128}")
_DROPPED = frozenset(
    {"content-encoding", "content-length", "content-md5", "digest", "repr-digest", "content-digest", "date"}
)
"""What does not hold for the decoded body; and the date, without which Last-Modified proves nothing of a part."""


def decoded(answer: Answer, url: str, longest: int | None = None) -> Answer:
    """The answer without its content coding, where that is one that can be taken off; of `longest` bytes then at most."""
    said = answer.head.representation
    window = _WINDOWS.get((said.get("content-encoding") or "").strip(" \t").lower())
    if window is None or answer.head.status != 200:
        return answer
    if _COMPRESSED_NAME.search(url.partition("?")[0]) or _COMPRESSED_TYPE.fullmatch(media_type(said.get("content-type"))):
        return answer
    return _Decoded(answer, window, longest)


def uncoded(answer: Answer, url: str) -> Answer:
    """A document without its content coding; any other file as it is, since the coding may be all that is known of it."""
    path = url.partition("?")[0]
    kind = media_type(answer.head.representation.get("content-type"))
    unnamed = not kind and not _DIGEST_NAME.fullmatch(path.rpartition("/")[2])
    if is_known(path) or not (unnamed or _DOCUMENT_TYPE.fullmatch(kind)):
        return answer
    return decoded(answer, url, LONGEST)


class _Decoded:
    """The body inside. What is outside is held to what its head says: its length, and its digests."""

    def __init__(self, answer: Answer, window: int, longest: int | None) -> None:
        self._answer = answer
        self._window = window
        self._longest = longest
        self._came = self._left = 0
        self._hashes = [(hasher(it.algorithm), it.value) for it in answer.head.digests]
        self._inflating = zlib.decompressobj(window)
        self._rest = b""
        self._begun = False
        self.head = _head_inside(answer.head)

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        while True:
            if not self._rest:
                self._rest = self._outside()
                if not self._rest:
                    return b""
            data = self._inflate()
            self._left += len(data)
            if self._longest is not None and self._left > self._longest:
                raise UpstreamLie(f"sent a document of more than {self._longest} bytes in a content coding")
            if data:
                return data

    def _outside(self) -> bytes:
        """The next bytes as they were sent; nothing at an end that is one for both. Raises UpstreamError."""
        data = self._answer.read()
        self._came += len(data)
        for running, value in self._hashes:
            running.update(data)
            if not data and running.digest() != value:
                raise UpstreamLie("sent bytes that are not those of the digest it declares")
        if not data and self._came != (self._answer.head.representation.size or self._came):
            raise UpstreamError("ended before the declared length", again=True)
        if not data and self._begun and not self._inflating.eof:
            raise UpstreamError("ended within its content coding", again=True)
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
    told = head.chunked or said.size is not None
    return replace(head, representation=replace(said, fields=kept, size=None), chunked=told, digests=(), part_digests=())
