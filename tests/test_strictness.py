"""What is no valid request, under every host: refused, cut off, and never passed on. Odd but valid requests are served."""

import random
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from origin import Origin
from product import HOSTS, Proxy
from raw import Client

BODY = random.Random(1).randbytes(1000)
NEXT = b"GET /smuggled.tar HTTP/1.1\r\nHost: a\r\n\r\n"
"""A second request, which must not be found behind a first one that has no single reading."""


@dataclass
class Site:
    """A source with `/file.tar`, and a product that has it already."""

    origin: Origin
    proxy: Proxy


@pytest.fixture(scope="module", params=HOSTS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    origin = Origin()
    origin.put("/file.tar", BODY)
    origin.put("/smuggled.tar", BODY)
    proxy = Proxy(tmp_path_factory.mktemp("cache"), [origin.url], host=request.param)
    assert proxy.get("/file.tar").body == BODY
    yield Site(origin, proxy)
    proxy.kill()
    origin.stop()


def with_fields(*lines: bytes, version: bytes = b"1.1", host: bytes | None = b"Host: a") -> bytes:
    named = (*([host] if host is not None else []), *lines)
    return b"".join(line + b"\r\n" for line in (b"GET /file.tar HTTP/" + version, *named, b""))


def with_target(target: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"


CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"

FRAMING: dict[str, bytes] = {
    "length and coding": with_fields(b"Content-Length: 5", b"Transfer-Encoding: chunked") + CHUNKS,
    "coding and length": with_fields(b"Transfer-Encoding: chunked", b"Content-Length: 5") + CHUNKS,
    "two lengths": with_fields(b"Content-Length: 0", b"Content-Length: 5") + b"hello",
    "one length twice": with_fields(b"Content-Length: 5", b"Content-Length: 5") + b"hello",
    "a list of lengths": with_fields(b"Content-Length: 5, 5") + b"hello",
    "a signed length": with_fields(b"Content-Length: +5") + b"hello",
    "a negative length": with_fields(b"Content-Length: -1"),
    "a hexadecimal length": with_fields(b"Content-Length: 0x5") + b"hello",
    "a length of two numbers": with_fields(b"Content-Length: 5 5") + b"hello",
    "a length with an underscore": with_fields(b"Content-Length: 1_0") + b"hello",
    "a length of other digits": with_fields(b"Content-Length: \xb2"),
    "a length beyond counting": with_fields(b"Content-Length: " + b"9" * 5000),
    "an empty length": with_fields(b"Content-Length:"),
    "an unknown coding": with_fields(b"Transfer-Encoding: xchunked") + CHUNKS,
    "chunked twice": with_fields(b"Transfer-Encoding: chunked, chunked") + CHUNKS,
    "chunked in two fields": with_fields(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + CHUNKS,
    "chunked and identity": with_fields(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity") + CHUNKS,
    "identity": with_fields(b"Transfer-Encoding: identity"),
    "gzip and chunked": with_fields(b"Transfer-Encoding: gzip, chunked") + CHUNKS,
    "chunked with a parameter": with_fields(b"Transfer-Encoding: chunked;a=b") + CHUNKS,
    "chunked with a quote": with_fields(b'Transfer-Encoding: "chunked"') + CHUNKS,
    "chunked behind a vertical tab": with_fields(b"Transfer-Encoding: \x0bchunked") + CHUNKS,
    "chunked in HTTP/1.0": with_fields(b"Transfer-Encoding: chunked", version=b"1.0") + CHUNKS,
    "a blank before the colon": with_fields(b"Transfer-Encoding : chunked") + CHUNKS,
    "a tab before the colon": with_fields(b"Content-Length\t: 5") + b"hello",
    "a folded coding": with_fields(b"Transfer-Encoding:", b" chunked") + CHUNKS,
    "a folded field": with_fields(b"X-Field: 1", b"\tContent-Length: 5") + b"hello",
    "a blank before the first field": with_fields(b"Content-Length: 5", host=b" Host: a") + b"hello",
    "an unmet expectation": with_fields(b"Expect: 200-ok"),
}

LINES: dict[str, bytes] = {
    "bare line feeds": b"GET /file.tar HTTP/1.1\nHost: a\n\n",
    "a bare line feed behind the request line": b"GET /file.tar HTTP/1.1\nHost: a\r\n\r\n",
    "a bare line feed behind a field": b"GET /file.tar HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "a bare line feed within a value": with_fields(b"X: a\nTransfer-Encoding: chunked") + CHUNKS,
    "a carriage return within a value": with_fields(b"X: a\rTransfer-Encoding: chunked") + CHUNKS,
    "a carriage return before the end": b"GET /file.tar HTTP/1.1\r\r\nHost: a\r\n\r\n",
    "two empty lines first": b"\r\n\r\n" + with_fields(),
    "a blank first": b" " + with_fields(),
    "two blanks behind the method": with_fields().replace(b" ", b"  ", 1),
    "a tab behind the method": with_fields().replace(b" ", b"\t", 1),
    "two blanks before the version": with_fields().replace(b" HTTP", b"  HTTP"),
    "a blank behind the version": with_fields().replace(b"1.1\r", b"1.1 \r"),
    "a fourth word": with_fields().replace(b"1.1\r", b"1.1 more\r"),
    "no version": b"GET /file.tar\r\nHost: a\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
    "only a word": b"GET\r\n\r\n",
    "a lower-case protocol": with_fields().replace(b"HTTP", b"http"),
    "another protocol": with_fields().replace(b"HTTP", b"ICAP"),
    "a long version": with_fields(version=b"1.10"),
    "a version without a dot": with_fields(version=b"11"),
    "HTTP/0.9": with_fields(version=b"0.9"),
    "HTTP/2.0": with_fields(version=b"2.0"),
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method that is no token": with_fields().replace(b"GET", b"G<T"),
    "a method of control characters": with_fields().replace(b"GET", b"G\x1bT"),
    "a field without a colon": with_fields(b"Lonely"),
    "a field without a name": with_fields(b": value"),
    "a blank in a name": with_fields(b"X Field: value"),
    "a name that is no token": with_fields(b"X(Field): value"),
    "a name of other letters": with_fields(b"X-F\xefeld: value"),
    "NUL in a name": with_fields(b"X\x00Field: value"),
    "NUL in a value": with_fields(b"X-Field: a\x00b"),
    "an escape character in a value": with_fields(b"X-Field: \x1b[2J"),
    "DEL in a value": with_fields(b"X-Field: a\x7fb"),
    "too many fields": with_fields(*(b"X-%d: 1" % number for number in range(150))),
    "too large a field": with_fields(b"X-Field: " + b"a" * 60000),
}

HOST_FIELDS: dict[str, bytes] = {
    "none": with_fields(host=None),
    "two": with_fields(b"Host: b"),
    "one twice": with_fields(b"Host: a"),
    "two of different case": with_fields(b"HOST: b"),
    "a list": with_fields(host=b"Host: a, b"),
    "a path": with_fields(host=b"Host: a/b"),
    "a URL": with_fields(host=b"Host: http://a"),
    "a user": with_fields(host=b"Host: user@a"),
    "blanks": with_fields(host=b"Host: a b"),
    "a port that is none": with_fields(host=b"Host: a:b"),
    "two ports": with_fields(host=b"Host: a:1:2"),
    "half an address": with_fields(host=b"Host: [::1"),
    "a backslash": with_fields(host=b"Host: a\\b"),
    "markup": with_fields(host=b"Host: <a>"),
    "two in HTTP/1.0": with_fields(b"Host: b", version=b"1.0"),
}

TARGETS: dict[str, bytes] = {
    **{
        f"climbs: {spelling.decode()}": spelling
        for spelling in (
            b"/..",
            b"/../file.tar",
            b"/./../file.tar",
            b"/a/../../file.tar",
            b"//../../file.tar",
            b"/%2e%2e/file.tar",
            b"/%2E./file.tar",
            b"/..%2ffile.tar",
            b"/..%2Ffile.tar",
            b"/%2e%2e%2ffile.tar",
            b"/a%2f..%2f..%2ffile.tar",
            b"/a%2F.%2Ffile.tar",
            b"/..%5cfile.tar",
            b"/a%5C..%5Cfile.tar",
            b"/..\\file.tar",
        )
    },
    "NUL": b"/file.tar%00",
    "an escaped line feed": b"/file.tar%0a",
    "an injected field": b"/file.tar%0d%0aSet-Cookie:%20a=b",
    "an injected field in the query": b"/file.tar?a=%0d%0aSet-Cookie:%20a=b",
    "an injected answer": b"/%0d%0a%0d%0aHTTP/1.1%20200%20OK%0d%0a",
    "an escaped escape character": b"/%1b[2Jfile.tar",
    "an escaped DEL": b"/file.tar%7f",
    "NUL in the query": b"/file.tar?a=%00",
    "half an escape": b"/file.tar%",
    "a short escape": b"/file.tar%4",
    "an escape that is none": b"/file.tar%zz",
    "an escape of Unicode": b"/file%u002etar",
    "an escape that is none in the query": b"/file.tar?a=%zz",
    "bad UTF-8": b"/file%c3%28.tar",
    "overlong UTF-8": b"/%c0%ae%c0%ae/file.tar",
    "a surrogate": b"/file%ed%a0%80.tar",
    "bare UTF-8": b"/f\xc3\xafle.tar",
    "a bare byte in the query": b"/file.tar?\xff",
    "a bare control character": b"/file\x01.tar",
    "a bare NUL": b"/file\x00.tar",
    "a blank": b"/file .tar",
    "a tab": b"/file\t.tar",
    "a fragment": b"/file.tar#part",
    "a fragment in the query": b"/file.tar?a#b",
    "too long": b"/" + b"a" * 5000,
    "far too long": b"/" + b"a" * 20000,
    "a long query": b"/file.tar?" + b"a" * 5000,
    "no slash": b"file.tar",
    "an asterisk": b"*",
    "an authority": b"mirror.example:80",
    "no host": b"http:///file.tar",
    "no host at all": b"http://",
    "a user": b"http://user@127.0.0.1/file.tar",
    "another scheme": b"ftp://127.0.0.1/file.tar",
    "a local file": b"file:///etc/passwd",
    "a host that is none": b"http://[::1/file.tar",
    "a port that is none": b"http://127.0.0.1:port/file.tar",
    "climbs in absolute form": b"http://127.0.0.1/../file.tar",
}

OTHER_STATUS = {
    "an unmet expectation": {417},
    "HTTP/2.0": {505},
    "HTTP/0.9": {505},
    "HTTP/2 with prior knowledge": {400, 505},
    "too many fields": {431},
    "too large a field": {431},
}
BY_GUNICORN = {
    "an unknown coding": {501},
    "chunked with a parameter": {501},
    "chunked with a quote": {501},
    "HTTP/2.0": {400},
    "HTTP/0.9": {400},
    "too long": {414},
    "far too long": {414},
    "a long query": {414},
}
"""Where a Gunicorn of the user's own answers by itself, and the RFC leaves the choice."""


def assert_refused(site: Site, name: str, data: bytes) -> None:
    asked = len(site.origin.requests())
    allowed = OTHER_STATUS.get(name, {400})
    if site.proxy.host == "gthread" or (site.proxy.host == "gunicorn" and name == "far too long"):
        allowed = BY_GUNICORN.get(name, allowed)
    with Client(site.proxy.address) as client:
        client.send(data + NEXT)
        answer = client.answer()
        assert answer.status in allowed
        assert answer.whole
        assert {name for name, _ in answer.fields} <= {
            *("allow", "cache-status", "connection", "content-length", "content-type", "date", "server", "via"),
            "x-content-type-options",
        }
        assert client.ended()
    with Client(site.proxy.address) as client:
        assert client.get("/file.tar").body == BODY
    assert len(site.origin.requests()) == asked, "".join(site.proxy.log)


@pytest.mark.parametrize("name", FRAMING)
def test_a_body_without_one_reading_is_refused(site: Site, name: str) -> None:
    assert_refused(site, name, FRAMING[name])


@pytest.mark.parametrize("name", LINES)
def test_lines_that_are_not_http_are_refused(site: Site, name: str) -> None:
    assert_refused(site, name, LINES[name])


@pytest.mark.parametrize("name", HOST_FIELDS)
def test_a_request_names_one_host(site: Site, name: str) -> None:
    assert_refused(site, name, HOST_FIELDS[name])


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_that_names_no_file_is_refused(site: Site, name: str) -> None:
    assert_refused(site, name, with_target(TARGETS[name]))


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_other_methods_with_a_bad_target_are_answered_too(site: Site, method: str) -> None:
    with Client(site.proxy.address) as client:
        client.ask("/../file.tar", method=method)
        assert client.answer(method).status == (400 if method == "HEAD" else 405)
        if method == "HEAD":
            assert client.ended()


LEGAL: dict[str, bytes] = {
    "an empty value": with_fields(b"X-Field:"),
    "a value of blanks": with_fields(b"X-Field:  \t "),
    "no blank behind the colon": with_fields(b"X-Field:value", host=b"Host:a"),
    "many blanks around a value": with_fields(b"X-Field: \t value \t "),
    "a tab within a value": with_fields(b"X-Field: a\tb"),
    "bytes above ASCII in a value": with_fields(b"X-Field: \xe9\xff"),
    "punctuation in a name": with_fields(b"!#$%&'*+-.^`|~: value"),
    "an underscore in a name": with_fields(b"X_Field: value"),
    "an underscore for a hyphen": with_fields(b"Content_Length: 5", b"Transfer_Encoding: chunked"),
    "upper case": with_fields(b"X-FIELD: value", host=b"HOST: A"),
    "an empty line first": b"\r\n" + with_fields(),
    "a port": with_fields(host=b"Host: mirror.example:8080"),
    "an empty port": with_fields(host=b"Host: mirror.example:"),
    "an address": with_fields(host=b"Host: [2001:db8::1]:80"),
    "no host in HTTP/1.0": with_fields(b"Connection: keep-alive", version=b"1.0", host=None),
    "an empty body": with_fields(b"Content-Length: 0"),
    "an expectation of nothing": with_fields(b"Expect: 100-Continue"),
    "ninety fields": with_fields(*(b"X-%d: 1" % number for number in range(90))),
    "a large field": with_fields(b"X-Field: " + b"a" * 8000),
    "a repeated field": with_fields(b"Accept: a", b"Accept: b"),
    "an offer to upgrade": with_fields(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"
    ),
    "an empty query": with_target(b"/file.tar?"),
    "dots that do not climb": with_target(b"/a/./b/../../file.tar"),
    "an escaped letter": with_target(b"/%66ile.tar"),
    "absolute form": with_target(b"http://127.0.0.1/file.tar"),
}


@pytest.mark.parametrize("name", LEGAL)
def test_an_odd_but_valid_request_is_served(site: Site, name: str) -> None:
    with Client(site.proxy.address) as client:
        client.send(LEGAL[name])
        answer = client.answer()
        if answer.status == 100:
            answer = client.answer()
        assert (answer.status, answer.body) == (200, BODY)
        client.send(with_fields())
        assert client.answer().body == BODY


def test_an_empty_line_behind_a_request_is_ignored(site: Site) -> None:
    with Client(site.proxy.address) as client:
        for _ in range(3):
            client.send(with_fields() + b"\r\n")
            assert client.answer().body == BODY


ACCESS = re.compile(r'\S+ \S+ INFO 127\.0\.0\.1 - - \[[^]]+\] "(\S+ [\x21-\x7e]+) HTTP/1.1" (\d{3}) \d+ "-" "[^"]*" .*\n')


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_each_request_is_one_line_of_the_log_and_nothing_in_it_is_raw(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    for path in ("/file.tar", "/%C3%AF.tar", "/index/"):
        origin.put(path, BODY)
    proxy = start(origin.url, host=host, arguments=["-v", "--workers", "1"])
    requests = [
        (with_target(b'/"quoted"\\n.tar'), 404),
        (with_target(b"/%C3%AF.tar"), 200),
        (with_target(b"/%1b[2J"), 400),
        (with_target(b"/file.tar?%22"), 404),
        (with_target(b"http://elsewhere.example/%0a"), 403),
        (with_fields(b"Accept: json\x9b31m\x85", b"User-Agent: \x9b").replace(b"/file.tar", b"/index/"), 200),
        (with_fields(b"X: \x1b[31mred"), 400),
        (with_fields(*(b"X-%d: " % number + b"a" * 1000 for number in range(90))), 431),
        (b"GET /\x9b HTTP/1.1\r\n\r\n", 400),
        (b"\x1b[31m\r\n\r\n", 400),
        (b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ]
    for data, status in requests:
        with Client(proxy.address) as client:
            client.send(data)
            client.socket.shutdown(socket.SHUT_WR)
            assert client.answer().status == status
            assert client.ended()
    assert proxy.stop() == 0
    for line in proxy.log:
        assert line.endswith("\n")
        assert line[:-1].isprintable(), ascii(line)
    lines = [match for match in map(ACCESS.fullmatch, proxy.log) if match]
    assert [int(match[2]) for match in lines] == [status for _, status in requests], "".join(proxy.log)
    assert lines[0][1] == r"GET /\x22quoted\x22\\n.tar"
