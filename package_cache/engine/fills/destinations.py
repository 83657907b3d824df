"""Where the bytes of a download go that is not for the store: a file of the user's, or memory."""

import hashlib
import io

from package_cache.engine.fills.hashes import Hashes
from package_cache.model import Representation
from package_cache.rules.http.digests import Digest, hasher
from package_cache.storage.parts.drafts import Draft


class FileSink:
    """The draft of a file, hashed on the way."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._hashes = Hashes()

    @property
    def head(self) -> Representation | None:
        """The head of the bytes."""
        return self._draft.head

    @property
    def have(self) -> int:
        """Bytes that are here."""
        return self._draft.have

    def begin(self, head: Representation) -> None:
        """A source vouches for `head`. Raises StoreError."""
        self._draft.begin(head)

    def put(self, at: int, data: bytes) -> bool:
        """Compare and append; False if a byte differs from what is kept. Raises StoreError."""
        part = self._draft.part
        assert part is not None  # a body is received only after `begin`
        before = part.size
        if not part.put(at, data):
            return False
        if part.size > before:
            self._hashes.take(part, before, memoryview(data)[before - at :])
        return True

    def reset(self) -> None:
        """Drop what is here."""
        self._draft.reset()
        self._hashes = Hashes()

    def beat(self) -> None:
        """Nobody else reads it."""

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """Hash on the way what will be compared at the end."""
        self._hashes.expect(digests)

    def agrees(self, digests: tuple[Digest, ...]) -> bool:
        """Whether the file is what these digests are of."""
        assert self._draft.part is not None
        return self._hashes.agree(self._draft.part, digests)

    def objection(self) -> None:
        """Nothing is asked of the bytes."""

    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        assert self._draft.part is not None
        return self._hashes.digest(self._draft.part)


class BufferSink:
    """Memory."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.head: Representation | None = None
        self.have = 0

    def begin(self, head: Representation) -> None:
        """A source vouches for `head`."""
        self.head = head

    def put(self, at: int, data: bytes) -> bool:
        """Compare and append; False if a byte differs from what is kept."""
        known = min(len(data), self.have - at)
        if known > 0:
            with self.buffer.getbuffer() as kept:
                if kept[at : at + known] != data[:known]:
                    return False
        self.have += self.buffer.write(data[max(known, 0) :])
        return True

    def reset(self) -> None:
        """Drop what is here."""
        self.buffer = io.BytesIO()
        self.have = 0

    def beat(self) -> None:
        """Nobody else reads it."""

    def expect(self, digests: tuple[Digest, ...]) -> None:
        """All of it is here at the end."""

    def agrees(self, digests: tuple[Digest, ...]) -> bool:
        """Whether the bytes are what these digests are of."""
        return all(self._hash(digest.algorithm).digest() == digest.value for digest in digests)

    def objection(self) -> None:
        """Nothing is asked of the bytes."""

    def digest(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return self._hash("sha256").hexdigest()

    def _hash(self, algorithm: str) -> "hashlib._Hash":
        with self.buffer.getbuffer() as kept:
            value = hasher(algorithm)
            value.update(kept)
        return value
