"""Bodies as they come over a connection, in pieces of any size: where they end, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_cache.errors import UpstreamError, UpstreamLie
from package_cache.rules.http.response import MAX_CHUNK_LINE, MAX_TRAILER, Framing, parse_response

LENGTH = b"Content-Length: %d\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def framing(fields: bytes) -> Framing:
    return Framing(parse_response(b"HTTP/1.1 200 OK\r\n%b\r\n" % fields, of_head=False))


def fed(one: Framing, data: bytes, sizes: list[int]) -> bytes:
    """What comes of the bytes, given in pieces of these sizes, over and over."""
    body, at, turn = b"", 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        body += one.take(data[at : at + size])
        at, turn = at + size, turn + 1
    return body


PIECES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@given(st.binary(max_size=200), st.binary(max_size=20), PIECES)
def test_a_body_of_a_known_length_ends_there(body: bytes, behind: bytes, sizes: list[int]) -> None:
    one = framing(LENGTH % len(body))
    assert fed(one, body + behind, sizes) == body
    assert one.ended
    assert one.surplus == behind


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=6), st.binary(max_size=20), PIECES, st.booleans())
def test_chunks_are_put_together_and_end_with_the_empty_one(
    chunks: list[bytes], behind: bytes, sizes: list[int], with_trailer: bool
) -> None:
    data = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n"
    data += b"X-A: b\r\n\r\n" if with_trailer else b"\r\n"
    one = framing(CHUNKED)
    assert fed(one, data + behind, sizes) == b"".join(chunks)
    assert one.ended
    assert one.surplus == behind
    one.close()


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4), st.data())
def test_a_chunked_body_that_is_cut_anywhere_is_not_taken_for_whole(chunks: list[bytes], data: st.DataObject) -> None:
    text = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n"
    cut = data.draw(st.integers(0, len(text) - 1))
    one = framing(CHUNKED)
    assert b"".join(chunks).startswith(one.take(text[:cut]))
    assert not one.ended
    with pytest.raises(UpstreamError) as caught:
        one.close()
    assert caught.value.again


def test_the_end_of_the_connection_may_stand_for_the_empty_line_behind_the_last_chunk() -> None:
    one = framing(CHUNKED)
    assert one.take(b"1\r\na\r\n0\r\n") == b"a"
    one.close()
    assert one.ended


def test_a_body_of_a_known_length_that_is_cut_is_not_taken_for_whole() -> None:
    one = framing(LENGTH % 3)
    assert one.take(b"ab") == b"ab"
    with pytest.raises(UpstreamError, match="before the end of its body"):
        one.close()


def test_without_a_length_a_body_goes_on_to_the_end_of_the_connection() -> None:
    one = framing(b"")
    assert one.take(b"any") == b"any"
    assert not one.ended
    one.close()
    assert one.ended


def test_what_has_no_body_has_ended_at_once() -> None:
    assert framing(LENGTH % 0).ended


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"1\r\nab\r\n", "longer than its size"),
        (b"1\r\na\n", "longer than its size"),
        (b"x\r\n", "without a valid size"),
        (b"-1\r\n", "without a valid size"),
        (b"1" * (MAX_CHUNK_LINE + 1), "of more than"),
        (b"0\r\nA: " + b"b" * MAX_TRAILER, "trailer of more than"),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_what_has_no_single_reading_is_refused(data: bytes, why: str, size: int) -> None:
    with pytest.raises(UpstreamLie, match=why):
        fed(framing(CHUNKED), data, [size])


def test_of_a_file_no_more_may_come_than_was_declared() -> None:
    one = framing(LENGTH % 3)
    assert one.take(b"abcd") == b"abc"
    assert one.ended
    for status in (200, 206):
        with pytest.raises(UpstreamLie, match="more than it declared"):
            one.refuse_surplus(status)
    one.refuse_surplus(404)  # of which nothing is stored
    exact = framing(LENGTH % 3)
    exact.take(b"abc")
    exact.refuse_surplus(200)
