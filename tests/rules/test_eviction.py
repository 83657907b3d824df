"""What goes when the cache is to stay within its bounds: the decision."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from package_cache.rules.eviction import (
    KEPT_SECONDS,
    KEPT_VERSIONS,
    RECENT,
    TRASH_SECONDS,
    Bounds,
    Candidate,
    Eviction,
    Needs,
    Reason,
    StoredVersion,
    Usage,
    needs_of_bounds,
    needs_of_room,
    superseded,
)

NOW = 1e9
DAY = 86400.0


def decide(candidates: Sequence[Candidate], needs: Needs, max_age: float | None = None) -> dict[Candidate, Reason]:
    """What goes, as the product finds it out."""
    cull, gone = Eviction(needs, max_age, NOW), {}
    for candidate in candidates:
        reason = cull.judge(candidate)
        if reason is not None:
            cull.freed(candidate.size, linked=candidate.linked)
            gone[candidate] = reason
    return gone


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        digest=st.uuids().map(str),
        size=st.integers(0, 100),
        used=st.one_of(st.floats(NOW - 400 * DAY, NOW), st.floats(NOW - 2 * RECENT, NOW)),
        pinned=st.booleans(),
    ),
    max_size=30,
    unique_by=lambda candidate: candidate.used,
).map(lambda found: sorted(found, key=lambda candidate: candidate.used))
LIMITS = st.builds(
    Bounds,
    max_size=st.none() | st.integers(1, 2000),
    min_free=st.integers(0, 500),
    max_age=st.none() | st.floats(1.0, 400 * DAY),
)


def may_go(candidate: Candidate) -> bool:
    return not candidate.pinned and candidate.used <= NOW - RECENT


@given(CANDIDATES, LIMITS, st.integers(0, 500))
def test_what_is_pinned_or_was_used_a_moment_ago_never_goes(candidates: list[Candidate], limits: Bounds, free: int) -> None:
    usage = Usage(sum(one.size for one in candidates), free)
    assert all(map(may_go, decide(candidates, needs_of_bounds(usage, limits), limits.max_age)))


@given(CANDIDATES, LIMITS, st.integers(0, 500))
def test_the_bounds_hold_afterwards_if_that_is_possible_at_all(
    candidates: list[Candidate], limits: Bounds, free: int
) -> None:
    usage = Usage(sum(one.size for one in candidates), free)
    gone = decide(candidates, needs_of_bounds(usage, limits), limits.max_age)
    freed = sum(one.size for one in gone)
    after = Usage(usage.stored - freed, usage.free + freed)
    if needs_of_bounds(after, limits):
        assert not [one for one in candidates if may_go(one) and one.size and one not in gone]
    if limits.max_age is not None:
        assert not [one for one in candidates if may_go(one) and NOW - one.used > limits.max_age and one not in gone]


@given(CANDIDATES, LIMITS, st.integers(0, 500))
def test_least_recently_used_goes_first_and_nothing_goes_in_vain(
    candidates: list[Candidate], limits: Bounds, free: int
) -> None:
    needs = needs_of_bounds(Usage(sum(one.size for one in candidates), free), limits)
    gone = decide(candidates, needs, limits.max_age)
    for_space = [one for one, reason in gone.items() if reason in needs]
    if for_space:
        last = for_space[-1]
        older = [one for one in candidates if may_go(one) and one.size and one.used < last.used]
        assert all(one in gone for one in older)
        assert max(needs.values()) > sum(one.size for one in gone) - last.size, "it would have been enough without the last"


@given(CANDIDATES, LIMITS, st.integers(0, 500), st.integers(0, 500))
def test_what_a_download_needs_is_just_what_it_lacks(
    candidates: list[Candidate], limits: Bounds, free: int, wanted: int
) -> None:
    usage = Usage(sum(one.size for one in candidates), free)
    needs = needs_of_room(usage, limits, wanted)
    assert all(size > 0 for size in needs.values())
    freed = max(needs.values(), default=0)
    assert not needs_of_room(Usage(usage.stored - freed, usage.free + freed), limits, wanted)
    if freed:
        assert needs_of_room(Usage(usage.stored - freed + 1, usage.free + freed - 1), limits, wanted)


def test_background_culling_begins_before_a_download_must_wait_and_does_not_begin_again_at_once() -> None:
    limits = Bounds(max_size=1000, min_free=100)
    assert needs_of_bounds(Usage(980, 100), limits) == {}
    assert needs_of_bounds(Usage(981, 100), limits) == {Reason.MAX_SIZE: 31}
    assert needs_of_bounds(Usage(950, 99), limits) == {Reason.MIN_FREE: 6}
    assert needs_of_bounds(Usage(10**12, 0), Bounds()) == {}


def test_the_trash_goes_first_and_by_itself_after_a_week() -> None:
    fresh, old = (Candidate(name, 10, NOW - age, trash=True) for name, age in (("a", 1.0), ("b", TRASH_SECONDS + 1)))
    file = Candidate("c", 10, NOW - DAY)
    assert decide([old, fresh, file], {}) == {old: Reason.TRASH}
    assert decide([fresh, file], {Reason.ROOM: 10}) == {fresh: Reason.TRASH}
    assert decide([fresh, file], {Reason.ROOM: 11}) == {fresh: Reason.TRASH, file: Reason.ROOM}
    shared = replace(fresh, size=0)
    assert decide([shared], {Reason.ROOM: 10}) == {}, "it would free nothing"


def test_a_time_of_a_wrong_clock_protects_nothing() -> None:
    ahead = Candidate("a", 10, NOW + 9999 * DAY)
    assert decide([ahead], {Reason.MAX_SIZE: 1}) == {ahead: Reason.MAX_SIZE}


@given(st.lists(st.floats(NOW - 90 * DAY, NOW), max_size=8, unique=True))
def test_the_newest_version_stays_and_a_few_that_were_replaced_lately(moments: list[float]) -> None:
    versions = [StoredVersion(number, created) for number, created in enumerate(sorted(moments, reverse=True))]
    gone = superseded(versions, NOW)
    kept = [one for one in versions if one not in gone]
    assert kept == versions[: len(kept)]
    assert kept[:1] == versions[:1]
    assert len(kept) <= 1 + KEPT_VERSIONS
    for one in kept[1:]:
        assert NOW - versions[one.id - 1].created <= KEPT_SECONDS
    if gone and len(kept) < 1 + KEPT_VERSIONS:
        assert NOW - kept[-1].created > KEPT_SECONDS


def test_what_is_linked_from_elsewhere_makes_the_cache_smaller_and_the_disk_no_emptier() -> None:
    linked, file = Candidate("a", 10, NOW - 2 * DAY, linked=True), Candidate("b", 10, NOW - DAY)
    assert decide([linked, file], {Reason.MIN_FREE: 5}) == {file: Reason.MIN_FREE}
    assert decide([linked, file], {Reason.MAX_SIZE: 5, Reason.MIN_FREE: 5}) == {
        linked: Reason.MAX_SIZE,
        file: Reason.MIN_FREE,
    }
