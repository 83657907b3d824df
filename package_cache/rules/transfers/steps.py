"""The words a transfer and the loop that drives it exchange: what happened, and what to do. See `transfer.py`."""

from dataclasses import dataclass

from package_cache.model import Representation, Validators
from package_cache.rules.http.digests import Digest
from package_cache.rules.http.fields import ContentRange


@dataclass(frozen=True, slots=True)
class Head:
    """Event: a source answered. `chunked` says that the end of the body will be marked."""

    status: int
    representation: Representation
    chunked: bool = False
    content_range: ContentRange | None = None
    digests: tuple[Digest, ...] = ()
    """What the bytes of the whole file must hash to, as the source says."""
    part_digests: tuple[Digest, ...] = ()
    """What the bytes of this answer's body must hash to, where that is not the whole file."""
    retry_after: float | None = None
    """For how many seconds the source wants to be left alone, if it has too much to do."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Event: so many bytes arrived and were compared or appended."""

    size: int


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Event: bytes arrived that differ from those kept at the same place, or go beyond the declared length."""


@dataclass(frozen=True, slots=True)
class Lied:
    """Event: the source said or sent what cannot be right; once its body was begun, that holds for the body too."""

    reason: str


@dataclass(frozen=True, slots=True)
class Useless:
    """Event: the file came whole, as the source has it, and is not what a file of that name has to be."""

    reason: str


@dataclass(frozen=True, slots=True)
class Eof:
    """Event: the body ended in good order by its own framing."""


@dataclass(frozen=True, slots=True)
class Slow:
    """Event: by what is known, `url` would deliver the rest a good deal faster."""

    url: str


@dataclass(frozen=True, slots=True)
class Broke:
    """Event: the source could not be asked or stopped. `again` allows asking the same one at once.

    One that `crawls` did not stop, but would take for ever. One with `retry_after` was not asked: it had said not to.
    """

    reason: str
    again: bool = False
    timeout: bool = False
    crawls: bool = False
    retry_after: float | None = None


Event = Head | Chunk | Mismatch | Lied | Useless | Eof | Slow | Broke


@dataclass(frozen=True, slots=True)
class Ask:
    """Action: after `pause` seconds request `url` from byte `offset` on, up to `stop` if that is set.

    With an offset, `if_range` is sent as If-Range; without, `condition` is sent as If-None-Match or If-Modified-Since.
    """

    url: str
    offset: int = 0
    if_range: str | None = None
    condition: Validators | None = None
    pause: float = 0.0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Receive:
    """Action: read on; the next byte belongs at `at`. `begin` is a head that a source vouches for from now on.

    It comes with the answer to a `Head`; where bytes have to be compared first, with that to the `Chunk` that ended this.
    """

    at: int
    begin: Representation | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """Action: forget the bytes kept; they belong to a file that no source holds any more."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Action: the file is complete with `size` bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class NotModified:
    """Action: the source confirmed what the cache has (304). `head` may carry newer fields."""

    head: Representation


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Action: no source delivered. `status` is the HTTP status that says so to a client.

    `answered` is the status in which the first of them refused that answered at all. Before `retry_after` seconds are
    over, the sources will not be asked.
    """

    status: int
    reason: str
    answered: int | None = None
    retry_after: int | None = None


Action = Ask | Receive | Restart | Finish | NotModified | GiveUp
