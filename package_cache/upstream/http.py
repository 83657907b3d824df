"""Sources reached over HTTP, through urllib3.

Owns the connections. Follows redirects, within limits: bounded, never from https down to http, and to other hosts only if
they have a public address, so that a source cannot aim this cache at the network it stands in. Credentials go to the host
they were given for. Bodies are taken as they are: nothing is decoded. Every failure leaves as an `UpstreamError`.
"""

import http.client
import ipaddress
import socket
import time
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
from package_cache.errors import UpstreamError, UpstreamLie, UpstreamTimeout
from package_cache.model import Representation, Source
from package_cache.rules.answer import kept_fields
from package_cache.rules.digests import DIGEST_FIELDS, declared, declared_of_part
from package_cache.rules.fields import parse_content_range, parse_length
from package_cache.rules.networks import is_inside_by_name, is_public
from package_cache.rules.steps import Ask, Head
from package_cache.upstream.response import Response

MAX_REDIRECTS = 5
_BLOCK = 1 << 20
_SHORT = 1 << 14
"""Bytes of an error's body that are read so that the connection can be used again."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class _PublicOnly:
    """Mixed into a connection: refuses a peer inside loopback, private or link-local networks, before it is sent a byte."""

    host: str

    def _new_conn(self) -> socket.socket:
        connected: socket.socket = super()._new_conn()  # type: ignore[misc]
        if not is_public(ipaddress.ip_address(connected.getpeername()[0].partition("%")[0])):
            connected.close()
            raise UpstreamLie(f"redirects to {self.host}, which is not a public address")
        return connected


def _manager(timeouts: Timeouts, *, public_only: bool, proxy: str | None = None) -> urllib3.PoolManager:
    """A pool manager whose connections make our responses."""

    response = type("TimedResponse", (Response,), {"timeouts": timeouts})
    guard: tuple[type, ...] = (_PublicOnly,) if public_only else ()
    plain = type("Plain", (*guard, HTTPConnection), {"response_class": response})
    secure = type("Secure", (*guard, HTTPSConnection), {"response_class": response})
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
        raise UpstreamLie(f"redirects more than {MAX_REDIRECTS} times")

    def _following(self, url: str, location: str) -> str:
        """Where a redirect leads. Raises UpstreamError where it must not be followed."""
        try:
            following = urljoin(url, location)
            origin = _Origin.of(following)
        except ValueError:
            raise UpstreamLie("redirects to something that is not a URL") from None
        if origin.scheme not in ("http", "https") or not origin.host:
            raise UpstreamLie("redirects to something that is not an http URL")
        if url.startswith("https:") and origin.scheme != "https":
            raise UpstreamLie("redirects from https down to http")
        if origin not in self._own and is_inside_by_name(origin.host):
            raise UpstreamLie(f"redirects to {origin.host}, which is not a public address")
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
    except UpstreamError:
        return
    response.release_conn()


def _head(response: BaseHTTPResponse, ask: Ask) -> Head:
    said = response.headers
    fields = kept_fields(tuple(said.items()))
    chunked = "transfer-encoding" in said
    size = None if chunked else parse_length(said.get("content-length"))
    whole, coded = response.status == 200, said.get("content-encoding", "identity").lower() != "identity"
    return Head(
        response.status,
        Representation(fields, size, ask.url, time.time()),
        chunked=chunked,
        content_range=parse_content_range(said.get("content-range")),
        digests=declared({name: said.get(name) for name in DIGEST_FIELDS}, whole=whole, coded=coded),
        part_digests=declared_of_part(said.get("content-digest")) if response.status == 206 else (),
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
