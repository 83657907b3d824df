"""The WSGI application (PEP 3333): environ -> `Request`, `Answer` -> status, fields and body.

Complete on its own under any WSGI server. It checks again what the server let through, so that the same requests are
refused everywhere. A body that may not go on ends in `ConnectionResetError`: the server then closes the connection, and
the client sees that the transfer broke; a body that merely stopped would be believed.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from io import FileIO
from typing import TYPE_CHECKING
from urllib.parse import quote

from package_cache.engine.answers import Answer, SeveralReader
from package_cache.engine.checks import CheckedReader
from package_cache.engine.fills.reader import FillReader, Window
from package_cache.engine.service import Service
from package_cache.errors import (
    BadRequest,
    FillError,
    Forbidden,
    NotImplementedHere,
    PackageCacheError,
    RequestError,
)
from package_cache.model import Request, Target
from package_cache.rules.http.answer import METHODS
from package_cache.rules.http.request import MAX_CONTENT, RequestHead, check_head, is_small, length_to_pass
from package_cache.rules.repositories.routes import is_own
from package_cache.server.access import AccessLog, AccessRecord, Said
from package_cache.server.admission import EVERYBODY, NOT_ADMITTED, Admission, Names, is_local
from package_cache.server.connections import phrase
from package_cache.server.refusals import not_allowed
from package_cache.server.tunnels import NOWHERE, Tunnels

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)

_BLOCK = 1 << 18
_CONTENT_SECONDS = 5.0
"""How long a client may be silent within the content of a request."""
_POST_SECONDS = 60.0
"""How long all of what is passed on with a POST may take."""
_SOME = 1 << 16
_KNOWN_SERVERS = ("gunicorn/", "gevent/")
"""Servers known to send a wrapped file from its position on, and not beyond Content-Length, as PEP 3333 asks; to send
bodies of unknown length so that a client can tell a cut one from a whole one; to send each block, and with the first one
the head, before they ask for the next. Others get a wrapped file only where it is sent whole, a body only once its length
is known, and a connection is cut only where the body may not go on."""


class Application:
    """The WSGI callable."""

    def __init__(
        self, service: Service, access: AccessLog, admission: Admission = EVERYBODY, tunnels: Tunnels = NOWHERE
    ) -> None:
        self.service = service
        self.access = access
        self.admission = admission
        self.tunnels = tunnels
        self._names = Names()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        account = _Account(environ, self.access, self.service)
        ends = _has_body(environ)
        try:
            answer = self._answer(read_head(environ), environ)
        except PackageCacheError as error:
            answer = self._refusal(error)
            ends = ends or (isinstance(error, RequestError) and error.close)
        except Exception:
            logger.exception("a request ended in a bug: %s", account.request)
            answer, ends = (
                self.service.refuse(PackageCacheError("internal error; the log of the cache says more")),
                True,
            )
        account.note(answer)
        start_response(f"{answer.reply.status} {phrase(answer.reply.status)}", list(answer.reply.fields))
        return self._body(answer, environ, account, ends=ends and _is_known(environ))

    def close(self) -> None:
        """Let go of everything. Running downloads go on until the process ends."""
        self.service.close()
        self.access.close()

    def _answer(self, head: RequestHead, environ: "WSGIEnvironment") -> Answer:
        client = str(environ.get("REMOTE_ADDR") or "")
        if not self.admission.admits(client) and not (is_local(client) and self._asks_how_it_fares(head, environ)):
            raise Forbidden(NOT_ADMITTED)
        check_head(head)
        posted = self._posted(head, environ)
        if posted is not None:
            content = _wanted_content(environ, length_to_pass(head))
            kind = environ.get("CONTENT_TYPE")
            fields = {**head.combined, **({"content-type": str(kind)} if kind else {})}
            return self.service.post(Request("POST", posted, fields, client=client), content)
        if is_small(head):
            _read_content(environ)
        if head.method not in METHODS:
            raise self._not_allowed(head.method)
        target = self._find(head, environ)
        # A connection that is cut after the answer would take the end of a chunked one with it.
        modern = head.minor == 1 and _is_known(environ) and not _has_body(environ)
        scheme = str(environ.get("wsgi.url_scheme", "http"))
        return self.service.answer(Request(head.method, target, head.combined, modern, client, head.target, scheme))

    def _not_allowed(self, method: str) -> RequestError:
        if method == "CONNECT" and self.tunnels:
            return NotImplementedHere("tunnels are made by the servers of the command package-cache, and by no other one")
        return not_allowed(method)

    def _find(self, head: RequestHead, environ: "WSGIEnvironment") -> Target:
        """What a request names. Raises RequestError. May wait until it is known whose name that of a foreign host is."""
        own, port = str(environ.get("SERVER_NAME", "")).lower(), int(environ.get("SERVER_PORT") or 0)
        return self._names.find(self.service.routes, head, own, port)

    def _posted(self, head: RequestHead, environ: "WSGIEnvironment") -> Target | None:
        """What a POST is passed on to; None for any other request."""
        if head.method != "POST":
            return None
        try:
            target = self._find(head, environ)
        except RequestError:
            return None
        return target if self.service.routes.passes_post(target) else None

    def _asks_how_it_fares(self, head: RequestHead, environ: "WSGIEnvironment") -> bool:
        try:
            return is_own(self._find(head, environ))
        except RequestError:
            return False

    def _refusal(self, error: PackageCacheError) -> Answer:
        if not isinstance(error, RequestError | FillError):
            self.service.desk.tell_of_trouble(error)
        return self.service.refuse(error)

    def _body(self, answer: Answer, environ: "WSGIEnvironment", account: "_Account", *, ends: bool) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "HEAD" or (answer.reply.span is None and not answer.reply.open_ended):
            return _Body(iter(()), answer.close, account, ends=ends)
        match answer.body:
            case FileIO() as file:
                return self._file(file, answer, environ, account, ends=ends)
            case CheckedReader() | FillReader() | SeveralReader() | Window() as reader:
                return _Body(reader.read(answer.reply.span), reader.close, account, ends=ends)
            case bytes() as data:
                return _Body(iter((data,)), _nothing, account, ends=ends)
            case None:
                raise AssertionError("a reply with a span has a body")

    def _file(
        self, file: FileIO, answer: Answer, environ: "WSGIEnvironment", account: "_Account", *, ends: bool
    ) -> Iterable[bytes]:
        span = answer.reply.span
        assert span is not None
        wrapper = environ.get("wsgi.file_wrapper")
        wrappable = _is_known(environ) or answer.reply.status == HTTPStatus.OK
        if wrapper is None or ends or not wrappable:
            return _Body(_blocks(file, len(span)), file.close, account, ends=ends)
        wrapped: Iterable[bytes] = wrapper(_FilePart(file, len(span), account), _BLOCK)
        return wrapped


def read_head(environ: "WSGIEnvironment") -> RequestHead:
    """The request line and fields behind an environ, as far as a WSGI server lets them be known."""
    fields = [
        (name[5:].replace("_", "-").lower(), str(value)) for name, value in environ.items() if name.startswith("HTTP_")
    ]
    if environ.get("CONTENT_LENGTH"):
        fields.append(("content-length", str(environ["CONTENT_LENGTH"])))
    minor = 0 if environ.get("SERVER_PROTOCOL") == "HTTP/1.0" else 1
    return RequestHead(environ["REQUEST_METHOD"], _raw_target(environ), minor, tuple(fields))


def _raw_target(environ: "WSGIEnvironment") -> str:
    """The target as it was sent; where the server keeps only the decoded path, that path encoded again."""
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if raw:
        return str(raw)
    path = quote((environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1"))
    query = environ.get("QUERY_STRING")
    return f"{path}?{query}" if query else path


def _has_body(environ: "WSGIEnvironment") -> bool:
    return bool(environ.get("HTTP_TRANSFER_ENCODING")) or environ.get("CONTENT_LENGTH") not in (None, "", "0")


def _read_content(environ: "WSGIEnvironment") -> None:
    """Read what there is behind the head, as long as it is not much. Raises BadRequest where it is not framed validly.

    Nothing but Gunicorn's socket can keep a silent client from holding the thread.
    """
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return
    limit = connection.gettimeout()
    connection.settimeout(_CONTENT_SECONDS)
    try:
        environ["wsgi.input"].read(MAX_CONTENT)
    except Exception as error:
        raise BadRequest("the content of the request is not framed as it should be, or did not arrive in time") from error
    finally:
        connection.settimeout(limit)  # the host's, for as long as the answer is sent


def _wanted_content(environ: "WSGIEnvironment", size: int) -> bytes:
    """All the content of a request, which is wanted. Raises BadRequest if it does not arrive in time."""
    connection = environ.get("gunicorn.socket")
    limit = None if connection is None else connection.gettimeout()
    blocks: list[bytes] = []
    deadline = time.monotonic() + _POST_SECONDS
    try:
        if connection is not None:
            connection.settimeout(_CONTENT_SECONDS)
        while size and time.monotonic() < deadline and (block := environ["wsgi.input"].read(min(size, _SOME))):
            blocks.append(block)
            size -= len(block)
    except Exception as error:
        raise BadRequest("the content of the request is not framed as it should be, or did not arrive in time") from error
    finally:
        if connection is not None:
            connection.settimeout(limit)  # the host's, for as long as the answer is sent
    if size:
        raise BadRequest(f"the content of the request did not arrive in time, or ended {size} bytes too early")
    return b"".join(blocks)


def _is_known(environ: "WSGIEnvironment") -> bool:
    return str(environ.get("SERVER_SOFTWARE", "")).startswith(_KNOWN_SERVERS)


def _blocks(file: FileIO, left: int) -> Iterator[bytes]:
    """`left` bytes of the blob, from the file's position on."""
    while left:
        block = file.read(min(_BLOCK, left))
        if not block:
            raise FillError("the stored file became shorter while it was sent", 500)
        left -= len(block)
        yield block


