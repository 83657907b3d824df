"""What is said between a service and systemd: the sockets it opened for us, and how the service stands.

The protocols of sd_listen_fds(3) and sd_notify(3). Whoever speaks them may stand in systemd's place.
"""

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import MutableMapping

from package_cache.server.addresses import CannotListen

logger = logging.getLogger(__name__)

_FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_PATIENCE = 5.0
"""Seconds that a message may wait for its receiver."""


def inherited(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets this process was started with; none if it was started without.

    The variables are taken out of the environment, and the sockets are not passed on to other programs. Raises CannotListen
    for what is no listening socket.
    """
    said = {name: environment.pop(name, "") for name in _VARIABLES}
    if said["LISTEN_PID"] != str(os.getpid()):
        return []
    count = said["LISTEN_FDS"]
    if not count.isascii() or not count.isdigit():
        raise CannotListen(f"LISTEN_FDS is {count!r}; it is the number of the sockets that this process was started with")
    return [_socket(_FIRST + index) for index in range(int(count))]


def _socket(descriptor: int) -> socket.socket:
    problem = f"cannot listen on descriptor {descriptor}, which LISTEN_FDS says is a socket to listen on"
    try:
        one = socket.socket(fileno=descriptor)
        listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotListen(f"{problem}: {error.strerror}") from error
    if not listens or one.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        one.close()
        raise CannotListen(f"{problem}: it is no listening TCP or unix socket (ListenStream= with Accept=no makes one)")
    one.set_inheritable(False)
    return one


class Notifier:
    """Tells how the service stands to who asked for it in NOTIFY_SOCKET, whose value is `address`; to nobody if empty.

    Never waits: where the receiver is busy, a thread does, and what is told meanwhile comes behind it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._guard = threading.RLock()  # a signal may come while something else is told
        self._untold: deque[str] = deque()
        self._is_waiting = False

    def ready(self) -> None:
        """Requests are answered from now on; or again, after `reloading`."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The settings are read again."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service comes to its end."""
        self._tell("STOPPING=1")

    def succeeded(self, process: int) -> None:
        """Another process is the service from now on."""
        self._tell(f"MAINPID={process}")

    def _tell(self, text: str) -> None:
        if not self.address:
            return
        with self._guard:
            self._untold.append(text)
            if self._is_waiting or self._send(0.0):
                return
            self._is_waiting = True
        try:
            threading.Thread(target=self._wait, name="notify", daemon=True).start()
        except RuntimeError:  # no thread to be had now: it is told before what comes next
            self._is_waiting = False

    def _wait(self) -> None:
        """Runs in the thread."""
        while True:
            self._send(_PATIENCE)
            with self._guard:
                if not self._untold:
                    self._is_waiting = False
                    return

    def _send(self, seconds: float) -> bool:
        """Send what is to be told, waiting so long for each; whether all of it was sent, or never will be."""
        # systemd writes the first byte of an abstract address, which is zero, as "@".
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        while self._untold:
            text = self._untold[0]
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                    sender.settimeout(seconds)
                    sender.sendto(text.encode("ascii"), address)
            except BlockingIOError:
                return False
            except OSError as error:
                reason = error.strerror or error
                logger.warning("cannot tell %s to NOTIFY_SOCKET %s: %s", text.partition("\n")[0], self.address, reason)
            self._untold.popleft()
        return True
