"""Refusals that end the connection: of heads that are no request, or that did not arrive in time.

They are in the access log like every other answer.
"""

import time
from http import HTTPStatus

from package_cache.errors import NotAllowed, RequestError
from package_cache.rules.http.answer import METHODS, RETRY_SECONDS
from package_cache.rules.http.fields import format_date
from package_cache.server.access import AccessLog, AccessRecord, Said

NOTHING = Said("-", "-", "-")
"""What is known of a request that could not be read."""


class RequestTimeout(RequestError):
    """The head was begun and not ended in time (RFC 9110, section 15.5.9)."""

    http_status = 408
    close = True


class TooManyConnections(RequestError):
    """There is no place for another connection (RFC 9110, section 15.6.4)."""

    http_status = 503
    close = True


def not_allowed(method: str) -> NotAllowed:
    """Why a method is not served. An Allow field comes with it."""
    where = "; --connect says where tunnels may lead" if method == "CONNECT" else ""
    return NotAllowed(f"{method} is not allowed here, {' and '.join(METHODS)} are{where}")


def refuse(error: RequestError, client: str, log: AccessLog, said: Said = NOTHING) -> bytes:
    """The whole answer, ready to be sent."""
    status, now = error.http_status, time.time()
    body = f"{error}\n".encode()
    sent = b"" if said.method == "HEAD" else body
    retry = f"Retry-After: {RETRY_SECONDS}\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    if log.enabled:
        log.add(AccessRecord(client, now, said, status, len(sent), "refused", "-", 0.0, cut=False))
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {format_date(now)}\r\n{retry}"
    return (
        f"{first}Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nX-Content-Type-Options: nosniff\r\n"
        "Cache-Status: package-cache; fwd=bypass\r\nConnection: close\r\n\r\n"
    ).encode("ascii") + sent
