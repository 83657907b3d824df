"""How bodies leave: from a blob with sendfile, from a part as it grows, from the window of what is not kept.

Each client gets a piece in its turn, so that no large file holds up the others. What is answered, and with what head, is
the business of `server.loop`.
"""

import errno
import os
import socket
import time
from collections import deque
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path

from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.reader import ElsewhereError, FillReader, Window
from package_cache.engine.hotset import HotFile
from package_cache.engine.passthrough import PassThrough
from package_cache.engine.service import Service
from package_cache.engine.side_requests import SideRange
from package_cache.errors import FillError
from package_cache.model import Span
from package_cache.server.access import AccessLog, AccessRecord
from package_cache.server.admission import Admission
from package_cache.server.connections import Body, Connection, describe
from package_cache.server.reactor import Limits, Reactor
from package_cache.server.sockets import READ, WRITE, untaken

_CHUNK = 512 << 10
"""Bytes sent to one client before the others get their turn."""
_READ = 128 << 10
"""Bytes that are read at a time where there is no sendfile."""
_LAST_CHUNK = b"0\r\n\r\n"
_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})


class Sender(Reactor):
    """Sends what connections hold, and then lets them go on."""

    def __init__(
        self,
        listeners: list[socket.socket],
        service: Service,
        access: AccessLog,
        admission: Admission,
        limits: Limits,
    ) -> None:
        super().__init__(listeners, access, admission, limits)
        self._service = service
        self._ready: deque[Connection] = deque()
        """Those that could go on, had not others waited."""
        self._tails: dict[int, Connection] = {}
        """Those that wait for more of their body."""
        self._stirred: deque[Connection] = deque()
        """Those of whose body there may be more. Threads add to it."""

    def _send(self, connection: Connection) -> None:
        """Send what may be sent now; then wait for the client, for the fill, for a turn, or for the next request."""
        if connection.closed:
            return
        try:
            done = self._push(connection)
        except ElsewhereError:
            self._go_on_elsewhere(connection)
            return
        except FillError as error:
            self._service.desk.tell_of_cut(describe(connection), error)
            self._close(connection, cut=True)
            return
        except BlockingIOError:
            if not connection.paced:
                connection.paced, connection.paced_from = time.monotonic(), connection.at - untaken(connection.descriptor)
            self._expect(connection, WRITE)
            return
        except OSError as error:
            if error.errno == errno.EIO:
                self._report(connection.source)
            self._close(connection, cut=True)
            return
        if done:
            self._finish(connection)

    def _report(self, source: Body | None) -> None:
        """Have what the disk cannot read taken out, or everybody who asks for it would be cut there."""
        file = source.file if isinstance(source, HotFile) else source
        if isinstance(file, FileIO) and not isinstance(file.name, int):  # a file in memory has a number for a name
            with suppress(RuntimeError):  # there is no thread for it: the next one who is cut tells it again
                self._service.run(partial(self._service.desk.take_out, Path(file.name).name, os.fstat(file.fileno())))

    def _push(self, connection: Connection) -> bool:
        """Whether everything was sent. Raises BlockingIOError where the client must read first."""
        if connection.at == connection.stop and (connection.chunked or connection.pieces):
            _frame(connection) if connection.chunked else _begin_piece(connection)
        if connection.head:
            more = socket.MSG_MORE if connection.at < connection.stop else 0
            sent = connection.socket.send(connection.head, more)
            connection.head = connection.head[sent:]
            if connection.head:
                raise BlockingIOError
        if connection.source is None:
            return True
        begun, limit = connection.at, connection.stop
        if connection.at < connection.stop:
            limit = _limit(connection, connection.source)
        if connection.at < limit:
            _send_some(connection, connection.source, min(limit - connection.at, _CHUNK))
        ends = connection.at == connection.stop and not connection.chunked
        if ends and not connection.pieces:
            return True
        goes_on = ends or connection.at < limit or (connection.chunked and connection.at > begun)
        if goes_on or _has_more(connection):  # what came, or ended, while this was sent is not told again
            self._ready.append(connection)
        else:
            connection.paced = 0.0
            self._tails[connection.descriptor] = connection
        self._expect(connection, 0)
        return False

    def _go_on_elsewhere(self, connection: Connection) -> None:
        """What a body was read from ended, and another one has the rest."""
        source = connection.source
        assert isinstance(source, FillReader | SideRange)
        try:
            following = source.successor(connection.at)
        except FillError as error:
            self._service.desk.tell_of_cut(describe(connection), error)
            self._close(connection, cut=True)
        else:
            connection.source = following
            self._attend(connection, following)
            self._send(connection)

    def _attend(self, connection: Connection, source: CheckedReader | FillReader | Window) -> None:
        """Hear of it when there is more of a body."""

        def stir() -> None:
            self._stirred.append(connection)
            self.wake()

        source.listen(stir)

    def _go_on_with_others(self) -> None:
        """Those of whose body more has come."""
        for _ in range(len(self._stirred)):
            connection = self._stirred.popleft()
            if self._tails.get(connection.descriptor) is connection and _has_more(connection):
                del self._tails[connection.descriptor]
                self._send(connection)

    def _finish(self, connection: Connection) -> None:
        """The answer is sent."""
        self._account(connection, cut=False)
        self._drop_source(connection)
        is_over = connection.asked is None or not connection.asked.more
        connection.asked, connection.busy, connection.served, connection.paced = None, False, True, 0.0
        if not connection.keep and is_over and not connection.received:
            self._close(connection)
            return
        self._expect(connection, READ)
        if not connection.keep:
            connection.at = 0
            self._leave(connection)
            return
        connection.moved = self._clock
        if connection.received:
            connection.queued = True
            self._ready.append(connection)

    def _account(self, connection: Connection, *, cut: bool) -> None:
        if connection.asked is None or not self._access.enabled:
            return
        # By position: it is done for each hit.
        self._access.add(
            AccessRecord(
                connection.client,
                self._now,
                connection.asked.said,
                connection.status,
                connection.sent,
                connection.answer_kind,
                connection.answer_source,
                time.monotonic() - connection.begun,
                cut,
            )
        )

    # -- ends

    def _on_end(self, connection: Connection, *, cut: bool) -> None:
        if cut:
            self._account(connection, cut=True)
        self._tails.pop(connection.descriptor, None)
        self._drop_source(connection)
        left, connection.left = connection.left, None
        if left is not None:
            left()

    def _drop_source(self, connection: Connection) -> None:
        source, connection.source = connection.source, None
        if source is not None:
            source.release() if isinstance(source, HotFile) else source.close()


