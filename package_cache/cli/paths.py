"""Files of the proxy, named as a client would ask for them."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from package_cache.errors import ArgumentError, PackageCacheError, RequestError
from package_cache.model import Key, Target
from package_cache.rules.http.targets import key_of
from package_cache.rules.repositories.routes import Routes
from package_cache.storage.inventory import Inventory


class CannotDo(PackageCacheError):
    """What a command was told to do cannot be done."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a path or URL and --accept name."""

    target: Target
    accept: str | None
    key: Key


def folder(text: str) -> Path:
    """The directory that DIR names. Raises ArgumentError for no name at all, which a variable that is not set leaves."""
    if not text:
        raise ArgumentError("DIR is empty; . is this directory")
    return Path(text)


def add_accept(it: ArgumentParser) -> None:
    """Add --accept."""
    it.add_argument("--accept", metavar="TYPES", help="the Accept field of the client, for documents that depend on it")


def parse(routes: Routes, text: str, accept: str | None) -> Named:
    """What a client asks for with this path or URL, and this Accept field. Raises ArgumentError."""
    try:
        target = routes.named(text)
    except RequestError as error:
        raise ArgumentError(f"{text!r} is not what a client would ask for: {error}") from error
    accept = routes.policy(target).accept_of(target, accept)
    return Named(target, accept, key_of(target, accept))


def nothing(name: Named, inventory: Inventory, what: str = "is stored") -> CannotDo:
    """The error that says there is nothing of that name, and under which --accept there is."""
    return CannotDo(f"nothing {what} for {name.key}{told(variants(name, inventory))}")


def variants(name: Named, inventory: Inventory) -> list[str]:
    """The other Accept fields under which something is stored for the same path."""
    keys = inventory.variants(key_of(name.target))
    return [key.partition("#accept=")[2] for key in keys if key != name.key]


def told(variants: list[str]) -> str:
    """What is said of them behind the news that there is nothing."""
    return f"; there is with --accept {' or '.join(map(repr, variants))}" if variants else ""
