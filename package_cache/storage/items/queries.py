"""Search criteria as SQL. All values are bound parameters."""

import json
from dataclasses import dataclass

from package_cache.rules.library.attributes import TEXT, Comparable
from package_cache.rules.library.searching import AllOf, AnyOf, Condition, Criteria, Test

_SQL = {">=": ">=", "<=": "<=", ">": ">", "<": "<", "~": "GLOB"}
_WITHOUT_NUL = " AND instr(CAST(value AS BLOB), x'00') = 0"  # GLOB stops at one

_ROW = 100
"""Conditions in a row."""

Parameters = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """What follows WHERE, and its parameters."""

    text: str
    parameters: Parameters


def where(wanted: Criteria) -> Clause:
    """The items that are meant, of the tables `entry` and `item`. The latest of each key is still to be chosen."""
    clauses = [Clause(f"{name} = ?", (value,)) for name, value in _equalities(wanted) if value is not None]
    if wanted.uri_glob is not None:
        clauses.append(Clause("item.uri GLOB ?", (wanted.uri_glob,)))
    if wanted.called is not None:
        clauses.append(_called("=", wanted.called))
    if wanted.called_like is not None:
        called = _called("GLOB", wanted.called_like)
        text = f"({called.text} OR entry.key || '-' || entry.version GLOB ?)"
        clauses.append(Clause(text, (*called.parameters, wanted.called_like)))
    if wanted.newer_than is not None:
        clauses.append(Clause("item.date > ?", (wanted.newer_than,)))
    if wanted.older_than is not None:
        clauses.append(Clause("item.date < ?", (wanted.older_than,)))
    clauses.extend(
        _among(name, several)
        for name, several in (("entry.status", wanted.status), ("entry.version", wanted.version), ("entry.id", wanted.ids))
        if several is not None
    )
    if wanted.status is None and not wanted.include_removed:
        clauses.append(Clause("entry.status >= 0", ()))
    if wanted.condition is not None:
        clauses.append(_condition(wanted.condition))
    return _joined(clauses, " AND ", "1")


def _called(operator: str, text: str) -> Clause:
    urls = f"SELECT entry FROM attribute WHERE name = 'url' AND path = 'url' AND kind = ? AND value {operator} ?"
    return Clause(f"(item.uri {operator} ? OR entry.id IN ({urls}))", (text, TEXT, text))


def _equalities(wanted: Criteria) -> tuple[tuple[str, str | None], ...]:
    return (
        ("entry.key", wanted.key),
        ("item.params", wanted.params),
        ("item.ext", wanted.ext),
        ("item.label", wanted.label),
        ("item.filename", wanted.filename),
    )


def _among(name: str, several: frozenset[int]) -> Clause:
    # As one parameter: SQLite takes some thousands of them at most.
    return Clause(f"{name} IN (SELECT value FROM json_each(?))", (f"[{','.join(map(str, sorted(several)))}]",))


def _joined(clauses: list[Clause], joint: str, nothing: str) -> Clause:
    if not clauses:
        return Clause(nothing, ())
    texts = [clause.text for clause in clauses]
    return Clause(_balanced(texts, joint), tuple(value for clause in clauses for value in clause.parameters))


def _balanced(texts: list[str], joint: str) -> str:
    """Texts with a joint between them, in groups of groups: SQLite nests a plain row of them, and 1000 deep at most."""
    if len(texts) <= _ROW:
        return joint.join(texts)
    middle = len(texts) // 2
    return f"({_balanced(texts[:middle], joint)}){joint}({_balanced(texts[middle:], joint)})"


def _condition(condition: Condition) -> Clause:
    match condition:
        case AllOf(several):
            return _grouped(several, "!=", " AND ", "1")
        case AnyOf(several):
            return _grouped(several, "=", " OR ", "0")
        case Test(operator="=" | "!=" as operator):
            return _equal(condition.name, operator, condition.kind, Clause("= ?", (condition.operand,)))
        case Test():
            found = _by_name(condition.name, *_compared(condition))
            return Clause(f"entry.id IN ({found.text})", found.parameters)


def _grouped(several: tuple[Condition, ...], operator: str, joint: str, nothing: str) -> Clause:
    """Conditions and what joins them; values of one name with that operator are looked for together."""
    sets: dict[tuple[str, str], list[Comparable]] = {}
    rest: list[Condition] = []
    for one in several:
        if isinstance(one, Test) and one.operator == operator and _is_plain(one.operand):
            sets.setdefault((one.name, one.kind), []).append(one.operand)
        else:
            rest.append(one)
    clauses = [_equal(name, operator, kind, _in(values)) for (name, kind), values in sets.items()]
    clause = _joined(clauses + [_condition(one) for one in rest], joint, nothing)
    return Clause(f"({clause.text})", clause.parameters)


def _in(values: list[Comparable]) -> Clause:
    return Clause("IN (SELECT value FROM json_each(?))", (json.dumps(values, ensure_ascii=False),))


def _is_plain(value: Comparable) -> bool:
    """Whether SQLite reads in JSON the very same value."""
    return isinstance(value, int) or (isinstance(value, str) and "\0" not in value)


def _equal(name: str, operator: str, kind: str, value: Clause) -> Clause:
    """Some value of that name and kind is one of those; with `!=`, there is one of that name, and none is."""
    equal = _by_name(name, f" AND kind = ? AND value {value.text}", (kind, *value.parameters))
    if operator == "=":
        return Clause(f"entry.id IN ({equal.text})", equal.parameters)
    named = _by_name(name)
    return Clause(f"(entry.id IN ({named.text}) AND entry.id NOT IN ({equal.text}))", named.parameters + equal.parameters)


def _compared(test: Test) -> tuple[str, Parameters]:
    text = f" AND kind = ? AND value {_SQL[test.operator]} ?"
    return text + (_WITHOUT_NUL if test.operator == "~" else ""), (test.kind, test.operand)


def _by_name(name: str, rest: str = "", parameters: Parameters = ()) -> Clause:
    text, values = f"SELECT entry FROM attribute WHERE name = ?{rest}", (name, *parameters)
    if "." not in name:
        return Clause(text, values)
    return Clause(f"{text} UNION ALL SELECT entry FROM attribute WHERE path = ? AND path <> name{rest}", values * 2)
