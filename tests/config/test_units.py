"""Sizes and durations as people write and read them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_cache.units import Share, duration_text, parse_bound, parse_duration, parse_share, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("200G", 200 << 30), ("1.5k", 1536), ("10M", 10 << 20), ("2TiB", 2 << 40), ("3GB", 3 << 30), ("5B", 5)],
)
def test_a_size_is_a_number_with_a_power_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size
    if text != "1":
        assert parse_bound(text) == size
        assert parse_share(text) == Share(size)


@pytest.mark.parametrize("text", ["", "0", "-1", "1P", "G", "1 G", "1e3", "nan", "0.1", "1,5G", "5%", "1" * 20])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size above 0"):
        parse_size(text)


def test_a_share_may_be_a_percentage_of_the_file_system() -> None:
    assert parse_share("5%").of(1000) == 50
    assert parse_share("0.5%").of(1000) == 5
    assert parse_share("7B").of(1000) == 7
    assert Share().of(1000) == 0


@pytest.mark.parametrize("parse", [parse_bound, parse_share])
def test_a_small_number_alone_is_no_bound_but_asks_for_its_unit(parse: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"^'200' has no unit: write 200G, 200M or 200K, or 200B for so few bytes$"):
        parse("200")
    parse("1073741824")


@pytest.mark.parametrize("text", ["0%", "100%", "%", "-5%", "5%%", "x"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="percentage"):
        parse_share(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200), ("365d", 365 * 86400), ("2w", 1209600), ("1y", 31536000)]
)
def test_a_time_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "1D", "1 d", "1M", "9999999y"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time above 0"):
        parse_duration(text)


@given(st.integers(0, 1 << 55))
def test_a_size_is_shown_in_a_few_characters_that_mean_nearly_the_same(size: int) -> None:
    text = size_text(size)
    assert len(text) <= 6
    if size:
        assert abs(parse_size(text) - size) <= size * 0.051


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (1024, "1.0K"), (1 << 20, "1.0M"), (200 << 30, "200G")]
)
def test_sizes_are_shown_as_they_are_written(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (86400 * 265.5, "265 d")]
)
def test_times_are_shown_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
