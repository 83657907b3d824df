"""A body of limited size."""

from package_cache.errors import UpstreamLie
from package_cache.upstream.answers import Answer


class Bounded:
    """An answer whose body, the bytes before it included, is not to make a file of more than `limit` bytes.

    One that would is not asked again, as if it had lied.
    """

    def __init__(self, answer: Answer, start: int, limit: int) -> None:
        self.head = answer.head
        self.close = answer.close
        self._read = answer.read
        self._size = start
        self._limit = limit
        size = answer.head.representation.size
        if size is not None and start + size > limit:
            raise UpstreamLie(f"has {start + size} bytes, and {limit} are allowed (max_size)")

    def read(self) -> bytes:
        """The next bytes. Raises UpstreamLie, as the constructor does."""
        data = self._read()
        self._size += len(data)
        if self._size > self._limit:
            raise UpstreamLie(f"sent more than the {self._limit} bytes that are allowed (max_size)")
        return data
