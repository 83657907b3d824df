"""Range and Content-Range: what a value asks for, against a naive slice."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from package_cache.model import Span
from package_cache.rules.http.ranges import ContentRange, Unsatisfiable, parse_content_range, parse_ranges

SIZES = st.integers(0, 60)
BODY = bytes(range(60))


def parse_range(text: str, size: int) -> Span | Unsatisfiable | None:
    """The range of a value with one."""
    found = parse_ranges(text, size)
    return found[0] if isinstance(found, tuple) else found


def naive(body: bytes, first: int | None, last: int | None) -> bytes:
    """The bytes a range asks for, by slicing alone; none where it is not satisfiable."""
    if first is None:
        assert last is not None
        return body[-last:] if last else b""
    return body[first:] if last is None else body[first : last + 1]


def taken(text: str, body: bytes) -> bytes | None:
    """The bytes the parsed range takes; None where it is ignored."""
    match parse_range(text, len(body)):
        case Span(start, stop):
            assert 0 <= start < stop <= len(body)
            return body[start:stop]
        case Unsatisfiable():
            return b""
        case None:
            return None


@settings(deadline=None)
@given(SIZES, st.integers(0, 70), st.one_of(st.none(), st.integers(0, 70)))
def test_range_takes_what_a_slice_takes(size: int, first: int, last: int | None) -> None:
    body = BODY[:size]
    text = f"bytes={first}-{'' if last is None else last}"
    if last is not None and last < first:
        assert taken(text, body) is None
    else:
        assert taken(text, body) == naive(body, first, last)


@settings(deadline=None)
@given(SIZES, st.integers(0, 70))
def test_suffix_takes_what_a_slice_takes(size: int, length: int) -> None:
    assert taken(f"bytes=-{length}", BODY[:size]) == naive(BODY[:size], None, length)


@settings(deadline=None)
@given(st.text(), st.integers(0, 2**63))
@example("bytes=\u0663-\u0664", 10)
@example("bytes=" + "9" * 5000 + "-", 10)
def test_any_text_is_a_range_within_the_size_or_ignored(text: str, size: int) -> None:
    match parse_range(text, size):
        case Span(start, stop):
            assert 0 <= start < stop <= size
        case other:
            assert other in (None, Unsatisfiable())


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-", Span(0, 100)),
        ("bytes=-1", Span(99, 100)),
        ("bytes=-100", Span(0, 100)),
        ("bytes=-101", Span(0, 100)),
        ("bytes=99-99", Span(99, 100)),
        ("bytes=50-99", Span(50, 100)),
        ("bytes=50-100", Span(50, 100)),
        ("bytes=50-99999999999999999999999", Span(50, 100)),
        ("bytes=-99999999999999999999999", Span(0, 100)),
        ("bytes=007-0008", Span(7, 9)),
        ("Bytes=1-2", Span(1, 3)),
        ("bytes= 1-2 ", Span(1, 3)),
    ],
)
def test_range_is_cut_to_what_is_there(text: str, span: Span) -> None:
    assert parse_range(text, 100) == span


@pytest.mark.parametrize("text", ["bytes=100-", "bytes=100-200", "bytes=99999999999999999999-", "bytes=-0", "bytes=-00"])
def test_range_outside_cannot_be_satisfied(text: str) -> None:
    assert parse_range(text, 100) == Unsatisfiable()


def test_nothing_of_an_empty_file_can_be_had() -> None:
    assert [parse_range(text, 0) for text in ("bytes=0-", "bytes=0-0", "bytes=-1")] == [Unsatisfiable()] * 3


@pytest.mark.parametrize(
    "text",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=1", "bytes=a-b", "bytes=--1", "bytes=+1-2", "bytes=1-+2"),
        *("bytes=0x1-2", "bytes=1_0-20", "bytes=\u0661-5", "bytes=1-\u0665", "items=0-1", "0-1", "bytes:0-1"),
        "bytes=2-1",
    ],
)
def test_what_is_no_range_is_ignored(text: str) -> None:
    assert parse_range(text, 100) is None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("bytes 0-0/1", ContentRange(Span(0, 1), 1)),
        ("bytes 0-99/100", ContentRange(Span(0, 100), 100)),
        ("bytes 50-98/100", ContentRange(Span(50, 99), 100)),
        ("Bytes 0-0/1", ContentRange(Span(0, 1), 1)),
        ("bytes 0-0/1 ", ContentRange(Span(0, 1), 1)),
        ("bytes 0-0/*", None),
        ("bytes */100", None),
        ("bytes 5-4/100", None),
        ("bytes 0-100/100", None),
        ("bytes 100-100/100", None),
        ("bytes -1-5/100", None),
        ("bytes=0-0/1", None),
        ("items 0-0/1", None),
        ("bytes \u0660-\u0660/\u0661", None),
        ("", None),
        (None, None),
    ],
)
def test_content_range_is_read_where_it_makes_sense(text: str | None, place: ContentRange | None) -> None:
    assert parse_content_range(text) == place


@settings(deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40))
def test_content_range_lies_within_its_total(first: int, last: int, total: int) -> None:
    place = parse_content_range(f"bytes {first}-{last}/{total}")
    assert place == (ContentRange(Span(first, last + 1), total) if first <= last < total else None)
