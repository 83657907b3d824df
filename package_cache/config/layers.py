"""Settings from all layers: defaults < file < environment < command line -> one frozen `Config`.

Decides which layer wins, and how what is wrong is reported: all of it at once, each with its name, where it came from and
what would be right. Reads nothing itself: the caller hands over the layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from package_cache.config.document import Document
from package_cache.config.nearest import nearest
from package_cache.config.repositories import differing
from package_cache.config.settings import FILE, NAMES, PREFIX, TIMEOUTS, setting_of
from package_cache.config.values import Config, Timeouts
from package_cache.errors import ConfigError

COMMAND_LINE = "the command line"
ENVIRONMENT = "the environment"


@dataclass(frozen=True, slots=True)
class Layered:
    """The settings, and from which layer each is that is not a default: by name, as text and layer. `file` was read."""

    config: Config
    origins: Mapping[str, tuple[str, str]]
    file: str | None = None


def layered(environment: Mapping[str, str], options: Mapping[str, str], document: Document | None = None) -> Layered:
    """The settings from all layers. Values are text, as a person wrote it.

    Raises `ConfigError` with every problem in any layer.
    """
    problems: list[str] = list(document.problems) if document else []
    values: dict[str, Any] = {}
    origins: dict[str, tuple[str, str]] = {}
    file = {} if document is None else document.settings
    where = "" if document is None else document.where
    for layer, settings in (
        (where, file),
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
    repositories = document.repositories if document else ()
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
