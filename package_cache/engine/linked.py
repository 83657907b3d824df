"""Answers with documents whose links are replaced for the client that asks; see `rules.repositories.links`."""

import hashlib
from collections.abc import Callable
from io import FileIO

from package_cache.engine.answers import Answer
from package_cache.engine.fills.reader import FillReader
from package_cache.engine.passthrough import PassThrough
from package_cache.engine.several import SeveralReader
from package_cache.errors import FillError
from package_cache.model import Representation, Request
from package_cache.rules.http.answer import Reply, Serving, decide
from package_cache.rules.repositories.links import LONGEST, Linking
from package_cache.storage.blobs import file_in_memory

_SHORT = 1 << 16
"""Bytes of a body that are sent from memory together with the head."""


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
        return Answer(reply, kind, _sent(reply, body), stored.source)
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


def _sent(reply: Reply, body: bytes) -> bytes:
    """What is sent of a body."""
    assert reply.span is not None
    pieces = reply.pieces or (reply.span,)
    return b"".join(piece if isinstance(piece, bytes) else body[piece.start : piece.stop] for piece in pieces)


def _file_of(body: bytes) -> FileIO:
    """A file in memory, so that it is sent as any stored one is. Raises FillError."""
    try:
        return file_in_memory("document", body)
    except OSError as error:
        raise FillError(f"there is no room in memory for the document: {error.strerror}", 503) from error
