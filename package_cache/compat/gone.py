"""What older packages had and this one does not: each such name raises an error that names its replacement."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from package_cache.errors import ArgumentError


class Gone(ArgumentError):
    """Something that an older package had is not available; the message names the replacement."""


class GoneAttribute(Gone, AttributeError):
    """An attribute that objects of an older package had is not available."""


def gone(what: str, instead: str) -> NoReturn:
    """Raise Gone."""
    raise Gone(f"{what} is not there any more: {instead}")


def missing(owner: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module: raises Gone for each of `names`, which have their replacements as values."""

    def getattr_of_module(name: str) -> Any:
        if name in names:  # not an AttributeError: `from ... import` would replace its message
            gone(f"{owner}.{name}", names[name])
        raise AttributeError(f"module {owner!r} has no attribute {name!r}")

    return getattr_of_module


class Vanished:
    """A descriptor for an attribute that objects of an older package had: reading it raises GoneAttribute."""

    def __init__(self, instead: str) -> None:
        self._instead = instead
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        raise GoneAttribute(f"{self._name} is not there any more: {self._instead}")
