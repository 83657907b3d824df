"""One download by one backend, as an object, as dlmachine had it."""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from package_cache.compat.cachedir import Opener
from package_cache.compat.dlmachine._misc import parse_header
from package_cache.compat.gone import GoneAttribute
from package_cache.library.downloads.descriptors import Descriptor, Headers
from package_cache.library.downloads.manager import DownloadManager
from package_cache.library.downloads.results import Result

_STEP = "download() is the whole of it, one loop with every backend"
_SHOWN = "DownloadManager.download(..., progress=function) tells how far it is"
_GONE = {
    **dict.fromkeys(("open_dest", "parse_resp_headers", "parse_subheader", "post_download", "get_http_code"), _STEP),
    **dict.fromkeys(("init_handler", "set_options", "set_req_headers", "set_resp_headers"), _STEP),
    **dict.fromkeys(("init_progress", "set_progress", "update_progress", "set_progress_total", "close_progress"), _SHOWN),
    "set_destination": "give the destination when you make it",
}
_PARSED = ("content-type", "content-disposition")


class AbstractDownloader:
    """The base of both. `destination` is a path, or None or False for memory; then it becomes the buffer."""

    backend: ClassVar[str]

    def __init__(
        self, desc: Descriptor, destination: str | os.PathLike[str] | Literal[False] | None = None, progress: bool = True
    ) -> None:
        if not hasattr(self, "backend"):
            raise TypeError("AbstractDownloader is not made; RequestsDownloader and CurlDownloader are")
        self.desc = desc
        self.destination: str | io.BytesIO | None = os.fspath(destination) if destination else None
        self._progress = progress
        self._result: Result | None = None

    def download(self) -> None:
        """Download. What a server refuses is not `ok`, and has its `http_code`; raises DownloadError if none answers."""
        target = self.destination if isinstance(self.destination, str) else False
        with DownloadManager(backend=self.backend, progress=None if self._progress else False) as manager:
            result = manager.fetch(self.desc, target, refresh="always", check=False, retries=1)
        self._result = result
        if result.error is not None and (result.status is None or result.status == 200):
            raise result.error
        if result.buffer is not None:
            self.destination = result.buffer

    def setup(self) -> None:
        """Nothing is to be done beforehand."""

    @property
    def ok(self) -> bool:
        """Whether it is here, and not empty."""
        return self.success and not self.is_empty

    @property
    def success(self) -> bool:
        """Whether a server delivered it."""
        return self._result is not None and self._result.ok

    @property
    def http_code(self) -> int:
        """What the server answered; 0 before."""
        return (self._result.status or 0) if self._result is not None else 0

    @property
    def to_buffer(self) -> bool:
        """Whether it goes into memory."""
        return not isinstance(self.destination, str)

    @property
    def path(self) -> str | None:
        """Where it goes to, None for memory."""
        return self.destination if isinstance(self.destination, str) else None

    @property
    def path_exists(self) -> bool:
        """Whether there is a file at the path."""
        return self.path is not None and Path(self.path).exists()

    @property
    def is_empty(self) -> bool:
        """Whether there is no byte of it."""
        return not self.size

    @property
    def size(self) -> int | None:
        """Its bytes, as it is here; None before."""
        return self._result.size if self._result is not None else None

    @property
    def sha256(self) -> str | None:
        """Its digest in hex, None if it is not here."""
        return self._result.sha256 if self._result is not None and self.ok else None

    def checksum(self, digest: str = "sha256") -> str | None:
        """A digest in hex, None if it is not here."""
        if not self.ok:
            return None
        if isinstance(self.destination, io.BytesIO):
            return hashlib.new(digest, self.destination.getbuffer(), usedforsecurity=False).hexdigest()
        with Path(str(self.destination)).open("rb") as file:
            return hashlib.file_digest(file, digest).hexdigest()

    @property
    def url(self) -> str:
        """What was asked for."""
        return self.desc.url

    @property
    def filename(self) -> str | None:
        """What the server, else the URL, calls it; None without either."""
        known = self._result.filename if self._result is not None else None
        return known or PurePosixPath(self.desc.baseurl.partition("://")[2].partition("/")[2]).name or None

    @property
    def ext(self) -> str | None:
        """The end of that name, with its dot."""
        return (PurePosixPath(self.filename).suffix or None) if self.filename else None

    @property
    def resp_headers(self) -> Mapping[str, Any]:
        """The fields of the answer, by name in any case; type and disposition as what `parse_header` makes of them."""
        return _Fields(self._result.headers if self._result is not None else Headers())

    def open(self, **how: Any) -> Any:
        """The buffer, or what `cachedir.Opener` makes of the file; None if it is not here."""
        if not self.ok:
            return None
        return self.destination if isinstance(self.destination, io.BytesIO) else Opener(str(self.path), **how).result

    def param(self, key: str) -> Any:
        """What the description has under a name."""
        return self.desc.get(key)

    def close_dest(self) -> None:
        """Nothing is open."""

    def __getattr__(self, name: str) -> Any:
        if name in _GONE:
            raise GoneAttribute(f"{type(self).__name__}.{name} is not there any more: {_GONE[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class RequestsDownloader(AbstractDownloader):
    """A download through requests."""

    backend = "requests"


class CurlDownloader(AbstractDownloader):
    """A download through libcurl."""

    backend = "curl"


class _Fields(Mapping[str, Any]):
    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> Any:
        if name.lower() in _PARSED:
            return parse_header(self._headers.get(name))
        return self._headers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)
