"""What comes of a download."""

import io
from dataclasses import dataclass, field
from typing import Literal

from package_cache.errors import DownloadError
from package_cache.library.downloads.headers import Headers
from package_cache.library.items import CacheItem

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
