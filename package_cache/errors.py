"""The one exception tree.

Each class carries the HTTP status that a client sees when the error reaches the server's edge. Foreign
exceptions (`OSError`, `sqlite3.Error`, urllib3's, those of the decompressors) are translated where they enter: in
`storage/`, `upstream/` and `library/`.
"""

import math


class PackageCacheError(Exception):
    """Base of every error this package raises on purpose.

    `retry_after` is the seconds for which trying again would be in vain, where that is known.
    """

    http_status = 500
    retry_after: int | None = None


class ConfigError(PackageCacheError):
    """A setting cannot be used. Holds every problem found, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class ArgumentError(PackageCacheError, ValueError):
    """A value that a caller of the library gave cannot be used: which, and what would be right."""

    http_status = 400


class UnknownCriterion(ArgumentError, TypeError):
    """Items cannot be selected by that."""


class ItemError(PackageCacheError):
    """An item of the cache is not in the state that it would have to be in for what is asked."""


class ItemBusy(ItemError):
    """Somebody else writes an item, for longer than the caller wants to wait."""


class RequestError(PackageCacheError):
    """The client asked for something that is not answered; `close` ends its connection too."""

    http_status = 400
    close = False


class BadRequest(RequestError):
    """Not valid HTTP, or a target that cannot name a file (RFC 9112, section 3)."""

    close = True


class TargetTooLong(BadRequest):
    """A longer target than is served here (RFC 9110, section 15.5.15)."""

    http_status = 414


class NotAllowed(RequestError):
    """A method other than GET and HEAD (RFC 9110, section 15.5.6)."""

    http_status = 405


class LengthRequired(RequestError):
    """Content that is passed on, and does not say how long it is (RFC 9110, section 15.5.12)."""

    http_status = 411
    close = True


class ContentTooLarge(RequestError):
    """More content than is passed on (RFC 9110, section 15.5.14)."""

    http_status = 413
    close = True


class NoRepository(RequestError):
    """A path that no repository has."""

    http_status = 404


class NotImplementedHere(RequestError):
    """What another host of this cache could do, and this one cannot (RFC 9110, section 15.6.2)."""

    http_status = 501


class ForeignHost(RequestError):
    """An absolute-form target for a host of which there is nothing here."""

    http_status = 403


class Forbidden(RequestError):
    """A client whose address is in none of the networks that may ask (RFC 9110, section 15.5.4)."""

    http_status = 403
    close = True


class LoopDetected(RequestError):
    """The request has passed through this cache before (RFC 9110, section 7.6.3)."""

    http_status = 508


class UpstreamError(PackageCacheError):
    """A source did not deliver. `again` says that the same source may be asked once more at once."""

    http_status = 502

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class UpstreamLie(UpstreamError):
    """A source said or sent what cannot be right, so nothing it said is worth anything."""


class UpstreamTimeout(UpstreamError):
    """A source did not answer, or fell silent, for longer than the limit."""

    http_status = 504


class UpstreamBusy(UpstreamError):
    """A source said that it is not to be asked for `retry_after` more seconds, and so it was not (RFC 9110, 10.2.3)."""

    http_status = 503

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"wants to be left alone for {math.ceil(retry_after)} seconds more")
        self.retry_after = math.ceil(retry_after)


class UpstreamCrawl(UpstreamTimeout):
    """A source delivers so little that it would take for ever."""


class FillError(PackageCacheError):
    """A download came to nothing. `status` is what a client that has seen no byte is told."""

    def __init__(self, message: str, status: int, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.http_status = status
        self.retry_after = retry_after


class OutOfDescriptors(FillError):
    """This process, or the machine, may open no more files and sockets: no source is to blame, and it passes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"there is no descriptor for {what}; try again in a while", 503)


class StoreError(PackageCacheError):
    """The cache directory or the registry cannot be used."""


class OnlyRead(StoreError):
    """The cache can be read, and not written: it belongs to another user, or is on a file system that is only read."""


class DamagedRegistry(StoreError):
    """The registry is not what was written, or is gone. `file` is the device and inode it was seen in, None if unknown."""

    def __init__(self, message: str, file: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.file = file


class DamagedBlob(StoreError):
    """A stored file is missing, or its bytes are not those its name promises."""


class NoRoom(StoreError):
    """A file does not fit into the cache, now or ever."""


class NotKept(NoRoom):
    """A file is not to be stored: a rule, or its source, says so."""


class ExtractionError(PackageCacheError):
    """The content of an archive or of a compressed file cannot be had."""


class BrokenArchive(ExtractionError):
    """It is damaged or cut short, or a link in it leads to nothing."""


class ArchiveTooLarge(ExtractionError):
    """More would come out of it than the limit allows, or its inflation needs too much memory."""


class UnsafeMember(ExtractionError):
    """A name or a link in it leads out of the archive."""


class UnsupportedArchive(ExtractionError):
    """It is encrypted, or compressed in a way that cannot be read here."""


class MissingMember(ExtractionError, KeyError):
    """It has no member of that name."""

    def __str__(self) -> str:  # a KeyError would show its message as a key, in quotes
        return str(self.args[0])


class DescriptorError(ArgumentError):
    """A request that a caller of the library described cannot be made."""


class DownloadError(PackageCacheError):
    """A download of the library came to nothing.

    `status` is what a server answered, None where none did. `retryable` says whether trying again later may help.
    """

    http_status = 502

    def __init__(self, message: str, *, url: str, status: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.retryable = retryable


class DocumentError(DownloadError):
    """A JSON document is not what it should be: broken, too large, or without its time to live."""
