"""Binary streams over a file: a window onto some of its bytes, and gz, bz2, xz and zst inflated within a limit.

Streams can be read and sought like files, and keep alive what they read from. They are raw: wrap them with `buffered`.
Memory stays bounded whatever the input: a decompressor is asked for one chunk at a time. Every fault of a decompressor, and
an end before the end, becomes an ExtractionError. What an archive is, is not known here.
"""

import bz2
import io
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from package_cache.errors import ArchiveTooLarge, BrokenArchive, UnsupportedArchive

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 16
"""Bytes read, and bytes inflated, at a time."""


def buffered(stream: io.RawIOBase) -> io.BufferedReader:
    """A binary file on a stream: it has lines, and closes the stream when it is closed or goes out of use."""
    return io.BufferedReader(stream, CHUNK)


def chunks(stream: io.RawIOBase) -> Iterator[bytes]:
    """What is left of a stream, piece by piece."""
    return iter(lambda: stream.read(CHUNK) or b"", b"")


class _Stream(io.RawIOBase):
    """What both kinds of stream have in common."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readall(self) -> bytes:
        return b"".join(chunks(self))


class Window(_Stream):
    """`size` bytes of a seekable file, from `start` on. `name` is for messages.

    The file's own position is set before each read, so any number of windows can look at one file; not from several
    threads. Closing the window closes the file only if it is `owned`. Reading raises BrokenArchive where the file ends
    early.
    """

    def __init__(self, file: BinaryIO, start: int, size: int, name: str, *, owned: bool = False) -> None:
        self._file = file
        self._start = start
        self.size = size
        """Bytes."""
        self._name = name
        self._owned = owned
        self._position = 0

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Reads as much as there is room for, up to the end of the window."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), self.size - self._position)
        if count <= 0:
            return 0
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        if not data:
            raise BrokenArchive(f"{self._name} is cut short: {self.size - self._position} bytes are missing")
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Goes to a position, even beyond the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise io.UnsupportedOperation(f"cannot seek to {base + offset}, before the beginning")
        self._position = base + offset
        return self._position

    def close(self) -> None:
        """Closes it, and the file if it is owned."""
        if self._owned and not self.closed:
            self._file.close()
        super().close()


class Forward(_Stream):
    """Bytes that are made chunk by chunk; to go back means to `begin` again.

    A chunk is handed out when the next one has been made, so that a check at the end comes before the last bytes. After an
    error the next read begins again too: it fails in the same way, and never looks like the end. `owned` is closed with it.
    """

    def __init__(self, begin: Callable[[], Iterator[bytes]], *, owned: BinaryIO | None = None) -> None:
        self._begin = begin
        self._owned = owned
        self._chunks: Iterator[bytes] | None = None
        self._next = b""
        self._rest = memoryview(b"")
        self._position = 0
        self.size: int | None = None
        """Bytes in all; None until the end has been reached once."""

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Reads what is left of the chunk at hand, or the next one."""
        if self._chunks is None:
            self.seek(self._position)
        if not self._rest and not self._advance():
            return 0
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._pass(count)
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Goes to a position, or to the end if that comes first. Costs the making of what lies between."""
        if whence == os.SEEK_END and self.size is None:
            self._go(None)
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size or 0}[whence]
        if base + offset < 0:
            raise io.UnsupportedOperation(f"cannot seek to {base + offset}, before the beginning")
        self._go(base + offset)
        return self._position

    def close(self) -> None:
        """Closes it, and what it owns."""
        if self._owned is not None and not self.closed:
            self._owned.close()
        super().close()

    def _go(self, target: int | None) -> None:
        """Passes what lies before `target`, or everything. Where that fails the position is as before."""
        before = self._position
        try:
            if self._chunks is None or (target is not None and target < self._position):
                self._restart()
            while target is None or self._position < target:
                if not self._rest and not self._advance():
                    break
                self._pass(len(self._rest) if target is None else min(len(self._rest), target - self._position))
        except BaseException:
            self._chunks, self._position = None, before
            raise

    def _pass(self, count: int) -> None:
        self._rest = self._rest[count:]
        self._position += count

    def _restart(self) -> None:
        self._rest, self._position = memoryview(b""), 0
        self._chunks = self._begin()
        self._next = self._make()

    def _advance(self) -> bool:
        """Has the next chunk made; False at the end."""
        if not self._next:
            self.size = self._position
            return False
        following = self._make()
        self._rest, self._next = memoryview(self._next), following
        return True

    def _make(self) -> bytes:
        assert self._chunks is not None
        try:
            return next(self._chunks, b"")
        except BaseException:
            self._chunks = None  # an iterator that has raised would now seem to have ended
            raise


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


class Decoder(Protocol):
    """The decompressor of one stream, as `bz2.BZ2Decompressor` is one."""

    @property
    def eof(self) -> bool: ...  # noqa: D102 - as there
    @property
    def needs_input(self) -> bool: ...  # noqa: D102
    @property
    def unused_data(self) -> bytes: ...  # noqa: D102
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...  # noqa: D102


Codec = tuple[Callable[[], Decoder], type[Exception]]
"""What makes a decompressor for each stream, and the exception that it raises."""


class _Deflated:
    """zlib's decompressor, with the interface of the others."""

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
        return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError

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
            return lambda: _Zstandard(decompressor), zstandard.ZstdError


