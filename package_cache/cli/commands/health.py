"""`health`: ask a running server whether it can serve."""

import http.client
import socket
import time
from argparse import ArgumentParser, Namespace

from package_cache.cli import output
from package_cache.cli.arguments import DONE, Command, parsed
from package_cache.config import Config, TcpAddress, UnixAddress
from package_cache.errors import PackageCacheError
from package_cache.units import parse_duration

_TARGET = "/-/health"
_PATIENCE = 10.0
"""Seconds that the server may take for its answer, unless there is a time to wait for it."""
_PAUSE = 0.1
_LONGEST = 200
"""Bytes of the answer's text that are shown."""


class CannotServe(PackageCacheError):
    """The server is not there, or says that it cannot serve."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: TcpAddress | UnixAddress, patience: float) -> None:
        super().__init__("localhost", timeout=patience)
        self._address = address

    def connect(self) -> None:
        """Connect to where the server listens; if that is at all addresses of this machine, to localhost."""
        if isinstance(self._address, TcpAddress):
            self.sock = socket.create_connection((self._address.host or "localhost", self._address.port), self.timeout)
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._address.path))


def _add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        metavar="TIME",
        default=None,
        help="ask again and again for so long, until it can serve, such as 30s (default: ask once)",
    )
    parser.add_argument(
        "--alive", action="store_true", default=False, help="any answer will do, even one that it cannot serve"
    )


def _run(given: Namespace, config: Config) -> int:
    address = config.addresses[0]
    wait = parsed("--wait", given.wait, parse_duration) or 0.0
    deadline = time.monotonic() + wait
    while True:
        patience = max(_PAUSE, deadline - time.monotonic()) if wait else _PATIENCE
        try:
            output.line(_ask(address, patience, alive=given.alive))
        except CannotServe:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return DONE


def _ask(address: TcpAddress | UnixAddress, patience: float, *, alive: bool) -> str:
    """What the server answers within so many seconds. Raises CannotServe; with `alive`, only if there is no answer."""
    connection = _Connection(address, patience)
    try:
        connection.request("GET", _TARGET)
        response = connection.getresponse()
        text = response.read(_LONGEST).decode("utf-8", "replace").partition("\n")[0]
    except (OSError, http.client.HTTPException) as error:
        raise CannotServe(f"no answer from {_place(address)}: {error}") from error
    finally:
        connection.close()
    # Whoever is not among the networks of --allow is told so by a server that can serve the others.
    serves = response.status in (200, 403)
    said = f"the server at {_place(address)} {'serves' if serves else 'cannot serve'}: {response.status} {text}"
    if not serves and not alive:
        raise CannotServe(said)
    return said


def _place(address: TcpAddress | UnixAddress) -> str:
    if isinstance(address, UnixAddress):
        return str(address)
    return f"{address.host or 'localhost'}:{address.port}"


HEALTH = Command(
    """
Requests /-/health at the address where the server listens by its settings: give the same options as to the server. All of
them are accepted; of several addresses, the first one is asked. A server that may not answer this machine (--allow) counts
as healthy.""",
    _add,
    _run,
    like_serving=True,
)
