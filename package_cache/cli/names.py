"""How a person names things on a command line: files of the proxy, items of the library, values, conditions.

Nothing here prints, and nothing changes the cache.
"""

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from package_cache.cli.holdings import Holdings
from package_cache.compose import routes_of
from package_cache.config import Config
from package_cache.errors import ArgumentError, PackageCacheError, RequestError
from package_cache.model import Entry, Key, Status, Target
from package_cache.rules.http.targets import key_of
from package_cache.rules.library.attributes import moment
from package_cache.rules.library.searching import Criteria, Selection, condition, criteria, date
from package_cache.rules.repositories.routes import Routes
from package_cache.storage.inventory import Inventory
from package_cache.storage.items.rows import ItemRow

PROXY, ITEM = "proxy", "item"
_ID = re.compile(r"([0-9a-f]{8,64})(?:-([1-9]\d{0,18}))?")
_PATTERN = re.compile(r"[*?[]")
_CONDITION = re.compile(r"(.*?)\s*(>=|<=|!=|==|>|<|=|~)\s*(.*)", re.DOTALL)
_DATE = "DATE:"

NAMES = """\
NAME is the path that a client of the proxy asks for (/file, or a URL, of which only path and query count), or it names
items of the library: by their uri, by the URL they were downloaded from, by an ID as ls shows it (without -VERSION: all
versions), or by a pattern for one of these with * ? [...]. Quote it for the shell."""

VALUES = """\
A value is parsed as JSON, and is a string if it is not JSON: 100, 1.5, true, null, ["a", "b"], {"x": 1}, plain; "100" with
its quotes is a string. DATE:2026-01-31 or DATE:2026-01-31T12:00:00+00:00 is a time."""


class CannotDo(PackageCacheError):
    """A command cannot do what it was told to."""


# -- files of the proxy


@dataclass(frozen=True, slots=True)
class FileName:
    """The file of the proxy that a path or URL and --accept name."""

    target: Target
    accept: str | None
    key: Key

    def variants(self, inventory: Inventory) -> list[str]:
        """The other Accept fields under which something is stored for the same path."""
        keys = inventory.variants(key_of(self.target))
        return [key.partition("#accept=")[2] for key in keys if key != self.key]


def variants_hint(variants: list[str]) -> str:
    """What follows the message that nothing is stored: under which --accept there is something."""
    return f"; there is with --accept {' or '.join(map(repr, variants))}" if variants else ""


def file_name(routes: Routes, text: str, accept: str | None) -> FileName:
    """What a client asks for with this path or URL, and this Accept field. Raises ArgumentError."""
    try:
        target = routes.named(text)
    except RequestError as error:
        raise ArgumentError(f"{text!r} is not what a client would ask for: {error}") from error
    accept = routes.policy(target).at(target).accept_of(accept)
    return FileName(target, accept, key_of(target, accept))


# -- names of either kind


def add_accept(parser: ArgumentParser) -> None:
    """Add --accept."""
    parser.add_argument("--accept", metavar="TYPES", help="the Accept field of the client, for documents that depend on it")


def add_kind(parser: ArgumentParser) -> None:
    """Add --kind."""
    parser.add_argument("--kind", choices=(PROXY, ITEM), help="only files of the proxy, or only items of the library")


def add_name(parser: ArgumentParser, nargs: str | None = None) -> None:
    """Add NAME, or several with `nargs`, --accept and --kind."""
    repeat = " (repeat it)" if nargs == "+" else ""
    parser.add_argument("name", metavar="NAME", nargs=nargs, help=f"/file, URL, or uri, ID or pattern of items{repeat}")
    add_accept(parser)
    add_kind(parser)


@dataclass(frozen=True, slots=True)
class Name:
    """What NAME, --accept and --kind name. `file` is None where no client of the proxy would ask for that."""

    text: str
    file: FileName | None
    kind: str | None

    def entries(self, held: Holdings, status: Status | None = None, version: int | None = None) -> list[Entry]:
        """The versions of the file of the proxy, newest first: all, or those with a status or version."""
        found = held.inventory.versions(self.file.key) if self.file is not None else []
        return [one for one in found if status in (None, one.status) and version in (None, one.version)]

    def matching(self, held: Holdings, status: Status, version: int | None = None) -> list[Entry]:
        """The versions of the file of the proxy with that status; if there are none, those of all paths that match."""
        found = self.entries(held, status, version)
        if found or self.kind == ITEM or not self.text.startswith("/") or not _PATTERN.search(self.text):
            return found
        inventory = held.inventory
        likes = inventory.trash(self.text) if status is Status.TRASH else inventory.entries(self.text)
        versions = [one for key in dict.fromkeys(like.key for like in likes) for one in inventory.versions(key)]
        return [one for one in versions if one.status is status and version in (None, one.version)]

    def items(self, held: Holdings, status: Collection[Status] | None = None, version: int | None = None) -> list[ItemRow]:
        """The items, in the order in which they were made: all, or those with a status or version."""
        if self.kind == PROXY:
            return []
        found = held.core.items.find(Criteria(called=self.text, include_removed=True))
        if not found and (like := pattern_of(self.text)) is not None:
            found = held.core.items.find(Criteria(called_like=like, include_removed=True))
        return [one for one in found if (status is None or one.status in status) and version in (None, one.version)]

    def check_kind(self, has_file: object, has_items: object) -> None:
        """Raise CannotDo if the name is of both kinds, and --kind does not say which is meant."""
        if has_file and has_items and self.file is not None:
            raise CannotDo(
                f"{self.text} is {self.file.key} of the proxy and the name of items of the library;"
                f" say which: --kind {PROXY} or --kind {ITEM}"
            )

    def nothing(self, held: Holdings, what: str = "is stored") -> CannotDo:
        """The error that says there is nothing of that name."""
        if self.file is None or _PATTERN.search(self.text):
            return CannotDo(f"nothing {what} for {self.text}")
        return CannotDo(f"nothing {what} for {self.file.key}{variants_hint(self.file.variants(held.inventory))}")


