"""When the body of a source comes too slowly."""

from package_cache.rules.transfers.pace import JUDGED, LEAST, Pace, is_outrun

MIB = 1 << 20


def test_a_running_download_is_moved_where_that_spares_some_seconds() -> None:
    assert is_outrun(1e6, 2e6, 20_000_000)
    assert is_outrun(1e6, 2e6, None)
    assert not is_outrun(1e6, 2e6, 5_000_000)
    assert not is_outrun(1e6, 1.9e6, 1 << 40)
    assert is_outrun(0.0, 1e6, 1 << 40)


def test_a_body_that_brings_next_to_nothing_for_the_limit_crawls() -> None:
    pace = Pace(30.0)
    assert all(pace.add(LEAST, 1.0) for _ in range(100))
    slow = Pace(30.0)
    assert [slow.add(LEAST - 1, 1.0) for _ in range(30)] == [True] * 29 + [False]


def test_a_body_that_was_fast_once_may_crawl_later() -> None:
    pace = Pace(10.0)
    assert pace.add(1 << 30, 1.0)
    assert pace.add(1, 9.0)
    assert not pace.add(1, 10.0)


def test_the_recent_speed_is_that_of_the_last_seconds() -> None:
    pace = Pace(30.0)
    pace.add(MIB, JUDGED / 2)
    assert pace.recent is None
    pace.add(MIB, JUDGED / 2)
    assert pace.recent == 2 * MIB / JUDGED
    pace.add(100, JUDGED)
    assert pace.recent == 100 / JUDGED
