"""What a request consists of besides its URL, how far it may reach, and what a backend is: that which sends it.

A backend makes one exchange: it follows no redirect, decodes nothing, keeps no cookies and looks nothing up in the
environment. All that is decided above it, so that every backend does the same.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError
from package_cache.model import Fields
from package_cache.rules.transfers.proxies import HTTP, of_environment, of_pairs

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
"""URLs of proxies by scheme, `all` for both; and `no`, what is reached without one, as `no_proxy` names it."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How servers are reached. Requests that share it share connections.

    `cafile` holds the certificates that are trusted, in the place of the system's. `proxies` None means those of the
    environment.
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    cafile: Path | None = None
    proxies: Proxies | None = None

    def proxy_for(self, url: str, speaks: frozenset[str] = HTTP) -> str | None:
        """The proxy through which a URL is reached, if there is one. Raises UpstreamError if that cannot be used."""
        proxies = of_environment(os.environ) if self.proxies is None else of_pairs(dict(self.proxies))
        try:
            return proxies.proxy_for(url, speaks)
        except ValueError as error:
            raise UpstreamError(f"was not asked: {error}") from None

    def trusted(self) -> tuple[str | None, str | None]:
        """The file and the directory of certificates to trust, as far as they are named here or by the system.

        What the system names is what SSL_CERT_FILE and SSL_CERT_DIR say, else what OpenSSL was built with.
        """
        if self.cafile is not None:
            return str(self.cafile), None
        import ssl  # noqa: PLC0415 - takes a while

        folder = os.environ.get("SSL_CERT_DIR")
        if folder and "SSL_CERT_FILE" not in os.environ:
            return None, folder
        return ssl.get_default_verify_paths().cafile, folder or None


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
