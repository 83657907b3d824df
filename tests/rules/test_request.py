"""The head of a request: what has one reading is accepted, what two programs could read in two ways is refused."""

import time
from collections.abc import Sequence

import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from package_cache.errors import BadRequest, RequestError, TargetTooLong
from package_cache.rules.http.request import (
    MAX_FIELDS,
    MAX_HEAD,
    MAX_LINE,
    ExpectationFailed,
    HeadTooLarge,
    RequestHead,
    VersionNotSupported,
    check_head,
    parse_head,
)

HOST = b"Host: cache.example\r\n"


def head_of(*lines: bytes, line: bytes = b"GET /x HTTP/1.1", host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + b"".join(one + b"\r\n" for one in lines) + b"\r\n"


def parsed(data: bytes) -> RequestHead:
    found = parse_head(data)
    assert found is not None
    head, size = found
    assert size == len(data)
    return head


def in_pieces(data: bytes, step: int = 1) -> tuple[RequestHead, int] | None:
    """The result of parsing what has arrived after each piece, until there is one."""
    for end in range(0, len(data) + step, step):
        found = parse_head(data[:end])
        if found is not None:
            return found
    return None


def test_head_is_read_to_its_last_byte() -> None:
    data = head_of(b"Range: bytes=0-", b"X-A:", b"x-a: \t two \t")
    assert parsed(data) == RequestHead(
        "GET", "/x", 1, (("host", "cache.example"), ("range", "bytes=0-"), ("x-a", ""), ("x-a", "two"))
    )
    assert parse_head(data + b"GET /next") == (parsed(data), len(data))


@pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", b"G", b"GET /x HTTP/1.1\r\n", head_of()[:-1], head_of()[:-2]])
def test_head_that_goes_on_is_waited_for(data: bytes) -> None:
    assert parse_head(data) is None


def test_one_empty_line_before_the_request_is_skipped() -> None:
    assert parsed(b"\r\n" + head_of()) == parsed(head_of())
    with pytest.raises(BadRequest):
        parse_head(b"\r\n\r\n" + head_of())


@pytest.mark.parametrize(
    ("line", "method", "target", "minor"),
    [
        (b"GET / HTTP/1.1", "GET", "/", 1),
        (b"HEAD / HTTP/1.0", "HEAD", "/", 0),
        (b"get / HTTP/1.1", "get", "/", 1),
        (b"M-SEARCH * HTTP/1.1", "M-SEARCH", "*", 1),
        (b"GET http://mirror.example/x?y HTTP/1.1", "GET", "http://mirror.example/x?y", 1),
        (b"GET / HTTP/1.9", "GET", "/", 1),
        (b"GET /a%20b HTTP/1.1", "GET", "/a%20b", 1),
    ],
)
def test_request_line_is_read(line: bytes, method: str, target: str, minor: int) -> None:
    head = parsed(head_of(line=line))
    assert (head.method, head.target, head.minor) == (method, target, minor)


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"",
            b"GET",
            b"GET /x",
            b"GET /x HTTP/1",
            b"GET /x HTTP/1.",
            b"GET /x HTTP/11",
            b"GET /x HTTP/1.10",
            b"/x HTTP/1.1",
        ),
        *(b"GET  /x HTTP/1.1", b"GET /x  HTTP/1.1", b"GET /x HTTP/1.1 ", b" GET /x HTTP/1.1", b"GET\t/x\tHTTP/1.1"),
        *(b"GET /a b HTTP/1.1", b"GET /a\tb HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\xe9 HTTP/1.1"),
        *(b"GET /x http/1.1", b"GET /x HTTPS/1.1", b"GET /x HTTP/1.1\r", b"GET /x\r HTTP/1.1", b"G@T /x HTTP/1.1"),
        *(b"G(T /x HTTP/1.1", b"\x00GET /x HTTP/1.1", b"\x16\x03\x01\x02\x00 /x HTTP/1.1", b"GET HTTP/1.1", b"GET /x 1.1"),
    ],
)
def test_what_is_no_request_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_head(head_of(line=line))
    assert caught.value.http_status == 400
    assert caught.value.close


@pytest.mark.parametrize("line", [b"PRI * HTTP/2.0", b"GET / HTTP/0.9", b"GET / HTTP/3.0", b"GET / HTTP/2.1"])
def test_other_versions_are_not_supported(line: bytes) -> None:
    with pytest.raises(VersionNotSupported) as caught:
        parse_head(head_of(line=line))
    assert caught.value.http_status == 505


