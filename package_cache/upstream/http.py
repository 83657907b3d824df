"""Sources reached over HTTP, through urllib3.

Owns the connections. Follows redirects, within limits: bounded, never from https down to http, and to other hosts only if
they have a public address, so that a source cannot aim this cache at the network it stands in. Credentials go to the host
they were given for. Bodies are taken as they are: nothing is decoded, and a body that goes on behind its declared length
is an error. Every failure leaves as an `UpstreamError`.
"""

import http.client
import ipaddress
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    InvalidHeader,
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
from package_cache.model import Representation, Source
from package_cache.rules.answer import kept_fields
from package_cache.rules.fields import parse_content_range, parse_length
from package_cache.rules.transfer import Ask, Head

MAX_REDIRECTS = 5
_BLOCK = 1 << 20
_SHORT = 1 << 14
"""Bytes of an error's body that are read so that the connection can be used again."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class OverrunError(UpstreamError):
    """A body goes on behind its declared length: nothing of it can be trusted."""


class _Response(http.client.HTTPResponse):
    """A response that limits silence within the body, and looks behind the end of it."""

    stall: float

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        super().__init__(sock, debuglevel, method)
        self._socket = sock
        self._has_no_body = method == "HEAD"

    def begin(self) -> None:
        super().begin()
        self._socket.settimeout(self.stall)

    def _close_conn(self) -> None:
        surplus = self.status in (200, 206) and self.length == 0 and not self._has_no_body and self._has_more()
        super()._close_conn()  # type: ignore[misc]
        if surplus:
            raise OverrunError("sent more than it declared")

    def _has_more(self) -> bool:
        try:
            self._socket.settimeout(0)
            return bool(self.fp.peek(1))
        except (OSError, ValueError):
            return False
        finally:
            with suppress(OSError):
                self._socket.settimeout(self.stall)


class _PublicOnly:
    """Mixed into a connection: refuses a peer inside loopback, private or link-local networks."""

    sock: socket.socket
    host: str

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        if not _is_public(ipaddress.ip_address(self.sock.getpeername()[0].partition("%")[0])):
            self.sock.close()
            raise UpstreamError(f"redirects to {self.host}, which is not a public address")


def _manager(timeouts: Timeouts, *, public_only: bool, proxy: str | None = None) -> urllib3.PoolManager:
    """A pool manager whose connections make our responses."""

    class Response(_Response):
        stall = timeouts.stall

    guard: tuple[type, ...] = (_PublicOnly,) if public_only else ()
    plain = type("Plain", (*guard, HTTPConnection), {"response_class": Response})
    secure = type("Secure", (*guard, HTTPSConnection), {"response_class": Response})
    pools = {
        "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
    limits = urllib3.Timeout(connect=timeouts.connect, read=timeouts.head)
    if proxy is None:
        manager = urllib3.PoolManager(num_pools=32, maxsize=64, timeout=limits, retries=False)
    else:
        manager = urllib3.ProxyManager(proxy, num_pools=32, maxsize=64, timeout=limits, retries=False)
    manager.pool_classes_by_scheme = pools
    return manager


@dataclass(frozen=True, slots=True)
class _Origin:
    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "_Origin":
        parts = urlsplit(url)
        return cls(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


class HttpAnswer:
    """A response on the wire."""

    def __init__(self, head: Head, response: BaseHTTPResponse) -> None:
        self.head = head
        self._response = response

    def read(self) -> bytes:
        """The next bytes as soon as there are any."""
        try:
            return self._response.read1(_BLOCK, decode_content=False)
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise _translated(error) from error

    def close(self) -> None:
        """Drop the connection, unless the body was read to its end or a few bytes more make it so: then it is kept."""
        _let_go(self._response)


class HttpFetcher:
    """Asks http and https sources. Safe for any number of threads."""

    def __init__(self, sources: tuple[Source, ...], timeouts: Timeouts, agent: str, via: str) -> None:
        web = [source for source in sources if source.base.startswith("http")]
        self._sources = sorted(web, key=lambda source: len(source.base), reverse=True)
        self._own = frozenset(_Origin.of(source.base) for source in web)
        self._fields = {"User-Agent": agent, "Via": f"1.1 {via}", "Accept-Encoding": "identity"}
        self._direct = _manager(timeouts, public_only=False)
        self._guarded = _manager(timeouts, public_only=True)
        self._proxies = getproxies()
        self._proxied = {
            scheme: _manager(timeouts, public_only=False, proxy=self._proxies[scheme])
            for scheme in ("http", "https")
            if scheme in self._proxies
        }

    def open(self, ask: Ask, accept: str | None, method: str = "GET") -> HttpAnswer:
        """Request what `ask` says, through redirects. `accept` is the client's Accept, where it matters."""
        url = ask.url
        for _ in range(MAX_REDIRECTS + 1):
            response = self._request(method, url, self._fields_for(url, ask, accept))
            location = response.headers.get("location") if response.status in _REDIRECTS else None
            if location is None:
                return HttpAnswer(_head(response, ask), response)
            _let_go(response)
            url = self._following(url, location)
        raise UpstreamError(f"redirects more than {MAX_REDIRECTS} times")

    def _following(self, url: str, location: str) -> str:
        """Where a redirect leads. Raises UpstreamError where it must not be followed."""
        try:
            following = urljoin(url, location)
            origin = _Origin.of(following)
        except ValueError:
            raise UpstreamError("redirects to something that is not a URL") from None
        if origin.scheme not in ("http", "https") or not origin.host:
            raise UpstreamError("redirects to something that is not an http URL")
        if url.startswith("https:") and origin.scheme != "https":
            raise UpstreamError("redirects from https down to http")
        if origin not in self._own and _is_named_inside(origin.host):
            raise UpstreamError(f"redirects to {origin.host}, which is not a public address")
        return following

    def _authorization(self, url: str) -> str | None:
        """The credentials of the source that a URL belongs to; of its host, for what is redirected out of the source."""
        for source in self._sources:
            if url.startswith(source.base + "/"):
                return source.authorization
        origin = _Origin.of(url)
        given = (source.authorization for source in self._sources if _Origin.of(source.base) == origin)
        return next((authorization for authorization in given if authorization), None)

    def _fields_for(self, url: str, ask: Ask, accept: str | None) -> dict[str, str]:
        fields = dict(self._fields)
        authorization = self._authorization(url)
        if authorization:
            fields["Authorization"] = authorization
        if accept:
            fields["Accept"] = accept
        if ask.offset:
            fields["Range"] = f"bytes={ask.offset}-{'' if ask.stop is None else ask.stop - 1}"
            fields["If-Range"] = ask.if_range or ""
        elif ask.condition and ask.condition.etag:
            fields["If-None-Match"] = ask.condition.etag
        if ask.condition and ask.condition.last_modified and not ask.offset:
            fields["If-Modified-Since"] = ask.condition.last_modified
        return fields

    def _request(self, method: str, url: str, fields: dict[str, str]) -> BaseHTTPResponse:
        try:
            return self._pool(url).request(
                method, url, headers=fields, preload_content=False, decode_content=False, redirect=False, retries=False
            )
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise _translated(error) from error

    def _pool(self, url: str) -> urllib3.PoolManager:
        origin = _Origin.of(url)
        if origin.scheme in self._proxied and not proxy_bypass(origin.host):
            return self._proxied[origin.scheme]
        return self._direct if origin in self._own else self._guarded

    def close(self) -> None:
        """Close idle connections."""
        for manager in (self._direct, self._guarded, *self._proxied.values()):
            manager.clear()


