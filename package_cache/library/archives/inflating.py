"""Inflation of gz, bz2, xz and zst within a limit: which of them some bytes are, and what comes out.

Memory stays bounded whatever the input: a decompressor is asked for one chunk at a time. Every fault of a decompressor,
and an end before the end, becomes an ExtractionError.
"""

import bz2
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from package_cache.errors import ArchiveTooLarge, BrokenArchive, UnsupportedArchive
from package_cache.library.archives.reading import CHUNK

FREE = 1 << 30
RATIO = 256
"""Without a limit of its own, a file may inflate to FREE bytes or to RATIO times its size, whichever is more."""

MEMORY = 1 << 29
"""Bytes that a decompressor may take for its window: what `xz -9` and `zstd --ultra --long=29` need at most."""

_MAGIC = {
    "gz": re.compile(rb"\x1f\x8b"),
    # behind the level, the magic number of the first block, or that of the end in an empty file
    "bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    # a frame, or a frame to be skipped (RFC 8878, sections 3.1.1 and 3.1.2)
    "zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}


class Source(Protocol):
    """Something to read compressed bytes from."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; none at the end."""


class Decoder(Protocol):
    """One compressed stream, as `bz2.BZ2Decompressor` has it."""

    @property
    def eof(self) -> bool:
        """Whether the stream has come to its proper end."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out unless something is put in."""

    @property
    def unused_data(self) -> bytes:
        """What was put in beyond the end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Puts `data` in; about `max_length` bytes come out at most."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How one kind of compression is undone: a new decoder for each stream, and the exception it raises."""

    begin: Callable[[], Decoder]
    fault: type[Exception]


class _Deflated:
    """zlib's decompressor, with the manners of the others."""

    def __init__(self, form: int) -> None:
        self._inner = zlib.decompressobj(form)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._full = len(out) == max_length
        return out


class _Zstandard:
    """A decompressor of the package `zstandard`. It has no limit on what comes out, therefore little goes in at a time."""

    _PIECE = 512
    """Bytes; at most 128 KiB can come out for each 4 (RFC 8878, section 3.1.1.2)."""

    def __init__(self, decompressor: "zstandard.ZstdDecompressor") -> None:
        self._inner = decompressor.decompressobj()
        self._data = b""
        self._taken = 0

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._taken == len(self._data)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data + self._data[self._taken :]

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if data:
            self._data, self._taken = data, 0
        out = bytearray()
        while len(out) < max_length and not self.eof and not self.needs_input:
            piece = self._data[self._taken : self._taken + self._PIECE]
            self._taken += len(piece)
            out += self._inner.decompress(piece)
        return bytes(out)


if sys.version_info >= (3, 14):
    from compression import zstd

    def _zstd() -> Codec:
        options = {zstd.DecompressionParameter.window_log_max: MEMORY.bit_length() - 1}
        return Codec(lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError)

else:
    try:
        import zstandard
    except ImportError:

        def _zstd() -> Codec:
            raise UnsupportedArchive(
                "compressed with Zstandard, for which a package is missing: pip install package-cache[zstd]"
            )

    else:

        def _zstd() -> Codec:
            decompressor = zstandard.ZstdDecompressor(max_window_size=MEMORY)
            return Codec(lambda: _Zstandard(decompressor), zstandard.ZstdError)


def _codec(kind: str) -> Codec:
    match kind:
        case "gz":
            return Codec(lambda: _Deflated(16 + zlib.MAX_WBITS), zlib.error)
        case "deflate":
            return Codec(lambda: _Deflated(-zlib.MAX_WBITS), zlib.error)
        case "bz2":
            return Codec(bz2.BZ2Decompressor, OSError)
        case "xz" | "lzma":
            form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
            return Codec(lambda: lzma.LZMADecompressor(form, memlimit=MEMORY), lzma.LZMAError)
        case _:
            return _zstd()


def compression(head: bytes) -> str | None:
    """`gz`, `bz2`, `xz` or `zst` by the first bytes of a file (16 are enough); None if it is none of them."""
    return next((kind for kind, magic in _MAGIC.items() if magic.match(head)), None)


def allowance(size: int, limit: int | None) -> int:
    """Bytes that may come out of a file of `size` bytes. Raises ValueError if `limit` cannot be one."""
    if limit is not None and limit < 0:
        raise ValueError(f"limit={limit} is below 0")
    return max(FREE, RATIO * size) if limit is None else limit


class _Feed:
    """The compressed bytes, of which some can be given back."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rest = b""

    def read(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest or self._source.read(CHUNK) or b""

    def ends(self, unused: bytes) -> bool:
        """Takes back what one stream has left over; whether nothing follows it but padding with zeros."""
        self._rest = unused.lstrip(b"\0")
        while not self._rest:
            data = self._source.read(CHUNK)
            if not data:
                return True
            self._rest = data.lstrip(b"\0")
        return False


def _stream(decoder: Decoder, fault: type[Exception], feed: _Feed, name: str) -> Iterator[bytes]:
    """What comes out of one stream, up to its proper end."""
    while not decoder.eof:
        data = b""
        if decoder.needs_input:
            data = feed.read()
            if not data:
                raise BrokenArchive(f"{name} is cut short: its compressed data end in the middle")
        try:
            chunk = decoder.decompress(data, CHUNK)
        except fault as error:
            if "memory" in str(error).lower():
                raise ArchiveTooLarge(f"{name} needs more than {MEMORY} bytes of memory to be inflated") from error
            raise BrokenArchive(f"{name} is damaged: {error}") from error
        if chunk:
            yield chunk


def inflated(source: Source, kind: str, name: str, limit: int) -> Iterator[bytes]:
    """Chunks of what comes out of a file of this kind: of all its streams, which may be padded with zeros.

    Kinds are those of `compression`, and for members of a zip `deflate` (RFC 1951) and `lzma` (the old `.lzma` format).
    `name` is for messages. Raises UnsupportedArchive at once; BrokenArchive, and ArchiveTooLarge before more than `limit`
    bytes are out.
    """
    try:
        codec = _codec(kind)
    except UnsupportedArchive as error:
        raise UnsupportedArchive(f"{name} is {error}") from None
    return _inflated(codec, _Feed(source), name, limit)


def _inflated(codec: Codec, feed: _Feed, name: str, limit: int) -> Iterator[bytes]:
    size = 0
    ended = False
    while not ended:
        decoder = codec.begin()
        for chunk in _stream(decoder, codec.fault, feed, name):
            size += len(chunk)
            if size > limit:
                raise ArchiveTooLarge(f"{name} inflates to more than {limit} bytes; if you trust it, give a higher limit=")
            yield chunk
        ended = feed.ends(decoder.unused_data)


def inflate(data: bytes, limit: int | None = None) -> bytes:
    """What comes out of `data`: gz, bz2, xz or zst, known by its first bytes; anything else is returned as it is.

    `limit` is in bytes; None means 1 GiB, or 256 times the size of `data` if that is more. Raises ArchiveTooLarge,
    BrokenArchive and UnsupportedArchive.
    """
    allowed = allowance(len(data), limit)
    kind = compression(data[:16])
    return data if kind is None else b"".join(inflated(io.BytesIO(data), kind, f"the {kind} document", allowed))