@pytest.mark.parametrize(
    "field",
    [
        *(b"X-A : b", b"X-A\t: b", b": b", b"X-A", b" X-A: b", b"\tX-A: b", b"X A: b", b"X(A): b", b"X-\xc3\xa9: b"),
        *(
            b"X-A: b\x00c",
            b"X-A: \x00",
            b"X-A: b\x0bc",
            b"X-A: \x0bb",
            b"X-A: b\x7f",
            b"X-A: b\x1b",
            b"X\x00A: b",
            b"X-A: b\x0c",
        ),
        *(b"X-A: b\r", b"X-A: b\rc", b"X-A:\rb", b"\rX-A: b", b"X-A: b\r X-B: c", b'"X-A": b', b"X-A; b: c"),
        *(b"X-A: b\r\n c", b"X-A: b\r\n\tc", b"X-A:\r\n b"),
    ],
)
def test_what_is_no_field_is_refused(field: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_head(head_of(field))
    with pytest.raises(BadRequest):
        parse_head(head_of(b"A: b", field, b"C: d"))


def test_fold_after_the_request_line_is_refused() -> None:
    with pytest.raises(BadRequest):
        parse_head(b"GET /x HTTP/1.1\r\n " + HOST + b"\r\n")


@pytest.mark.parametrize(
    "data",
    [b"\n", b"GET /x HTTP/1.1\n", b"GET /x HTTP/1.1\r\nHost: a\n", b"GET /x HTTP/1.1\r\nHost: a\r\nX: \n"],
)
def test_bare_line_feed_is_refused_as_soon_as_it_is_seen(data: bytes) -> None:
    assert parse_head(data[:-1]) is None
    for rest in (b"", b"\r\n", b"Host: a\r\n\r\n"):
        with pytest.raises(BadRequest):
            parse_head(data + rest)


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"a b", "a b"), (b"a\tb", "a\tb"), (b"\xe9", "\xe9"), (b"a: b", "a: b"), (b",", ","), (b"", "")],
)
def test_value_may_hold_blanks_inside_and_old_text(value: bytes, text: str) -> None:
    assert parsed(head_of(b"X-A:" + value)).all("x-a") == [text]
    assert parsed(head_of(b"X-A: \t " + value + b" \t")).all("x-a") == [text]


# --- Host -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"cache.example",
            b"cache.example:4000",
            b"192.0.2.1",
            b"[2001:db8::1]:80",
            b"[::1]",
            b"a_b.example",
            b"cache.example.",
        ),
        *(b"CACHE.example", b"cache.example:"),
    ],
)
def test_host_is_one_name_with_or_without_a_port(value: bytes) -> None:
    assert parsed(head_of(host=b"Host: " + value + b"\r\n")).all("host") == [value.decode()]


@pytest.mark.parametrize(
    "host",
    [
        b"",
        HOST + HOST,
        HOST + b"host: other.example\r\n",
        *(
            b"Host: " + value + b"\r\n"
            for value in (
                b"",
                b"a b",
                b"a,b",
                b"a, b",
                b"u@a",
                b"http://a",
                b"a/b",
                b"a:b",
                b"a:1:2",
                b"a:123456",
                b"a:65536",
                b"[:::::]",
                b"a%zz",
                b"[::1",
                b"::1",
            )
        ),
        *(b"Host: " + value + b"\r\n" for value in (b"a?b", b"a#b", b'"a"', b"a\\b", b"\xe9", b"[::1]x", b":80", b"a:-1")),
    ],
)
def test_missing_doubled_or_odd_host_is_refused(host: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_head(head_of(host=host))
    assert caught.value.http_status == 400


def test_old_client_needs_no_host() -> None:
    assert parsed(head_of(line=b"GET /x HTTP/1.0", host=b"")).minor == 0
    with pytest.raises(BadRequest):
        parse_head(head_of(line=b"GET /x HTTP/1.0", host=HOST + HOST))
    with pytest.raises(BadRequest):
        parse_head(head_of(line=b"GET /x HTTP/1.0", host=b"Host: a b\r\n"))


# --- Framing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        [b"Content-Length: 3", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
        [b"Content-Length: 3", b"Content-Length: 3"],
        [b"Content-Length: 3", b"Content-Length: 4"],
        [b"Content-Length: 3", b"content-length: 3"],
        *(
            [b"Content-Length: " + value]
            for value in (
                b"",
                b"+3",
                b"-3",
                b"3,3",
                b"3, 3",
                b"3 3",
                b"0x3",
                b"3.0",
                b"3_0",
                b"\xb2",
                b"9" * 20,
                b"03",
                b"000",
                b"three",
                b";3",
            )
        ),
        *(
            [b"Transfer-Encoding: " + value]
            for value in (
                b"",
                b"gzip",
                b"gzip, chunked",
                b"chunked, chunked",
                b"chunked, identity",
                b"identity",
                b"xchunked",
            )
        ),
        *(
            [b"Transfer-Encoding: " + value]
            for value in (b"chunked;a=b", b"chunked,", b",chunked", b'"chunked"', b"chun ked")
        ),
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding : chunked"],
        [b"Transfer-Encoding\x00: chunked"],
        [b" Transfer-Encoding: chunked"],
        [b"X: y", b"\tTransfer-Encoding: chunked"],
        [b"Transfer-Encoding: \x0bchunked"],
        [b"Transfer-Encoding:\r\n chunked"],
        [b"Content-Length: 3\r", b"X: y"],
    ],
    ids=repr,
)
def test_body_of_two_lengths_is_refused(fields: Sequence[bytes]) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_head(head_of(*fields))
    assert caught.value.close


