"""Sources reached over HTTP, through urllib3.

Owns the connections. Follows redirects, within limits: bounded, never from https down to http, and to other hosts only if
they have a public address, so that a source cannot aim this cache at the network it stands in. Credentials go to the host
they were given for. Bodies are taken as they are: nothing is decoded. Every failure leaves as an `UpstreamError`.
"""

import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import urllib3
from urllib3.response import BaseHTTPResponse

from package_cache.config import Timeouts
from package_cache.errors import OutOfDescriptors, UpstreamError, UpstreamLie
from package_cache.model import Fields, Source
from package_cache.rules.http.answer import kept_fields
from package_cache.rules.transfers.asking import MAX_REDIRECTS, Origin, condition_fields, following, head_of, places_of
from package_cache.rules.transfers.networks import is_inside_by_name, is_public
from package_cache.rules.transfers.proxies import of_environment
from package_cache.rules.transfers.steps import Ask, Head
from package_cache.upstream.dialer import Dialer
from package_cache.upstream.with_urllib3 import (
    FOREIGN,
    Urllib3Exchange,
    is_out_of_descriptors,
    let_go,
    make_manager,
    translated,
)

logger = logging.getLogger(__name__)

_SAY_AGAIN = 60.0

_KEEPING = frozenset({307, 308})
"""Redirects after which the same is sent again (RFC 9110, sections 15.4.8 and 15.4.9)."""


class _PublicOnly:
    """Mixed into a connection: refuses a peer inside loopback, private or link-local networks, before it is sent a byte."""

    host: str

    def _new_conn(self) -> socket.socket:
        connected: socket.socket = super()._new_conn()  # type: ignore[misc]
        if not is_public(ipaddress.ip_address(connected.getpeername()[0].partition("%")[0])):
            connected.close()
            raise UpstreamLie(f"redirects to {self.host}, which is not a public address")
        return connected


class HttpAnswer:
    """A response on the wire."""

    def __init__(self, head: Head, exchange: Urllib3Exchange) -> None:
        self.head = head
        self.read = exchange.read
        self.close = exchange.close


class HttpFetcher:
    """Asks http and https sources. Safe for any number of threads."""

    def __init__(self, sources: tuple[Source, ...], timeouts: Timeouts, agent: str, via: str) -> None:
        web = [source for source in sources if source.base.startswith("http")]
        self._sources = sorted(web, key=lambda source: len(source.base), reverse=True)
        self._own = frozenset(Origin.of(source.base) for source in web)
        self._fields = {"User-Agent": agent, "Via": f"1.1 {via}", "Accept-Encoding": "identity"}
        self._complained = -_SAY_AGAIN
        self._timeouts, self._dialer = timeouts, Dialer(timeouts.connect)
        self._direct = make_manager(timeouts, self._dialer)
        self._guarded = make_manager(timeouts, self._dialer, (_PublicOnly,))
        self._proxies = of_environment(os.environ)
        self._guard = threading.Lock()
        self._through: dict[str, urllib3.PoolManager] = {}

    def open(self, ask: Ask, accept: str | None, method: str = "GET", via: str | None = None) -> HttpAnswer:
        """Request what `ask` says, through redirects. `accept` is the client's Accept, where it matters, `via` its Via."""
        return self._open(method, ask, partial(self._fields_for, ask=ask, accept=accept, via=via), None)

    def post(self, url: str, said: Fields, content: bytes) -> HttpAnswer:
        """Send content with these fields, through redirects that leave a POST one."""
        ask = Ask(url)
        return self._open("POST", ask, lambda place: dict(said) | self._fields_for(place, ask, None, None), content)

    def _open(self, method: str, ask: Ask, fields: Callable[[str], dict[str, str]], content: bytes | None) -> HttpAnswer:
        url = ask.url
        for _ in range(MAX_REDIRECTS + 1):
            response = self._request(method, url, fields(url), content)
            exchange = Urllib3Exchange(response)
            places = places_of(exchange.status, exchange.fields)
            if not places or (content is not None and exchange.status not in _KEEPING):
                return _answer(ask, exchange)
            let_go(response)
            url = self._following(url, places)
        raise UpstreamLie(f"redirects more than {MAX_REDIRECTS} times")

    def _following(self, url: str, places: tuple[str, ...]) -> str:
        """Where a redirect leads. Raises UpstreamError where it must not be followed."""
        try:
            target = following(url, places)
        except ValueError as error:
            raise UpstreamLie(str(error)) from None
        origin = Origin.of(target)
        if origin not in self._own and is_inside_by_name(origin.host):
            raise UpstreamLie(f"redirects to {origin.host}, which is not a public address")
        return target

    def _private(self, url: str) -> Fields:
        """The fields of the source that a URL belongs to; of its host, for what is redirected out of the source."""
        for source in self._sources:
            if url.startswith(source.base + "/"):
                return source.fields
        origin = Origin.of(url)
        return next((source.fields for source in self._sources if source.fields and Origin.of(source.base) == origin), ())

    def _fields_for(self, url: str, ask: Ask, accept: str | None, via: str | None) -> dict[str, str]:
        fields = dict(self._fields)
        if via:
            fields["Via"] = f"{via}, {fields['Via']}"
        if accept:
            fields["Accept"] = accept
        return fields | dict(self._private(url)) | dict(condition_fields(ask))

    def _request(self, method: str, url: str, fields: dict[str, str], content: bytes | None) -> BaseHTTPResponse:
        try:
            return self._pool(url).request(
                method,
                url,
                body=content,
                headers=fields,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
            )
        except OutOfDescriptors:
            self._complain()
            raise
        except FOREIGN as error:
            if is_out_of_descriptors(error):
                self._complain()
                raise OutOfDescriptors("a connection to a source") from error
            raise translated(error) from error

    def _complain(self) -> None:
        now = time.monotonic()
        if now - self._complained > _SAY_AGAIN:
            self._complained = now
            logger.warning("there is no descriptor for a connection to a source (this is said once a minute)")

    def _pool(self, url: str) -> urllib3.PoolManager:
        try:
            proxy = self._proxies.proxy_for(url)
        except ValueError as error:
            raise UpstreamError(f"was not asked: {error}") from None
        if proxy is not None:
            return self._proxied_by(proxy)
        return self._direct if Origin.of(url) in self._own else self._guarded

    def _proxied_by(self, proxy: str) -> urllib3.PoolManager:
        with self._guard:
            if proxy not in self._through:
                self._through[proxy] = make_manager(self._timeouts, self._dialer, proxy=proxy)
            return self._through[proxy]

    def close(self) -> None:
        """Close idle connections."""
        with self._guard:
            through = tuple(self._through.values())
        for manager in (self._direct, self._guarded, *through):
            manager.clear()


def _answer(ask: Ask, exchange: Urllib3Exchange) -> HttpAnswer:
    kept = kept_fields(exchange.fields)
    head = head_of(exchange.status, exchange.fields, kept, ask.url, time.time(), marked=exchange.marked)
    return HttpAnswer(head, exchange)
