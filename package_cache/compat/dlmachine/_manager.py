"""The manager, with the arguments that dlmachine took."""

import io
import os
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from typing import Any

from package_cache.compat.cachedir import Cache
from package_cache.compat.dlmachine._descriptor import Descriptor
from package_cache.compat.gone import gone
from package_cache.errors import ArgumentError
from package_cache.library.downloads import descriptors, options
from package_cache.library.downloads import manager as downloads

_METHODS = ("auto", "etag", "modified")
_CONDITIONAL = (
    "a server is asked with the request itself whether the file has changed, by etag and date at once: leave it out"
)


class DownloadManager(downloads.DownloadManager):
    """A `package_cache.DownloadManager`; its `cache` is a `package_cache.compat.cachedir.Cache`.

    If no server delivers, `DownloadError` is raised; dlmachine returned the path of the error page.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        pkg: str | None = None,
        config: Mapping[str, object] | str | os.PathLike[str] | None = None,
        **given: Any,
    ) -> None:
        options.refuse_unknown(given, options.OF_MANAGERS, "option")
        super().__init__(path, pkg, config=config, **given)
        if self.cache is not None:
            self.cache.close()
            self.cache = Cache(self.options.path, self.options.pkg)

    @property
    def config(self) -> dict[str, object]:
        """All options, also those that were not given."""
        return {name: deepcopy(getattr(self.options, name)) for name in options.OF_MANAGERS}

    def download(  # type: ignore[override]  # its types are those of the older package
        self,
        url: str | descriptors.Descriptor,
        dest: downloads.Destination = None,
        newer_than: str | datetime | None = None,
        older_than: str | datetime | None = None,
        check_freshness: bool = False,
        check_method: str = "auto",
        force_download: bool = False,
        keep_old: bool = True,
        **more: Any,
    ) -> str | io.BytesIO | None:
        """Download a URL, or find it where it was downloaded before; the path, or a buffer.

        A file that is at `dest` stays as it is, whatever it is, unless `check_freshness` or `force_download`. Without
        `keep_old`, a new version takes the place of the older ones in the cache. `more` is of the request, or of
        `package_cache.DownloadManager.fetch`. Raises DownloadError.
        """
        if check_method not in _METHODS:
            gone(f"check_method={check_method!r}", _CONDITIONAL)
        own, asked = _sorted(more)
        if isinstance(url, descriptors.Descriptor):
            if asked:
                raise ArgumentError(f"{next(iter(asked))} is given beside a Descriptor: say it in that")
        else:
            url = Descriptor(url, **self.options.with_headers(asked, "http://any.example/"))
        if own.get("retries") == 0:
            own["retries"] = 1
        own.setdefault("overwrite", force_download or check_freshness)
        if force_download or check_freshness:
            own["refresh"] = "always" if force_download else "check"
        result = self.fetch(url, dest, newer_than=newer_than, older_than=older_than, **own)
        if not keep_old and result.item is not None and result.verdict == "downloaded" and self.cache is not None:
            for item in self.cache.search(key=result.item.key):
                if item.version < result.item.version:
                    item.remove(disk=True, keep_record=False)
        return result.path if result.buffer is None else result.buffer

    def _download(self, *given: object, **named: object) -> None:  # noqa: ARG002
        gone("DownloadManager._download()", "fetch() returns a result with path or buffer, item, ok, status, size, sha256")


def _sorted(more: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the download, and those of the request."""
    own = {*options.OF_DOWNLOADS, "check"}
    return {n: v for n, v in more.items() if n in own}, {n: v for n, v in more.items() if n not in own}
