"""How a command is told what it is about: a file of the proxy, as a client would ask for it, or items of the library."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Collection
from dataclasses import dataclass

from package_cache.cli import paths
from package_cache.cli.holdings import Holdings
from package_cache.cli.paths import CannotDo, Named, add_accept
from package_cache.compose import routes_of
from package_cache.config import Config
from package_cache.errors import ArgumentError
from package_cache.model import Entry, Status
from package_cache.rules.library.searching import Criteria
from package_cache.storage.items.rows import ItemRow

PROXY, ITEM = "proxy", "item"
_ID = re.compile(r"([0-9a-f]{8,64})(?:-([1-9]\d{0,18}))?")
_PATTERN = re.compile(r"[*?[]")

NAMES = """\
NAME is what a client of the proxy asks for (/file, or a URL of which only path and query count), or items of the library:
their uri, the URL they were downloaded from, an ID as ls shows it (without -VERSION: all versions), or a pattern for one
of these with * ? [...]. Quote it for the shell."""


def pattern_of(text: str) -> str | None:
    """The pattern that a text is, or stands for, if it is an ID; else None."""
    match = _ID.fullmatch(text)
    if match is not None:
        return f"{match[1]}*-{match[2] or '*'}"
    return text if _PATTERN.search(text) else None


def sound(what: str, text: str) -> str:
    """An argument, which is text. Raises ArgumentError if it has bytes that are none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{what}: {text!r} is no text: it has bytes that are not UTF-8") from None
    return text


def glob_of(text: str) -> str:
    """The pattern that GLOB is: a folder means all that is below it. Raises ArgumentError."""
    return sound("GLOB", f"{text}*" if text.endswith("/") else text)


def add_name(it: ArgumentParser, *, optional: bool = False) -> None:
    """Add NAME, --accept and --kind."""
    it.add_argument(
        "name", metavar="NAME", nargs="?" if optional else None, help="/file, URL, or uri, ID, pattern of items"
    )
    add_accept(it)
    add_kind(it)


def add_names(it: ArgumentParser) -> None:
    """Add NAME..., --accept and --kind."""
    it.add_argument("name", metavar="NAME", nargs="+", help="/file, URL, uri or ID of items, or a pattern (repeat it)")
    add_accept(it)
    add_kind(it)


def add_kind(it: ArgumentParser) -> None:
    """Add --kind."""
    it.add_argument("--kind", choices=(PROXY, ITEM), help="only files of the proxy, or only items of the library")


@dataclass(frozen=True, slots=True)
class Name:
    """What NAME, --accept and --kind name. `file` is None where no client of the proxy would ask so."""

    text: str
    file: Named | None
    kind: str | None

    def entries(self, held: Holdings, status: Status | None = None, version: int | None = None) -> list[Entry]:
        """The versions of the file of the proxy, newest first: all, or those of a status, or that version."""
        found = held.inventory.versions(self.file.key) if self.file is not None else []
        return [one for one in found if status in (None, one.status) and version in (None, one.version)]

    def matching(self, held: Holdings, status: Status, version: int | None = None) -> list[Entry]:
        """The versions of the file of the proxy in that status; where there is none, those of all whose paths match."""
        found = self.entries(held, status, version)
        if found or self.kind == ITEM or not self.text.startswith("/") or not _PATTERN.search(self.text):
            return found
        inventory = held.inventory
        likes = inventory.trash(self.text) if status is Status.TRASH else inventory.entries(self.text)
        versions = [one for key in dict.fromkeys(like.key for like in likes) for one in inventory.versions(key)]
        return [one for one in versions if one.status is status and version in (None, one.version)]

    def items(self, held: Holdings, status: Collection[Status] | None = None, version: int | None = None) -> list[ItemRow]:
        """The items, in the order in which they were made: all, or those of a status, or that version."""
        if self.kind == PROXY:
            return []
        found = held.core.items.find(Criteria(called=self.text, include_removed=True))
        if not found and (like := pattern_of(self.text)) is not None:
            found = held.core.items.find(Criteria(called_like=like, include_removed=True))
        return [one for one in found if (status is None or one.status in status) and version in (None, one.version)]

    def check_kind(self, has_file: object, has_items: object) -> None:
        """Raise CannotDo if a change would be of both kinds, and nobody said that."""
        if has_file and has_items and self.file is not None:
            raise CannotDo(
                f"{self.text} is {self.file.key} of the proxy and the name of items of the library;"
                f" say which: --kind {PROXY} or --kind {ITEM}"
            )

    def nothing(self, held: Holdings, what: str = "is stored") -> CannotDo:
        """The error that says there is nothing of that name."""
        if self.file is None or _PATTERN.search(self.text):
            return CannotDo(f"nothing {what} for {self.text}")
        return paths.nothing(self.file, held.inventory, what)


def name_of(given: Namespace, config: Config) -> Name:
    """What NAME, --accept and --kind name. Raises ArgumentError."""
    return _named(given.name, given, config)


def names_of(given: Namespace, config: Config) -> list[Name]:
    """What each NAME names, with --accept and --kind. Raises ArgumentError."""
    return [_named(text, given, config) for text in dict.fromkeys(given.name)]


def _named(text: str, given: Namespace, config: Config) -> Name:
    text = sound("NAME", text)
    if not text:
        raise ArgumentError("NAME is empty; ls lists the names")
    if given.kind == ITEM:
        return Name(text, None, ITEM)
    try:
        return Name(text, paths.parse(routes_of(config), text, given.accept), given.kind)
    except ArgumentError:
        if text.startswith("/") or given.kind == PROXY:
            raise
        return Name(text, None, None)
