"""Exchanges over HTTP through urllib3, with answers that are read strictly; see `response.py`.

The default backend, and what the others that stand on urllib3 share with it. Every failure leaves as an `UpstreamError`.
"""

import http.client
import socket
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import (
    TimeoutError as PoolTimeoutError,
)
from urllib3.response import BaseHTTPResponse

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError, UpstreamTimeout
from package_cache.model import Fields
from package_cache.upstream.calls import BLOCK, Body, Reach
from package_cache.upstream.dialer import NO_DESCRIPTOR, Dialer, Options
from package_cache.upstream.response import Response

_SHORT = 1 << 14
"""Bytes of an error's body that are read so that the connection can be used again."""
FOREIGN = (HTTPError, http.client.HTTPException, OSError, ValueError)
"""What urllib3 raises."""


class _Dialled:
    """Mixed into a connection: made by our dialer, in the place of urllib3's."""

    dialer: Dialer
    host: str
    port: int
    socket_options: Options | None
    _dns_host: str

    def _new_conn(self) -> socket.socket:
        return self.dialer.connect(self._dns_host.strip("[]"), self.port, self.socket_options or ())


def pool_classes(timeouts: Timeouts, dialer: Dialer, guard: tuple[type, ...] = ()) -> dict[str, type[HTTPConnectionPool]]:
    """The classes of connection pools whose connections are `guard`ed and make our responses, by scheme."""
    response = type("TimedResponse", (Response,), {"timeouts": timeouts})
    own = {"response_class": response, "dialer": dialer}
    plain = type("Plain", (*guard, _Dialled, HTTPConnection), own)
    secure = type("Secure", (*guard, _Dialled, HTTPSConnection), own)
    return {
        "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


def make_manager(
    timeouts: Timeouts,
    dialer: Dialer,
    guard: tuple[type, ...] = (),
    proxy: str | None = None,
    cafile: Path | None = None,
) -> urllib3.PoolManager:
    """A pool manager with these classes; it trusts the system's certificates, or those in `cafile`."""
    limits = urllib3.Timeout(connect=timeouts.connect, read=timeouts.head)
    trusted = None if cafile is None else str(cafile)
    if proxy is None:
        manager = urllib3.PoolManager(num_pools=32, maxsize=64, timeout=limits, retries=False, ca_certs=trusted)
    else:
        login = _login_of(proxy)
        manager = urllib3.ProxyManager(
            proxy, num_pools=32, maxsize=64, timeout=limits, retries=False, ca_certs=trusted, proxy_headers=login
        )
    manager.pool_classes_by_scheme = pool_classes(timeouts, dialer, guard)
    return manager


def _login_of(proxy: str) -> dict[str, str] | None:
    parts = urlsplit(proxy)
    if parts.username is None:
        return None
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return urllib3.make_headers(proxy_basic_auth=login)


class Urllib3Exchange:
    """A response of urllib3."""

    def __init__(self, response: BaseHTTPResponse) -> None:
        self.status = response.status
        self.fields: Fields = tuple(response.headers.items())
        self.marked = "transfer-encoding" in response.headers
        self._response = response

    def read(self) -> bytes:
        """The next bytes as soon as there are any."""
        try:
            return self._response.read1(BLOCK, decode_content=False)
        except FOREIGN as error:
            raise translated(error) from error

    def close(self) -> None:
        """Drop the connection, unless the body was read to its end or a few bytes more make it so: then it is kept."""
        let_go(self._response)


class Urllib3Backend:
    """Safe for any number of threads."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._dialer = Dialer(reach.timeouts.connect)
        self._guard = threading.Lock()
        self._managers: dict[str | None, urllib3.PoolManager] = {}

    def send(self, method: str, url: str, fields: Fields, body: Body | None) -> Urllib3Exchange:
        """The answer to one request. Raises UpstreamError."""
        said = dict(fields)
        content = body.open() if body is not None else None
        if content is not None:
            said["Content-Length"] = str(content.size)
        try:
            response = self._manager(self._reach.proxy_for(url)).request(
                method,
                url,
                body=content,
                headers=said,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
            )
        except FOREIGN as error:
            raise translated(error) from error
        finally:
            if content is not None:
                content.close()
        return Urllib3Exchange(response)

    def _manager(self, proxy: str | None) -> urllib3.PoolManager:
        with self._guard:
            if proxy not in self._managers:
                self._managers[proxy] = make_manager(
                    self._reach.timeouts, self._dialer, proxy=proxy, cafile=self._reach.cafile
                )
            return self._managers[proxy]

    def close(self) -> None:
        """Close idle connections."""
        with self._guard:
            managers, self._managers = self._managers, {}
        for manager in managers.values():
            manager.clear()


def let_go(response: BaseHTTPResponse) -> None:
    """Keep the connection where what is left of an answer costs less than a new one; else drop it."""
    left = getattr(response, "length_remaining", None)
    if left == 0 or (left is not None and left <= _SHORT and response.status not in (200, 203, 206)):
        response.drain_conn()
    try:
        response.close()
    except UpstreamError:
        return
    response.release_conn()


def is_out_of_descriptors(error: BaseException) -> bool:
    """Whether it was this machine that failed: it had no descriptor for a socket."""
    innermost = _innermost(error)
    return isinstance(innermost, OSError) and innermost.errno in NO_DESCRIPTOR


def translated(error: Exception) -> UpstreamError:
    """Foreign exceptions in our words. Order matters: urllib3's classes overlap."""
    match error:
        case NameResolutionError():
            told = UpstreamError("cannot be found: its name does not resolve")
        case NewConnectionError():
            told = UpstreamError(f"cannot be reached: {_reason(error)}")
        case ConnectTimeoutError():
            told = UpstreamTimeout("did not accept the connection in time")
        case SSLError():
            told = UpstreamError(f"failed the TLS handshake: {_reason(error)}")
        case PoolTimeoutError() | TimeoutError():
            told = UpstreamTimeout("fell silent")
        case IncompleteRead() | http.client.IncompleteRead():
            told = UpstreamError("ended before the end of its body", again=True)
        case ProtocolError() | http.client.HTTPException() | OSError():
            told = UpstreamError(f"broke off: {_reason(error)}", again=True)
        case _:
            told = UpstreamError(f"failed: {_reason(error)}")
    return told


def _innermost(error: BaseException) -> BaseException:
    while True:
        inner = next((part for part in error.args if isinstance(part, BaseException)), error.__cause__)
        if inner is None or inner is error:
            return error
        error = inner


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    error = _innermost(error)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
