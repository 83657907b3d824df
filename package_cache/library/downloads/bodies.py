"""Bodies of requests: forms, JSON, and several parts with files among them."""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from package_cache.errors import DescriptorError
from package_cache.upstream.calls import Body

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class File:
    """A file to be sent in a multipart request. A text is never taken for the name of a file.

    The server is told `name`, by default the last part of `path`.
    """

    path: Path | str
    name: str | None = None
    content_type: str = "application/octet-stream"

    @property
    def said_name(self) -> str:
        """The name that the server is told."""
        return self.name or Path(self.path).name


Part = str | File


def pairs_of(values: object, what: str) -> Pairs:
    """Names and values as text, from a mapping or pairs. A list gives a name several times, None leaves it out.

    Raises DescriptorError.
    """
    if isinstance(values, Mapping):
        values = values.items()
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DescriptorError(f"{what}={values!r} is neither a mapping nor pairs of name and value")
    found: list[tuple[str, str]] = []
    for pair in values:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DescriptorError(f"{what} holds {pair!r}, which is not a pair of name and value")
        name, value = pair
        several = value if isinstance(value, list | tuple) else [value]
        found += [(_text(str(name), what), _text(one, f"{what}[{name!r}]")) for one in several if one is not None]
    return tuple(found)


def _text(value: object, what: str) -> str:
    if isinstance(value, str | int | float):
        return unicode_text(str(value), what)
    raise DescriptorError(f"{what} is {value!r}: it can be a text, a number, or a list of them")


def unicode_text(value: str, what: str) -> str:
    """A text that can be sent. Raises DescriptorError."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DescriptorError(f"{what} is {value[:100]!r}: that is not valid text (a lone surrogate)") from None
    return value


def parts_of(values: object) -> tuple[tuple[str, Part], ...]:
    """The fields and files of a multipart request. Raises DescriptorError."""
    pairs = list(values.items()) if isinstance(values, Mapping) else values
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise DescriptorError(f"multipart={values!r} is neither a mapping nor pairs of name and value")
    found: list[tuple[str, Part]] = []
    for name, value in pairs:
        if isinstance(value, Path):
            raise DescriptorError(f"multipart[{name!r}] is a path: File({str(value)!r}) sends the file of that name")
        if isinstance(value, Mapping) and "file" in value:
            value = _file_of(value)  # noqa: PLW2901
        found.append(
            (_text(str(name), "multipart"), value if isinstance(value, File) else _text(value, f"multipart[{name!r}]"))
        )
    return tuple(found)


def _file_of(value: Mapping[str, object]) -> File:
    """A file as a JSON or TOML file describes one."""
    try:
        return File(**{"path" if name == "file" else name: str(one) for name, one in value.items()})
    except TypeError:
        raise DescriptorError(f"multipart holds {dict(value)!r}; known are file, name and content_type") from None


def form(pairs: Pairs) -> Body:
    """A form, as a browser sends it."""
    return Body("application/x-www-form-urlencoded", (urlencode(pairs).encode("ascii"),))


def json_body(value: object) -> Body:
    """A JSON document."""
    return Body("application/json", (json_text(value).encode("utf-8"),))


def json_text(value: object) -> str:
    """The JSON of a value. Raises DescriptorError for what JSON cannot say."""
    try:
        return unicode_text(json.dumps(value, ensure_ascii=False, allow_nan=False), "json")
    except DescriptorError:
        raise
    except (TypeError, ValueError) as error:
        raise DescriptorError(f"json={value!r} cannot be sent as JSON: {error}") from None


def multipart_body(parts: Iterable[tuple[str, Part]]) -> Body:
    """Fields and files (RFC 7578)."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes | Path] = []
    for name, value in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_escaped(name)}"'
        if isinstance(value, File):
            head += f'; filename="{_escaped(value.said_name)}"\r\nContent-Type: {value.content_type}'
        pieces.append(f"{head}\r\n\r\n".encode("utf-8", "surrogateescape"))  # the name of a file may be no text
        pieces.append(Path(value.path) if isinstance(value, File) else value.encode())
        pieces.append(b"\r\n")
    pieces.append(f"--{boundary}--\r\n".encode())
    return Body(f"multipart/form-data; boundary={boundary}", tuple(pieces))


def _escaped(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
