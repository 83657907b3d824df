"""The one exception tree.

Each class has the HTTP status that a client sees if the error reaches the server's edge. Foreign exceptions (`OSError`,
`sqlite3.Error`, those of requests, libcurl and the decompressors) are translated where they enter: in `storage/`,
`upstream/` and `library/`.
"""

import math

from package_cache.model import ErrorResponse


class PackageCacheError(Exception):
    """Base of every error this package raises on purpose.

    `retry_after` is the number of seconds for which trying again is useless, if that is known.
    """

    http_status = 500
    retry_after: int | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """How it passes from one process to another: with all that it says, whatever its constructor takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[PackageCacheError], args: tuple[object, ...], known: dict[str, object]) -> PackageCacheError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(known)
    return error


class ConfigError(PackageCacheError):
    """Settings that cannot be used. It has every problem found, one line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class ArgumentError(PackageCacheError, ValueError):
    """A value from a caller of the library cannot be used. The message says which one, and what would be right."""

    http_status = 400


class UnknownCriterion(ArgumentError, TypeError):
    """An unknown criterion for selecting items."""


class ItemError(PackageCacheError):
    """An item of the cache is in the wrong state for what is requested."""


class ItemBusy(ItemError):
    """Another thread or process is writing the item, for longer than the caller wants to wait."""


class RequestError(PackageCacheError):
    """A request that is refused; `close` ends its connection, too."""

    http_status = 400
    close = False


class BadRequest(RequestError):
    """Not valid HTTP, or a target that cannot name a file (RFC 9112, section 3)."""

    close = True


class TargetTooLong(BadRequest):
    """A target that is too long (RFC 9110, section 15.5.15)."""

    http_status = 414


class NotAllowed(RequestError):
    """A method other than GET and HEAD (RFC 9110, section 15.5.6)."""

    http_status = 405


class LengthRequired(RequestError):
    """Content to be passed on, without its length (RFC 9110, section 15.5.12)."""

    http_status = 411
    close = True


class ContentTooLarge(RequestError):
    """Content that is too long to be passed on (RFC 9110, section 15.5.14)."""

    http_status = 413
    close = True


class NoRepository(RequestError):
    """A path that no repository has."""

    http_status = 404


class NotImplementedHere(RequestError):
    """A request that this cache cannot answer under the server it runs under (RFC 9110, section 15.6.2)."""

    http_status = 501


class ForeignHost(RequestError):
    """A target in absolute form whose host is not served here."""

    http_status = 403


class Forbidden(RequestError):
    """A client whose address is in none of the allowed networks (RFC 9110, section 15.5.4)."""

    http_status = 403
    close = True


class NotStored(RequestError):
    """A client wants what is stored and nothing else, and that is not here (RFC 9111, section 5.2.1.7)."""

    http_status = 504


class LoopDetected(RequestError):
    """The request has passed through this cache before (RFC 9110, section 7.6.3)."""

    http_status = 508


class UpstreamError(PackageCacheError):
    """A source did not deliver. With `again`, the same source may be asked once more at once.

    One that is `unreached` does not answer anybody: it is down, as far as can be told.
    """

    http_status = 502

    def __init__(self, message: str, *, again: bool = False, unreached: bool = False) -> None:
        super().__init__(message)
        self.again = again
        self.unreached = unreached


class UpstreamLie(UpstreamError):
    """A source said or sent something that cannot be right, so nothing it said counts."""


class UpstreamTimeout(UpstreamError):
    """A source did not answer, or sent nothing, for longer than the limit."""

    http_status = 504


class UpstreamBusy(UpstreamError):
    """A source was not asked, since it had said not to for `retry_after` more seconds (RFC 9110, section 10.2.3)."""

    http_status = 503

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"wants to be left alone for {math.ceil(retry_after)} seconds more")
        self.retry_after = math.ceil(retry_after)


class UpstreamCrawl(UpstreamTimeout):
    """A source delivers so slowly that the download would take for ever."""


class FillError(PackageCacheError):
    """A download failed. `status` is the one for a client that has seen no byte of it.

    `response` is what a source answered, if clients are told that.
    """

    def __init__(
        self, message: str, status: int, retry_after: int | None = None, response: ErrorResponse | None = None
    ) -> None:
        super().__init__(message)
        self.http_status = status
        self.retry_after = retry_after
        self.response = response


class OutOfDescriptors(FillError):
    """This process, or the machine, cannot open more files and sockets at present; no source is to blame."""

    def __init__(self, what: str) -> None:
        super().__init__(f"there is no descriptor for {what}; try again in a while", 503)


class StoreError(PackageCacheError):
    """The cache directory or the registry cannot be used."""


class OnlyRead(StoreError):
    """The cache can be read but not written: it belongs to another user, or its file system is mounted read-only."""


class DamagedRegistry(StoreError):
    """The registry is damaged or missing. `file` is the device and inode in which that was found, None if unknown."""

    def __init__(self, message: str, file: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.file = file


class DamagedBlob(StoreError):
    """A stored file is missing, or its bytes do not have the digest in its name."""


class NoRoom(StoreError):
    """A file does not fit into the cache, now or ever."""


class NotKept(NoRoom):
    """A file is not stored because a rule, or its source, says so."""


class ExtractionError(PackageCacheError):
    """An archive or a compressed file cannot be read."""


class BrokenArchive(ExtractionError):
    """An archive is damaged or cut short, or a link in it leads to nothing."""


class ArchiveTooLarge(ExtractionError):
    """An archive contains more than the limit allows, or decompressing it needs too much memory."""


class UnsafeMember(ExtractionError):
    """A name or a link in an archive leads out of it."""


class UnsupportedArchive(ExtractionError):
    """An archive is encrypted, or compressed in a way that cannot be read here."""


class MissingMember(ExtractionError, KeyError):
    """An archive has no member of that name."""

    def __str__(self) -> str:  # a KeyError would show its message as a key, in quotes
        return str(self.args[0])


class DescriptorError(ArgumentError):
    """A descriptor does not describe a request that can be made."""


class DownloadError(PackageCacheError):
    """A download of the library failed.

    `status` is that of the server's answer, None if there was none. `retryable` says whether trying again later may help.
    """

    http_status = 502

    def __init__(self, message: str, *, url: str, status: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.retryable = retryable


class HashMismatch(DownloadError):
    """What a server sent has another digest than the caller expects: `found`, not `expected`, both as `ALGORITHM:HEX`."""

    def __init__(self, message: str, *, url: str, expected: str, found: str, status: int | None = None) -> None:
        super().__init__(message, url=url, status=status)
        self.expected = expected
        self.found = found


class DocumentError(DownloadError):
    """A JSON document is not what it should be: broken, too large, or without its time to live."""
