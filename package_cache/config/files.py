"""Finds and reads the file of configuration, and the secrets that it names."""

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from package_cache.config.document import Document, read_document
from package_cache.config.layers import Layered, layered
from package_cache.config.repositories import Secret
from package_cache.config.settings import FILE, PREFIX
from package_cache.errors import ConfigError

NAME = "config.toml"
SYSTEM = Path("/etc/package-cache") / NAME
_LONGEST_SECRET = 65536


def places() -> tuple[Path, ...]:
    """Where a file is looked for that is not named; the first that is there counts."""
    try:
        return (platformdirs.user_config_path("package-cache") / NAME, SYSTEM)
    except RuntimeError:  # a user that nobody knows, without HOME
        return (SYSTEM,)


def _named(environment: Mapping[str, str], options: Mapping[str, str]) -> str | None:
    """The file that the command line, or else the environment, names."""
    return options.get(FILE) or environment.get(f"{PREFIX}{FILE.upper()}") or None


def configured(environment: Mapping[str, str], options: Mapping[str, str], *, secret: bool = True) -> Layered:
    """The settings of a process: `options` is the command line, as text by name. Raises ConfigError.

    Without `secret`, what this user may not read is left out: the credentials of sources that are not going to be asked,
    and a file that is another user's business, unless it is named.
    """
    settings = {name: text for name, text in options.items() if name != FILE}
    return layered(environment, settings, _document(environment, options, secret=secret))


def _document(environment: Mapping[str, str], options: Mapping[str, str], *, secret: bool = True) -> Document | None:
    """The file that counts. Raises ConfigError if it cannot be read."""
    file = _named(environment, options)
    path = Path(file) if file else _first(places())
    if path is None or (not secret and not file and not os.access(path, os.R_OK)):
        return None
    return read(path, environment, secret=secret)


def names_sources(environment: Mapping[str, str], options: Mapping[str, str]) -> bool:
    """Whether any layer says where to fetch from, or may be meant to: for settings that are not right."""
    if (options.get("source") or environment.get(f"{PREFIX}SOURCE") or "").strip():
        return True
    try:
        document = _document(environment, options)
    except ConfigError:
        return True
    return document is not None and bool(document.repositories or document.problems or document.settings.get("source"))


def _first(paths: tuple[Path, ...]) -> Path | None:
    return next((path for path in paths if os.path.lexists(path)), None)


def read(path: Path, environment: Mapping[str, str], *, secret: bool = True) -> Document:
    """What a file says, with its secrets or without those that cannot be had; what is wrong in it, too.

    Raises ConfigError if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8").removeprefix("\ufeff")  # with which some editors begin a file
    except OSError as error:
        raise ConfigError([f"the configuration {path} cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"the configuration {path} is not UTF-8: byte {error.start} is none of it"]) from error
    needed = secrets(path.parent, environment)
    return read_document(str(path), text, needed if secret else _if_had(needed))


def _if_had(needed: Secret) -> Secret:
    def secret(kind: str, name: str) -> str | None:
        try:
            return needed(kind, name)
        except ValueError:
            return None

    return secret


def secrets(folder: Path, environment: Mapping[str, str]) -> Secret:
    """What reads secrets: files, relative to a folder, without the last end of line; and variables."""

    def secret(kind: str, name: str) -> str:
        if kind == "env":
            if not environment.get(name):
                raise ValueError(f"the variable {name} is not set")
            return environment[name]
        try:
            with (folder / name).open("rb") as file:
                return file.read(_LONGEST_SECRET).decode("ascii", "replace").rstrip("\r\n")
        except OSError as error:
            raise ValueError(f"{folder / name} cannot be read: {error.strerror}") from None

    return secret
