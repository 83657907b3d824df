"""Criteria of a search: the small language of attributes, dates and the other criteria, checked and in one form.

An attribute is named by its last name, or by all names that lead to it, joined by dots. A list is found by each of its
elements. Only values of one kind are compared: numbers with numbers, strings with strings, times with times.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack

from package_cache.errors import ArgumentError, UnknownCriterion
from package_cache.model import Key, Status
from package_cache.rules.library.attributes import (
    FLAG,
    NOTHING,
    OTHER,
    TEXT,
    Comparable,
    canonical,
    comparable,
    microseconds,
    moment,
)
from package_cache.rules.library.naming import library_key

OPERATORS = (">=", "<=", "!=", "==", ">", "<", "=", "~")
_ENDING = re.compile(r"\s*(>=|<=|!=|==|>|<|=|~)\s*$")
_MODES = ("__and", "__or")
_DATE = "date:"

LATEST = -1
"""The version that stands for the highest one."""


@dataclass(frozen=True, slots=True)
class Test:
    """Some value of that name compares with the operand like this; for `!=`, there is a value, and none is equal."""

    name: str
    operator: str
    kind: str
    operand: Comparable


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every condition holds."""

    conditions: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Some condition holds."""

    conditions: "tuple[Condition, ...]"


Condition = Test | AllOf | AnyOf


@dataclass(frozen=True, slots=True)
class Criteria:
    """Which items are meant. A criterion that is None or false restricts nothing; no item meets an empty set.

    `params` is canonical JSON. Dates are in microseconds of the epoch. `latest` keeps the highest version of each key,
    among those that meet the other criteria. `called` is the uri, or the URL of the download; `called_like` is a pattern
    for one of these, or for key and version joined by a hyphen.
    """

    key: Key | None = None
    params: str | None = None
    uri_glob: str | None = None
    status: frozenset[int] | None = None
    version: frozenset[int] | None = None
    latest: bool = False
    newer_than: int | None = None
    older_than: int | None = None
    ext: str | None = None
    label: str | None = None
    filename: str | None = None
    condition: Condition | None = None
    ids: frozenset[int] | None = None
    include_removed: bool = False
    called: str | None = None
    called_like: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is no criterion at all."""
        return self in (Criteria(), Criteria(include_removed=True))


class Selection(TypedDict, total=False):
    """The criteria besides uri and parameters; see `Cache.search`."""

    status: int | str | Collection[int | str] | None
    version: int | Collection[int] | None
    newer_than: str | datetime | None
    older_than: str | datetime | None
    ext: str | None
    label: str | None
    filename: str | None
    key: str | None
    attrs: Mapping[str, object] | None
    include_removed: bool
    ids: int | Collection[int] | None
    uri_glob: str | None


def criteria(
    uri: str | None = None, params: Mapping[str, object] | None = None, /, **wanted: Unpack[Selection]
) -> Criteria:
    """The criteria of a caller of the library, checked. Raises ArgumentError."""
    for name in wanted.keys() - Selection.__annotations__.keys():
        from difflib import get_close_matches  # noqa: PLC0415 - no server needs it

        near = get_close_matches(name, Selection.__annotations__, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(Selection.__annotations__)}"
        raise UnknownCriterion(f"nothing can be selected by {name}; {hint}")
    key, status, attrs = wanted.get("key"), wanted.get("status"), wanted.get("attrs")
    if key is None and uri is not None:
        key = library_key(uri, params)
    versions = integers("version", wanted.get("version"))
    latest = versions is not None and LATEST in versions
    if versions and latest and len(versions) > 1:
        raise ArgumentError(f"version: {LATEST} is the latest one, and cannot stand beside other numbers")
    ext = _optional("ext", wanted.get("ext"))
    return Criteria(
        key=None if key is None else Key(_text("key", key)),
        params=canonical(params, "params") if params is not None and key is None else None,
        uri_glob=_optional("uri_glob", wanted.get("uri_glob")),
        status=None if status is None else statuses(status),
        version=None if latest else versions,
        latest=latest,
        newer_than=_optional_date("newer_than", wanted.get("newer_than")),
        older_than=_optional_date("older_than", wanted.get("older_than")),
        ext=None if ext is None else ext.lstrip("."),
        label=_optional("label", wanted.get("label")),
        filename=_optional("filename", wanted.get("filename")),
        condition=None if attrs is None else condition(attrs),
        ids=integers("ids", wanted.get("ids")),
        include_removed=bool(wanted.get("include_removed")),
    )


def _optional(what: str, value: object) -> str | None:
    return None if value is None else _text(what, value)


def _optional_date(what: str, value: object) -> int | None:
    return None if value is None else date(value, what)


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise ArgumentError(f"{what}: a text is needed, not {value!r}")
    comparable(value, what)
    return str(value)


def integers(what: str, value: object) -> frozenset[int] | None:
    """One number or several, as a set; None for None. Raises ArgumentError."""
    if value is None:
        return None
    alone = isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection)
    several: Collection[Any] = (value,) if alone else value  # type: ignore[assignment]
    for one in several:
        if not isinstance(one, int) or isinstance(one, bool) or comparable(one, what)[1] != one:
            raise ArgumentError(f"{what}: a whole number, or several, are needed, not {one!r}")
    return frozenset(int(one) for one in several)


