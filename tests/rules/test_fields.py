"""HTTP field values: dates, entity tags, lengths."""

import time
from datetime import UTC, datetime
from email.utils import format_datetime
from time import asctime, gmtime, tzset

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from package_cache.rules.http.fields import (
    format_date,
    is_strong,
    is_strong_date,
    media_type,
    parse_date,
    parse_length,
    quality,
    tag_listed,
)
from package_cache.rules.http.ranges import parse_content_range, parse_ranges


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("17", 17), (" 17\t", 17), ("0017", 17), ("9" * 19, int("9" * 19)), ("9" * 20, None), ("9" * 5000, None)]
    + [
        (text, None)
        for text in ("", "-1", "+1", "1.0", "1 2", "1,1", "1, 1", "0x1", "1_0", "\u0663", "\xb2", "1\n", "\x0b1")
    ]
    + [(None, None)],
)
def test_length_is_digits_only(text: str | None, length: int | None) -> None:
    assert parse_length(text) == length


@settings(deadline=None)
@given(st.text())
def test_no_value_is_too_odd_for_a_reader(text: str) -> None:
    parse_date(text)
    parse_length(text)
    parse_content_range(text)
    is_strong(text)
    is_strong_date(text, 0.0)
    tag_listed(text, text)
    media_type(text)


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789 :,+-GMTSunNovJanFeb."), max_size=40))
@example("Sun, 06 Nov 1994 08:49:37 +9999")
@example("Sun, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Sun, 06 Nov 99999999999999999999 08:49:37 GMT")
def test_what_looks_like_a_date_is_one_or_none(text: str) -> None:
    assert isinstance(parse_date(text), float | None)


@settings(deadline=None)
@given(st.datetimes(datetime(1970, 1, 1), datetime(2060, 1, 1)))
def test_date_is_the_same_in_all_three_forms(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    seconds = moment.timestamp()
    assert format_date(seconds) == format_datetime(moment, usegmt=True)
    assert parse_date(format_date(seconds)) == seconds
    assert parse_date(asctime(gmtime(seconds))) == seconds
    assert parse_date(moment.strftime("%A, %d-%b-%y %H:%M:%S GMT")) == seconds


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_examples_of_the_rfc_are_one_moment(text: str) -> None:
    assert parse_date(text) == 784111777.0


def test_date_does_not_depend_on_where_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ5")
    tzset()
    try:
        assert parse_date("Sun Nov  6 08:49:37 1994") == 784111777.0
        assert format_date(784111777.0) == "Sun, 06 Nov 1994 08:49:37 GMT"
    finally:
        monkeypatch.undo()
        tzset()


@pytest.mark.parametrize("text", [None, "", "0", "-1", "now", "784111777", "Sun, 32 Nov 1994 08:49:37 GMT", "\0"])
def test_what_is_no_date_is_none(text: str | None) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize("text", ['""', '"a"', '"a,b"', '"W/"', '"\'"', '"\xff"'])
def test_quoted_tag_is_strong(text: str) -> None:
    assert is_strong(text)


@pytest.mark.parametrize(
    "text",
    [None, "", "a", 'W/"a"', 'w/"a"', '"', '"a', 'a"', '"a"b"', '"a",', '"a", "b"', '"a" ', '"a b"', '"a\n"', '"a"\n'],
)
def test_what_is_weak_or_no_tag_is_not_strong(text: str | None) -> None:
    assert not is_strong(text)


def test_date_is_strong_a_second_after_the_change() -> None:
    changed = format_date(1000)
    assert is_strong_date(changed, 1001)
    assert not is_strong_date(changed, 1000)
    assert not is_strong_date(changed, 999)
    assert not is_strong_date(changed, None)
    assert not is_strong_date(None, 1001)
    assert not is_strong_date("yesterday", 1001)


@pytest.mark.parametrize(
    ("etag", "listed", "found"),
    [
        ('"a"', '"a"', True),
        ('"a"', 'W/"a"', True),
        ('W/"a"', '"a"', True),
        ('W/"a"', 'W/"a"', True),
        ('"a"', '"b"', False),
        ('"a"', '"b", "a"', True),
        ('"a"', '"b","a"', True),
        ('"a"', '"b" , W/"a" ,"c"', True),
        ('"a,b"', '"a,b"', True),
        ('"a"', '"a,b"', False),
        ('"b"', '"a,b"', False),
        ('"a"', '"aa"', False),
        ('"a"', '"A"', False),
        ('"a"', "a", False),
        ('"a"', '"a"b', False),
        ('"a"', "", False),
        ('"a"', "*", True),
        ('"a"', " * ", True),
        ('"a"', '"*"', False),
        (None, "*", True),
        (None, '"a"', False),
        (None, '""', False),
        ('""', '""', True),
    ],
)
def test_tag_is_found_in_a_list_by_the_weak_comparison(etag: str | None, listed: str, found: bool) -> None:
    assert tag_listed(etag, listed) is found


OPAQUE = st.text(st.sampled_from("abAB,*/W!\x7e\xff"), max_size=4)


@settings(deadline=None)
@given(OPAQUE, st.lists(st.tuples(st.booleans(), OPAQUE, st.sampled_from([",", ", ", " ,\t"])), min_size=1, max_size=5))
def test_tag_is_found_exactly_where_it_stands(opaque: str, others: list[tuple[bool, str, str]]) -> None:
    listed = "".join(f'{"W/" if weak else ""}"{other}"{comma}' for weak, other, comma in others).rstrip(", \t")
    assert tag_listed(f'"{opaque}"', listed) == (opaque in [other for _, other, _ in others])


@pytest.mark.parametrize(
    ("text", "kind"),
    [("text/html", "text/html"), ("Text/HTML; charset=utf-8", "text/html"), (" a/b ;", "a/b"), ("", ""), (None, "")],
)
def test_media_type_is_without_parameters_and_case(text: str | None, kind: str) -> None:
    assert media_type(text) == kind


def test_long_values_cost_no_more_than_their_length() -> None:
    """Blanks that can be divided in many ways would cost the square of their number."""
    blanks = " " * 30_000
    began = time.process_time()
    for text in (f"bytes={blanks}x", f"bytes{blanks}x", f"bytes=1{blanks}x", f"bytes=1-{blanks}x"):
        assert parse_ranges(text, 100) is None
    for text in (f'"a"{blanks}x', f"{blanks}x", '"' * 30_000, '"a" ' * 8_000, "W/" * 15_000):
        assert not tag_listed('"b"', text)
    for text in (f"Sun, {blanks}x", "1 " * 15_000, "9" * 30_000, "Sun, 06 Nov 1994 " + "0:" * 10_000):
        assert parse_date(text) is None
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("accept", "weight"),
    [(None, 1.0), ("", 1.0), (" ", 1.0), ("text/html", 1.0), ("text/html;q=0.3, */*;q=0.1", 0.3), ("image/png", 0.0)],
)
def test_an_accept_weighs_a_media_type_by_what_covers_it_most_exactly(accept: str | None, weight: float) -> None:
    assert quality(accept, "text/html; charset=utf-8") == weight
