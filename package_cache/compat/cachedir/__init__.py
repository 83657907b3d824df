"""cachedir, that is cache-manager: its `Cache`, with files and registry of this package.

In place of `import cachedir` or `import cache_manager` write `import package_cache.compat.cachedir as cachedir`.
"""

from package_cache.compat.cachedir import _freshness, _item, _lock, _open, _status, utils
from package_cache.compat.cachedir._cache import Cache
from package_cache.compat.cachedir._item import CacheItem
from package_cache.compat.cachedir._lock import Lock
from package_cache.compat.cachedir._open import Opener
from package_cache.compat.cachedir._status import Status
from package_cache.compat.gone import missing
from package_cache.upstream.reach import version_text

__version__ = version_text()
__all__ = [
    "Cache",
    "CacheItem",
    "Lock",
    "Opener",
    "Status",
    "__version__",
    "_freshness",
    "_item",
    "_lock",
    "_open",
    "_status",
    "utils",
]
_LOG = "messages go to the logger 'package_cache' of the standard library, which your program configures"
__getattr__ = missing(__name__, {"session": _LOG, "log": _LOG, "data": "it had nothing for its users in it"})
