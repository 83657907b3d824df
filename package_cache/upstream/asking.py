"""A call made through a backend: redirects followed, conditions sent, credentials kept to the host they are for."""

import time
from dataclasses import dataclass

from package_cache.errors import UpstreamLie
from package_cache.model import Fields
from package_cache.rules.transfers.asking import (
    MAX_REDIRECTS,
    Origin,
    becomes_get,
    condition_fields,
    following,
    head_of,
    places_of,
    told_fields,
)
from package_cache.rules.transfers.steps import Ask, Head
from package_cache.upstream.calls import Backend, Body, Exchange


@dataclass(frozen=True, slots=True)
class Call:
    """What is the same wherever it is asked. `private` fields are sent to the origin of the URL beside them alone.

    With `ranges`, a part of the file may be asked for where the rest is here; else it is always the whole.
    """

    method: str = "GET"
    fields: Fields = ()
    private: tuple[tuple[str, Fields], ...] = ()
    body: Body | None = None
    ranges: bool = True


class CallAnswer:
    """The answer to a call. `url` is where the redirects led to."""

    def __init__(self, head: Head, exchange: Exchange, url: str, said: Fields) -> None:
        self.head = head
        self.url = url
        self.said = said
        self.read = exchange.read
        self.close = exchange.close


def open_call(backend: Backend, call: Call, ask: Ask) -> CallAnswer:
    """Make a call at `ask.url`, through redirects. Raises UpstreamError."""
    url, method, body = ask.url, call.method, call.body
    for _ in range(MAX_REDIRECTS + 1):
        exchange = backend.send(method, url, _fields(call, ask, url, body), body)
        places = places_of(exchange.status, exchange.fields)
        if not places:
            kept = told_fields(exchange.fields)
            head = head_of(exchange.status, exchange.fields, kept, ask.url, time.time(), marked=exchange.marked)
            return CallAnswer(head, exchange, url, kept)
        exchange.close()
        if becomes_get(exchange.status, method):
            method, body = "GET", None
        try:
            url = following(url, places)
        except ValueError as error:
            raise UpstreamLie(str(error)) from None
    raise UpstreamLie(f"redirects more than {MAX_REDIRECTS} times")


def _fields(call: Call, ask: Ask, url: str, body: Body | None) -> Fields:
    fields = list(call.fields)
    for home, own in call.private:
        if Origin.of(url) == Origin.of(home):
            fields += own
    if body is not None:
        fields.append(("Content-Type", body.content_type))
    if call.ranges or not ask.offset:
        fields += condition_fields(ask)
    return tuple(fields)
