"""Events and actions: what a transfer is told, and what it answers. See `rules.transfers.transfer`."""

from package_cache.model import ErrorResponse, Representation, Validators, frozen
from package_cache.rules.http.digests import Digest
from package_cache.rules.http.ranges import ContentRange


@frozen
class Answered:
    """Event: the head of an answer arrived. `chunked` says that the end of its body is marked."""

    status: int
    representation: Representation
    chunked: bool = False
    content_range: ContentRange | None = None
    digests: tuple[Digest, ...] = ()
    """What the bytes of the whole file must hash to, as the source says."""
    part_digests: tuple[Digest, ...] = ()
    """What the bytes of this answer's body must hash to, if they are not the whole file."""
    retry_after: float | None = None
    """The seconds of the source's Retry-After, if it is overloaded."""
    error: ErrorResponse | None = None
    """All of an answer that says that the source does not serve this, if it is not too long."""


@frozen
class Chunk:
    """Event: `size` bytes arrived and were compared or appended."""

    size: int


@frozen
class Mismatch:
    """Event: bytes arrived that differ from those kept at the same offset, or exceed the declared length."""


@frozen
class Lied:
    """Event: the source said or sent something that cannot be right. A body that had begun is not trusted either."""

    reason: str


@frozen
class WrongType:
    """Event: the file came whole, as the source has it, but cannot be a file of that name."""

    reason: str


@frozen
class Eof:
    """Event: the body ended as its framing says."""


@frozen
class Slow:
    """Event: `url` would probably deliver the rest much faster."""

    url: str


@frozen
class Broke:
    """Event: the source could not be asked, or stopped. With `again`, it may be asked once more at once.

    A source that `crawls` did not stop, but would take for ever. One with `retry_after` was not asked, as it had requested.
    One that is `unreached` is down, as far as can be told.
    """

    reason: str
    again: bool = False
    timeout: bool = False
    crawls: bool = False
    retry_after: float | None = None
    unreached: bool = False


Event = Answered | Chunk | Mismatch | Lied | WrongType | Eof | Slow | Broke


@frozen
class Ask:
    """Action: after `pause` seconds, request `url` from byte `offset`, up to `stop` if that is set.

    With an offset, `if_range` is sent as If-Range; without one, `condition` as If-None-Match or If-Modified-Since.
    """

    url: str
    offset: int = 0
    if_range: str | None = None
    condition: Validators | None = None
    pause: float = 0.0
    stop: int | None = None


@frozen
class Receive:
    """Action: read on; the next byte belongs at `at`. `begin` is the head that readers are to be given from now on.

    It follows `Answered`, or the `Chunk` after which all bytes kept have been compared.
    """

    at: int
    begin: Representation | None = None


@frozen
class Restart:
    """Action: drop the bytes kept; no source has the file that they belong to."""


@frozen
class Finish:
    """Action: the file is complete with `size` bytes."""

    size: int


@frozen
class NotModified:
    """Action: the source confirmed what is stored (304). `head` may have newer fields."""

    head: Representation


@frozen
class GiveUp:
    """Action: no source delivered. `status` is the HTTP status for the client, with the `response` of a source if any.

    `answered` is the status of the first source that answered at all. The sources are not to be asked again for
    `retry_after` seconds.
    """

    status: int
    reason: str
    answered: int | None = None
    retry_after: int | None = None
    response: ErrorResponse | None = None


Action = Ask | Receive | Restart | Finish | NotModified | GiveUp