def _let_go(response: BaseHTTPResponse) -> None:
    """Keep the connection where what is left of an answer costs less than a new one; else drop it."""
    left = getattr(response, "length_remaining", None)
    if left == 0 or (left is not None and left <= _SHORT and response.status not in (200, 206)):
        response.drain_conn()
    try:
        response.close()
    except OverrunError:
        return
    response.release_conn()


def _is_named_inside(host: str) -> bool:
    """Whether a name alone says that a host is on this machine or in its network; what it resolves to is seen later."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return not _is_public(address)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return (getattr(address, "ipv4_mapped", None) or address).is_global


def _head(response: BaseHTTPResponse, ask: Ask) -> Head:
    fields = kept_fields(tuple(response.headers.items()))
    coding = response.headers.get("transfer-encoding", "").lower()
    size = None if coding else parse_length(response.headers.get("content-length"))
    return Head(
        response.status,
        Representation(fields, size, ask.url, time.time()),
        chunked=coding == "chunked",
        content_range=parse_content_range(response.headers.get("content-range")),
    )


def _translated(error: Exception) -> UpstreamError:
    """Foreign exceptions in our words. Order matters: urllib3's classes overlap."""
    match error:
        case NameResolutionError():
            translated = UpstreamError("cannot be found: its name does not resolve")
        case NewConnectionError():
            translated = UpstreamError(f"cannot be reached: {_reason(error)}")
        case ConnectTimeoutError():
            translated = UpstreamTimeout("did not accept the connection in time")
        case SSLError():
            translated = UpstreamError(f"failed the TLS handshake: {_reason(error)}")
        case PoolTimeoutError() | TimeoutError():
            translated = UpstreamTimeout("fell silent")
        case InvalidHeader():
            translated = UpstreamError("contradicts itself about the length")
        case IncompleteRead() | http.client.IncompleteRead():
            translated = UpstreamError("ended before the end of its body", again=True)
        case ProtocolError() | http.client.HTTPException() | OSError():
            translated = UpstreamError(f"broke off: {_reason(error)}", again=True)
        case _:
            translated = UpstreamError(f"failed: {_reason(error)}")
    return translated


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while True:
        inner = next((part for part in error.args if isinstance(part, BaseException)), error.__cause__)
        if inner is None or inner is error:
            break
        error = inner
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
