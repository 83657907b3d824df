"""Keys and attributes: what goes in comes out, equal things have one key, different things never do."""

import hashlib
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_cache.errors import ArgumentError
from package_cache.model import Status
from package_cache.rules.library.attributes import LONGEST, canonical, dump, leaves, load, moment
from package_cache.rules.library.naming import library_key

zones = st.builds(timezone, st.timedeltas(timedelta(hours=-14), timedelta(hours=14)))
times = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones)
numbers = st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["!", "1", "true", "1.2.3", 'a"b', "a\nb"]
)
scalars = st.none() | st.booleans() | numbers | texts | st.binary(max_size=4) | times
hashables = scalars | st.lists(scalars, max_size=2).map(tuple) | st.frozensets(scalars, max_size=2)
lists = st.lists(hashables, max_size=2) | st.sets(hashables, max_size=2) | st.dictionaries(texts, hashables, max_size=2)
values = hashables | lists | st.lists(lists, max_size=2) | st.dictionaries(texts, lists, max_size=2)
mappings = st.dictionaries(texts, values, max_size=3)
few = st.dictionaries(
    st.sampled_from("ab"),
    st.recursive(st.sampled_from([1, 1.0, True, "1"]), lambda inner: st.lists(inner, max_size=2)),
    max_size=2,
)


def typed(value: Any) -> Any:
    """A form in which values are equal only if their types are, too, deep down."""
    match value:
        case dict():
            return ("dict", frozenset((name, typed(one)) for name, one in value.items()))
        case list() | tuple():
            return (type(value).__name__, tuple(typed(one) for one in value))
        case set() | frozenset():
            return (type(value).__name__, frozenset(typed(one) for one in value))
        case float():
            return ("float", repr(value))
        case _:
            return (type(value).__name__, value)


@given(mappings)
def test_what_goes_in_comes_out_with_its_types(mapping: dict[str, Any]) -> None:
    assert typed(load(dump(mapping, "attrs"))) == typed(mapping)
    assert typed(load(canonical(mapping, "params"))) == typed(mapping)


@given(mappings)
def test_names_keep_their_order(mapping: dict[str, Any]) -> None:
    assert list(load(dump(mapping, "attrs"))) == list(mapping)


def test_not_a_number_and_the_infinities_come_out() -> None:
    out = load(dump({"a": math.nan, "b": [math.inf, -math.inf]}, "attrs"))
    assert math.isnan(out["a"])  # type: ignore[arg-type]
    assert out["b"] == [math.inf, -math.inf]


def test_a_time_without_a_zone_is_local_and_comes_back_with_one() -> None:
    naive = datetime(2026, 7, 1, 12, 30)
    out = load(dump({"at": naive}, "attrs"))["at"]
    assert isinstance(out, datetime)
    assert out == naive.astimezone()
    assert out.utcoffset() is not None


def test_subclasses_come_back_as_what_they_are_made_of() -> None:
    class Colour(StrEnum):
        RED = "red"

    class Size(IntEnum):
        BIG = 3

    out = load(dump({"colour": Colour.RED, "size": Size.BIG}, "attrs"))
    assert [(type(value), value) for value in out.values()] == [(str, "red"), (int, 3)]


nested: list[Any] = []
nested.append(nested)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1 << 63, "64 bits"),
        (1 + 2j, "complex"),
        (date(2026, 1, 1), "datetime"),
        (Decimal("1.5"), "str(value)"),
        (Path("/x"), "str(path)"),
        (bytearray(b"x"), "bytes(value)"),
        ("\ud800", "surrogate"),
        ({1: 2}, "write '1'"),
        (nested, "within itself"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), "too far"),
        ("x" * LONGEST, "too much"),
    ],
)
@pytest.mark.parametrize("write", [dump, canonical])
def test_what_cannot_be_stored_is_refused_by_its_place(value: Any, words: str, write: Callable[..., str]) -> None:
    if isinstance(value, datetime) and write is dump:
        pytest.skip("its own offset is kept")
    with pytest.raises(ArgumentError) as caught:
        write({"outer": {"inner": value}}, "attrs")
    assert words in str(caught.value)
    assert str(caught.value).startswith("attrs")


@pytest.mark.parametrize(
    "within", [lambda one: [one], lambda one: (one,), lambda one: frozenset((one,)), lambda one: {"x": one}]
)
def test_values_of_each_kind_are_nested_so_deep_and_no_deeper(within: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(31):
        value = within(value)
    assert load(dump({"a": value}, "attrs")) == {"a": value}
    with pytest.raises(ArgumentError, match="nested more than 32 times"):
        dump({"a": within(value)}, "attrs")


def test_every_value_is_a_leaf_under_its_name_and_its_path() -> None:
    found = {
        (leaf.path, leaf.name, leaf.kind, leaf.value)
        for leaf in leaves({"a": 1, "b": {"c": [True, {"d": "x"}], "e": {}}, "f": None, "g": b"y", "h": moment(5)})
    }
    assert found == {
        ("a", "a", "n", 1),
        ("b.c", "c", "b", 1),
        ("b.c.d", "d", "s", "x"),
        ("b.e", "e", "-", 0),
        ("f", "f", "0", 0),
        ("g", "g", "y", b"y"),
        ("h", "h", "t", 5),
    }


# Keys


@given(few, few)
def test_parameters_have_one_key_only_if_they_are_equal_with_their_types(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (library_key("x", one) == library_key("x", other)) == (typed(one) == typed(other))


@given(mappings, st.randoms())
def test_the_order_of_names_does_not_matter(mapping: dict[str, Any], random: Any) -> None:
    names = list(mapping)
    random.shuffle(names)
    assert library_key("x", mapping) == library_key("x", {name: mapping[name] for name in names})


def test_keys_that_collided_in_the_old_system_are_different() -> None:
    several = [
        {"a": "b,c=d"},
        {"a": "b", "c": "d"},
        {"a": [1, 2]},
        {"a": [2, 1]},
        {"a": (1, 2)},
        {"a": {1, 2}},
        {"a": 1},
        {"a": 1.0},
        {"a": True},
        {"a": "1"},
        {"a": None},
        {"a": {}},
        {},
    ]
    assert len({library_key("x", one) for one in several}) == len(several)
    assert len({library_key("x"), library_key("y"), library_key("x", {"uri": "y"})}) == 3


def test_a_key_is_that_of_the_documented_text() -> None:
    text = '{"params":{"n":1},"uri":"https://example.org/\\u00e4"}'
    assert library_key("https://example.org/ä", {"n": 1}) == hashlib.sha256(text.encode()).hexdigest()


def test_equal_times_have_one_key_whatever_their_zones() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert library_key("x", {"t": noon}) == library_key("x", {"t": noon.astimezone(timezone(timedelta(hours=5)))})


def test_no_parameters_are_empty_ones_and_the_callers_dict_stays_as_it_is() -> None:
    given: dict[str, object] = {}
    assert library_key("x", given) == library_key("x", None)
    assert given == {}


@pytest.mark.parametrize("uri", ["", None, 5, b"x", "\ud800"])
def test_a_uri_that_is_no_text_is_refused(uri: Any) -> None:
    with pytest.raises(ArgumentError, match="uri"):
        library_key(uri)


def test_a_status_is_found_by_its_name_in_any_case() -> None:
    assert [Status.from_str(name) for name in ("ready", "TRASH", " Write ")] == [3, -1, 1]
    with pytest.raises(ValueError, match="UNINITIALIZED, WRITE, FAILED, READY, TRASH, DELETED"):
        Status.from_str("finished")
