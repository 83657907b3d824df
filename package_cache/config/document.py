"""The file of configuration, `config.toml`: its text -> settings as text, and repositories."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from package_cache.config.nearest import hint
from package_cache.config.repositories import ABOVE, REPOSITORY_KEYS, Secret, read_repositories
from package_cache.config.settings import SETTINGS, TIMEOUTS, Setting
from package_cache.model import Repository

_KEYS = {setting.key: setting for setting in SETTINGS.values()}
_TIMEOUT_KEYS = {name.removesuffix("_timeout"): setting for name, setting in TIMEOUTS.items()}
_TABLES = ("timeouts", "repository")
_BELOW = {key: f"{key} is written below [[repository]]" for key in REPOSITORY_KEYS} | {
    key: f"{limit} is written below [timeouts]" for limit in _TIMEOUT_KEYS for key in (limit, f"{limit}-timeout")
}
_ABOVE = {key: ABOVE.format(key) for key in _KEYS}
_LARGEST = 10**100
"""Beyond it a number is written in so many digits that it cannot be made a text."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says: settings by name, as `layered` reads them, and repositories. `where` names the file."""

    where: str
    settings: Mapping[str, str]
    repositories: tuple[Repository, ...]
    problems: tuple[str, ...]


def read_document(where: str, text: str, secret: Secret) -> Document:
    """What the text of a file says, and all that is wrong with it."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of numbers with thousands of digits, and brackets within brackets
        return Document(where, {}, (), (f"{where}: {error}",))
    problems: list[str] = []
    top = {key: value for key, value in table.items() if key not in _TABLES}
    settings = _texts(top, _KEYS, _TABLES, _BELOW, problems)
    timeouts = table.get("timeouts", {})
    if isinstance(timeouts, dict):
        limits: list[str] = []
        settings |= _texts(timeouts, _TIMEOUT_KEYS, (), _ABOVE, limits)
        problems += [f"timeouts: {problem}" for problem in limits]
    else:
        problems.append("timeouts: it is a table: [timeouts]")
    repositories, wrong = read_repositories(table.get("repository", []), secret)
    if "source" in settings and any(not one.home for one in repositories):
        wrong.append("source: it is the repository at /, and so is one that is described; give its sources there")
    return Document(where, settings, repositories, tuple(f"{where}: {problem}" for problem in (*problems, *wrong)))


def _texts(
    table: Mapping[str, Any],
    known: Mapping[str, Setting],
    tables: Iterable[str],
    elsewhere: Mapping[str, str],
    problems: list[str],
) -> dict[str, str]:
    """The settings in a table, as the text that a person would write on a command line.

    `elsewhere` says of keys that belong to another place of the file which one that is.
    """
    found = {}
    for key, value in table.items():
        setting = known.get(key)
        if setting is None:
            told = hint(key, (*known, *tables), f"known are {', '.join((*known, *tables))}", elsewhere.get(key))
            problems.append(f"{key}: there is no such setting; {told}")
            continue
        text = _text(setting, value)
        if text is None:
            problems.append(f"{key}: it is not {_kind(setting)}")
        else:
            found[setting.name] = text
    return found


def _text(setting: Setting, value: object) -> str | None:
    """A value as text; None if it is of a kind that the setting has not."""
    match value:
        case int() if abs(value) >= _LARGEST:
            return None
        case bool():
            return ("no", "yes")[value] if not setting.looks and setting.name != "verbose" else None
        case str() | int() | float() if not setting.several or isinstance(value, str):
            return str(value)
        case list() if setting.several and all(isinstance(one, str) and one.split() == [one] for one in value):
            return " ".join(value)
        case _:
            return None


def _kind(setting: Setting) -> str:
    if setting.several:
        return 'a list of texts without blanks, such as ["..."]'
    return "true or false" if not setting.looks and setting.name != "verbose" else "a text or a number"
