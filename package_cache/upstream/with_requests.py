"""Exchanges over HTTP through requests, for those who want its connections: an extra, `package-cache[requests]`.

What a session of requests would add is decided above, and left out: redirects, cookies, the environment. An answer whose
end is ambiguous is refused, as everywhere; what else is an answer is up to requests.
"""

import http
import http.client
from collections.abc import Iterator

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)
from urllib3.exceptions import (
    TimeoutError as PoolTimeoutError,
)

from package_cache.errors import UpstreamError, UpstreamLie, UpstreamTimeout
from package_cache.model import Fields
from package_cache.rules.http.response import FILES, check_framing
from package_cache.upstream.calls import BLOCK, Body
from package_cache.upstream.opening import reason_of
from package_cache.upstream.reach import Reach

_SHORT = 1 << 14
"""Bytes of an error's body that are read so that the connection can be used again."""
_FOREIGN = (requests.RequestException, HTTPError, http.client.HTTPException, OSError, ValueError)


class RequestsExchange:
    """A response of urllib3, on which requests stands."""

    def __init__(self, response: BaseHTTPResponse) -> None:
        self.status = response.status
        self.fields: Fields = tuple(response.headers.items())
        self.marked = "transfer-encoding" in response.headers
        self._response = response

    def read(self) -> bytes:
        """The next bytes as soon as there are any."""
        try:
            return self._response.read1(BLOCK, decode_content=False)
        except _FOREIGN as error:
            raise _translated(error) from error

    def close(self) -> None:
        """Keep the connection if the body was read to its end, or to a few bytes before it; else close it."""
        response = self._response
        left = getattr(response, "length_remaining", None)
        if left == 0 or (left is not None and left <= _SHORT and response.status not in FILES):
            response.drain_conn()
        response.close()
        response.release_conn()


class RequestsBackend:
    """Safe for any number of threads."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._adapter = HTTPAdapter(pool_connections=32, pool_maxsize=64, max_retries=0)

    def send(self, method: str, url: str, fields: Fields, body: Body | None) -> RequestsExchange:
        """The answer to one request. Raises UpstreamError."""
        proxy, (file, folder), timeouts = self._reach.proxy_for(url), self._reach.trusted(), self._reach.timeouts
        content = body.open() if body is not None else None
        try:
            prepared = requests.PreparedRequest()
            prepared.prepare(method=method, url=url, headers=dict(fields))
            prepared.url = url
            if content is not None:
                prepared.body = content  # type: ignore[assignment]
                prepared.headers["Content-Length"] = str(content.size)
            response = self._adapter.send(
                prepared,
                stream=True,
                timeout=(timeouts.connect, timeouts.stall),
                verify=file or folder or True,
                proxies={} if proxy is None else {"http": proxy, "https": proxy},
            )
        except _FOREIGN as error:
            raise _translated(error) from error
        finally:
            if content is not None:
                content.close()
        exchange = RequestsExchange(response.raw)
        try:
            _check(response.raw)
        except UpstreamLie:
            response.raw.close()
            raise
        return exchange

    def close(self) -> None:
        """Close idle connections."""
        self._adapter.close()


def _check(response: BaseHTTPResponse) -> None:
    """Refuse what the parser of the standard library forgives. Raises UpstreamLie."""
    if response.status < http.HTTPStatus.OK:
        raise UpstreamLie("sent an interim answer, which requests takes for the last one")
    message = getattr(getattr(response, "_original_response", None), "msg", None)
    if getattr(message, "defects", None):
        raise UpstreamLie("sent a head with a line that is no field")
    check_framing(tuple(response.headers.items()))


def _translated(error: Exception) -> UpstreamError:
    """The error of this package for a foreign exception. Order matters: the classes of urllib3 overlap."""
    causes = list(_causes(error))
    innermost = causes[-1]
    reason = reason_of(innermost)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in causes)

    if has(NameResolutionError):
        told = UpstreamError("cannot be found: its name does not resolve")
    elif has(NewConnectionError):
        told = UpstreamError(f"cannot be reached: {reason}")
    elif has(ConnectTimeoutError):
        told = UpstreamTimeout("did not accept the connection in time")
    elif has(SSLError):
        told = UpstreamError(f"failed the TLS handshake: {reason}")
    elif has(PoolTimeoutError, TimeoutError):
        told = UpstreamTimeout("fell silent")
    elif has(http.client.BadStatusLine, http.client.LineTooLong) and not has(http.client.RemoteDisconnected):
        told = UpstreamLie("does not answer in HTTP/1")
    else:
        told = UpstreamError(f"broke off: {reason}", again=not isinstance(error, ValueError))
    return told


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and what is inside of it."""
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        reason = getattr(inner, "reason", None)
        parts = (reason, *inner.args, inner.__cause__)
        inner = next((part for part in parts if isinstance(part, BaseException)), None)
