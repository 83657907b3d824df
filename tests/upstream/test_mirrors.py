"""Which source is asked first, how long one is left alone, and when a download or a client is told to wait."""

import logging
from itertools import pairwise

import pytest

from package_cache.engine.fills.failures import LONGEST, Failures
from package_cache.errors import FillError, UpstreamBusy
from package_cache.model import Key, Source
from package_cache.rules.http.fields import parse_retry_after
from package_cache.rules.transfers.pace import Speed, by_speed
from package_cache.rules.transfers.steps import GiveUp
from package_cache.upstream.mirrors import (
    ASIDE_SECONDS,
    LONGEST_ASIDE,
    LOOK_SECONDS,
    MEASURED_SECONDS,
    PROBE_SECONDS,
    Mirrors,
)

A, B, C = BASES = ("http://a.example", "http://b.example/gentoo", "http://b.example")
SOURCES = tuple(Source(base) for base in BASES)
URLS = tuple(base + "/f" for base in BASES)
MIB = 1 << 20


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """Three sources at a time of our own."""

    def __init__(self, *, balance: bool = False) -> None:
        self.clock = Clock()
        self.mirrors = Mirrors(SOURCES, self.clock, balance=balance)

    @property
    def order(self) -> str:
        names = dict(zip(BASES, "ABC", strict=True))
        return "".join(names[source.base] for source in self.mirrors.order(SOURCES))

    def fail(self, base: str, reason: str = "broke off") -> None:
        self.mirrors.failed(base + "/other-1.tar", reason)

    def cure(self, base: str) -> None:
        self.mirrors.well(base + "/other-1.tar")


def test_sources_are_asked_in_the_order_given() -> None:
    assert World().order == "ABC"


def test_a_source_that_failed_is_asked_last_until_one_request_has_found_out_how_it_is() -> None:
    world = World()
    world.fail(A)
    assert [world.order, world.order] == ["BCA", "BCA"]
    world.clock.now += ASIDE_SECONDS
    assert [world.order, world.order, world.order] == ["ABC", "BCA", "BCA"]
    world.cure(A)
    assert [world.order, world.order] == ["ABC", "ABC"]


def test_a_request_that_never_tells_how_the_source_is_does_not_leave_it_aside_for_ever() -> None:
    world = World()
    world.fail(A)
    world.clock.now += ASIDE_SECONDS
    assert [world.order, world.order] == ["ABC", "BCA"]
    world.clock.now += PROBE_SECONDS
    assert [world.order, world.order] == ["ABC", "BCA"]


def test_a_source_that_fails_again_and_again_is_left_alone_for_longer_and_longer() -> None:
    world = World()
    world.fail(A)
    holds = []
    for _ in range(8):
        begun = world.clock.now
        while world.order != "ABC":
            world.clock.now += 1
        holds.append(world.clock.now - begun)
        world.fail(A)
    assert holds[0] == ASIDE_SECONDS
    assert all(after == min(2 * before, LONGEST_ASIDE) for before, after in pairwise(holds))
    assert holds[-1] == LONGEST_ASIDE
    world.cure(A)
    world.fail(A)
    world.clock.now += ASIDE_SECONDS
    assert world.order == "ABC"


def test_failures_of_one_moment_count_once() -> None:
    world = World()
    for _ in range(5):
        world.fail(A)
    world.clock.now += ASIDE_SECONDS
    assert world.order == "ABC"


def test_where_all_have_failed_all_are_asked() -> None:
    world = World()
    for base in BASES:
        world.fail(base)
    assert world.order == "ABC"


def test_a_failure_is_that_of_the_source_with_the_longest_base() -> None:
    world = World()
    world.fail(B)
    assert world.order == "ACB"
    world.mirrors.failed("http://elsewhere.example/f-1.tar", "is nobody's")
    assert world.order == "ACB"


def test_the_log_names_a_source_when_it_is_set_aside_and_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    world = World()
    world.cure(A)
    for _ in range(3):
        world.fail(A, "sent a page in the place of a .xz file")
        world.clock.now += LONGEST_ASIDE
    world.cure(A)
    world.cure(A)
    first, last = (record.getMessage() for record in caplog.records)
    assert A in first
    assert "a page in the place" in first
    assert "30 seconds" in first
    assert f"{A} is well again" in last


