"""What a request comes to: a reply, and where its body is to be had."""

from io import FileIO

from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.reader import FillReader, Window
from package_cache.engine.several import SeveralReader, gathered
from package_cache.errors import PackageCacheError
from package_cache.model import frozen
from package_cache.rules.http.answer import Reply


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
