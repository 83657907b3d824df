"""The manager, with the arguments that dlmachine took."""

import io
import os
from collections.abc import Mapping
from dataclasses import asdict
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

    What no server delivers raises `DownloadError`; dlmachine returned the path of the server's words about it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        pkg: str | None = None,
        config: Mapping[str, object] | str | os.PathLike[str] | None = None,
        **given: Any,
    ) -> None:
        for name in given:
            options.refuse_unknown(name, options.KNOWN, "option")
        super().__init__(path, pkg, config=config, **given)
        if self.cache is not None:
            self.cache.close()
            self.cache = Cache(self.options.path, self.options.pkg)

    @property
    def config(self) -> dict[str, object]:
        """The options, those that were not given too."""
        return asdict(self.options)

    def download(
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
        terms, asked = _sorted(more)
        if isinstance(url, descriptors.Descriptor):
            if asked:
                raise ArgumentError(f"{next(iter(asked))} is given beside a Descriptor: say it in that")
        else:
            url = Descriptor(url, **_with(self.options, asked))
        if terms.get("retries") == 0:
            terms["retries"] = 1
        terms.setdefault("overwrite", force_download or check_freshness)
        if force_download or check_freshness:
            terms["refresh"] = "always" if force_download else "check"
        result = self.fetch(url, dest, newer_than=newer_than, older_than=older_than, **terms)
        if not keep_old and result.item is not None and result.verdict == "downloaded" and self.cache is not None:
            for item in self.cache.search(key=result.item.key):
                if item.version < result.item.version:
                    item.remove(disk=True, keep_record=False)
        return result.path if result.buffer is None else result.buffer

    def _download(self, *given: object, **named: object) -> None:  # noqa: ARG002
        gone("DownloadManager._download()", "fetch() returns a result with path or buffer, item, ok, status, size, sha256")


def _sorted(more: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is of the download, and what of the request."""
    own = options.Terms.__annotations__.keys() - options.Asked.__annotations__.keys() | {"check"}
    return {n: v for n, v in more.items() if n in own}, {n: v for n, v in more.items() if n not in own}


def _with(usual: options.Options, asked: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, with the header fields of the manager."""
    if usual.headers is None:
        return asked
    said = descriptors.Descriptor("http://any.example/", headers=asked.get("headers")).headers
    names = {name.lower() for name, _ in said}
    always = descriptors.Descriptor("http://any.example/", headers=usual.headers).headers
    return {**asked, "headers": (*(pair for pair in always if pair[0].lower() not in names), *said)}
