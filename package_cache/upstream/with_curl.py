"""Exchanges over HTTP through libcurl, with HTTP/2 where a server has it: an extra, `package-cache[curl]`.

libcurl calls back with what arrives; here the reader asks for it, so the transfer is driven only while somebody reads. Time
limits are kept here, since those of libcurl hold for a whole transfer.
"""

import math
import select
import threading
import time

import pycurl

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError, UpstreamLie, UpstreamTimeout
from package_cache.model import Fields
from package_cache.rules.transfers.ways import HTTP
from package_cache.upstream.calls import Body, BodyReader
from package_cache.upstream.reach import Reach

_BUFFER = 1 << 17
_IDLE = 16
"""How many handles, each with its connections, are kept for further requests."""
_TURN = 1.0
"""Seconds between two looks at the clock."""
_BLIND = 0.005
"""The same while libcurl waits for something other than a socket."""
_MAX_HEAD = 1 << 16
_CONNECT_HEADS_OFF = 265
"""CURLOPT_SUPPRESS_CONNECT_HEADERS."""

_WEIRD_REPLY = 8
"""CURLE_WEIRD_SERVER_REPLY."""
_SILENT = frozenset({pycurl.E_OPERATION_TIMEDOUT})
_CUT = frozenset({pycurl.E_PARTIAL_FILE, pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR})
_LIES = frozenset({pycurl.E_UNSUPPORTED_PROTOCOL, _WEIRD_REPLY})
_TLS = frozenset(
    {pycurl.E_SSL_CONNECT_ERROR, pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_CERTPROBLEM}
)


_PROXIES = HTTP | {"socks4", "socks4a", "socks5", "socks5h"}


class CurlExchange:
    """A transfer of libcurl that goes on while it is read."""

    def __init__(
        self,
        backend: "CurlBackend",
        curl: pycurl.Curl,
        multi: pycurl.CurlMulti,
        content: BodyReader | None,
        timeouts: Timeouts,
    ) -> None:
        self.status = 0
        self.fields: Fields = ()
        self.marked = False
        self._backend = backend
        self._curl: pycurl.Curl | None = curl
        self._multi = multi
        self._content = content
        self._lines: list[str] = []
        self._size = 0
        self._blocks: list[bytes] = []
        self._over = False
        self._failure: UpstreamError | None = None
        self._limit = timeouts.connect + timeouts.head
        self._stall = timeouts.stall
        self._moved = time.monotonic()
        curl.setopt(pycurl.HEADERFUNCTION, self._on_line)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_block)
        if content is not None:
            curl.setopt(pycurl.READFUNCTION, self._on_send)
        multi.add_handle(curl)

    def begin(self) -> None:
        """Send the request and wait for the head. Raises UpstreamError."""
        while not self.status and not self._over:
            self._step()
        if self._over and not self.status:
            raise self._failure or UpstreamError("closed the connection without an answer", again=True)
        self._limit, self._moved = self._stall, time.monotonic()

    def _on_line(self, line: bytes) -> int | None:
        if self.status:
            return None  # a trailer
        self._moved = time.monotonic()
        text = line.decode("latin-1").rstrip("\r\n")
        self._size += len(line)
        if self._size > _MAX_HEAD:
            self._failure = UpstreamLie(f"sent a head of more than {_MAX_HEAD} bytes")
            return -1
        if text.startswith("HTTP/"):
            self._lines = [text]
        elif text:
            self._lines.append(text)
        elif self._lines:
            self._end_head()
        return None

    def _end_head(self) -> None:
        version, _, rest = self._lines[0].partition(" ")
        status = int(rest[:3]) if rest[:3].isdigit() else 0
        if status < 200:
            return
        pairs = (line.partition(":") for line in self._lines[1:])
        self.fields = tuple((name.strip(), value.strip(" \t")) for name, colon, value in pairs if colon)
        has_length = any(name.lower() == "content-length" for name, _ in self.fields)
        chunked = any(name.lower() == "transfer-encoding" for name, _ in self.fields)
        self.marked = chunked or (not version.startswith("HTTP/1") and not has_length)
        self.status = status

    def _on_block(self, data: bytes) -> None:
        self._blocks.append(data)

    def _on_send(self, size: int) -> bytes | int:
        assert self._content is not None
        self._moved = time.monotonic()
        try:
            return self._content.read(size)
        except OSError as error:
            self._failure = UpstreamError(f"was not asked: {error}")
            return int(pycurl.READFUNC_ABORT)

    def _step(self) -> None:
        """Let libcurl do what it can now; wait if that is nothing. Raises UpstreamTimeout."""
        before = len(self._blocks), self._size
        while self._multi.perform()[0] == pycurl.E_CALL_MULTI_PERFORM:
            pass
        self._look_for_end()
        if self._over:
            return
        if (len(self._blocks), self._size) != before:
            self._moved = time.monotonic()
            return
        left = self._moved + self._limit - time.monotonic()
        if left <= 0:
            raise UpstreamTimeout("fell silent" if self.status else "took too long over an answer's head")
        self._wait(min(left, _TURN))

    def _look_for_end(self) -> None:
        _, whole, broken = self._multi.info_read()
        if whole or broken:
            self._over = True
        for _, number, message in broken:
            self._failure = self._failure or _failure_of(number, message)

    def _wait(self, seconds: float) -> None:
        readable, writable, _ = self._multi.fdset()
        due = self._multi.timeout()
        if due >= 0:
            seconds = min(seconds, due / 1000)
        if not readable and not writable:
            time.sleep(min(seconds, _BLIND))
            return
        poll = select.poll()
        for number in set(readable) | set(writable):
            events = (select.POLLIN if number in readable else 0) | (select.POLLOUT if number in writable else 0)
            poll.register(number, events)
        poll.poll(math.ceil(seconds * 1000))

    def read(self) -> bytes:
        """The next bytes as soon as there are any. Raises UpstreamError."""
        while not self._blocks and not self._over:
            self._step()
        if self._blocks:
            data = self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks)
            self._blocks = []
            self._moved = time.monotonic()
            return data
        if self._failure is not None:
            raise self._failure
        return b""

    def close(self) -> None:
        """Keep the connection if the answer was read to its end."""
        curl, self._curl = self._curl, None
        if curl is None:
            return
        if self._content is not None:
            self._content.close()
        self._multi.remove_handle(curl)
        self._backend.take_back(curl, self._multi, reusable=self._over and self._failure is None)


