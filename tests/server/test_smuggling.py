"""One reading of any bytes: what the event loop takes for a request, another program takes for the same one.

If a proxy in front of the cache and the cache disagreed about where a request ends or what it is, one client's bytes would
be taken for another one's request. Gunicorn's parser, which is not ours, stands for such programs, and for those that run
the WSGI callable. The property: whatever head `rules.http.request` accepts, Gunicorn reads from the same bytes the same
method, target, fields, framing and wish to persist, and leaves the same bytes behind it, or refuses it for a reason in
`reason_to_refuse`; and the callable is then asked what the loop would be asked.
"""

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from examples import examples
from gunicorn.config import Config
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import create
from hypothesis import example, given, settings
from hypothesis import strategies as st
from origin import Origin
from product import Proxy
from raw import Client

from package_cache.errors import RequestError
from package_cache.model import Repository, Source
from package_cache.rules.http.request import MAX_HEAD, RequestHead, check_head, parse_head
from package_cache.rules.repositories.routes import Routes
from package_cache.server.app import read_head
from package_cache.server.connections import asked_for

CLIENT, SERVER = ("203.0.113.9", 40000), ("127.0.0.1", 4000)
ROUTES = Routes((Repository("root", (Source("http://mirror.example"),)),), frozenset({SERVER[0]}))


@pytest.fixture(scope="module")
def cfg() -> Any:
    """Settings of Gunicorn with which its limits are ours, and it believes nobody."""
    cfg = Config()
    wanted = {"limit_request_line": 8190, "limit_request_field_size": MAX_HEAD, "forwarded_allow_ips": ""}
    for name, value in {**wanted, "http_parser": "python"}.items():
        if name in cfg.settings:  # some of them are newer than the oldest Gunicorn that will do
            cfg.set(name, value)
    return cfg


@dataclass(frozen=True)
class Reading:
    """What one side makes of the bytes. `body` is how the content is framed: a length, or "chunked"."""

    method: str
    target: str
    minor: int
    fields: dict[str, str]
    body: int | str
    keep: bool
    rest: bytes


def of_wire(data: bytes) -> Reading | None:
    """What the loop's parser reads; None where it reads nothing."""
    try:
        parsed = parse_head(data)
    except RequestError:
        return None
    if parsed is None:
        return None
    head, size = parsed
    fields: dict[str, str] = {}
    for name, value in head.fields:
        if "_" not in name:  # it would pass for another one with a hyphen, so that no server hands it to an application
            fields[name] = f"{fields[name]},{value}" if name in fields else value
    length = int(fields.get("content-length", "0"))
    body = "chunked" if "transfer-encoding" in fields else length
    return Reading(head.method, head.target, head.minor, fields, body, head.keep_alive, data[size:])


def of_gunicorn(data: bytes, cfg: Any) -> tuple[Reading, dict[str, Any]]:
    """What Gunicorn's parser reads, and the environ that it makes of it. Of an empty line first not every version knows.

    Raises ParseException.
    """
    parser = RequestParser(cfg, iter(()), CLIENT)
    parser.unreader.unread(data.removeprefix(b"\r\n"))
    request = next(parser)
    left, right = socket.socketpair()
    with left, right:
        _, environ = create(request, left, CLIENT, SERVER, cfg)
    fields: dict[str, str] = {}
    for name, value in request.headers:
        fields[name.lower()] = f"{fields[name.lower()]},{value}" if name.lower() in fields else value
    reader = request.body.reader
    body = "chunked" if isinstance(reader, ChunkedReader) else reader.length
    rest = parser.unreader.buf.getvalue()
    keep = not request.should_close()
    minor = min(request.version[1], 1)
    return Reading(request.method, request.uri, minor, fields, body, keep, rest), environ


def reason_to_refuse(data: bytes) -> str | None:
    """Why Gunicorn may refuse a head that the loop's parser accepts. The loop refuses it too, in its own words."""
    head, _ = parse_head(data) or pytest.fail("it is no head")
    if not 3 <= len(head.method) <= 20 or head.method != head.method.upper() or "#" in head.method:
        return "a method that is none of the registered ones; the application would say 405"
    if not head.target.startswith("/") and ("://" not in head.target or "[" in head.target or "]" in head.target):
        return "a target in a form that only CONNECT and OPTIONS know, or no URL; the application would say 400"
    return None