def test_what_a_source_said_is_told_once_a_second_and_at_once_where_it_is_news() -> None:
    clock, told = Clock(), list[tuple[str, str, str, float]]()
    mirrors = Mirrors(tuple(Source(base) for base in BASES), clock, tell=lambda *said: told.append(said))
    for number in range(3):
        mirrors.answered(f"{A}/{number}", 200, 0.1)
    for status in (206, 200, 304):  # of a download, and of a range beside it
        mirrors.answered(A + "/0", status, 0.1)
    mirrors.failed(A + "/x", "broke off")
    clock.now += 1
    mirrors.answered(A + "/y", 404, 0.1)
    mirrors.well(A + "/y")
    mirrors.answered("http://elsewhere.example/z", 200, 0.1)
    assert told == [
        (A, A + "/0", "answered 200", 0.0),
        (A, A + "/x", "broke off", ASIDE_SECONDS),
        (A, A + "/y", "answered 404", ASIDE_SECONDS - 1),
        (A, A + "/y", "did what was asked of it", 0.0),
    ]


# Balanced


def test_a_quick_source_is_asked_before_a_slow_one_and_an_unknown_one_first() -> None:
    world = World(balance=True)
    assert world.order == "ABC"
    world.mirrors.sent(A + "/f", MIB, 2.0)
    assert world.order == "BCA"
    world.mirrors.sent(B + "/f", MIB, 0.5)
    assert world.order == "CBA"
    world.mirrors.sent(C + "/f", MIB, 1.0)
    assert world.order == "BCA"
    world.mirrors.answered(B + "/f", 200, 3.0)
    assert world.order == "CAB"
    world.fail(C)
    assert world.order == "ABC"


def test_small_bodies_say_nothing_of_a_source() -> None:
    world = World(balance=True)
    world.mirrors.sent(A + "/f", 1000, 2.0)
    assert world.order == "ABC"


def test_what_was_measured_long_ago_is_measured_again() -> None:
    world = World(balance=True)
    for base in BASES:
        world.mirrors.sent(base + "/f", MIB, 5.0 if base == A else 1.0)
    assert world.order == "BCA"
    world.clock.now += MEASURED_SECONDS
    for base in (B, C):
        world.mirrors.sent(base + "/f", MIB, 1.0)
    assert world.order == "ABC"


def test_without_balance_nothing_measured_matters() -> None:
    world = World()
    world.mirrors.sent(A + "/f", MIB, 100.0)
    world.mirrors.sent(B + "/f", MIB, 1.0)
    assert world.order == "ABC"


def test_sources_about_equally_quick_stay_in_the_order_given() -> None:
    assert by_speed([Speed(1.1), Speed(1.0), Speed(0.9)]) == [0, 1, 2]
    assert by_speed([Speed(1.5), Speed(1.0), Speed(1.4), Speed(1.1)]) == [1, 3, 0, 2]
    assert by_speed([]) == []


def test_a_rival_is_a_source_that_is_well_and_known_to_be_faster() -> None:
    world = World(balance=True)
    assert world.mirrors.rival(A + "/f", URLS, 1e5, 1 << 30) is None
    world.mirrors.sent(B + "/x", 10 * MIB, 1.0)
    assert world.mirrors.rival(A + "/f", URLS, 1e5, 1 << 30) == B + "/f"
    assert world.mirrors.rival(A + "/f", URLS, 1e7, 1 << 30) is None
    assert world.mirrors.rival(B + "/f", URLS, 1e5, 1 << 30) is None
    world.fail(B)
    assert world.mirrors.rival(A + "/f", URLS, 1e5, 1 << 30) is None


# A file that keeps failing

KEY = Key("/f-1.tar")


def held(failures: Failures, key: Key = KEY) -> int:
    """The seconds a client is told to wait; 0 if it need not."""
    try:
        failures.check(key)
    except FillError as error:
        return error.retry_after or 0
    return 0


