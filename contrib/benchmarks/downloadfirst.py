"""A stand-in for package-cache 0.2, to compare with: a file is downloaded whole, to where it will be served from, and then
served. A file that is there is taken for complete. One source, as WSGI, configured by two variables of the environment.
"""

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_BLOCK = 8192


class DownloadFirst:
    """The WSGI callable."""

    def __init__(self, source: str, cache: Path) -> None:
        self._source = source
        self._cache = cache

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        name = environ["PATH_INFO"].lstrip("/")
        path = self._cache / name
        if not path.exists():
            try:
                self._download(name, path)
            except urllib.error.HTTPError as error:
                start_response(f"{error.code} {error.reason}", [("Content-Length", "0")])
                return []
        file = path.open("rb")
        size = os.fstat(file.fileno()).st_size
        start_response("200 OK", [("Content-Length", str(size)), ("Content-Type", "application/octet-stream")])
        body: Iterable[bytes] = environ["wsgi.file_wrapper"](file, _BLOCK)
        return body

    def _download(self, name: str, path: Path) -> None:
        with urllib.request.urlopen(self._source + name) as answer:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(answer, file, _BLOCK)


def create_app() -> DownloadFirst:
    """The callable that the environment describes."""
    return DownloadFirst(os.environ["DOWNLOAD_FIRST_SOURCE"], Path(os.environ["DOWNLOAD_FIRST_CACHE"]))