def statuses(value: object) -> frozenset[int]:
    """A status or several, as `Status`, number or name. Raises ArgumentError."""
    if isinstance(value, str | int):
        return frozenset((status_of(value),))
    if isinstance(value, Collection) and not isinstance(value, bytes | Mapping):
        return frozenset(status_of(one) for one in value)
    raise ArgumentError(f"status: a Status, its number or its name is needed, or several, not {value!r}")


def status_of(value: object) -> Status:
    """The status that a `Status`, a number or a name stands for. Raises ArgumentError."""
    try:
        if isinstance(value, str):
            return Status.from_str(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return Status(value)
    except ValueError:
        pass
    known = ", ".join(f"{one.value} {one.name}" for one in sorted(Status))
    raise ArgumentError(f"status: {value!r} is none; there are {known}")


def date(value: object, what: str) -> int:
    """A datetime, or one in ISO 8601, in microseconds of the epoch. Without a zone it is local time.

    Raises ArgumentError.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip().replace("/", "-"))
        except ValueError:
            raise ArgumentError(f"{what}: {value!r} is no date; write 2026-01-31 or 2026-01-31T12:00:00+00:00") from None
    if not isinstance(value, datetime):
        raise ArgumentError(f"{what}: a datetime, or a text such as 2026-01-31, is needed, not {value!r}")
    return microseconds(value, what)


def condition(attrs: Mapping[str, object]) -> Condition:
    """The condition that attributes are to meet. The mapping is not changed. Raises ArgumentError.

    `{"rows>=": 100}` or `{"rows": (">=", 100)}`. Operators: `=` (or none), `!=`, `>=`, `<=`, `>`, `<`, and `~` for strings
    without a NUL that match a pattern with `*`, `?` and `[...]`. A list means any of its values (with `!=`, none of them);
    each may be such a pair. A string that begins with `DATE:` is a date. All conditions must hold; or any, with
    `"__and": False` or `"__or": True`. A list of such mappings under `"__and"` or `"__or"` is a group.
    """
    if not isinstance(attrs, Mapping):
        raise ArgumentError(f"attrs: a dict of names and values is needed, not {attrs!r}")
    found: list[Condition] = []
    join: Callable[[tuple[Condition, ...]], Condition] = AllOf
    for name, wanted in attrs.items():
        if not isinstance(name, str):
            raise ArgumentError(f"attrs: the name {name!r} is not text")
        if name not in _MODES:
            found.append(_named(name, wanted))
        elif isinstance(wanted, bool):
            join = AllOf if wanted is (name == "__and") else AnyOf
        else:
            found.append(_group(name, wanted))
    return found[0] if len(found) == 1 else join(tuple(found))


def _group(name: str, wanted: object) -> Condition:
    if not isinstance(wanted, list | tuple) or not wanted:
        raise ArgumentError(f"attrs: {name} is True or False, or a list of dicts, not {wanted!r}")
    members = tuple(condition(one) for one in wanted)
    return AllOf(members) if name == "__and" else AnyOf(members)


def _named(name: str, wanted: object) -> Condition:
    ending = _ENDING.search(name)
    operator = ending[1] if ending else None
    plain = name[: ending.start()] if ending else name
    if not isinstance(wanted, list | set | frozenset):
        return _test(plain, operator, wanted)
    if not wanted:
        raise ArgumentError(f"attrs[{name!r}]: an empty list; it means any of its values, and has none")
    tests = tuple(_test(plain, operator, one) for one in wanted)
    return AllOf(tests) if all(test.operator == "!=" for test in tests) else AnyOf(tests)


def _test(name: str, operator: str | None, wanted: object) -> Test:
    place = f"attrs[{name!r}]"
    comparable(name, place)
    if isinstance(wanted, tuple):
        if operator is not None or len(wanted) != 2 or wanted[0] not in OPERATORS:
            raise ArgumentError(f"{place}: {wanted!r}: a tuple is an operator and a value, such as ('>=', 100)")
        operator, wanted = wanted
    operator = {None: "=", "==": "="}.get(operator, operator) or "="
    if isinstance(wanted, str) and wanted[: len(_DATE)].lower() == _DATE:
        wanted = moment(date(wanted[len(_DATE) :], place))
    kind, operand = comparable(wanted, place)
    if kind == OTHER:
        raise ArgumentError(f"{place}: {wanted!r} is equal to nothing")
    if operator == "~" and kind != TEXT:
        raise ArgumentError(f"{place}: ~ compares a text with a pattern, such as '*.txt', not {wanted!r}")
    if operator == "~" and "\0" in str(operand):
        raise ArgumentError(f"{place}: a pattern with a NUL matches nothing")
    if kind in (FLAG, NOTHING) and operator not in ("=", "!="):
        raise ArgumentError(f"{place}: {wanted!r} is equal or not, but neither more nor less: use = or !=")
    return Test(name, operator, kind, operand)
