"""Searches by attributes and other criteria, compared with a plain filter in Python."""

import operator
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from package_cache import Cache, CacheItem
from package_cache.errors import ArgumentError, UnknownCriterion
from package_cache.model import Status

NAMES = ["a", "b", "ab", "a.b", "b.a", "%", "_", 'q"', "__and ", "value"]
SCALARS: list[Any] = [
    *range(-3, 4),
    *(0.5, 1.0, -1.5, float("inf"), (1 << 63) - 1, float(1 << 63), -(1 << 63), True, False, None, b"", b"x", b"\0"),
    *("", "x", "X", "xy", "1", "a*c", "[x]", "ä", "a\0b", "1.2.3", "2020 01", 'zz" OR "1"="1', "value"),
    *(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)),
]
scalars = st.sampled_from(SCALARS)
patterns = st.sampled_from(["*", "?", "x*", "*c", "[xX]", "[a-z]*", "", "ä", "[[]x]", "a?c"])

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "": operator.eq,
    "==": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@st.composite
def terms(draw: st.DrawFn) -> tuple[str, Any]:
    """One name with an operator, and what it is compared with."""
    name, wanted = draw(st.sampled_from(NAMES)), draw(scalars)
    sign = draw(st.sampled_from(["", "=", "==", "!=", ">=", "<=", ">", "<", "~"]))
    if sign == "~":
        wanted = draw(patterns)
    if wanted is None or isinstance(wanted, bool):
        sign = draw(st.sampled_from(["", "!="]))
    if draw(st.booleans()):
        return f"{name}{draw(st.sampled_from(['', ' ']))}{sign}", draw(st.sampled_from([wanted, [wanted, "x"]]))
    return name, (sign or "=", wanted)


conditions = st.recursive(
    st.lists(terms(), min_size=1, max_size=2).map(dict),
    lambda inner: st.tuples(st.sampled_from(["__and", "__or"]), st.lists(inner, min_size=1, max_size=2)).map(
        lambda pair: {pair[0]: pair[1]}
    ),
    max_leaves=3,
)
modes = st.sampled_from([{}, {"__and": False}, {"__or": True}, {"__and": True}, {"__or": False}])


def leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from leaves(one, (*path, name))
    elif isinstance(value, list) and value:
        for one in value:
            yield from leaves(one, path)
    else:
        yield path, value


def kind(value: Any) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def holds(sign: str, value: Any, wanted: Any) -> bool:
    if sign == "~":
        return isinstance(value, str) and "\0" not in value and fnmatchcase(value, wanted)
    return kind(value) is kind(wanted) and COMPARE[sign](value, wanted)


def meets(attrs: dict[str, Any], condition: dict[str, Any]) -> bool:
    """The plain filter."""
    every = condition.get("__and", not condition.get("__or", False))
    every = every if isinstance(every, bool) else True
    results = []
    for name, wanted in condition.items():
        if name in ("__and", "__or"):
            if isinstance(wanted, list):
                results.append((all if name == "__and" else any)([meets(attrs, one) for one in wanted]))
            continue
        sign = next((one for one in (">=", "<=", "!=", "==", ">", "<", "=", "~") if name.endswith(one)), "")
        plain = name[: -len(sign)].rstrip() if sign else name
        several = wanted if isinstance(wanted, list) else [wanted]
        every_leaf = (leaf for first, value in attrs.items() for leaf in leaves(value, (first,)))
        found = [value for path, value in every_leaf if plain in (path[-1], ".".join(path))]
        if isinstance(wanted, tuple):
            sign, several = wanted[0], [wanted[1]]
        if sign == "!=":
            results.append(bool(found) and not any(holds("=", value, one) for value in found for one in several))
        else:
            results.append(any(holds(sign, value, one) for value in found for one in several))
    return all(results) if every else any(results)


def some_attributes(random: Random) -> dict[str, Any]:
    def value(depth: int) -> Any:
        match random.randrange(8) if depth else 0:
            case 6:
                return [value(depth - 1) for _ in range(random.randrange(3))]
            case 7:
                return {name: value(depth - 1) for name in random.sample(["a", "b"], random.randrange(3))}
            case _:
                return random.choice(SCALARS)

    return {name: value(2) for name in random.sample(NAMES[:5], random.randrange(4))}


