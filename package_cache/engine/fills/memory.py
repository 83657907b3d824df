"""Where the bytes of a small file go that the event loop downloads: into memory, until they are stored."""

import hashlib

from package_cache.engine.fills.sinks import Examining
from package_cache.model import Representation
from package_cache.rules.http.digests import Digest


class MemorySink:
    """Keeps the bytes of one file; see `pump.Sink`. Never waits."""

    def __init__(self, examined: Examining) -> None:
        self._examined = examined
        self._kept = bytearray()
        self._head: Representation | None = None
        self.head: Representation | None = None
        """That of the whole file, once that was examined."""

    @property
    def size(self) -> int:
        """Bytes kept."""
        return len(self._kept)

    @property
    def data(self) -> bytes:
        """The bytes kept."""
        return bytes(self._kept)

    def begin(self, head: Representation) -> None:
        """A source vouches for `head`."""
        self._head = head

    def put(self, at: int, data: bytes) -> bool:
        """Compare and append; False if a byte differs from what is kept."""
        known = self._kept[at : at + len(data)]
        if not data.startswith(known):
            return False
        self._kept += data[len(known) :]
        return True

    def reset(self) -> None:
        """Forget every byte."""
        self._kept.clear()
        self._head = None

    def beat(self) -> None:
        """Who reads elsewhere is shown by `Exchanges` that the download goes on."""

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Nothing is hashed on the way."""

    def agrees(self, digests: tuple[Digest, ...]) -> bool:
        """Whether the bytes are what these digests are of."""
        return all(one.is_of(self.data) for one in digests)

    def objection(self) -> str | None:
        """Why the bytes, which are a whole file, are not to be stored all the same; None if they are."""
        assert self._head is not None  # of what came whole
        try:
            self.head = self._examined(self._head.of_size(self.size), lambda: self.data)
        except ValueError as error:
            return f"sent what is not to be stored: {error}"
        return None

    def digest(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return hashlib.sha256(self._kept).hexdigest()
