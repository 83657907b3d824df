"""What a thing to download, and a source that was opened for it, look like to the loop that downloads."""

from typing import Protocol

from package_cache.rules.transfers.steps import Ask, Head


class Answer(Protocol):
    """A source's answer: its head at once, its body block by block."""

    head: Head

    def read(self) -> bytes:
        """The next bytes as soon as there are any; empty at an end in good order. Raises UpstreamError."""
        ...

    def close(self) -> None:
        """Give the connection or the file back."""
        ...


class Offer(Protocol):
    """One thing to download: where it may be had, and how it is opened there. What else is asked for is bound in it."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs that may have it, best first."""
        ...

    def open(self, ask: Ask, method: str = "GET") -> Answer:
        """The answer to `ask`; close it afterwards. Raises UpstreamError."""
        ...

    def rival(self, answer: Answer, left: int | None) -> str | None:
        """Where the rest of an answer, of so many bytes, would come from a good deal faster, if that is known by now."""
        ...

    def failed(self, url: str, reason: str) -> None:
        """What was opened there came to nothing, and that is the source's fault."""
        ...

    def delivered(self, url: str) -> None:
        """What was opened there is what was asked for, whole."""
        ...
