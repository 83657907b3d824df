"""Header fields of requests and answers, as a user of the library gives and gets them."""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping

from package_cache.errors import DescriptorError
from package_cache.model import Fields

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_REFUSED = {
    **dict.fromkeys(("range", "if-range"), "a part of a file is not downloaded"),
    **dict.fromkeys(("if-none-match", "if-modified-since"), "refresh='check' asks whether a file has changed"),
    **dict.fromkeys(("content-length", "transfer-encoding", "connection", "expect"), "it follows from what is sent"),
}
_SECRET = re.compile(r"authori[sz]ation|cookie|token|secret|passw|credential|api-?key|-key$", re.IGNORECASE)


class Headers(Mapping[str, str]):
    """Fields of an answer, by name in any case. A field that was sent several times is one text, with commas."""

    def __init__(self, fields: Fields = ()) -> None:
        self._fields: dict[str, tuple[str, str]] = {}
        for name, value in fields:
            known = self._fields.get(name.lower())
            self._fields[name.lower()] = (known[0], f"{known[1]}, {value}") if known else (name, value)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


def is_secret(name: str) -> bool:
    """Whether a field of that name holds credentials, as far as the name tells."""
    return bool(_SECRET.search(name))


def headers_of(given: object, login: tuple[str, str] | None = None) -> Fields:
    """Fields to send, each once; with the user and password of a URL. Raises DescriptorError."""
    found = Headers(tuple(_checked(name, value) for name, value in _pairs(given)))
    if login is not None and "authorization" not in found:
        text = b64encode(":".join(login).encode("utf-8")).decode("ascii")
        return (*found.items(), ("Authorization", f"Basic {text}"))
    return tuple(found.items())


def _pairs(given: object) -> Iterable[tuple[object, object]]:
    if given is None:
        return
    if isinstance(given, Mapping):
        yield from given.items()
        return
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise DescriptorError(f"headers={given!r} is neither a mapping, nor pairs, nor a list of lines 'Name: value'")
    for one in given:
        if isinstance(one, str):
            name, colon, value = one.partition(":")
            if not colon:
                raise DescriptorError(f"the header {one!r} has no colon; 'Name: value' would be right")
            yield name, value
        elif isinstance(one, tuple | list) and len(one) == 2:
            yield one[0], one[1]
        else:
            raise DescriptorError(f"headers holds {one!r}, which is neither a pair nor a line 'Name: value'")


def _checked(name: object, value: object) -> tuple[str, str]:
    said, text = str(name).strip(), str(value).strip(" \t")
    if not _NAME.fullmatch(said):
        raise DescriptorError(f"{said!r} cannot be the name of a header")
    if not _VALUE.fullmatch(text):
        raise DescriptorError(f"the header {said} cannot have that value: it has control characters, or none of Latin-1")
    if said.lower() in _REFUSED:
        raise DescriptorError(f"the header {said} cannot be given: {_REFUSED[said.lower()]}")
    return said, text