def test_chunked_is_not_known_to_an_old_client() -> None:
    with pytest.raises(BadRequest):
        parse_head(head_of(b"Transfer-Encoding: chunked", line=b"GET /x HTTP/1.0"))


@pytest.mark.parametrize(
    ("fields", "has_body"),
    [
        ([], False),
        ([b"Content-Length: 0"], False),
        ([b"Content-Length: 1"], True),
        ([b"Transfer-Encoding: chunked"], True),
        ([b"Transfer-Encoding: Chunked"], True),
    ],
)
def test_body_is_recognised(fields: Sequence[bytes], has_body: bool) -> None:
    assert parsed(head_of(*fields)).has_body is has_body


def test_values_joined_by_a_server_are_refused_like_repeated_ones() -> None:
    """What stands between the client and the application may have joined them with a comma."""
    good = (("host", "a.example"), ("content-length", "3"))
    check_head(RequestHead("GET", "/", 1, good))
    for name, value in (
        ("host", "a.example,a.example"),
        ("content-length", "3,3"),
        ("transfer-encoding", "chunked, chunked"),
    ):
        with pytest.raises(BadRequest):
            check_head(RequestHead("GET", "/", 1, (*(pair for pair in good if pair[0] != name), (name, value))))


# --- Connection and Expect --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fields", "keep"),
    [
        (b"GET / HTTP/1.1", [], True),
        (b"GET / HTTP/1.1", [b"Connection: close"], False),
        (b"GET / HTTP/1.1", [b"Connection: Close"], False),
        (b"GET / HTTP/1.1", [b"Connection: keep-alive, close"], False),
        (b"GET / HTTP/1.1", [b"Connection: keep-alive", b"Connection: close"], False),
        (b"GET / HTTP/1.1", [b"Connection: disclose"], True),
        (b"GET / HTTP/1.1", [b"Connection: upgrade"], True),
        (b"GET / HTTP/1.0", [], False),
        (b"GET / HTTP/1.0", [b"Connection: Keep-Alive"], True),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive, close"], False),
    ],
)
def test_connection_persists_as_the_client_wants(line: bytes, fields: Sequence[bytes], keep: bool) -> None:
    assert parsed(head_of(*fields, line=line)).keep_alive is keep


def test_only_the_expectation_of_a_hundred_is_met() -> None:
    assert parsed(head_of(b"Expect: 100-Continue")).all("expect") == ["100-Continue"]
    for value in (b"200-ok", b"100-continue, x", b""):
        with pytest.raises(ExpectationFailed) as caught:
            parse_head(head_of(b"Expect: " + value))
        assert caught.value.http_status == 417


def test_repeated_fields_are_joined_in_their_order() -> None:
    head = parsed(head_of(b"A: 1", b"B: 2", b"a: 3"))
    assert head.combined == {"host": "cache.example", "a": "1, 3", "b": "2"}
    assert head.all("a") == ["1", "3"]
    assert head.all("c") == []


# --- Limits -----------------------------------------------------------------------------------------------------------


def filled(size: int) -> bytes:
    """A head of so many bytes, the empty line at its end not counted."""
    start = b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: "
    return start + b"a" * (size - len(start)) + b"\r\n\r\n"


