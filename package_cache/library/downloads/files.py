"""Tables in files: JSON, TOML, and YAML where PyYAML is installed; told apart by the suffix."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

from package_cache.errors import DescriptorError


def load_table(path: str | Path) -> dict[str, object]:
    """The mapping in a file. Raises DescriptorError if there is none."""
    file = Path(path)
    parse = _PARSERS.get(file.suffix.lower())
    if parse is None:
        raise DescriptorError(f"{file} cannot be read: its name ends with none of {', '.join(_PARSERS)}")
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DescriptorError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DescriptorError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DescriptorError(f"{file} holds no mapping of names to values")
    return {str(name): value for name, value in found.items()}


def _yaml(text: str) -> object:
    try:
        import yaml  # noqa: PLC0415 - not a dependency
    except ImportError:
        raise ValueError("YAML needs PyYAML, which is not installed; JSON and TOML need nothing") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_PARSERS: dict[str, Callable[[str], object]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": _yaml,
    ".yml": _yaml,
}
