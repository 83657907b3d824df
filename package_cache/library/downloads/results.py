"""The progress of a download, while somebody waits for it, and its result."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn, Self

from package_cache.errors import ArgumentError, DownloadError
from package_cache.library.downloads.descriptors import Headers
from package_cache.library.items import CacheItem

if TYPE_CHECKING:
    from tqdm import tqdm

OnProgress = bool | Callable[[int, int | None], object] | None
"""True or None for a bar, False for nothing, or a function of the bytes here and the bytes in all (None while unknown)."""

_DELAY = 0.5
"""Seconds that a download takes before a bar is shown."""


class DownloadProgress:
    """Shows how far a download named `label` is; used as a context manager. A bar is shown on a terminal only."""

    def __init__(self, wanted: OnProgress, label: str) -> None:
        if wanted is not None and not isinstance(wanted, bool) and not callable(wanted):
            raise ArgumentError(f"progress={wanted!r} is neither True, nor False, nor a function of two numbers")
        self._bar: tqdm[NoReturn] | None = None
        self._tell: Callable[[int, int | None], object] | None = wanted if callable(wanted) else None
        self._last: tuple[int, int | None] | None = None
        if not callable(wanted) and wanted is not False and sys.stderr is not None and sys.stderr.isatty():
            self._bar = _bar(label)

    def at(self, have: int, size: int | None) -> None:
        """So many bytes are here, of so many."""
        if (have, size) == self._last:
            return
        self._last = (have, size)
        if self._tell is not None:
            self._tell(have, size)
        elif self._bar is not None:
            self._bar.total = size
            self._bar.update(have - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def _bar(label: str) -> "tqdm[NoReturn]":
    from tqdm import tqdm  # noqa: PLC0415 - only for a bar

    return tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024, delay=_DELAY, leave=False)


Verdict = Literal["downloaded", "hit", "confirmed", "stale", "kept", "failed"]
"""How a result came about:

- downloaded: from a server, now
- hit: from the cache, no server was asked
- confirmed: from the cache, after a server said that it has not changed
- stale: from the cache as it was, since no server could be asked
- kept: the file was there already
- failed: not at all
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request: where, the status of the answer if there was one, and what was wrong with it."""

    url: str
    status: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What `DownloadManager.fetch` returns. `path` or `buffer` has the bytes, unless `ok` is False.

    `item` is set if they are in the cache.

    `status` is what the server answered, 200 for what it once answered so. `size` is in bytes, of the file as it is here;
    `sha256` in hex. `filename` is what the server, else the URL, calls it. `reason` says in words how `verdict` came about.
    """

    url: str
    verdict: Verdict
    reason: str
    path: str | None = None
    item: CacheItem | None = None
    buffer: io.BytesIO | None = None
    status: int | None = None
    size: int | None = None
    sha256: str | None = None
    headers: Headers = field(default_factory=Headers)
    filename: str | None = None
    resolved_url: str | None = None
    """Where redirects led to."""
    attempts: tuple[Attempt, ...] = ()
    """The requests that were made, by this call and in this process."""
    error: DownloadError | None = None

    @property
    def ok(self) -> bool:
        """Whether the bytes are there."""
        return self.error is None
