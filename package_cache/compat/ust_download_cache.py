"""UST-Download-Cache: its `USTDownloadCache`, with the documents and the cache of this package.

In place of `from ust_download_cache import ...` write `from package_cache.compat.ust_download_cache import ...`.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from package_cache import errors
from package_cache.compat.gone import Vanished
from package_cache.errors import StoreError
from package_cache.library.downloads.documents import JsonDocument
from package_cache.library.downloads.manager import DownloadManager
from package_cache.rules.repositories.documents import parse

__all__ = [
    "BZ2ExtractionError",
    "CacheJSONEncoder",
    "CachedFile",
    "DownloadError",
    "FileCacheLoadError",
    "GZExtractionError",
    "USTDownloadCache",
]


class DownloadError(errors.DownloadError):
    """No server has the document, or only something that is not one."""


class BZ2ExtractionError(errors.ExtractionError):
    """A document is broken bzip2."""


class GZExtractionError(errors.ExtractionError):
    """A document is broken gzip."""


class FileCacheLoadError(StoreError):
    """The cache cannot be used."""


class Logger(Protocol):
    """The receiver of log messages."""

    def debug(self, message: str, /) -> object:
        """Take a message."""


@dataclass
class CachedFile:
    """A document in the cache. `timestamp` is in seconds of the epoch, `ttl` in seconds."""

    url: str
    path: str
    timestamp: float
    ttl: float

    @property
    def is_expired(self) -> bool:
        """Whether it has expired."""
        return int(time.time()) - self.timestamp > self.ttl

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "CachedFile":
        """The same of a mapping. Raises KeyError."""
        return cls(given["url"], given["path"], given["timestamp"], given["ttl"])


class CacheJSONEncoder(json.JSONEncoder):
    """Writes a `CachedFile` as a mapping."""

    def default(self, o: object) -> Any:
        """The mapping. Raises TypeError for anything else that JSON cannot say."""
        return asdict(o) if isinstance(o, CachedFile) else super().default(o)


class USTDownloadCache:
    """Documents that say for how long they are fresh.

    They are in `cache_dir`; else in `.ust_cache` within `$SNAP_USER_COMMON`, else within the home directory. What
    `file_cache.json` lists in there stays as it is: `package-cache import` takes it over. Raises FileExistsError for what
    is no directory, and FileCacheLoadError.
    """

    cache_metadata_file = Vanished("file_cache tells what it told; package_cache.Cache finds it")

    def __init__(self, logger: Logger, cache_dir: str | os.PathLike[str] | None = None) -> None:
        self.logger = logger
        self.cache_dir: str | os.PathLike[str] = cache_dir if cache_dir is not None else _default()
        if os.path.exists(self.cache_dir) and not os.path.isdir(self.cache_dir):  # noqa: PTH110, PTH112 - nor raises
            raise FileExistsError(f"{self.cache_dir} is not a directory")
        try:
            self._manager = DownloadManager(path=self.cache_dir, progress=False)
        except StoreError as error:
            raise FileCacheLoadError(str(error)) from error
        assert self._manager.cache is not None
        self._cache = self._manager.cache
        if (Path(self.cache_dir) / "file_cache.json").exists() and not len(self._cache):
            self.logger.debug(f"package-cache import {self.cache_dir} --cache {self.cache_dir} takes older documents over")

    def get_from_url(self, url: str) -> dict[str, Any]:
        """The whole document. Raises DownloadError."""
        return self._get(url).content

    def get_data_from_url(self, url: str) -> Any:
        """Its member `data`. Raises DownloadError, and KeyError if it has none."""
        return self._get(url).content["data"]

    def get_cache_metadata_from_url(self, url: str) -> dict[str, Any]:
        """Its member `metadata`. Raises DownloadError."""
        return self._get(url).metadata

    def save_cache(self) -> None:
        """Do nothing: documents are saved when they arrive."""

    @property
    def file_cache(self) -> dict[str, CachedFile]:
        """The documents that are here, by URL."""
        found = {}
        for item in self._cache.search(status="ready", version=-1):
            url = str(item.attrs.get("url", item.uri))
            try:
                document = parse(Path(item.path).read_bytes())
            except (OSError, ValueError):
                continue
            found[url] = CachedFile(url, item.path, document.timestamp, document.ttl)
        return found

    def _get(self, url: str) -> JsonDocument:
        with _translated():
            document = self._manager.get_json(url)
        self.logger.debug(f"{url}: {document.reason}")
        return document


def _default() -> str:
    return str(Path(os.environ.get("SNAP_USER_COMMON") or os.environ["HOME"]) / ".ust_cache")


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of downloads as those of this module."""
    try:
        yield
    except errors.DownloadError as error:
        _, _, wrong = str(error).partition("cannot be used: ")
        if "bzip2" in wrong:
            raise BZ2ExtractionError(str(error)) from error
        if "gzip" in wrong:
            raise GZExtractionError(str(error)) from error
        raise DownloadError(str(error), url=error.url, status=error.status, retryable=error.retryable) from error
