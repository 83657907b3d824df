"""Where a server listens: settings become listening sockets, sockets become the text that says where they are.

Both servers bind through here, so that they listen at the same places and fail with the same words. Owns the files of unix
sockets: which one may be replaced, and which one is removed in the end.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from package_cache.config import Config, TcpAddress, UnixAddress
from package_cache.errors import PackageCacheError

BACKLOG = 2048
"""Connections that may wait to be accepted."""
_MODE = 0o666
"""Who may connect to a unix socket: everybody, as by TCP on this machine. The mode of its directory can forbid it."""


class CannotListen(PackageCacheError):
    """The address is taken, not this machine's, or not this user's to have."""


class Listening:
    """The sockets that a server listens on, and the files of unix sockets that go when it ends.

    `files` are those that are there already and are this process's to remove.
    """

    def __init__(self, sockets: list[socket.socket], files: Iterable[Path] = ()) -> None:
        self.sockets = sockets
        self._process = os.getpid()
        self._files: dict[Path, os.stat_result] = {}
        for path in files:
            self._note(path)

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def files(self) -> list[Path]:
        """The files of unix sockets that `close` removes."""
        return list(self._files)

    def open(self, address: TcpAddress | UnixAddress) -> None:
        """Listen at one more address. Raises OSError, or UnicodeError for a name that cannot be a host's."""
        if isinstance(address, TcpAddress):
            self.sockets.append(_on_tcp(address))
        else:
            self.sockets.append(_on_unix(address.path))
            self._note(address.path)

    def leave_files(self) -> None:
        """Let another process remove the files: it listens on the same sockets."""
        self._files.clear()

    def close(self) -> None:
        """Take no more connections. Removes what this process made, where nobody has put something else in its place."""
        for one in self.sockets:
            one.close()
        if os.getpid() != self._process:
            return
        for path, made in self._files.items():
            with suppress(OSError):
                if os.path.samestat(path.lstat(), made):
                    path.unlink()
        self._files.clear()

    def _note(self, path: Path) -> None:
        with suppress(OSError):  # somebody has removed it
            self._files[path] = path.lstat()


def listen(config: Config) -> Listening:
    """Listen wherever the settings say. Raises CannotListen."""
    listening = Listening([])
    try:
        for address in config.addresses:
            try:
                listening.open(address)
            except (OSError, UnicodeError) as error:
                raise _cannot_listen(address, error, "--listen" if config.listen else "--host or --port") from error
    except BaseException:
        listening.close()
        raise
    return listening


def _cannot_listen(address: TcpAddress | UnixAddress, error: OSError | UnicodeError, option: str) -> CannotListen:
    if isinstance(address, UnixAddress):
        place = str(address)
    else:
        place = f"{'all addresses' if address.host is None else address.host} port {address.port}"
    reason = isinstance(error, OSError) and error.strerror
    return CannotListen(f"cannot listen on {place}: {reason or error}. Give another one with {option}")


def _on_tcp(address: TcpAddress) -> socket.socket:
    if address.host is None:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", address.port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    family, where = _resolve(address.host, address.port)
    return socket.create_server(where, family=family, backlog=BACKLOG)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Family and address to bind; IPv4 where a name has both. Raises OSError if there is no such host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, address


def _on_unix(path: Path) -> socket.socket:
    _make_room(path)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.bind(str(path))
        path.chmod(_MODE)
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return one


def _make_room(path: Path) -> None:
    """Remove the socket of a process that is gone. Raises OSError for anything else that is in the way."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "something that is no socket has this name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # it listens, and has more to do than it can
    raise OSError(errno.EADDRINUSE, "already in use by a running process")


def where(names: Iterable[Any]) -> str:
    """The places of listening sockets as clients write them, from the sockets' own names for themselves."""
    return ", ".join(map(_url, names))


def _url(name: Any) -> str:
    match name:
        case str():
            return f"unix:{name}"
        case bytes():  # a name without a file (unix(7), abstract socket addresses)
            return f"unix:@{os.fsdecode(name[1:])}"
        case _:
            host = str(name[0])
            return f"http://{f'[{host}]' if ':' in host else host}:{name[1]}/"


def own_name(name: Any) -> tuple[str, int]:
    """SERVER_NAME and SERVER_PORT of a connection (PEP 3333), from its socket's own name. A unix socket has neither."""
    return (str(name[0]).removeprefix("::ffff:"), name[1]) if isinstance(name, tuple) else ("localhost", 80)
