"""What a request comes to: a reply, and where its body is to be had."""

from dataclasses import dataclass
from io import FileIO

from package_cache.engine.aside import AsideReader
from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.fill import FillReader
from package_cache.engine.relay import Relay
from package_cache.engine.several import SeveralReader
from package_cache.rules.http.answer import Reply


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply and where its body comes from.

    That is a blob, positioned at `reply.span`; or a reader of one that is compared meanwhile, of a part that still
    arrives, of a range fetched beside it, or of several ranges; or a relay of what is not kept; or bytes in hand. `kind`
    and `source` are for the log.
    """

    reply: Reply
    kind: str
    body: FileIO | CheckedReader | FillReader | AsideReader | SeveralReader | Relay | bytes | None = None
    source: str = "-"