class CurlBackend:
    """Safe for any number of threads."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._guard = threading.Lock()
        self._idle: list[tuple[pycurl.Curl, pycurl.CurlMulti]] = []

    def send(self, method: str, url: str, fields: Fields, body: Body | None) -> CurlExchange:
        """The answer to one request. Raises UpstreamError."""
        content = body.open() if body is not None else None
        with self._guard:
            curl, multi = self._idle.pop() if self._idle else (pycurl.Curl(), pycurl.CurlMulti())
        exchange = CurlExchange(self, curl, multi, content, self._reach.timeouts)
        try:
            self._prepare(curl, method, url, fields, content)
            exchange.begin()
        except pycurl.error as error:
            exchange.close()
            raise _failure_of(*error.args[:2]) from error
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _prepare(self, curl: pycurl.Curl, method: str, url: str, fields: Fields, content: BodyReader | None) -> None:
        proxy, (file, folder) = self._reach.proxy_for(url, _PROXIES), self._reach.trusted()
        options: list[tuple[int, object]] = [
            (pycurl.URL, url),
            (pycurl.NOSIGNAL, 1),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.CONNECTTIMEOUT_MS, math.ceil(self._reach.timeouts.connect * 1000)),
            (pycurl.HTTP_CONTENT_DECODING, 0),
            (pycurl.BUFFERSIZE, _BUFFER),
            (pycurl.PROXY, proxy or ""),
            (pycurl.NOPROXY, ""),
            (_CONNECT_HEADS_OFF, 1),
            (pycurl.HTTPHEADER, [b"Expect:", *(_line(name, value) for name, value in fields)]),
        ]
        if file is not None:
            options.append((pycurl.CAINFO, file))
        if folder is not None:
            options.append((pycurl.CAPATH, folder))
        if content is not None:
            options += [(pycurl.POST, 1), (pycurl.POSTFIELDSIZE_LARGE, content.size)]
        elif method == "HEAD":
            options.append((pycurl.NOBODY, 1))
        if method not in ("GET", "HEAD"):
            options.append((pycurl.CUSTOMREQUEST, method))
        for option, value in options:
            curl.setopt(option, value)

    def take_back(self, curl: pycurl.Curl, multi: pycurl.CurlMulti, *, reusable: bool) -> None:
        """Keep a handle with its connections for the next request, or drop it."""
        curl.reset()
        with self._guard:
            if reusable and len(self._idle) < _IDLE:
                self._idle.append((curl, multi))
                return
        curl.close()
        multi.close()

    def close(self) -> None:
        """Close idle connections."""
        with self._guard:
            idle, self._idle = self._idle, []
        for curl, multi in idle:
            curl.close()
            multi.close()


def _line(name: str, value: str) -> bytes:
    """A field as libcurl takes it: one without a value is written differently."""
    return (f"{name}: {value}" if value else f"{name};").encode("latin-1")


def _failure_of(number: int, message: str) -> UpstreamError:
    """The error of this package for one of libcurl."""
    text = " ".join(message.split()) or f"error {number} of libcurl"
    if number in (pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY):
        failure = UpstreamError("cannot be found: its name does not resolve")
    elif number == pycurl.E_COULDNT_CONNECT:
        failure = UpstreamError(f"cannot be reached: {text}")
    elif number in _SILENT:
        failure = UpstreamTimeout("did not accept the connection in time")
    elif number in _TLS:
        failure = UpstreamError(f"failed the TLS handshake: {text}")
    elif number in _CUT:
        failure = UpstreamError("ended before the end of its body", again=True)
    elif number in _LIES:
        failure = UpstreamLie(f"does not answer in HTTP: {text}")
    else:
        failure = UpstreamError(f"broke off: {text}", again=True)
    return failure