def name_of(given: Namespace, config: Config) -> Name:
    """What NAME, --accept and --kind name. Raises ArgumentError."""
    return _named(given.name, given, config)


def names_of(given: Namespace, config: Config) -> list[Name]:
    """What each NAME names, with --accept and --kind. Raises ArgumentError."""
    return [_named(text, given, config) for text in dict.fromkeys(given.name)]


def _named(text: str, given: Namespace, config: Config) -> Name:
    text = _valid_unicode("NAME", text)
    if not text:
        raise ArgumentError("NAME is empty; ls lists the names")
    if given.kind == ITEM:
        return Name(text, None, ITEM)
    try:
        return Name(text, file_name(routes_of(config), text, given.accept), given.kind)
    except ArgumentError:
        if text.startswith("/") or given.kind == PROXY:
            raise
        return Name(text, None, None)


def pattern_of(text: str) -> str | None:
    """The pattern for the names of items that a string is, or stands for if it is an ID; else None."""
    match = _ID.fullmatch(text)
    if match is not None:
        return f"{match[1]}*-{match[2] or '*'}"
    return text if _PATTERN.search(text) else None


def glob_of(text: str) -> str:
    """The pattern that GLOB is: a folder means everything below it. Raises ArgumentError."""
    return _valid_unicode("GLOB", f"{text}*" if text.endswith("/") else text)


def _valid_unicode(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{what}: {text!r} has bytes that are not UTF-8") from None
    return text


# -- other arguments


def folder(text: str) -> Path:
    """The directory that DIR names. Raises ArgumentError for an empty string, as an unset variable leaves it."""
    if not text:
        raise ArgumentError("DIR is empty; . is this directory")
    return Path(text)


def value_of(text: str) -> object:
    """A string parsed as JSON, else the string itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(word: str) -> object:
    raise ValueError(word)  # NaN and Infinity are not JSON


def pairs(option: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    """Names and values from `name=value`. Raises ArgumentError."""
    found = []
    for one in texts:
        name, equals, text = one.partition("=")
        if not name or not equals:
            raise ArgumentError(f"{option}: {one!r} is not NAME=VALUE")
        found.append((name, text))
    return found


def assignments(option: str, texts: Iterable[str]) -> dict[str, object]:
    """Attributes from `name=value`. Raises ArgumentError."""
    found: dict[str, object] = {}
    for name, text in pairs(option, texts):
        if name in found:
            raise ArgumentError(f"{option}: {name} is given twice; a list is written {name}=[1, 2]")
        found[name] = moment(date(text[len(_DATE) :], option)) if text.startswith(_DATE) else value_of(text)
    return found


def add_criteria(parser: ArgumentParser) -> None:
    """Add the options that select items of the library."""
    parser.add_argument("--attr", metavar="CONDITION", action="append", help="items with such an attribute: 'rows>=100'")
    parser.add_argument(
        "--status", metavar="STATUS", action="append", help="ready, write, failed, uninitialized, trash, deleted"
    )
    parser.add_argument("--label", metavar="TEXT", help="items with this label")


def criteria_of(given: Namespace) -> Criteria:
    """What the options of `add_criteria` select. Raises ArgumentError."""
    wanted: Selection = {"label": given.label, "status": given.status}
    found = criteria(None, None, **wanted)
    if given.attr is None:
        return found
    return replace(found, condition=condition({"__and": [_condition_of(text) for text in given.attr]}))


def _condition_of(text: str) -> dict[str, object]:
    match = _CONDITION.fullmatch(text)
    if match is None or not match[1]:
        raise ArgumentError(f"--attr: {text!r} is not a condition; it looks like 'rows>=100', with >= <= > < = != or ~")
    value = match[3] if match[2] == "~" else value_of(match[3])
    return {match[1] + match[2]: value}
