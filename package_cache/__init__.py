"""A caching proxy for package downloads, and the library it is made of."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from package_cache.compose import Server, create_app
    from package_cache.errors import (
        ArchiveTooLarge,
        ArgumentError,
        BadRequest,
        BrokenArchive,
        ConfigError,
        ContentTooLarge,
        DamagedBlob,
        DamagedRegistry,
        DescriptorError,
        DocumentError,
        DownloadError,
        ExtractionError,
        FillError,
        Forbidden,
        ForeignHost,
        HashMismatch,
        ItemBusy,
        ItemError,
        LengthRequired,
        LoopDetected,
        MissingMember,
        NoRepository,
        NoRoom,
        NotAllowed,
        NotImplementedHere,
        NotKept,
        NotStored,
        OnlyRead,
        OutOfDescriptors,
        PackageCacheError,
        RequestError,
        StoreError,
        TargetTooLong,
        UnknownCriterion,
        UnsafeMember,
        UnsupportedArchive,
        UpstreamBusy,
        UpstreamCrawl,
        UpstreamError,
        UpstreamLie,
        UpstreamTimeout,
    )
    from package_cache.library.archives.archive import open_archive
    from package_cache.library.cache import Cache
    from package_cache.library.downloads.descriptors import Descriptor, File
    from package_cache.library.downloads.manager import DownloadManager, retrieve
    from package_cache.library.downloads.results import Result
    from package_cache.library.items import CacheItem
    from package_cache.model import Status

    __version__: str

__all__ = [
    "ArchiveTooLarge",
    "ArgumentError",
    "BadRequest",
    "BrokenArchive",
    "Cache",
    "CacheItem",
    "ConfigError",
    "ContentTooLarge",
    "DamagedBlob",
    "DamagedRegistry",
    "Descriptor",
    "DescriptorError",
    "DocumentError",
    "DownloadError",
    "DownloadManager",
    "ExtractionError",
    "File",
    "FillError",
    "Forbidden",
    "ForeignHost",
    "HashMismatch",
    "ItemBusy",
    "ItemError",
    "LengthRequired",
    "LoopDetected",
    "MissingMember",
    "NoRepository",
    "NoRoom",
    "NotAllowed",
    "NotImplementedHere",
    "NotKept",
    "NotStored",
    "OnlyRead",
    "OutOfDescriptors",
    "PackageCacheError",
    "RequestError",
    "Result",
    "Server",
    "Status",
    "StoreError",
    "TargetTooLong",
    "UnknownCriterion",
    "UnsafeMember",
    "UnsupportedArchive",
    "UpstreamBusy",
    "UpstreamCrawl",
    "UpstreamError",
    "UpstreamLie",
    "UpstreamTimeout",
    "__version__",
    "create_app",
    "open_archive",
    "retrieve",
]

_HOMES = {  # of all but the errors
    "Cache": "package_cache.library.cache",
    "CacheItem": "package_cache.library.items",
    "Descriptor": "package_cache.library.downloads.descriptors",
    "DownloadManager": "package_cache.library.downloads.manager",
    "File": "package_cache.library.downloads.descriptors",
    "Result": "package_cache.library.downloads.results",
    "Server": "package_cache.compose",
    "Status": "package_cache.model",
    "create_app": "package_cache.compose",
    "open_archive": "package_cache.library.archives.archive",
    "retrieve": "package_cache.library.downloads.manager",
}


if not TYPE_CHECKING:  # for a type checker, a name that is misspelt is an error

    def __getattr__(name: str) -> Any:
        """A public name, from its module, which is imported with the first use: who wants one part pays for no other."""
        if name == "__version__":
            found: Any = import_module("package_cache.upstream.reach").version_text()
        elif name in __all__:
            found = getattr(import_module(_HOMES.get(name, "package_cache.errors")), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
