"""Content that nobody wants: its end is found where the RFC has it, and what is framed in another way is refused."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from package_cache.errors import BadRequest
from package_cache.rules.http.request import MAX_CONTENT, MAX_LINE, Content, RequestHead, is_awaited, parse_head

CHUNKED = ("transfer-encoding", "chunked")
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b' ; a = "b;\\""', b";a;b=c", b";" + b"a" * 200])
TRAILERS = st.lists(st.sampled_from([b"X: y", b"X:", b"Digest: a, b"]), max_size=3)


def request(*fields: tuple[str, str], method: str = "POST") -> RequestHead:
    return RequestHead(method, "/x", 1, (("host", "a"), *fields))


def chunked(sizes: list[int], extension: bytes, trailer: list[bytes]) -> bytes:
    chunks = [b"%x%b\r\n%b\r\n" % (size, extension, (b"\r\n0\n" * size)[:size]) for size in sizes]
    return b"".join([*chunks, b"00", extension, b"\r\n", *(line + b"\r\n" for line in trailer), b"\r\n"])


def taken(content: Content, data: bytes, step: int) -> int:
    """How many bytes there were when the content had come to its end; one more than all if it has not."""
    for at in range(0, len(data), step):
        if content.take(data[at : at + step]):
            return min(at + step, len(data))
    return len(data) + 1


@pytest.mark.parametrize(
    ("head", "awaited"),
    [
        (request(), False),
        (request(("content-length", "0")), False),
        (request(("content-length", "1"), method="GET"), True),
        (request(("content-length", str(MAX_CONTENT))), True),
        (request(("content-length", str(MAX_CONTENT + 1))), False),
        (request(CHUNKED), True),
        (request(CHUNKED, ("expect", "100-continue")), False),
        (request(CHUNKED, method="CONNECT"), False),
    ],
)
def test_only_content_that_comes_by_itself_and_is_not_much_is_waited_for(head: RequestHead, awaited: bool) -> None:
    assert is_awaited(head) == awaited


@given(st.integers(1, 300), st.integers(1, 310))
def test_content_of_a_length_ends_at_that_length(length: int, step: int) -> None:
    content = Content(request(("content-length", str(length))), 0)
    assert taken(content, bytes(length), step) == length


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=5), EXTENSIONS, TRAILERS, st.sampled_from([1, 2, 7, 5000]))
def test_chunked_content_ends_at_its_last_byte_however_it_arrives(
    sizes: list[int], extension: bytes, trailer: list[bytes], step: int
) -> None:
    data = chunked(sizes, extension, trailer)
    assert taken(Content(request(CHUNKED), 0), data, step) == len(data)
    assert taken(Content(request(CHUNKED), 0), data[:-1], step) == len(data)


@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([b"\r", b"\n", b"\0", b" ", b"g", b"-", b"\x7f"]),
)
def test_a_byte_too_many_is_refused(sizes: list[int], place: float, byte: bytes) -> None:
    """Behind it, a request must not be taken for content, nor content for a request."""
    data = chunked(sizes, b"", [])
    at = int(place * len(data))
    broken = data[:at] + byte + data[at:] + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    assume(not broken.startswith(data))
    content = Content(request(CHUNKED), 0)
    with pytest.raises(BadRequest):
        content.take(broken)


@pytest.mark.parametrize("step", [1, 100_000])
def test_a_line_without_an_end_is_refused_and_so_is_a_longer_one_with_an_end(step: int) -> None:
    for data in (b"5;" + b"a" * MAX_LINE, b"5;" + b"a" * MAX_LINE + b"\r\n", b"0\r\nX: " + b"a" * MAX_LINE + b"\r\n"):
        with pytest.raises(BadRequest):
            taken(Content(request(CHUNKED), 0), data, step)


@pytest.mark.parametrize("data", [b"FFFFFFFFFFFFFFFF\r\n", b"10001\r\n", b"8000\r\n" + bytes(0x8000) + b"\r\n9000\r\n"])
def test_more_than_is_waited_for_is_enough(data: bytes) -> None:
    content = Content(request(CHUNKED), 0)
    assert content.take(data) or content.take(bytes(0x8FFF))


@pytest.mark.parametrize(
    "name", ["Content-Length", "transfer-encoding", "HOST", "Content-Type", "Authorization", "Trailer"]
)
def test_what_says_how_to_read_a_request_does_not_stand_behind_it(name: str) -> None:
    with pytest.raises(BadRequest, match="trailer"):
        Content(request(CHUNKED), 0).take(b"0\r\n" + name.encode() + b": 1\r\n\r\n")


def test_the_content_begins_where_the_head_ends() -> None:
    data = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    found = parse_head(data)
    assert found is not None
    content = Content(*found)
    assert content.take(data[content.start :])
