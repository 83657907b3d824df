"""A body of several ranges of one file, which is stored or still arrives, with the lines between them."""

import os
from collections.abc import Generator, Sequence
from io import FileIO

from package_cache.engine.fills.reader import FillReader
from package_cache.errors import FillError
from package_cache.model import Span
from package_cache.rules.http.ranges import Piece

_BLOCK = 1 << 18


class SeveralReader:
    """Reads the pieces of a body in their order. Belongs to one thread at a time; the file's position is left alone."""

    def __init__(self, pieces: Sequence[Piece], source: FileIO | FillReader) -> None:
        self.pieces = pieces
        self.source = source

    def read(self, span: Span | None) -> Generator[bytes, None, None]:  # noqa: ARG002 - it is always all of it
        """All of it. Raises `FillError` where it cannot go on."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
            elif isinstance(self.source, FillReader):
                yield from self.source.read(piece)
            else:
                yield from _stored(self.source, piece)

    def close(self) -> None:
        """Close the file, or leave the fill."""
        self.source.close()


def gathered(pieces: Sequence[Piece], body: bytes) -> bytes:
    """The same, of a file that is in hand."""
    return b"".join(piece if isinstance(piece, bytes) else body[piece.start : piece.stop] for piece in pieces)


def _stored(file: FileIO, span: Span) -> Generator[bytes, None, None]:
    at = span.start
    while at < span.stop:
        try:
            block = os.pread(file.fileno(), min(_BLOCK, span.stop - at), at)
        except OSError as error:
            raise FillError(f"the stored file cannot be read: {error.strerror}", 500) from error
        if not block:
            raise FillError("the stored file became shorter while it was sent", 500)
        at += len(block)
        yield block
