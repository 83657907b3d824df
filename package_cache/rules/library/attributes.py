"""Parameters and attributes of items: which values may be stored, their JSON, and how they are compared in a search.

A value keeps its type: None, bool, int (64 bits), float, str, bytes, datetime, list, tuple, set, frozenset, and dict with
names, nested at will. It is stored as JSON; a type that JSON does not have is `{"!": [type, form]}`. A datetime without a
time zone is taken for local time, and every datetime comes back with an offset.
"""

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from package_cache.errors import ArgumentError

LONGEST = 200_000
"""Characters that the attributes, or the parameters, of one item may take as JSON."""

_DEEPEST = 32
_TAG = "!"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

NUMBER, TEXT, BYTES, TIME, FLAG, NOTHING, OTHER = "n", "s", "y", "t", "b", "0", "-"
"""Kinds of values; only values of one kind are compared. OTHER, an empty list or "not a number", equals nothing."""

Comparable = int | float | str | bytes
"""What a value is compared by: flags are 0 and 1, times are microseconds of the epoch."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value in nested attributes: the names that lead to it, joined by dots; the last of them; and the value."""

    path: str
    name: str
    kind: str
    value: Comparable


def dump(mapping: Mapping[str, object], what: str) -> str:
    """The JSON text of a mapping, in the order of its names. `what` names it in errors. Raises ArgumentError."""
    return _written(mapping, what, canonical=False)


def canonical(mapping: Mapping[str, object], what: str) -> str:
    """The JSON text that equal mappings share, whatever the order of their names. Raises ArgumentError."""
    return _written(mapping, what, canonical=True)


def _written(mapping: Mapping[str, object], what: str, *, canonical: bool) -> str:
    if not isinstance(mapping, Mapping):
        raise ArgumentError(f"{what}: a dict of names and values is needed, not {mapping!r}")
    text = (_sorted if canonical else _in_order)(_encode(mapping, what, 0, canonical=canonical))
    if len(text) > LONGEST:
        raise ArgumentError(
            f"{what}: {len(text)} characters of JSON are too much (at most {LONGEST}); write data into the file of the item"
        )
    return text


_in_order = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_sorted = json.JSONEncoder(separators=(",", ":"), allow_nan=False, sort_keys=True).encode


def load(text: str) -> dict[str, object]:
    """The mapping that `dump` or `canonical` wrote. Raises ValueError for any other text."""
    try:
        value = _decode(json.loads(text))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a mapping: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def _encode(value: object, place: str, depth: int, *, canonical: bool) -> object:  # noqa: C901, PLR0911, PLR0912 - a table of types
    if depth > _DEEPEST:
        raise ArgumentError(f"{place[:80]}...: nested more than {_DEEPEST} times, or within itself")
    match value:
        case None | bool():
            return value
        case int():
            return _whole(int(value), place)
        case float() if math.isfinite(value):
            return float(value)
        case float():
            return {_TAG: ["float", repr(float(value))]}
        case str():
            return sound(str.__str__(value), place)
        case bytes():
            return {_TAG: ["bytes", b64encode(value).decode("ascii")]}
        case datetime():
            return {_TAG: ["datetime", _zoned(value, place, to_utc=canonical).isoformat()]}
        case list():
            return [_encode(one, f"{place}[{at}]", depth + 1, canonical=canonical) for at, one in enumerate(value)]
        case tuple():
            of = [_encode(one, f"{place}[{at}]", depth + 1, canonical=canonical) for at, one in enumerate(value)]
            return {_TAG: ["tuple", of]}
        case set() | frozenset():
            of = sorted((_encode(one, f"{place}{{}}", depth + 1, canonical=canonical) for one in value), key=_sorted)
            return {_TAG: ["set" if isinstance(value, set) else "frozenset", of]}
        case Mapping():
            return _encode_names(value, place, depth, canonical=canonical)
        case _:
            raise _refusal(value, place)


def _encode_names(value: Mapping[object, object], place: str, depth: int, *, canonical: bool) -> object:
    form: dict[str, object] = {}
    for name, one in value.items():
        if not isinstance(name, str):
            raise ArgumentError(f"{place}: the name {name!r} is not text; write {str(name)!r}")
        plain = sound(str.__str__(name), f"{place}, a name")
        form[plain] = _encode(one, f"{place}[{plain!r}]", depth + 1, canonical=canonical)
    return {_TAG: ["dict", form]} if _TAG in form else form


