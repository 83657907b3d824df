"""What an opened source looks like to the loop that downloads, whatever its scheme."""

from typing import Protocol

from package_cache.rules.steps import Head


class Answer(Protocol):
    """A source's answer: its head at once, its body block by block."""

    head: Head

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        ...

    def close(self) -> None:
        """Give the connection or the file back."""
        ...
