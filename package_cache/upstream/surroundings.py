"""What the environment says of the way to the sources, looked at before anything is asked of them."""

import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from package_cache.model import Source
from package_cache.rules.transfers.proxies import of_environment


def problems(sources: Iterable[Source], environment: Mapping[str, str]) -> list[str]:
    """What of the environment cannot be used, a line each; only what these sources need is looked at."""
    bases = [source.base for source in sources]
    found = [*_of_proxies(bases, environment)]
    if any(base.startswith("https:") for base in bases):
        found += _of_certificates(environment)
    return found


def _of_proxies(bases: list[str], environment: Mapping[str, str]) -> Iterator[str]:
    proxies = of_environment(environment)
    told = set()
    for base in bases:
        try:
            proxies.proxy_for(f"{base}/")
        except ValueError as error:
            if str(error) not in told:
                told.add(str(error))
                yield str(error)


def _of_certificates(environment: Mapping[str, str]) -> Iterator[str]:
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
