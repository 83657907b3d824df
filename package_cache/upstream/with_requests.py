"""Exchanges over HTTP through requests, for those who want its connections: an extra, `package-cache[requests]`.

What a session of requests would add is left out, since it is decided above: redirects, cookies, the environment.
"""

import requests
from requests.adapters import HTTPAdapter
from urllib3 import PoolManager, ProxyManager, Timeout

from package_cache.errors import UpstreamError
from package_cache.model import Fields
from package_cache.upstream.calls import Body, Reach
from package_cache.upstream.dialer import Dialer
from package_cache.upstream.with_urllib3 import Urllib3Exchange, pool_classes, translated


class _Adapter(HTTPAdapter):
    """Connects as the default backend does, so that answers are read as strictly."""

    def __init__(self, reach: Reach) -> None:
        self._classes = pool_classes(reach.timeouts, Dialer(reach.timeouts.connect))
        super().__init__(pool_connections=32, pool_maxsize=64, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: object) -> None:
        """The pools of requests, with our connections."""
        super().init_poolmanager(connections, maxsize, block, **options)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = self._classes

    def proxy_manager_for(self, proxy: str, **options: object) -> ProxyManager:
        """The same behind a proxy."""
        manager: ProxyManager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = self._classes
        return manager


class RequestsBackend:
    """Safe for any number of threads."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._adapter = _Adapter(reach)

    def send(self, method: str, url: str, fields: Fields, body: Body | None) -> Urllib3Exchange:
        """The answer to one request. Raises UpstreamError."""
        proxy, (file, folder), timeouts = self._reach.proxy_for(url), self._reach.trusted(), self._reach.timeouts
        content = body.open() if body is not None else None
        try:
            prepared = requests.PreparedRequest()
            prepared.prepare(method=method, url=url, headers=dict(fields))
            prepared.url = url
            if content is not None:
                prepared.body = content  # type: ignore[assignment]
                prepared.headers["Content-Length"] = str(content.size)
            response = self._adapter.send(
                prepared,
                stream=True,
                timeout=Timeout(connect=timeouts.connect, read=timeouts.head),  # type: ignore[arg-type]
                verify=file or folder or True,
                proxies={} if proxy is None else {"http": proxy, "https": proxy},
            )
        except (requests.RequestException, OSError, ValueError) as error:
            raise _of_requests(error) from error
        finally:
            if content is not None:
                content.close()
        return Urllib3Exchange(response.raw)

    def close(self) -> None:
        """Close idle connections."""
        self._adapter.close()


def _of_requests(error: Exception) -> UpstreamError:
    """What is inside an exception of requests: mostly one of urllib3."""
    inner: object = error
    while isinstance(inner, requests.RequestException) and inner.args:
        inner = inner.args[0]
    reason = getattr(inner, "reason", None)
    return translated(reason if isinstance(reason, Exception) else inner if isinstance(inner, Exception) else error)