@pytest.fixture(scope="module")
def attributed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cache, list[tuple[CacheItem, dict[str, Any]]]]]:
    random = Random(1)
    with Cache(tmp_path_factory.mktemp("attributed") / "cache") as cache:
        several = [some_attributes(random) for _ in range(150)]
        yield cache, [(cache.create(f"u{at}", attrs=attrs), attrs) for at, attrs in enumerate(several)]


@settings(max_examples=examples(60), deadline=None)
@given(conditions, modes)
def test_a_search_finds_what_a_plain_filter_finds(
    attributed: tuple[Cache, list[tuple[CacheItem, dict[str, Any]]]], condition: dict[str, Any], mode: dict[str, Any]
) -> None:
    cache, items = attributed
    condition = mode | condition
    wanted = [item for item, attrs in items if meets(attrs, condition)]
    assert cache.search(attrs=condition) == wanted
    assert cache.by_attrs(condition) == {item.id for item in wanted}


@pytest.fixture(scope="module")
def various(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cache, list[CacheItem]]]:
    with Cache(tmp_path_factory.mktemp("various") / "cache") as cache:
        for uri in "xyz":
            for status in (3, 0, -1, 2, -2, 1, 3, 2):
                cache.create(uri, status=status, label=uri.upper(), ext=".txt" if status else None)
        yield cache, cache.search(include_removed=True)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.none() | st.integers(-2, 3) | st.sets(st.integers(-2, 3)),
    st.none() | st.integers(-1, 9).filter(bool) | st.sets(st.integers(1, 9)),
    st.booleans(),
    st.none() | st.sampled_from("XYZ"),
    st.none() | st.sampled_from([".txt", "txt"]),
)
def test_other_criteria_find_what_a_plain_filter_finds(
    various: tuple[Cache, list[CacheItem]],
    status: int | set[int] | None,
    version: int | set[int] | None,
    removed: bool,
    label: str | None,
    ext: str | None,
) -> None:
    cache, items = various
    wanted = [item for item in items if label in (None, item.label) and (ext is None or item.ext == "txt")]
    if status is not None:
        wanted = [item for item in wanted if item.rstatus in (status if isinstance(status, set) else {status})]
    elif not removed:
        wanted = [item for item in wanted if item.rstatus >= 0]
    if version == -1:
        wanted = [one for one in wanted if not any(o.key == one.key and o.version > one.version for o in wanted)]
    elif version is not None:
        wanted = [item for item in wanted if item.version in (version if isinstance(version, set) else {version})]
    found = cache.search(status=status, version=version, include_removed=removed, label=label, ext=ext)
    assert sorted(found, key=lambda item: item.id) == wanted


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(tmp_path / "cache") as one:
        yield one


def uris(items: list[CacheItem]) -> set[str]:
    return {item.uri for item in items}


def test_a_uri_is_the_thing_without_parameters_and_a_pattern_takes_all(cache: Cache) -> None:
    plain = cache.create("http://mirror.example/a")
    with_params = cache.create("http://mirror.example/a", {"n": 1})
    other = cache.create("http://mirror.example/b", {"n": 1})
    assert cache.search("http://mirror.example/a") == [plain]
    assert cache.search("http://mirror.example/a", {"n": 1}) == [with_params]
    assert cache.search(params={"n": 1}) == [with_params, other]
    assert cache.search(uri_glob="http://*/a") == [plain, with_params]
    assert cache.search(key=other.key) == [other]
    assert cache.search(filename="b") == [other]


def test_parameters_are_found_as_attributes_are(cache: Cache) -> None:
    item = cache.create("x", {"query": {"page": 23}})
    assert cache.search(attrs={"page>": 22}) == [item]
    assert cache.search(attrs={"query.page": 23}) == [item]


def test_dates_are_compared_as_times(cache: Cache) -> None:
    item = cache.create("x", attrs={"made": datetime(2020, 12, 31, tzinfo=UTC)})
    assert cache.search(attrs={"made": "DATE:2020-12-31T01:00:00+01:00"}) == [item]
    assert cache.search(attrs={"made<=": "date:2021/12/31"}) == [item]
    assert cache.search(attrs={"made>": "DATE:2021-12-31"}) == []
    assert cache.search(attrs={"made": "2020-12-31"}) == []


def test_newer_and_older_are_of_the_items_date(cache: Cache) -> None:
    old, new = cache.create("old"), cache.create("new")
    old.update_date(newdate="2020-01-01T00:00:00+00:00")
    assert cache.search(older_than="2021-01-01") == [old]
    assert cache.search(newer_than=datetime.now(UTC) - timedelta(days=1)) == [new]
    assert cache.search(newer_than=datetime(2020, 1, 1, tzinfo=UTC), older_than="2021-01-01") == []