def _limit(connection: Connection, source: Body) -> int:
    """Where what may be sent now ends. Raises FillError."""
    if isinstance(source, CheckedReader):
        return min(connection.stop, source.visible())
    if isinstance(source, FillReader) and not connection.chunked:
        return min(connection.stop, source.visible(connection.at + _CHUNK))
    if isinstance(source, Window) and not connection.chunked:
        return min(connection.stop, source.visible_from(connection.at))
    return connection.stop


def _begin_piece(connection: Connection) -> None:
    """Go on with the next range of several, behind the lines that stand before it."""
    if isinstance(connection.source, PassThrough):  # it goes one way only; what it came after has other ranges, or another
        connection.source = connection.source.leave()
    lines, span = b"", Span(0, 0)
    while connection.pieces and not span:
        piece = connection.pieces.popleft()
        if isinstance(piece, bytes):
            lines += piece
        else:
            span = piece
    sent = connection.at - connection.first
    connection.head += lines
    connection.at, connection.stop = span.start, span.stop
    connection.first, connection.held = span.start - sent - len(lines), len(lines)


def _frame(connection: Connection) -> None:
    """Begin the next chunk with what may be sent by now, if there is anything, or tell the end (RFC 9112, section 7.1)."""
    reader = connection.source
    assert isinstance(reader, FillReader | Window)
    is_whole = reader.is_whole()
    visible = reader.visible_from(connection.at) if isinstance(reader, Window) else reader.visible()
    size = min(visible - connection.at, _CHUNK)
    end = b"\r\n" if connection.at > connection.first else b""
    if size > 0:
        connection.head += b"%b%x\r\n" % (end, size)
        connection.stop = connection.at + size
    elif is_whole:
        connection.head += end + _LAST_CHUNK
        connection.chunked = False


def _has_more(connection: Connection) -> bool:
    """Whether something may be sent that could not be before, or that there will be nothing is to be told."""
    source = connection.source
    try:
        match source:
            case CheckedReader():
                return source.visible() > connection.at
            case FillReader() | Window() if connection.chunked and source.is_whole():
                return True
            case FillReader():
                return source.visible(connection.at + 1) > connection.at
            case Window():
                return source.visible_from(connection.at) > connection.at
            case _:
                return True
    except FillError:
        pass  # told by the attempt to send
    return True


def _send_some(connection: Connection, source: Body, count: int) -> None:
    """Send some of what there is. A file system that has no sendfile is read. Raises OSError, FillError."""
    if isinstance(source, Window):
        sent = connection.socket.send(source.take(connection.at, min(count, _READ)))
    else:
        descriptor = source.fileno()
        try:
            sent = os.sendfile(connection.descriptor, descriptor, connection.at, count)
        except OSError as error:
            if error.errno not in _NO_SENDFILE:
                raise
            sent = connection.socket.send(os.pread(descriptor, min(count, _READ), connection.at))
    if sent == 0:
        raise FillError("the file became shorter than it was", 500)
    connection.at += sent