def test_a_file_that_keeps_failing_is_tried_less_and_less_often() -> None:
    clock = Clock()
    failures = Failures(clock)
    waits = []
    for _ in range(10):
        failures.note(KEY, GiveUp(502, "no source delivered"))
        waits.append(held(failures))
        while held(failures):
            clock.now += 1
    assert waits == [0, 1, 2, 4, 8, 16, 32, LONGEST, LONGEST, LONGEST]
    assert not held(failures, Key("/other-1.tar"))


def test_a_success_a_missing_file_or_time_makes_an_end_of_waiting() -> None:
    clock = Clock()
    for end in (lambda one: one.forget(KEY), lambda one: one.note(KEY, GiveUp(404, "missing"))):
        failures = Failures(clock)
        for _ in range(5):
            failures.note(KEY, GiveUp(502, "no source delivered"))
        assert held(failures) == 8
        end(failures)
        failures.note(KEY, GiveUp(502, "no source delivered"))
        assert not held(failures)
    for _ in range(4):
        failures.note(KEY, GiveUp(502, "no source delivered"))
    clock.now += 1000
    failures.note(KEY, GiveUp(502, "no source delivered"))
    assert not held(failures)


def test_the_memory_for_failures_is_bounded() -> None:
    failures = Failures(Clock())
    for number in range(10_000):
        for _ in range(2):
            failures.note(Key(f"/{number}"), GiveUp(502, "no source delivered"))
    waiting = sum(held(failures, Key(f"/{number}")) for number in range(10_000))
    assert 1000 < waiting < 5000


# --- What a source says of when it may be asked -----------------------------------------------------------------------


def test_a_source_is_not_asked_before_the_time_that_it_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    world = World()
    world.mirrors.rest(A + "/f", 120)
    world.cure(A)  # a download that was running comes to its end
    assert world.order == "BCA"
    world.clock.now += 119.5
    with pytest.raises(UpstreamBusy, match="left alone for 1 seconds more") as told:
        world.mirrors.check(A + "/g")
    assert told.value.retry_after == 1
    world.mirrors.check(B + "/g")
    world.mirrors.check("http://elsewhere.example/")
    world.clock.now += 1
    world.mirrors.check(A + "/g")
    assert [world.order, world.order] == ["ABC", "BCA"]
    assert len(caplog.records) == 1


def test_sources_that_are_all_set_aside_are_looked_at_once_in_a_while() -> None:
    world, some = World(), SOURCES[:2]
    world.fail(A)
    assert not world.mirrors.are_aside(some)
    assert not world.mirrors.are_aside(())
    world.fail(B)
    assert world.mirrors.are_aside(some)
    assert not world.mirrors.are_aside(SOURCES)
    assert [world.mirrors.may_look(some) for _ in range(3)] == [True, False, False]
    world.clock.now += LOOK_SECONDS
    assert [world.mirrors.may_look(some) for _ in range(2)] == [True, False]
    world.mirrors.rest(A + "/f", 60)
    world.mirrors.rest(B + "/f", 60)
    world.clock.now += LOOK_SECONDS
    assert not world.mirrors.may_look(some)
    world.clock.now += 60
    assert not world.mirrors.are_aside(some)


def test_the_log_warns_of_a_source_that_comes_and_goes_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    world = World()
    for _ in range(120):
        world.fail(A)
        world.cure(A)
        world.clock.now += 1
    assert len(caplog.records) == 4
    assert "is asked last" in caplog.records[2].getMessage()
    assert "is well again" in caplog.records[3].getMessage()


def test_texts_that_alternate_are_told_a_few_times_and_then_once_a_second() -> None:
    told: list[str] = []
    clock = Clock()
    mirrors = Mirrors(SOURCES, clock, tell=lambda _base, _url, said, _aside: told.append(said))
    for number in range(1000):
        mirrors.answered(A + "/f", 200 if number % 2 else 404, 0.0)
        clock.now += 0.01
    assert len(told) < 30


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("99999999", 3600.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2070 00:00:00 GMT", 3600.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        (None, None),
    ],
)
def test_when_a_source_may_be_asked_again_is_a_number_or_a_date(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, 100.0) == seconds
