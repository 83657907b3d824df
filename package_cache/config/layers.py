"""Settings from all layers: defaults < configuration file < environment < command line -> one frozen `Config`.

Finds and reads the configuration file and the secrets that it names. Decides which layer wins, and reports all problems at
once: each with the setting's name, where it came from and what would be right.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from package_cache.config.parsing import hint, nearest
from package_cache.config.repositories import ABOVE, REPOSITORY_KEYS, Secret, differing, read_repositories
from package_cache.config.settings import FILE, NAMES, PREFIX, SETTINGS, TIMEOUTS, Config, Setting, Timeouts, setting_of
from package_cache.errors import ConfigError
from package_cache.model import Repository

COMMAND_LINE = "the command line"
ENVIRONMENT = "the environment"
_KEYS = {setting.key: setting for setting in SETTINGS.values()}
_TIMEOUT_KEYS = {name.removesuffix("_timeout"): setting for name, setting in TIMEOUTS.items()}
_TABLES = ("timeouts", "repository")
_BELOW = {key: f"{key} is written below [[repository]]" for key in REPOSITORY_KEYS} | {
    key: f"{limit} is written below [timeouts]" for limit in _TIMEOUT_KEYS for key in (limit, f"{limit}-timeout")
}
_ABOVE = {key: ABOVE.format(key) for key in _KEYS}
_LARGEST = 10**100
"""From here on Python does not convert a number to a string."""
NAME = "config.toml"
SYSTEM = Path("/etc/package-cache") / NAME
_LONGEST_SECRET = 65536


@dataclass(frozen=True, slots=True)
class Layered:
    """The settings; and for each that is not a default, by name, its string and its layer. `file` is what was read."""

    config: Config
    origins: Mapping[str, tuple[str, str]]
    file: str | None = None


class ConfigFile(NamedTuple):
    """What a configuration file says: settings by name, as strings, and repositories. `where` names the file."""

    where: str
    settings: Mapping[str, str]
    repositories: tuple[Repository, ...]
    problems: tuple[str, ...]


def layered(environment: Mapping[str, str], options: Mapping[str, str], file: ConfigFile | None = None) -> Layered:
    """The settings from all layers. Values are strings, as a person wrote them.

    Raises `ConfigError` with every problem in any layer.
    """
    where, in_file, repositories, wrong = ("", {}, (), ()) if file is None else file
    problems = list(wrong)
    values: dict[str, Any] = {}
    origins: dict[str, tuple[str, str]] = {}
    for layer, settings in (
        (where, in_file),
        (ENVIRONMENT, _of_environment(environment, problems)),
        (COMMAND_LINE, options),
    ):
        one = [_place(layer, name) for name in ("host", "port") if name in settings]
        if one:
            values.pop("listen", None)
            origins.pop("listen", None)
        if one and "listen" in settings:
            problems.append(f"{_place(layer, 'listen')}: takes the place of {' and '.join(one)}; give one or the other")
        for name, text in settings.items():
            try:
                values[name] = setting_of(name).parse(text)
                origins[name] = text, layer
            except ValueError as error:
                problems.append(f"{_place(layer, name)}: {error}")
    if problems:
        raise ConfigError(problems)
    limits = {name.removesuffix("_timeout"): values.pop(name) for name in TIMEOUTS if name in values}
    config = Config(**values, repository=repositories, timeouts=Timeouts(**limits))
    if config.source and (told := differing(config.repositories)):
        raise ConfigError(told)
    return Layered(config, origins, where or None)


def _place(layer: str, name: str) -> str:
    """A setting as it is written in its layer."""
    setting = setting_of(name)
    if layer == COMMAND_LINE:
        return setting.option
    if layer == ENVIRONMENT:
        return setting.variable
    key = f"timeouts: {name.removesuffix('_timeout')}" if name in TIMEOUTS else setting.key
    return f"{layer}: {key}"


def _of_environment(environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in NAMES:
            found[name] = text
        elif name != FILE:
            near = nearest(name, NAMES)
            told = f"the nearest is {PREFIX}{near.upper()}" if near else "package-cache --help lists them"
            problems.append(f"{variable}: there is no such setting; {told}")
    return found


def read_document(where: str, text: str, secret: Secret) -> ConfigFile:
    """What the text of a configuration file says, and all that is wrong with it."""
    import tomllib  # noqa: PLC0415 - a server that gets all its options on the command line does without

    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # for numbers of thousands of digits, and for nested brackets
        return ConfigFile(where, {}, (), (f"{where}: {error}",))
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
    return ConfigFile(where, settings, repositories, tuple(f"{where}: {problem}" for problem in (*problems, *wrong)))


def _texts(
    table: Mapping[str, Any],
    known: Mapping[str, Setting],
    tables: Iterable[str],
    elsewhere: Mapping[str, str],
    problems: list[str],
) -> dict[str, str]:
    """The settings in a table, as the strings that a person would write on a command line.

    `elsewhere` says, for keys that belong to another place of the file, which place that is.
    """
    found = {}
    for key, value in table.items():
        setting = known.get(key)
        if setting is None:
            told = hint(key, (*known, *tables), f"known are {', '.join((*known, *tables))}", elsewhere.get(key))
            problems.append(f"{key}: there is no such setting; {told}")
        elif (text := _text(setting, value)) is not None:
            found[setting.name] = text
        elif setting.several:
            problems.append(f'{key}: it is not a list of strings without spaces, such as ["..."]')
        else:
            problems.append(f"{key}: it is not {'true or false' if _is_switch(setting) else 'a string or a number'}")
    return found


def _is_switch(setting: Setting) -> bool:
    return not setting.looks and setting.name != "verbose"


def _text(setting: Setting, value: object) -> str | None:
    """A value as a string; None if it has the wrong type."""
    match value:
        case int() if abs(value) >= _LARGEST:
            return None
        case bool():
            return ("no", "yes")[value] if _is_switch(setting) else None
        case str() | int() | float() if not setting.several or isinstance(value, str):
            return str(value)
        case list() if setting.several and all(isinstance(one, str) and one.split() == [one] for one in value):
            return " ".join(value)
        case _:
            return None


def places() -> tuple[Path, ...]:
    """Where the configuration file is looked for if none is named; the first one that exists counts."""
    try:
        return (platformdirs.user_config_path("package-cache") / NAME, SYSTEM)
    except RuntimeError:  # an unknown user, without HOME
        return (SYSTEM,)


def configured(environment: Mapping[str, str], options: Mapping[str, str], *, secret: bool = True) -> Layered:
    """The settings of a process: `options` is the command line, as strings by name. Raises ConfigError.

    Without `secret`, what this user may not read is left out: the credentials of sources that are not going to be asked,
    and another user's configuration file, unless it is named.
    """
    settings = {name: text for name, text in options.items() if name != FILE}
    return layered(environment, settings, _file(environment, options, secret=secret))


def _file(environment: Mapping[str, str], options: Mapping[str, str], *, secret: bool = True) -> ConfigFile | None:
    """The configuration file that counts. Raises ConfigError if it cannot be read."""
    named = options.get(FILE) or environment.get(f"{PREFIX}{FILE.upper()}")
    path = Path(named) if named else next((path for path in places() if os.path.lexists(path)), None)
    if path is None or (not secret and not named and not os.access(path, os.R_OK)):
        return None
    return read(path, environment, secret=secret)


def names_sources(environment: Mapping[str, str], options: Mapping[str, str]) -> bool:
    """Whether any layer names sources, or seems meant to; asked when the settings are wrong."""
    if (options.get("source") or environment.get(f"{PREFIX}SOURCE") or "").strip():
        return True
    try:
        file = _file(environment, options)
    except ConfigError:
        return True
    return file is not None and bool(file.repositories or file.problems or file.settings.get("source"))


def read(path: Path, environment: Mapping[str, str], *, secret: bool = True) -> ConfigFile:
    """What a configuration file says, and what is wrong with it. Without `secret`, it may lack secrets that cannot be read.

    Raises ConfigError if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8").removeprefix("\ufeff")  # with which some editors begin a file
    except OSError as error:
        raise ConfigError([f"the configuration {path} cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"the configuration {path} is not UTF-8: byte {error.start} is none of it"]) from error
    return read_document(str(path), text, secrets(path.parent, environment, needed=secret))


def secrets(folder: Path, environment: Mapping[str, str], *, needed: bool = True) -> Secret:
    """A reader of secrets: from files, relative to a folder, without the final end of line; and from variables."""

    def secret(kind: str, name: str) -> str | None:
        if kind == "env":
            found = environment.get(name) or None
            problem = f"the variable {name} is not set"
        else:
            try:
                with (folder / name).open("rb") as file:
                    return file.read(_LONGEST_SECRET).decode("ascii", "replace").rstrip("\r\n")
            except OSError as error:
                found, problem = None, f"{folder / name} cannot be read: {error.strerror}"
        if found is None and needed:
            raise ValueError(problem)
        return found

    return secret