def _decode(form: Any) -> Any:
    if isinstance(form, list):
        return [_decode(one) for one in form]
    if not isinstance(form, dict):
        return form
    if _TAG in form:
        kind, of = form[_TAG]
        return _TAGGED[kind](of)
    return _decode_names(form)


def _decode_names(form: dict[str, object]) -> object:
    return {name: _decode(one) for name, one in form.items()}


_TAGGED: dict[str, Callable[[Any], object]] = {
    "float": float,
    "bytes": b64decode,
    "datetime": datetime.fromisoformat,
    "tuple": lambda of: tuple(_decode(of)),
    "set": lambda of: set(_decode(of)),
    "frozenset": lambda of: frozenset(_decode(of)),
    "dict": _decode_names,
}


def leaves(mapping: Mapping[str, object]) -> Iterator[Leaf]:
    """Every value in a mapping that `dump` accepts; each element of a list is a value with the name of the list."""
    for name, value in mapping.items():
        yield from _leaves(value, name, name)


def _leaves(value: object, path: str, name: str) -> Iterator[Leaf]:
    if isinstance(value, Mapping) and value:
        for inner, one in value.items():
            yield from _leaves(one, f"{path}.{inner}", inner)
    elif isinstance(value, list | tuple | set | frozenset) and value:
        for one in value:
            yield from _leaves(one, path, name)
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        yield Leaf(path, name, OTHER, 0)
    else:
        yield Leaf(path, name, *comparable(value, path))


def comparable(value: object, place: str) -> tuple[str, Comparable]:  # noqa: PLR0911 - a table of types
    """The kind of a single value, and how it is compared. `place` names it in errors. Raises ArgumentError."""
    match value:
        case None:
            return NOTHING, 0
        case bool():
            return FLAG, int(value)
        case int():
            return NUMBER, _whole(int(value), place)
        case float():
            return (OTHER, 0) if math.isnan(value) else (NUMBER, float(value))
        case str():
            return TEXT, sound(str.__str__(value), place)
        case bytes():
            return BYTES, bytes(value)
        case datetime():
            return TIME, microseconds(value, place)
        case _:
            raise _refusal(value, place)


def microseconds(value: datetime, place: str) -> int:
    """A time in microseconds of the epoch; local time if it has no zone. Raises ArgumentError."""
    return (_zoned(value, place, to_utc=True) - _EPOCH) // _MICROSECOND


def moment(count: int) -> datetime:
    """The time `count` microseconds after the epoch, in UTC."""
    return _EPOCH + timedelta(microseconds=count)


def _zoned(value: datetime, place: str, *, to_utc: bool) -> datetime:
    try:
        if to_utc:
            return value.astimezone(UTC)
        return value if value.utcoffset() is not None else value.astimezone()
    except (OverflowError, ValueError, OSError):
        raise ArgumentError(f"{place}: {value.isoformat()} is too far away for a time with a zone") from None


def _whole(value: int, place: str) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise ArgumentError(
            f"{place}: an int of more than 64 bits cannot be stored; write it as text, {str(value)[:20]!r}..."
        )
    return value


def sound(value: str, place: str) -> str:
    """The string itself, if it is valid Unicode. Raises ArgumentError."""
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ArgumentError(f"{place}: {value!r} is not valid text (a lone surrogate); write it as bytes") from None
    return value


def _refusal(value: object, place: str) -> ArgumentError:
    kind = type(value).__name__
    hint = {
        "date": "write a datetime, or its text: .isoformat()",
        "Decimal": "write its text: str(value)",
        "bytearray": "write bytes(value)",
        "PosixPath": "write its text: str(path)",
        "dict": "write the name of a value within it: 'outer.inner'",
        "ndarray": "write a list: .tolist()",
    }.get(kind, "it takes None, bool, int, float, str, bytes, datetime, and lists, tuples, sets and dicts of them")
    return ArgumentError(f"{place}: a value of type {kind} cannot be used here: {hint}")
