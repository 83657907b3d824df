"""What a request consists of besides its URL, how far it may reach, and what a backend is: that which sends it.

A backend makes one exchange: it follows no redirect, decodes nothing, keeps no cookies and looks nothing up in the
environment. All that is decided above it, so that every backend does the same.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError
from package_cache.model import Fields

BLOCK = 1 << 20
"""Bytes that are read at a time at most."""


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent along: bytes, and files that are read while they are sent."""

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
    """A body as one file of known length, in the shape that HTTP libraries expect one in."""

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


Proxies = tuple[tuple[str, str], ...]
"""URLs of proxies by scheme, `all` for both; and `no`, hosts that are reached without one."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How servers are reached. Requests that share it share connections.

    `cafile` holds the certificates that are trusted, in the place of the system's. `proxies` None means those of the
    environment.
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    cafile: Path | None = None
    proxies: Proxies | None = None

    def proxy_for(self, url: str) -> str | None:
        """The proxy through which a URL is reached, if there is one."""
        parts = urlsplit(url)
        if self.proxies is None:
            from urllib.request import getproxies_environment, proxy_bypass  # noqa: PLC0415 - takes a while

            proxies = getproxies_environment()
            if proxy_bypass(parts.netloc.rpartition("@")[2]):
                return None
        else:
            proxies = dict(self.proxies)
            if _is_listed(parts.hostname or "", proxies.get("no", "")):
                return None
        found = proxies.get(parts.scheme) or proxies.get("all")
        return found if not found or "://" in found else f"http://{found}"

    def trusted(self) -> Path | None:
        """The file of certificates to trust, if one is named here or by the system."""
        return self.cafile or _system_cafile()


def _is_listed(host: str, hosts: str) -> bool:
    names = [name.strip().lstrip(".") for name in hosts.lower().split(",")]
    return any(name == "*" or (name and (host == name or host.endswith(f".{name}"))) for name in names)


@lru_cache(maxsize=1)
def _system_cafile() -> Path | None:
    import ssl  # noqa: PLC0415 - takes a while

    found = ssl.get_default_verify_paths().cafile
    return Path(found) if found else None


class Exchange(Protocol):
    """An answer on the wire: status and fields at once, the body block by block.

    `marked` says that the body's end is told by its framing, and does not follow from a length.
    """

    status: int
    fields: Fields
    marked: bool

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        ...

    def close(self) -> None:
        """Give the connection back if it can be used again, else drop it."""
        ...


class Backend(Protocol):
    """Sends requests over HTTP. Safe for any number of threads."""

    def send(self, method: str, url: str, fields: Fields, body: Body | None) -> Exchange:
        """The answer to one request. Raises UpstreamError."""
        ...

    def close(self) -> None:
        """Close idle connections."""
        ...
