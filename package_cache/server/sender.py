"""How bodies leave: from a blob with sendfile, from a part as it grows, from a thread where they wait for a source.

Each client gets a piece in its turn, so that no large file holds up the others. What is answered, and with what head, is
the business of `server.loop`.
"""

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path

from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.fill import FillReader, UnstorableError
from package_cache.engine.hotset import HotFile
from package_cache.engine.service import Service
from package_cache.errors import FillError
from package_cache.model import Span
from package_cache.server.access import AccessLog, AccessRecord
from package_cache.server.admission import Admission
from package_cache.server.connections import Connection, client_name, describe
from package_cache.server.reactor import Limits, Reactor
from package_cache.server.sockets import READ, WRITE, untaken
from package_cache.server.streams import send_all

_CHUNK = 512 << 10
"""Bytes sent to one client before the others get their turn."""
_READ = 128 << 10
"""Bytes that are read at a time where the file system has no sendfile."""
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
        """Those that wait for a fill."""

    def _send(self, connection: Connection) -> None:
        """Send what may be sent now; then wait for the client, for the fill, for a turn, or for the next request."""
        if connection.closed:
            return
        try:
            done = self._push(connection)
        except UnstorableError:
            self._stream_rest(connection)
            return
        except FillError as error:
            self._service.tell_of_cut(describe(connection), error)
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

    def _report(self, source: HotFile | FileIO | CheckedReader | FillReader | None) -> None:
        """Have what the disk cannot read taken out, or everybody who asks for it would be cut there."""
        file = source.file if isinstance(source, HotFile) else source
        if isinstance(file, FileIO) and not isinstance(file.name, int):  # a file in memory has a number for a name
            with suppress(RuntimeError):  # there is no thread for it: the next one who is cut tells it again
                self._service.run(partial(self._service.take_out, Path(file.name).name, os.fstat(file.fileno())))

    def _push(self, connection: Connection) -> bool:
        """Whether everything was sent. Raises BlockingIOError where the client must read first."""
        if connection.head:
            more = socket.MSG_MORE if connection.at < connection.stop else 0
            sent = connection.socket.send(connection.head, more)
            connection.head = connection.head[sent:]
            if connection.head:
                raise BlockingIOError
        source = connection.source
        if source is None:
            return True
        limit = connection.stop
        if isinstance(source, CheckedReader | FillReader):
            limit = min(limit, source.visible())
        if connection.at < limit:
            descriptor = source.file.fileno() if isinstance(source, HotFile) else source.fileno()
            sent = _send_from(connection, descriptor, min(limit - connection.at, _CHUNK))
            if sent == 0:
                raise FillError("the file became shorter than it was", 500)
            connection.at += sent
        if connection.at == connection.stop:
            return True
        if connection.at < limit:
            self._ready.append(connection)
            self._expect(connection, 0)
        else:
            connection.paced = 0.0
            self._tails[connection.descriptor] = connection
            self._expect(connection, 0)
        return False

    def _stream_rest(self, connection: Connection) -> None:
        """The disk ended the fill; its reader goes on with what a source sends."""
        reader, connection.source = connection.source, None
        assert isinstance(reader, FillReader)
        self._stream(connection, reader.read(Span(connection.at, connection.stop)), reader.close)

    def _stream(self, connection: Connection, blocks: Iterable[bytes], close: Callable[[], None]) -> None:
        """Have a thread send the rest of an answer."""
        head, connection.head = connection.head, b""
        self._forget(connection)
        self.lent += 1
        ended = partial(self._streamed, connection, close)
        patience, told = self._limits.timeouts.send, partial(self._service.tell_of_cut, describe(connection))
        try:
            self._service.run(partial(send_all, connection.socket, head, blocks, patience, ended, told))
        except RuntimeError:
            ended(0, True)  # noqa: FBT003

    def _streamed(self, connection: Connection, close: Callable[[], None], sent: int, cut: bool) -> None:
        """Runs in the thread."""
        close()
        self.call(partial(self._go_on_after, connection, sent, cut=cut))

    def _go_on_after(self, connection: Connection, sent: int, *, cut: bool) -> None:
        connection.at += sent
        self._account(connection, cut=cut)
        if cut:
            self.lent -= 1
            connection.socket.close()
        elif not connection.keep:
            self._see_off(connection.socket, connection.address)
        else:
            self._begin_anew(connection.socket, connection.address, connection.received)

    def _follow_source(self, connection: Connection) -> None:
        """Go on with a body if more of it has come."""
        source = connection.source
        try:
            if isinstance(source, CheckedReader | FillReader) and source.visible() <= connection.at:
                return
        except FillError:
            pass  # told by the attempt to send
        del self._tails[connection.descriptor]
        self._send(connection)

    def _finish(self, connection: Connection) -> None:
        """The answer is sent."""
        self._account(connection, cut=False)
        self._drop_source(connection)
        connection.asked, connection.busy, connection.served, connection.paced = None, False, True, 0.0
        if not connection.keep:
            self._close(connection)
            return
        self._expect(connection, READ)
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
                client_name(connection.address),
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

    def _drop_source(self, connection: Connection) -> None:
        source, connection.source = connection.source, None
        if source is not None:
            source.release() if isinstance(source, HotFile) else source.close()
        pending, connection.pending = connection.pending, None
        if pending is not None:
            pending.abandon()


def _send_from(connection: Connection, descriptor: int, count: int) -> int:
    """Send some of a file; how many bytes. A file system that has no sendfile is read. Raises OSError."""
    try:
        return os.sendfile(connection.descriptor, descriptor, connection.at, count)
    except OSError as error:
        if error.errno not in _NO_SENDFILE:
            raise
    return connection.socket.send(os.pread(descriptor, min(count, _READ), connection.at))