def _codec(kind: str) -> Codec:
    match kind:
        case "gz":
            return lambda: _Deflated(16 + zlib.MAX_WBITS), zlib.error
        case "deflate":
            return lambda: _Deflated(-zlib.MAX_WBITS), zlib.error
        case "bz2":
            return bz2.BZ2Decompressor, OSError
        case "xz" | "lzma":
            form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
            return lambda: lzma.LZMADecompressor(form, memlimit=MEMORY), lzma.LZMAError
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


def inflated(source: io.BufferedIOBase | io.RawIOBase | BinaryIO, kind: str, name: str, limit: int) -> Iterator[bytes]:
    """Chunks of what comes out of a file of this kind: of all its streams, which may be padded with zeros.

    Kinds are those of `compression`, and for members of a zip `deflate` (RFC 1951) and `lzma` (the old `.lzma` format).
    `name` is for messages. Raises UnsupportedArchive at once; BrokenArchive, and ArchiveTooLarge before more than `limit`
    bytes are out.
    """
    try:
        codec = _codec(kind)
    except UnsupportedArchive as error:
        raise UnsupportedArchive(f"{name} is {error}") from None
    return _inflated(codec, source, name, limit)


def _inflated(codec: Codec, source: Any, name: str, limit: int) -> Iterator[bytes]:
    begin, fault = codec
    size, rest = 0, b""  # what was read and not yet inflated
    while True:
        decoder = begin()
        while not decoder.eof:
            data = b""
            if decoder.needs_input:
                data, rest = rest or source.read(CHUNK) or b"", b""
                if not data:
                    raise BrokenArchive(f"{name} is cut short: its compressed data end in the middle")
            try:
                chunk = decoder.decompress(data, CHUNK)
            except fault as error:
                raise _translated(error, name) from error
            size += len(chunk)
            if size > limit:
                raise ArchiveTooLarge(f"{name} inflates to more than {limit} bytes; if you trust it, give a higher limit=")
            if chunk:
                yield chunk
        rest = decoder.unused_data.lstrip(b"\0")  # another stream may follow, and between them padding with zeros
        while not rest:
            data = source.read(CHUNK)
            if not data:
                return
            rest = data.lstrip(b"\0")


def _translated(error: Exception, name: str) -> ArchiveTooLarge | BrokenArchive:
    if "memory" in str(error).lower():
        return ArchiveTooLarge(f"{name} needs more than {MEMORY} bytes of memory to be inflated")
    return BrokenArchive(f"{name} is damaged: {error}")


def inflate(data: bytes, limit: int | None = None) -> bytes:
    """What comes out of `data`: gz, bz2, xz or zst, known by its first bytes; anything else is returned as it is.

    `limit` is in bytes; None means 1 GiB, or 256 times the size of `data` if that is more. Raises ArchiveTooLarge,
    BrokenArchive and UnsupportedArchive.
    """
    allowed = allowance(len(data), limit)
    kind = compression(data[:16])
    return data if kind is None else b"".join(inflated(io.BytesIO(data), kind, f"the {kind} document", allowed))
