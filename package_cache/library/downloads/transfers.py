"""Downloads into a file or into memory, and what all downloads of the library share: attempts, pauses, errors."""

import time
from dataclasses import replace
from typing import Protocol

from package_cache.engine.fills.destinations import BufferSink, FileSink
from package_cache.engine.fills.pump import Sink, steps
from package_cache.errors import DownloadError
from package_cache.library.downloads.offers import Offer
from package_cache.library.downloads.progress import Progress
from package_cache.model import Representation
from package_cache.rules.transfers.steps import Finish, GiveUp, NotModified
from package_cache.rules.transfers.transfer import Transfer
from package_cache.storage.parts.drafts import Draft

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


class Keeping(Sink, Protocol):
    """A sink that knows what it has."""

    @property
    def head(self) -> Representation | None:
        """The head of the bytes."""
        ...

    @property
    def have(self) -> int:
        """How many there are."""
        ...


def error_of(url: str, reason: str, answered: int | None, *, hopeless: bool) -> DownloadError:
    """The error of a download that came to nothing; `reason` tells what each URL said."""
    text = reason if reason.startswith(url) else f"{url}: {reason}"
    return DownloadError(text, url=url, status=answered, retryable=not hopeless)


def pause(number: int, retry_after: int | None) -> None:
    """Wait after the attempt of that number: longer each time, or as long as a server wants, within reason."""
    time.sleep(min(_FIRST_PAUSE * (1 << min(number - 1, 10)) if retry_after is None else retry_after, _LONGEST_PAUSE))


def receive(
    offer: Offer, sink: Keeping, held: Representation | None, retries: int, progress: Progress
) -> Finish | NotModified:
    """Download into a sink, in `retries` attempts at most. Raises DownloadError and StoreError."""
    number = 1
    while True:
        transfer = Transfer(offer.urls, sink.have, sink.head, held)
        end = _follow(transfer, offer, sink, progress)
        if not isinstance(end, GiveUp):
            return end
        error = error_of(offer.urls[0], end.reason, end.answered, hopeless=transfer.hopeless)
        if transfer.contradicted or transfer.hopeless:
            sink.reset()
        if number >= retries or not error.retryable:
            raise error
        pause(number, offer.retry_after)
        number += 1


def _follow(transfer: Transfer, offer: Offer, sink: Keeping, progress: Progress) -> Finish | NotModified | GiveUp:
    each = steps(transfer, offer, sink)
    try:
        while True:
            try:
                next(each)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            progress.at(sink.have, sink.head.size if sink.head else None)
    finally:
        each.close()


def into_memory(offer: Offer, retries: int, progress: Progress) -> BufferSink:
    """Download into memory. Raises DownloadError."""
    sink = BufferSink()
    receive(offer, sink, None, retries, progress)
    sink.buffer.seek(0)
    return sink


def into_file(
    offer: Offer, draft: Draft, held: Representation | None, retries: int, progress: Progress
) -> tuple[Representation, str] | None:
    """Download what is to take its place at a path, its head and SHA-256; None if a server says that `held` is what it has.

    Raises DownloadError and StoreError.
    """
    sink = FileSink(draft)
    end = receive(offer, sink, held, retries, progress)
    if isinstance(end, NotModified):
        return None
    digest = sink.digest()
    draft.finish()
    assert sink.head is not None  # of what came whole
    return replace(sink.head, size=end.size), digest
