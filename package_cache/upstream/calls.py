"""Calls of the library: what a request consists of besides its URL, which backend makes it, and how.

A backend makes one exchange: it follows no redirect, decodes nothing, keeps no cookies and looks nothing up in the
environment. All that is decided above it, so that every backend does the same: redirects followed, conditions sent,
credentials kept to the host they are for. A backend is imported when it is asked for.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Protocol

from package_cache.config.parsing import nearest
from package_cache.errors import ConfigError, UpstreamError, UpstreamLie
from package_cache.model import Fields
from package_cache.rules.transfers.requests import becomes_get, condition_fields, end_to_end, redirect_target
from package_cache.rules.transfers.steps import Ask
from package_cache.rules.transfers.ways import Origin
from package_cache.upstream.answers import Exchange, HttpAnswer, open_through_redirects
from package_cache.upstream.reach import Reach

NAMES = ("builtin", "requests", "curl")
_ALIASES = {"urllib3": "builtin"}
"""The name of the builtin one when it was based on urllib3."""
_NEEDED = {"requests": "requests", "curl": "pycurl"}
"""What must be installed for one that is an extra."""
_CLASSES = {
    "builtin": ("client", "BuiltinBackend"),
    "requests": ("with_requests", "RequestsBackend"),
    "curl": ("with_curl", "CurlBackend"),
}
"""The module and the class of each."""
BLOCK = 1 << 20
"""Bytes that are read at a time at most."""


@dataclass(frozen=True, slots=True)
class Body:
    """The content of a request: bytes, and files that are read while they are sent."""

    content_type: str
    pieces: tuple[bytes | Path, ...]

    def open(self) -> "BodyReader":
        """A reader at the first byte. Raises UpstreamError if a file cannot be read."""
        readers: list[tuple[BinaryIO, int]] = []
        try:
            for piece in self.pieces:
                if isinstance(piece, bytes):
                    readers.append((io.BytesIO(piece), len(piece)))
                else:
                    file = piece.open("rb")
                    readers.append((file, os.fstat(file.fileno()).st_size))
        except OSError as error:
            for reader, _ in readers:
                reader.close()
            raise UpstreamError(f"was not asked: {error.filename} cannot be read: {error.strerror}") from error
        return BodyReader(readers)


class BodyReader:
    """A body as one file of known length, in the form that HTTP libraries expect."""

    def __init__(self, readers: list[tuple[BinaryIO, int]]) -> None:
        self._files = [file for file, _ in readers]
        self._waiting = readers[::-1]
        self.size = sum(size for _, size in readers)
        self._at = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        while block := self.read(BLOCK):
            yield block

    def tell(self) -> int:
        """How much was read."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes, `size` at most. Raises OSError if a file became shorter."""
        while self._waiting:
            file, left = self._waiting.pop()
            if left == 0:
                continue
            block = file.read(min(left, BLOCK, size if size >= 0 else BLOCK))
            if not block:
                raise OSError("a file became shorter while it was sent")
            self._waiting.append((file, left - len(block)))
            self._at += len(block)
            return block
        return b""

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


class Backend(Protocol):
    """Sends requests over HTTP. Safe for any number of threads."""

    def send(self, method: str, url: str, fields: Fields, body: Body | None) -> Exchange:
        """The answer to one request. Raises UpstreamError."""
        ...

    def close(self) -> None:
        """Close idle connections."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A call, but for its URL. `private` fields are sent to the origin of the URL beside them only.

    With `ranges`, only the missing part of a file may be asked for; else it is always the whole.
    """

    method: str = "GET"
    fields: Fields = ()
    private: tuple[tuple[str, Fields], ...] = ()
    body: Body | None = None
    ranges: bool = True


def check_backend(name: str) -> None:
    """Raise ConfigError if there is no backend of that name, or its extra is not installed. Imports nothing."""
    if _ALIASES.get(name, name) not in NAMES:
        near = nearest(str(name), NAMES)
        meant = f" Did you mean {near!r}?" if near else ""
        raise ConfigError([f"backend={name!r} is not known; known are {', '.join(NAMES)}.{meant}"])
    needed = _NEEDED.get(name)
    if needed is None or (needed in sys.modules and sys.modules[needed] is not None):
        return
    try:
        found = find_spec(needed)
    except ValueError:
        found = None
    if found is None:
        raise ConfigError([f"backend={name!r} needs {needed}: pip install 'package-cache[{name}]'"])


def backend_of(name: str) -> Callable[[Reach], Backend]:
    """The class of a backend of that name. Raises ConfigError, as `check_backend` does."""
    check_backend(name)
    name = _ALIASES.get(name, name)
    module, backend = _CLASSES[name]
    try:
        make: Callable[[Reach], Backend] = getattr(import_module(f"package_cache.upstream.{module}"), backend)
    except ImportError as error:
        raise ConfigError([f"backend={name!r} cannot be used: {error}"]) from error
    return make


def open_call(backend: Backend, call: Call, ask: Ask) -> HttpAnswer:
    """Make a call at `ask.url`, through redirects. Raises UpstreamError."""

    def send(method: str, url: str) -> Exchange:
        body = call.body if method == call.method else None
        return backend.send(method, url, _fields(call, ask, url, body), body)

    return open_through_redirects(call.method, ask, send, _lead, end_to_end)


def _lead(method: str, url: str, status: int, places: tuple[str, ...]) -> tuple[str, str]:
    try:
        return "GET" if becomes_get(status, method) else method, redirect_target(url, places)
    except ValueError as error:
        raise UpstreamLie(str(error)) from None


def _fields(call: Call, ask: Ask, url: str, body: Body | None) -> Fields:
    fields = list(call.fields)
    for home, own in call.private:
        if Origin.of(url) == Origin.of(home):
            fields += own
    if body is not None:
        fields.append(("Content-Type", body.content_type))
    if call.ranges or not ask.offset:
        fields += condition_fields(ask)
    return tuple(fields)
