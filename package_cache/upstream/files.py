"""Sources that are directories of this machine: `file:///var/cache/distfiles`."""

import errno
import io
import os
import stat
import time
from urllib.parse import unquote_to_bytes, urlsplit

from package_cache.errors import OutOfDescriptors, UpstreamError
from package_cache.model import Representation, Span
from package_cache.rules.http.fields import format_date
from package_cache.rules.http.ranges import ContentRange
from package_cache.rules.transfers.steps import Answered, Ask

_BLOCK = 1 << 20
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO})
"""Errors of the system where there is no file of that name, or a socket."""


class FileAnswer:
    """A regular file, or a head that says why there is none."""

    def __init__(self, head: Answered, file: io.FileIO | None = None, left: int = 0, etag: str = "") -> None:
        self.head = head
        self._file = file
        self._left = left
        self._etag = etag

    def read(self) -> bytes:
        """The next block of the file."""
        if self._file is None or self._left == 0:
            return b""
        try:
            block = self._file.read(min(_BLOCK, self._left))
        except OSError as error:
            raise UpstreamError(f"cannot be read: {error.strerror}") from error
        if not block:
            raise UpstreamError("became shorter while it was read")
        self._left -= len(block)
        if self._left == 0 and _etag(os.fstat(self._file.fileno())) != self._etag:
            raise UpstreamError("changed while it was read")
        return block

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def open_file(ask: Ask) -> FileAnswer:
    """Answer as an HTTP server would for this directory: 200, 206, 304, 403 or 404."""
    path = _path(ask.url)
    if path is None:
        return _refusal(ask, 404)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:
        return _refusal(ask, 403)
    except OSError as error:
        if error.errno in _ABSENT:
            return _refusal(ask, 404)
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise OutOfDescriptors("a file of a source") from error
        raise UpstreamError(f"cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return _refusal(ask, 404)
    return _answer(ask, io.FileIO(descriptor), status)


def _path(url: str) -> bytes | None:
    """The path a file URL names; None if a segment holds what no file name can."""
    segments = [unquote_to_bytes(segment) for segment in urlsplit(url).path.split("/")]
    if any(b"/" in segment or b"\0" in segment for segment in segments):
        return None
    return b"/".join(segments)


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


def _answer(ask: Ask, file: io.FileIO, status: os.stat_result) -> FileAnswer:
    etag, now = _etag(status), time.time()
    # A date in the future is not sent (RFC 9110, section 8.8.2.1), and some cannot be written in a field.
    modified = format_date(max(0.0, min(status.st_mtime, now)))
    fields = (("Last-Modified", modified), ("ETag", etag), ("Date", format_date(now)))
    representation = Representation(fields, status.st_size, ask.url, now)
    if ask.condition and ask.condition.etag == etag:
        file.close()
        return FileAnswer(Answered(304, representation))
    if ask.offset and ask.if_range in (etag, modified) and ask.offset < status.st_size:
        file.seek(ask.offset)
        span = Span(ask.offset, min(ask.stop or status.st_size, status.st_size))
        place = ContentRange(span, status.st_size)
        return FileAnswer(Answered(206, representation, content_range=place), file, len(span), etag)
    return FileAnswer(Answered(200, representation), file, status.st_size, etag)


def _refusal(ask: Ask, status: int) -> FileAnswer:
    return FileAnswer(Answered(status, Representation((), None, ask.url, time.time())))