def _nothing() -> None:
    """Close nothing."""


@dataclass(slots=True)
class _Account:
    """Gathers what the access record of one request says."""

    environ: "WSGIEnvironment"
    access: AccessLog
    service: Service
    begun: float = field(default_factory=time.monotonic)
    status: int = 0
    kind: str = "error"
    source: str = "-"
    sent: int = 0
    cut: bool = False

    @property
    def request(self) -> str:
        return f"{self.environ.get('REQUEST_METHOD')} {_raw_target(self.environ)!r}"

    def note(self, answer: Answer) -> None:
        self.status, self.kind, self.source = answer.reply.status, answer.kind, answer.source

    def settle(self) -> None:
        """Write the record; the request is over."""
        if not self.access.enabled:
            return
        self.access.add(
            AccessRecord(
                client=str(self.environ.get("REMOTE_ADDR") or "-"),
                when=time.time(),
                said=Said(
                    str(self.environ.get("REQUEST_METHOD", "-")),
                    _raw_target(self.environ),
                    str(self.environ.get("HTTP_USER_AGENT", "-")),
                ),
                status=self.status,
                sent=self.sent,
                kind=self.kind,
                source=self.source,
                seconds=time.monotonic() - self.begun,
                cut=self.cut,
            )
        )
        self.access.flush()


