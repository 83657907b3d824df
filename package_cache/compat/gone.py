"""What the older packages had, and is not here: each name raises, and says what is there for it."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from package_cache.errors import ArgumentError


class Gone(ArgumentError):
    """Something that an older package had cannot be kept: what is there for it."""


class GoneAttribute(Gone, AttributeError):
    """An attribute that objects of an older package had cannot be kept."""


def gone(what: str, instead: str) -> NoReturn:
    """Raise Gone."""
    raise Gone(f"{what} is not there any more: {instead}")


def missing(owner: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module that had names which are gone; `names` are these, each with what is there for it."""

    def getattr_of_module(name: str) -> Any:
        if name in names:  # no AttributeError: `from ... import` would not pass its words on
            gone(f"{owner}.{name}", names[name])
        raise AttributeError(f"module {owner!r} has no attribute {name!r}")

    return getattr_of_module


class Vanished:
    """An attribute that objects of an older package had."""

    def __init__(self, instead: str) -> None:
        self._instead = instead
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        raise GoneAttribute(f"{self._name} is not there any more: {self._instead}")
