"""Bodies that a thread sends, since what they wait for is a source: files that are passed on without being kept."""

import socket
from collections.abc import Callable, Iterable

from package_cache.errors import FillError

Ended = Callable[[int, bool], None]
"""Told how many bytes of the body were sent, and whether it was cut."""


def send_all(
    connection: socket.socket,
    head: bytes,
    blocks: Iterable[bytes],
    patience: float,
    ended: Ended,
    failed: Callable[[FillError], None],
) -> None:
    """Send a head and the blocks of a body. The client may take nothing for `patience` seconds, and no longer."""
    sent, cut = 0, True
    try:
        connection.settimeout(patience)
        _send(connection, head)
        for block in blocks:
            _send(connection, block)
            sent += len(block)
        cut = False
    except FillError as error:
        failed(error)
    except OSError:
        pass  # the client left, or stopped reading
    finally:
        ended(sent, cut)


def _send(connection: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    # Not sendall: its time limit is on the whole, ours is on silence.
    while view:
        view = view[connection.send(view) :]