def assert_one_reading(data: bytes, cfg: Any) -> Reading | None:
    """Compare; what both read, or None where one of them refuses."""
    ours = of_wire(data)
    if ours is None:
        return None
    try:
        theirs, environ = of_gunicorn(data, cfg)
    except ParseException:
        if reason_to_refuse(data):
            return None
        raise
    if theirs.keep != ours.keep:
        assert head_lists_options(data) or theirs.method == "CONNECT"
    assert replace(theirs, keep=ours.keep) == ours
    assert_the_application_is_asked_the_same(data, environ)
    return ours


def head_lists_options(data: bytes) -> bool:
    """Whether Connection names several options. Gunicorn knows `close` and `keep-alive` only where they stand alone."""
    head, _ = parse_head(data) or pytest.fail("it is no head")
    return "," in head.combined.get("connection", "")


def assert_the_application_is_asked_the_same(data: bytes, environ: dict[str, Any]) -> None:
    """What the callable behind Gunicorn is asked is what the loop is asked."""
    head, _ = parse_head(data) or pytest.fail("it is no head")
    again = read_head(environ)
    check_head(again)
    try:
        named = ROUTES.find(head.target, head.combined.get("host"))
    except RequestError:
        return
    asked = asked_for(head, named, ROUTES)
    assert again.has_body == head.has_body
    assert (again.method, again.target) == (asked.request.method, asked.said.target)
    assert ROUTES.find(again.target, again.combined.get("host")) == asked.request.target
    # Of the type of a content, WSGI makes a variable of its own.
    handed_on = {name: value for name, value in tight(head).items() if "_" not in name and name != "content-type"}
    assert tight(again) == handed_on


def tight(head: RequestHead) -> dict[str, str]:
    """The fields without the blanks that a server may put at a comma where it joins repeated ones."""
    return {name: re.sub(r"[ \t]*,[ \t]*", ",", value) for name, value in head.combined.items()}


# -- bytes that are nearly requests


