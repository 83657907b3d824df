"""dlmachine, that is download-manager: its `DownloadManager`, with the downloads of this package.

In place of `import dlmachine as dm` or `import download_manager as dm` write `import package_cache.compat.dlmachine as dm`.
"""

from package_cache.compat.dlmachine._constants import DL_ATTRS, PARAMS
from package_cache.compat.dlmachine._descriptor import Descriptor
from package_cache.compat.dlmachine._downloader import AbstractDownloader, CurlDownloader, RequestsDownloader
from package_cache.compat.dlmachine._manager import DownloadManager
from package_cache.compat.gone import missing
from package_cache.errors import DownloadError
from package_cache.upstream.reach import version_text

__version__ = version_text()
__all__ = [
    "DL_ATTRS",
    "PARAMS",
    "AbstractDownloader",
    "CurlDownloader",
    "Descriptor",
    "DownloadError",
    "DownloadManager",
    "RequestsDownloader",
    "__version__",
]
_LOG = "messages go to the logger 'package_cache' of the standard library, which your program configures"
__getattr__ = missing(__name__, {"session": _LOG, "logger": _LOG})