def test_attributes_count_among_removed_items_too(cache: Cache) -> None:
    item = cache.create("x", attrs={"a": 1})
    item.remove()
    assert cache.search(attrs={"a": 2}, include_removed=True) == []
    assert cache.search(attrs={"a": 1}, include_removed=True) == [item]


def test_an_empty_set_is_met_by_nothing(cache: Cache) -> None:
    cache.create("x")
    assert cache.search(ids=set()) == cache.search(status=set()) == cache.search(version=[]) == []
    assert cache.by_attrs({}) == set()


def test_many_numbers_can_be_searched_for_at_once(cache: Cache) -> None:
    item = cache.create("x")
    assert cache.search(ids=range(200_000)) == [item]


def test_many_values_can_be_searched_for_at_once(cache: Cache) -> None:
    odd = ["ä\0b", "\U0001f600", 0.1, b"\0", True, None, datetime(2026, 1, 1, tzinfo=UTC)]
    items = [cache.create(f"{number}", attrs={"outer": {"a": one}}) for number, one in enumerate([7, "x7", *odd])]
    several = [*range(8, 50_000), *(f"x{number}" for number in range(8, 50_000))]
    for name in ("a", "outer.a"):
        assert cache.search(attrs={name: [*several, 7, "x7", *odd]}) == items
        assert cache.search(attrs={name: several}) == []
        assert cache.search(attrs={f"{name}!=": [*several, 7, *odd]}) == [items[1]]
    assert cache.search(attrs={"__or": [{"a": ("<", number), "outer.a>": 0} for number in range(-1500, 9)]}) == [
        items[0],
        items[4],
    ]


def test_the_latest_of_each_come_in_the_order_in_which_they_were_made(cache: Cache) -> None:
    items = [cache.create(uri) for uri in "abba"]
    assert cache.search(version=-1) == items[2:]


def test_a_search_changes_nothing_and_leaves_what_it_was_given(cache: Cache) -> None:
    cache.create("x", attrs={"a": 1})
    before = Path(cache.path + "-wal").read_bytes()
    asked: dict[str, object] = {"a>=": 1, "__and": False}
    cache.search("x", {}, attrs=asked)
    assert asked == {"a>=": 1, "__and": False}
    assert Path(cache.path + "-wal").read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"a": []}, "empty list"),
        ({"a~": 5}, "pattern"),
        ({"a~": "\0"}, "NUL"),
        ({"a>=": None}, "neither more nor less"),
        ({"a<": True}, "neither more nor less"),
        ({"a": float("nan")}, "equal to nothing"),
        ({"a": ("=>", 5)}, "an operator and a value"),
        ({"a>=": (">=", 5)}, "an operator and a value"),
        ({"a": {"b": 1}}, "outer.inner"),
        ({"a": 1 << 70}, "64 bits"),
        ({"a": "DATE:tomorrow"}, "no date"),
        ({"__or": "x"}, "True or False"),
        ({5: 1}, "not text"),
        ("a=1", "a dict"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(cache: Cache, asked: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        cache.search(attrs=asked)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"status": 99}, "3 READY"),
        ({"status": "finished"}, "3 READY"),
        ({"status": True}, "3 READY"),
        ({"version": "1"}, "whole number"),
        ({"version": [1, -1]}, "latest"),
        ({"newer_than": "yesterday"}, "2026-01-31"),
        ({"older_than": 5}, "datetime"),
        ({"label": 5}, "text"),
        ({"ids": [None]}, "whole number"),
        ({"params": [1]}, "a dict"),
    ],
)
def test_a_criterion_that_cannot_be_is_refused(cache: Cache, asked: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        cache.search(**asked)
    assert words in str(caught.value)


@pytest.mark.parametrize("method", ["search", "remove", "restore", "purge"])
def test_an_unknown_criterion_is_an_error_that_names_the_nearest(cache: Cache, method: str) -> None:
    cache.create("x")
    with pytest.raises(UnknownCriterion, match="did you mean label"):
        getattr(cache, method)(lable="x")
    with pytest.raises(TypeError, match="there are status, version"):
        getattr(cache, method)(zzz=1)
    assert [item.status for item in cache.search()] == [Status.UNINITIALIZED]
