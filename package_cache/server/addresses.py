"""Where a server listens: a host name becomes a socket address, a socket becomes a URL.

Both servers bind through here, so that they listen at the same place and fail with the same words.
"""

import socket
from typing import Any

from package_cache.errors import PackageCacheError

BACKLOG = 2048
"""Connections that may wait to be accepted."""


class CannotListen(PackageCacheError):
    """The address is taken, not this machine's, or not this user's to have."""


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Family and address to bind; IPv4 where a name has both. Raises OSError if there is no such host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, address


def cannot_listen(host: str, port: int, error: OSError) -> CannotListen:
    """What to tell who asked to listen there."""
    reason = error.strerror or str(error)
    return CannotListen(f"cannot listen on {host} port {port}: {reason}. Give another one with --host or --port")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotListen."""
    try:
        family, address = resolve(host, port)
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise cannot_listen(host, port, error) from error


def url(name: tuple[Any, ...]) -> str:
    """The URL of a listening socket, from its own name for itself."""
    host = str(name[0])
    return f"http://{f'[{host}]' if ':' in host else host}:{name[1]}/"
