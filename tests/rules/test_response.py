"""Heads of answers and lines between chunks: what is read, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_cache.errors import UpstreamLie
from package_cache.rules.http.response import MAX_FIELDS, ResponseHead, parse_chunk_line, parse_response


def read(*lines: bytes, of_head: bool = False, end: bytes = b"\r\n") -> ResponseHead:
    return parse_response(end.join((*lines, b"", b"")), of_head=of_head)


def test_fields_are_read_in_order_and_as_often_as_they_were_sent() -> None:
    head = read(b"HTTP/1.1 200 OK", b"B: 1", b"a:\t 2 \t", b"B:", b"c: \xe9 x")
    assert (head.minor, head.status, head.reason) == (1, 200, "OK")
    assert head.fields == (("B", "1"), ("a", "2"), ("B", ""), ("c", "\xe9 x"))


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 200 Not\tso bad \xff", b"HTTP/1.9 200 OK"])
def test_a_status_line_may_have_any_reason_or_none(line: bytes) -> None:
    assert (read(line).status, read(line).minor) == (200, 1)


def test_a_line_may_end_with_a_line_feed_alone_and_a_value_go_on_in_the_next_line() -> None:
    head = read(b"HTTP/1.1 200 OK", b"A: one", b"  two", b"\tthree", b"Content-Length: 3", end=b"\n")
    assert head.fields[0] == ("A", "one two three")
    assert head.length == 3


@pytest.mark.parametrize(
    ("lines", "chunked", "length", "persistent"),
    [
        ([b"HTTP/1.1 200 OK", b"Content-Length: 3"], False, 3, True),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 3, 3", b"content-length:3"], False, 3, True),
        ([b"HTTP/1.1 200 OK", b"Transfer-Encoding: Chunked"], True, None, True),
        ([b"HTTP/1.1 200 OK"], False, None, False),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Connection: Upgrade, Close"], False, 3, False),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Connection: enclose"], False, 3, True),
        ([b"HTTP/1.0 200 OK", b"Content-Length: 3"], False, 3, False),
        ([b"HTTP/1.0 200 OK", b"Content-Length: 3", b"Connection: Keep-Alive"], False, 3, True),
        ([b"HTTP/1.1 304 No", b"Transfer-Encoding: chunked"], False, 0, True),
        ([b"HTTP/1.1 304 No", b"Content-Length: 30"], False, 0, True),
        ([b"HTTP/1.1 204 No"], False, 0, True),
    ],
)
def test_where_a_body_ends_and_whether_another_may_follow(
    lines: list[bytes], chunked: bool, length: int | None, persistent: bool
) -> None:
    head = read(*lines)
    assert (head.chunked, head.length, head.persistent) == (chunked, length, persistent)


def test_an_answer_to_a_head_request_has_no_body() -> None:
    for line in (b"Content-Length: 300", b"Transfer-Encoding: chunked", b"A: b"):
        head = read(b"HTTP/1.1 200 OK", line, of_head=True)
        assert (head.chunked, head.length, head.persistent) == (False, 0, True)


REFUSED = {
    "no status line": [b"SSH-2.0-server"],
    "nothing": [b""],
    "another protocol": [b"HTTP/2 200 OK"],
    "another version": [b"HTTP/2.0 200 OK"],
    "a status of two digits": [b"HTTP/1.1 20 OK"],
    "a status of four digits": [b"HTTP/1.1 2000 OK"],
    "a status below 100": [b"HTTP/1.1 099 OK"],
    "two blanks": [b"HTTP/1.1  200 OK"],
    "a field before the fields": [b"HTTP/1.1 200 OK", b" A: b"],
    "a line without a colon": [b"HTTP/1.1 200 OK", b"A b"],
    "a name with a blank": [b"HTTP/1.1 200 OK", b"A b: c"],
    "a blank before the colon": [b"HTTP/1.1 200 OK", b"Content-Length : 3"],
    "no name": [b"HTTP/1.1 200 OK", b": b"],
    "a name that is no ASCII": [b"HTTP/1.1 200 OK", b"\xe9: b"],
    "a bare CR in a value": [b"HTTP/1.1 200 OK", b"A: b\rContent-Length: 3"],
    "a bare CR in the status line": [b"HTTP/1.1 200 OK\rA: b"],
    "a NUL": [b"HTTP/1.1 200 OK", b"A: b\0c"],
    "two lengths": [b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Content-Length: 4"],
    "two lengths in one": [b"HTTP/1.1 200 OK", b"Content-Length: 3, 4"],
    "the same length in two ways": [b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Content-Length: 03"],
    "a negative length": [b"HTTP/1.1 200 OK", b"Content-Length: -3"],
    "a length with a sign": [b"HTTP/1.1 200 OK", b"Content-Length: +3"],
    "a length in hexadecimal": [b"HTTP/1.1 200 OK", b"Content-Length: 0x3"],
    "a length that is no ASCII": [b"HTTP/1.1 200 OK", b"Content-Length: \xb2"],
    "an empty length": [b"HTTP/1.1 200 OK", b"Content-Length:"],
    "a length over two lines": [b"HTTP/1.1 200 OK", b"Content-Length: 3", b" 4"],
    "a length of twenty digits": [b"HTTP/1.1 200 OK", b"Content-Length: " + b"9" * 20],
    "a length and chunks": [b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Transfer-Encoding: chunked"],
    "another coding": [b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip"],
    "two codings": [b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip, chunked"],
    "chunked twice": [b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "something like chunked": [b"HTTP/1.1 200 OK", b"Transfer-Encoding: xchunked"],
    "chunks in HTTP/1.0": [b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"],
    "too many fields": [b"HTTP/1.1 200 OK", *[b"A: b"] * (MAX_FIELDS + 1)],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_without_a_single_reading_is_refused(name: str) -> None:
    with pytest.raises(UpstreamLie):
        read(*REFUSED[name])


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_read_or_refused(data: bytes) -> None:
    try:
        head = parse_response(b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n", of_head=False)
    except UpstreamLie:
        return
    assert not any(set("\r\n\0") & set(name + value) for name, value in head.fields)


@given(st.text("ab \t\n:", max_size=3000))
def test_blanks_and_lines_are_read_in_linear_time(text: str) -> None:
    data = b"HTTP/1.1 200 OK\r\na: b" + text.encode() * 20 + b" " * 50_000 + b"x\r\n\r\n"
    try:
        parse_response(data, of_head=False)
    except UpstreamLie:
        return


@pytest.mark.parametrize(("line", "size"), [(b"0\r\n", 0), (b"aF\r\n", 175), (b"00010 \r\n", 16), (b'5;a=b;c="d"\r\n', 5)])
def test_the_size_of_a_chunk(line: bytes, size: int) -> None:
    assert parse_chunk_line(line) == size


@pytest.mark.parametrize(
    "line",
    [
        b"\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b"5\n",
        b"5;a\rb\r\n",
        b"5 5\r\n",
        b"f" * 16 + b"\r\n",
        b"g\r\n",
    ],
)
def test_a_chunk_without_a_valid_size_is_refused(line: bytes) -> None:
    with pytest.raises(UpstreamLie):
        parse_chunk_line(line)


def test_as_many_fields_as_may_be_are_read() -> None:
    assert len(read(b"HTTP/1.1 200 OK", *[b"A: b"] * MAX_FIELDS).fields) == MAX_FIELDS