def line(name: bytes, *values: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([name + b":" + blank + value + end for value in values for blank, end in SURROUNDINGS])


SURROUNDINGS = ((b" ", b""), (b"", b""), (b"\t", b" "), (b"  ", b"\t "))
OPTIONS = (b"close", b"Close", b"keep-alive", b"Keep-Alive", b"close, x", b"x, close", b"keep-alive,close", b"x", b"", b",")
SOUND = st.one_of(
    line(b"Connection", *OPTIONS),
    line(b"X-A", b"a", b"", b"a b", b"a\tb", b"a, b", b'"q"', b"a: b", b"\xe9\xff", b"close\xa0", b"\x85"),
    line(b"x-a", b"c", b"d,"),
    line(b"X_A", b"e", b"chunked"),
    line(b"Range", b"bytes=0-1", b"bytes=2-,5-6", b"x"),
    line(b"If-None-Match", b"*", b'"a", "b"'),
    line(b"Accept", b"*/*", b"text/html"),
    line(b"Via", b"1.1 a"),
    line(b"Content-Type", b"text/plain"),
    line(b"Expect", b"100-continue", b"100-Continue"),
    line(b"Upgrade", b"h2c", b"websocket"),
    line(b"X-Forwarded-Proto", b"https", b"http"),
    line(b"X-Forwarded-SSL", b"on"),
    line(b"Script_Name", b"/x"),
    line(b"Path_Info", b"/x"),
    line(b"Content_Length", b"3"),
    line(b"Transfer_Encoding", b"chunked"),
    line(b"Content-Length", b"0", b"3", b"03", b"000", b"9" * 19),
    line(b"Transfer-Encoding", b"chunked", b"Chunked"),
    line(b"X!#$%&'*+-.^_`|~", b"f"),
    line(b"X!#$%&'*+-.^`|~", b"f"),
    st.integers(8150, 8200).map(lambda size: b"Cookie: " + b"v" * size),
)
UNSOUND = st.one_of(
    line(b"Content-Length", b"+3", b"3,3", b"3, 3", b"\xb2", b"", b"0x3", b"3_0", b"9" * 20, b"-0"),
    line(b"Transfer-Encoding", b"identity", b"gzip, chunked", b"chunked, chunked", b"\x0bchunked", b"", b"chunked,", b"x"),
    line(b"Host", b"b", b"a, b", b"a/b", b""),
    line(b"Expect", b"", b"200-ok"),
    line(b"X", b"\0", b"a\rb", b"a\nb", b"\x7f", b"\x1b[m"),
    st.sampled_from([b" folded", b"\tfolded: x", b"X-B : y", b"no colon", b":", b": x", b"", b"X-\xc3\xa9: y", b"X B: y"]),
    st.builds(lambda name, value: name + b":" + value, st.binary(max_size=4), st.binary(max_size=6)),
)
FIELDS = st.one_of(
    st.lists(SOUND, max_size=4),
    st.lists(SOUND, max_size=4),
    st.builds(lambda sound, other: [*sound, other], st.lists(SOUND, max_size=2), UNSOUND),
)
SEGMENTS = st.sampled_from(
    [
        b"",
        b"",
        b"a" * 3000,
        *rb"""a file-1.tar %41 %2f %2e%2e .. . + %2B %c3%af a:b @ ;x ~ [ ] | \ " < ^ ` { % %zz %00""".split(),
    ]
)
TAILS = st.sampled_from([b"", b"", b"", *rb"? ?a=b ?? ?%2f ?/../ // ?:// ?a#b #".split(), b"\xc3\xaf"])
ODD_TARGETS = rb"""* a a:80 http://mirror.example/a HTTP://mirror.example/a http://[::1/a http://[::1]/a http://mirror.example
    http://a@b/c ftp://x/y :// x:// //a/b /// http:/a https://mirror.example?x ?""".split()
TARGETS = st.one_of(
    st.just(b"/a"),
    st.builds(lambda parts, tail: b"/" + b"/".join(parts) + tail, st.lists(SEGMENTS, max_size=3), TAILS),
    st.sampled_from([*ODD_TARGETS, b"/" + b"a" * 8180, b"/" + b"./" * 4090, b"/\x7f", b"/ "]),
)
METHODS = [b"GET"] * 12 + [b"HEAD"] * 3 + [b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"PROPFIND", b"M-SEARCH", b"A" * 20]
ODD_METHODS = [b"get", b"G", b"A" * 21, b"G#T", b"!!!", b"\xc3\x9f\xc3\x9f", b"PRI"]
REQUEST_LINES = st.builds(
    lambda method, target, version: method + b" " + target + b" " + version,
    st.sampled_from(METHODS * 3 + ODD_METHODS),
    TARGETS,
    st.sampled_from([b"HTTP/1.1"] * 12 + [b"HTTP/1.0"] * 3 + [b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"http/1.1"]),
)
BODIES = st.sampled_from([b"", b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n"])
NEXT = st.sampled_from(
    [b"", b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n", b"\r\nGET /next HTTP/1.1\r\nHost: b\r\n\r\n", b"\r\n"]
)


def assemble(first: bytes, start: bytes, host: Sequence[bytes], fields: Sequence[bytes], body: bytes, rest: bytes) -> bytes:
    return first + b"\r\n".join([start, *host, *fields, b"", b""]) + body + rest


SOUND_REQUESTS = st.builds(
    assemble,
    st.sampled_from([b"", b"", b"\r\n"]),
    st.builds(
        lambda method, target, version: method + b" " + target + b" HTTP/1." + version,
        st.sampled_from(METHODS),
        st.sampled_from(
            [b"/a", b"/a%2Fb?c=d", b"//a", b"/a:b/../@", b"/%41", b"/?", b"/" + b"a" * 3000, b"/" + b"./" * 4090]
        ),
        st.sampled_from([b"1", b"1", b"1", b"0", b"7"]),
    ),
    st.just([b"Host: a"]),
    st.lists(SOUND, max_size=4),
    BODIES,
    NEXT,
)
REQUESTS = st.builds(
    assemble,
    st.sampled_from([b""] * 8 + [b"\r\n"] * 4 + [b"\r\n\r\n", b"\n", b"\r", b" "]),
    REQUEST_LINES,
    st.sampled_from([[b"Host: a"]] * 12 + [[], [b"Host: a", b"Host: a"]]),
    FIELDS,
    BODIES,
    NEXT,
)
MUTATIONS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["insert", "replace", "remove", "double"]),
        st.sampled_from(
            [b"\r", b"\n", b"\r\n", b"\0", b"\t", b" ", b":", b",", b"\xff", b"\x0b", b"_", b"%", b"\x7f", b"\x85"]
        ),
    ),
    max_size=2,
)


def mutate(data: bytes, changes: Sequence[tuple[float, str, bytes]]) -> bytes:
    for place, how, what in changes:
        at = int(place * len(data))
        match how:
            case "insert":
                data = data[:at] + what + data[at:]
            case "replace":
                data = data[:at] + what + data[at + 1 :]
            case "remove":
                data = data[:at] + data[at + 1 :]
            case _:
                data = data[:at] + data[at : at + 2] + data[at:]
    return data


@settings(max_examples=examples(600), deadline=None)
@given(st.one_of(SOUND_REQUESTS, REQUESTS, st.builds(mutate, SOUND_REQUESTS, MUTATIONS)))
@example(b"\r\n" + b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
def test_whatever_head_the_loop_reads_gunicorn_reads_alike(cfg: Any, data: bytes) -> None:
    """And, request by request, what is sent behind it on the same connection."""
    while (reading := assert_one_reading(data, cfg)) is not None and reading.keep and reading.body == 0:
        data = reading.rest


def request(*fields: bytes, start: bytes = b"GET /a HTTP/1.1") -> bytes:
    return b"\r\n".join([start, b"Host: a", *fields, b"", b""])


STRICTER = {
    "a lower-case method": request(start=b"get /a HTTP/1.1"),
    "a short method": request(start=b"GO /a HTTP/1.1"),
    "a long method": request(start=b"A" * 21 + b" /a HTTP/1.1"),
    "a method with a number sign": request(start=b"GET# /a HTTP/1.1"),
    "an asterisk": request(start=b"GET * HTTP/1.1"),
    "an authority": request(start=b"GET a:80 HTTP/1.1"),
    "no URL": request(start=b"GET http://[::1/a HTTP/1.1"),
}
"""What only Gunicorn refuses."""
LATELY = {"an asterisk", "an authority"}
"""What its older versions read as the loop does."""


@pytest.mark.parametrize("name", STRICTER)
def test_gunicorn_is_stricter_only_where_it_is_known_to_be(cfg: Any, name: str) -> None:
    assert of_wire(STRICTER[name])
    assert reason_to_refuse(STRICTER[name])
    if name in LATELY:
        assert_one_reading(STRICTER[name], cfg)
        return
    with pytest.raises(ParseException):
        of_gunicorn(STRICTER[name], cfg)


AMBIGUOUS = {
    "two lengths": request(b"Content-Length: 3", b"Content-Length: 3") + b"abc",
    "a length and a coding": request(b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "an unknown coding": request(b"Transfer-Encoding: x") + b"0\r\n\r\n",
    "a coding behind another": request(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "a coding in HTTP/1.0": request(b"Transfer-Encoding: chunked", start=b"GET /a HTTP/1.0") + b"0\r\n\r\n",
    "a blank before the colon": request(b"Content-Length : 3") + b"abc",
    "a folded field": request(b"X: a", b" Content-Length: 3") + b"abc",
    "a bare line feed": b"GET /a HTTP/1.1\r\nHost: a\nContent-Length: 3\r\n\r\nabc",
    "a bare carriage return": request(b"X: a\rContent-Length: 3") + b"abc",
    "a NUL": request(b"Content-Length: 3\0") + b"abc",
    "a signed length": request(b"Content-Length: +3") + b"abc",
    "two hosts": request(b"Host: b"),
    "two types": request(b"Content-Type: text/plain", b"Content-Type: text/html"),
    "two empty lines": b"\r\n\r\n" + request(),
    "three words and a blank": request(start=b"GET /a HTTP/1.1 "),
}
"""What programs are known to read in several ways."""


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_has_several_readings_has_none_here(name: str) -> None:
    """So that nothing behind it is ever taken for a request."""
    with pytest.raises(RequestError) as caught:
        parse_head(AMBIGUOUS[name] + request())
    assert caught.value.close


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
@pytest.mark.parametrize(
    "fields", ["Connection: te, close", "Connection: te\r\nConnection: Close", "Connection: keep-alive,close"]
)
def test_nothing_behind_a_request_that_ends_the_connection_is_answered(
    origin: Origin, start: Callable[..., Proxy], host: str, fields: str
) -> None:
    origin.put("/a-1.tar", b"body")
    proxy = start(origin.url, host=host)
    for first in ("GET /a-1.tar", "GET http://127.0.0.1/a-1.tar", "DELETE /a-1.tar"):
        with Client(proxy.address) as client:
            client.send(f"{first} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n".encode("ascii") + request())
            assert client.answer().get("connection") == "close"
            assert client.ended()
    assert not origin.requests("/a")
