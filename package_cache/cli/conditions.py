"""Values, attributes and conditions as a person writes them on a command line."""

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import replace

from package_cache.errors import ArgumentError
from package_cache.rules.library.attributes import moment
from package_cache.rules.library.searching import Criteria, Selection, condition, criteria, date

_CONDITION = re.compile(r"(.*?)\s*(>=|<=|!=|==|>|<|=|~)\s*(.*)", re.DOTALL)
_DATE = "DATE:"

VALUES = """\
A value is what it is in JSON, and text if it is no JSON: 100, 1.5, true, null, ["a", "b"], {"x": 1}, plain; "100" with its
quotes is a text. DATE:2026-01-31 or DATE:2026-01-31T12:00:00+00:00 is a time."""


def value_of(text: str) -> object:
    """The value that a text stands for: as in JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(word: str) -> object:
    raise ValueError(word)  # NaN and Infinity are no JSON


def assignments(option: str, texts: Iterable[str]) -> dict[str, object]:
    """Attributes from `name=value`. Raises ArgumentError."""
    found: dict[str, object] = {}
    for name, text in pairs(option, texts):
        if name in found:
            raise ArgumentError(f"{option}: {name} is given twice; a list is written {name}=[1, 2]")
        found[name] = moment(date(text[len(_DATE) :], option)) if text.startswith(_DATE) else value_of(text)
    return found


def pairs(option: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    """Names and texts from `name=text`. Raises ArgumentError."""
    found = []
    for one in texts:
        name, equals, text = one.partition("=")
        if not name or not equals:
            raise ArgumentError(f"{option}: {one!r} is not NAME=VALUE")
        found.append((name, text))
    return found


def add_criteria(it: ArgumentParser) -> None:
    """Add the options that choose items of the library."""
    it.add_argument("--attr", metavar="CONDITION", action="append", help="items with such an attribute: 'rows>=100'")
    it.add_argument(
        "--status", metavar="STATUS", action="append", help="ready, write, failed, uninitialized, trash, deleted"
    )
    it.add_argument("--label", metavar="TEXT", help="items with this label")


def criteria_of(given: Namespace) -> Criteria:
    """What the options of `add_criteria` choose. Raises ArgumentError."""
    wanted: Selection = {"label": given.label, "status": given.status}
    found = criteria(None, None, **wanted)
    if given.attr is None:
        return found
    return replace(found, condition=condition({"__and": [_test(text) for text in given.attr]}))


def _test(text: str) -> dict[str, object]:
    match = _CONDITION.fullmatch(text)
    if match is None or not match[1]:
        raise ArgumentError(f"--attr: {text!r} is no condition; it looks like 'rows>=100', with >= <= > < = != or ~")
    value = match[3] if match[2] == "~" else value_of(match[3])
    return {match[1] + match[2]: value}
