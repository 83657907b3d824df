"""The way to the sources as this machine has it: proxies and certificates that the environment or a caller names.

And how this program names itself on it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError
from package_cache.model import Source
from package_cache.rules.transfers.ways import HTTP, of_environment, of_pairs

Proxies = tuple[tuple[str, str], ...]
"""URLs of proxies by scheme, `all` for both; and `no`, what is reached without one, as `no_proxy` names it."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How servers are reached. Requests that share it share connections.

    `cafile` holds the certificates that are trusted, in the place of the system's. `proxies` None means those of the
    environment.
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    cafile: Path | None = None
    proxies: Proxies | None = None

    def proxy_for(self, url: str, speaks: frozenset[str] = HTTP) -> str | None:
        """The proxy through which a URL is reached, if there is one. Raises UpstreamError if that cannot be used."""
        proxies = of_environment(os.environ) if self.proxies is None else of_pairs(dict(self.proxies))
        try:
            return proxies.proxy_for(url, speaks)
        except ValueError as error:
            raise UpstreamError(f"was not asked: {error}") from None

    def trusted(self) -> tuple[str | None, str | None]:
        """The file and the directory of certificates to trust, as far as they are named here or by the system.

        The system names them by SSL_CERT_FILE and SSL_CERT_DIR, else by what OpenSSL was built with.
        """
        if self.cafile is not None:
            return str(self.cafile), None
        import ssl  # noqa: PLC0415 - takes a while

        folder = os.environ.get("SSL_CERT_DIR")
        if folder and "SSL_CERT_FILE" not in os.environ:
            return None, folder
        return ssl.get_default_verify_paths().cafile, folder or None


def problems(sources: Iterable[Source], environment: Mapping[str, str]) -> list[str]:
    """What in the environment cannot be used, a line each; only what these sources need is checked."""
    bases = [source.base for source in sources]
    proxies, told = of_environment(environment), dict[str, None]()
    for base in bases:
        try:
            proxies.proxy_for(f"{base}/")
        except ValueError as error:
            told[str(error)] = None
    found = list(told)
    if any(base.startswith("https:") for base in bases):
        found += _of_certificates(environment)
    return found


def _of_certificates(environment: Mapping[str, str]) -> Iterator[str]:
    import ssl  # noqa: PLC0415 - takes a while

    file, folders = environment.get("SSL_CERT_FILE"), environment.get("SSL_CERT_DIR")
    if file:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except ssl.SSLError:
            yield f"SSL_CERT_FILE={file!r} cannot be used: it holds no certificate; name a file of certificates (PEM)"
        except OSError as error:
            yield f"SSL_CERT_FILE={file!r} cannot be used: {error.strerror}; name a file of certificates (PEM)"
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep) if folder):
        yield f"SSL_CERT_DIR={folders!r} cannot be used: there is no such directory; name one that c_rehash has seen"


@cache
def version_text() -> str:
    """The version of the package that was installed at the first call: a running program keeps being that one."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - takes a while

    try:
        return version("package-cache")
    except PackageNotFoundError:
        return "0+unknown"


def software() -> str:
    """How this program names itself in HTTP."""
    return f"package-cache/{version_text()}"