class _Body:
    """An iterable body that counts, and that cuts the connection where it may not go on or must not be used again."""

    def __init__(self, blocks: Iterator[bytes], close: Callable[[], None], account: _Account, *, ends: bool) -> None:
        self._blocks = blocks
        self._close = close
        self._account = account
        self._ends = ends
        self._begun = False
        self._given = 0
        """Bytes of which it is not known yet whether they could be sent: nothing more was asked for since."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._account.sent += self._given
        self._given = 0
        try:
            block = next(self._blocks)
        except StopIteration:
            if not self._ends:
                raise
            if self._begun:
                self._ends = False
                raise ConnectionResetError(errno.ECONNRESET, "the connection cannot be used again") from None
            block = b""  # it makes the server send the head, before the connection is cut
        except FillError as error:
            self._account.cut = True
            self._account.service.desk.tell_of_cut(self._account.request, error)
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
        self._begun = True
        self._given = len(block)
        return block

    def close(self) -> None:
        """Give back what the body holds; called once by the server (PEP 3333)."""
        self._account.cut = self._account.cut or self._given > 0
        self._close()
        self._account.settle()


class _FilePart:
    """The part of a blob that is sent, from the file's position on. Servers with sendfile use the descriptor."""

    def __init__(self, file: FileIO, size: int, account: _Account) -> None:
        self._file = file
        self._start = file.tell()
        self._stop = self._start + size
        self._account = account

    def fileno(self) -> int:
        return self._file.fileno()

    def tell(self) -> int:
        """Where in the file the next byte is."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte of the file; for servers that are told where to begin, and read."""
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, and never beyond the part."""
        left = max(0, self._stop - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left)) or b""

    def close(self) -> None:
        """Close the blob. A server that leaves its position where it was does not tell how much it sent of it."""
        if self._file.closed:
            return
        at = self._file.tell()
        self._account.sent = (at if at > self._start else self._stop) - self._start
        self._account.cut = at < self._stop and at > self._start
        self._file.close()
        self._account.settle()