def test_largest_head_is_accepted_however_it_arrives() -> None:
    data = filled(MAX_HEAD)
    assert parsed(data).target == "/x"
    for missing in (1, 2, 3):
        assert parse_head(data[:-missing]) is None


def test_larger_head_is_refused_before_its_end() -> None:
    for data in (filled(MAX_HEAD + 1), filled(MAX_HEAD + 100)[: MAX_HEAD + 4]):
        with pytest.raises(HeadTooLarge) as caught:
            parse_head(data)
        assert caught.value.http_status == 431


def line_of(size: int) -> bytes:
    """A request line of so many bytes."""
    return b"GET /" + b"a" * (size - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"


def test_longest_request_line_is_accepted_and_a_longer_one_refused_before_its_end() -> None:
    data = head_of(line=line_of(MAX_LINE))
    assert len(parsed(data).target) == MAX_LINE - len(b"GET  HTTP/1.1")
    assert parse_head(data[: MAX_LINE + 1]) is None
    for longer in (head_of(line=line_of(MAX_LINE + 1)), line_of(MAX_LINE + 9), line_of(MAX_LINE + 2)[:-1] + b"\r"):
        with pytest.raises(TargetTooLong) as caught:
            parse_head(longer)
        assert caught.value.http_status == 414
    for no_line in (b"a" * (MAX_LINE + 2), b" " * (MAX_LINE + 2), bytes(MAX_LINE + 2)):
        assert parse_head(no_line[:-1]) is None
        with pytest.raises(BadRequest) as refused:
            parse_head(no_line)
        assert refused.value.http_status == 400


def test_what_follows_a_tunnel_that_was_refused_is_no_request() -> None:
    assert not parsed(head_of(line=b"CONNECT a:443 HTTP/1.1")).keep_alive


def test_too_many_fields_are_refused() -> None:
    assert len(parsed(head_of(*[b"A: b"] * (MAX_FIELDS - 1))).fields) == MAX_FIELDS
    with pytest.raises(HeadTooLarge):
        parse_head(head_of(*[b"A: b"] * MAX_FIELDS))


def test_long_runs_of_blanks_cost_no_more_than_other_bytes() -> None:
    """To divide them in every way would cost the square of their number."""
    began = time.process_time()
    for filler in (b" ", b"\t ", b" a"):
        field = b"X-A:" + filler * ((MAX_HEAD - 100) // len(filler)) + b"\0"
        with pytest.raises(BadRequest, match="field"):
            parse_head(head_of(field))
    assert time.process_time() - began < 1.0


# --- Any bytes --------------------------------------------------------------------------------------------------------

PIECES = st.one_of(
    st.sampled_from(
        [b"GET /x HTTP/1.1", b"\r\n", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", HOST, b"\r\n\r\n", b"HTTP/2.0"]
    ),
    st.sampled_from(
        [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: x\r\n", b"X-A: b\r\n", b"a", b"GET"]
    ),
    st.binary(max_size=3),
)
DATA = st.one_of(
    st.binary(max_size=80),
    st.lists(PIECES, max_size=12).map(b"".join),
    st.lists(PIECES, max_size=6).map(lambda pieces: head_of(b"".join(pieces)[:-2])),
    st.builds(lambda place, byte: head_of()[:place] + byte + head_of()[place:], st.integers(0, 40), st.binary(max_size=2)),
)


def outcome(data: bytes, step: int = 0) -> tuple[RequestHead, int] | type[RequestError] | None:
    try:
        return in_pieces(data, step) if step else parse_head(data)
    except RequestError as error:
        return type(error)


@settings(max_examples=examples(150), deadline=None)
@given(DATA, st.sampled_from([1, 2, 7]))
@example(head_of() + b"\n", 1)
def test_any_bytes_have_the_same_outcome_however_they_arrive(data: bytes, step: int) -> None:
    assert outcome(data, step) == outcome(data)


@settings(max_examples=examples(100), deadline=None)
@given(DATA)
def test_accepted_head_has_no_other_reading(data: bytes) -> None:
    found = outcome(data)
    if not isinstance(found, tuple):
        return
    head, size = found
    read = data[:size].removeprefix(b"\r\n")
    written = f"{head.method} {head.target} HTTP/".encode("ascii")
    assert read.startswith(written)
    lines = read[:-4].split(b"\r\n")[1:]
    assert [(name, value) for name, value in head.fields] == [
        (name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1"))
        for name, _, value in (line.partition(b":") for line in lines)
    ]
    assert len(head.all("host")) <= 1
    assert not (head.all("content-length") and head.all("transfer-encoding"))
