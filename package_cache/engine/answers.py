"""What a request comes to: a reply, and where its body is to be had: in a file, in several ranges of one, or in memory.

A document whose links are replaced for the client that asks is made here as well; see `rules.repositories.links`.
"""

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from io import FileIO

from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.reader import FillReader, Window
from package_cache.engine.passthrough import PassThrough
from package_cache.errors import FillError, PackageCacheError
from package_cache.model import Representation, Request, Span, frozen
from package_cache.rules.http.answer import Reply, Serving, decide
from package_cache.rules.http.ranges import Piece
from package_cache.rules.repositories.links import LONGEST, Linking
from package_cache.storage.blobs import file_in_memory

_BLOCK = 1 << 18
_SHORT = 1 << 16
"""Bytes of a document that are sent from memory together with the head."""


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


@frozen
class Answer:
    """A reply and where its body comes from.

    That is a blob, positioned at `reply.span`; or a reader of one that is compared meanwhile, of a part that still
    arrives, or of several ranges; or a window of what is not kept; or bytes in hand. `kind` and `source` are for the log.
    """

    reply: Reply
    kind: str
    body: FileIO | CheckedReader | FillReader | SeveralReader | Window | bytes | None = None
    source: str = "-"
    error: PackageCacheError | None = None
    """What it tells the client of, if it does."""

    def close(self) -> None:
        """Give back what nobody will send."""
        if self.body is not None and not isinstance(self.body, bytes):
            self.body.close()


def from_blob(reply: Reply, kind: str, blob: FileIO | bytes, source: str) -> Answer:
    """A reply with its part of a blob that is open, which is the answer's then, or in hand."""
    body: FileIO | SeveralReader | bytes | None = None
    if isinstance(blob, bytes):
        if reply.span is not None:
            body = gathered(reply.pieces, blob) if reply.pieces else blob[reply.span.start : reply.span.stop]
    elif reply.span is None:
        blob.close()
    else:
        body = SeveralReader(reply.pieces, blob) if reply.pieces else blob
    return Answer(reply, kind, body, source)


def answer_linked(
    request: Request,
    linking: Linking,
    stored: Representation,
    read: Callable[[], bytes],
    serving: Callable[[str | None], Serving],
    kind: str,
) -> Answer:
    """The answer with a document that `read` reads, unless it need not be read. `serving` is called with its digest."""
    told = decide(request, linking.head(stored, None), serving(None))
    if told.status == 304:
        return Answer(told, kind, source=stored.source)
    body = linking.body(read())
    reply = decide(request, linking.head(stored, body), serving(hashlib.sha256(body).hexdigest()))
    if reply.span is None:
        return Answer(reply, kind, source=stored.source)
    if len(body) <= _SHORT:
        return Answer(reply, kind, gathered(reply.pieces or (reply.span,), body), stored.source)
    file = _file_of(body)
    if reply.pieces:
        return Answer(reply, kind, SeveralReader(reply.pieces, file), stored.source)
    file.seek(reply.span.start)
    return Answer(reply, kind, file, stored.source)


def read_document(body: PassThrough | FillReader) -> bytes:
    """All of a document that comes from a source, or is here and about to be stored. Raises FillError."""
    blocks: list[bytes] = []
    have = 0
    try:
        for block in body.read(None):
            have += len(block)
            if have > LONGEST:
                raise FillError(f"it is a document of more than {LONGEST} bytes, so that its links cannot be replaced", 502)
            blocks.append(block)
    finally:
        body.close()
    return b"".join(blocks)


def _file_of(body: bytes) -> FileIO:
    """A file in memory, so that it is sent as any stored one is. Raises FillError."""
    try:
        return file_in_memory("document", body)
    except OSError as error:
        raise FillError(f"there is no room in memory for the document: {error.strerror}", 503) from error


def gathered(pieces: Sequence[Piece], body: bytes) -> bytes:
    """The bytes of pieces of a file that is in hand."""
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
