"""Gunicorn as the host: the settings that fit this application, and a worker with the event loop in front.

The only module that imports Gunicorn. Of its internals the worker uses few: how a threaded worker handles a connection
(`TConn`, `enqueue_req`, `finish_request`), and the bytes that its parser was not given yet.
"""

import errno
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.workers.gthread import TConn, ThreadWorker

from package_cache.config import Config, Timeouts
from package_cache.errors import PackageCacheError
from package_cache.server import addresses
from package_cache.server.app import Application
from package_cache.server.loop import Loop
from package_cache.server.reactor import Limits

logger = logging.getLogger(__name__)

_RESERVE_SECONDS = 5
"""What the arbiter waits longer than its workers do, so that they end by themselves."""


class GunicornServer(BaseApplication):  # type: ignore[misc]
    """Serves the application that `make` builds in each worker. Listens from its construction on."""

    def __init__(self, config: Config, make: Callable[[], Application], started: Callable[[str], None]) -> None:
        self._config = config
        self._make = make
        self._started = started
        self._bind = _bind(config)
        super().__init__()

    def load_config(self) -> None:
        """Hand our settings over; no file and no environment variable of Gunicorn's is read."""
        config = self._config
        settings = {
            "bind": [self._bind],
            "workers": config.workers,
            "threads": config.threads,
            "worker_class": worker_class(config.timeouts),
            "worker_connections": max(config.connections, config.threads + 1),
            "backlog": addresses.BACKLOG,
            "keepalive": math.ceil(config.timeouts.idle),
            "timeout": 60,
            "graceful_timeout": math.ceil(config.timeouts.graceful) + _RESERVE_SECONDS,
            "limit_request_line": 8190,
            "forwarded_allow_ips": "",
            "control_socket_disable": True,
            "logger_class": _Logger,
            "when_ready": self._when_ready,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:  # the control socket came with Gunicorn 25.1
                self.cfg.set(name, value)

    def load(self) -> Application:
        """Build the application; called once in each worker."""
        try:
            return self._make()
        except (PackageCacheError, OSError) as error:
            logger.error("%s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _when_ready(self, arbiter: Any) -> None:
        self._started(", ".join(addresses.url(listener.getsockname()) for listener in arbiter.LISTENERS))


def _bind(config: Config) -> str:
    """Where to listen, as Gunicorn wants it: a socket made here, so that a failure is told at once and in our words."""
    inherits = "GUNICORN_FD" in os.environ or os.environ.get("LISTEN_PID") == str(os.getpid())
    if inherits:  # an upgrade in place, or systemd: Gunicorn takes that socket and reads no address
        return f"[{config.host}]:{config.port}" if ":" in config.host else f"{config.host}:{config.port}"
    return f"fd://{addresses.listen(config.host, config.port).detach()}"


class _Logger(GunicornLogger):  # type: ignore[misc]
    """Lets Gunicorn's messages go where the command sends all others."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.setLevel(logging.NOTSET)
        self.error_log.propagate = True


def worker_class(limits: Timeouts) -> type[ThreadWorker]:
    """A worker class bound to its limits; Gunicorn makes the instances."""
    return type("PackageCacheWorker", (LoopWorker,), {"limits": limits})


class LoopWorker(ThreadWorker):  # type: ignore[misc]
    """The event loop in the main thread; Gunicorn's parser and threads for what it leaves.

    Usable by name in a Gunicorn of one's own: `--worker-class package_cache.server.gunicorn.LoopWorker`.
    """

    limits = Timeouts()
    _loop: Loop | None = None

    def run(self) -> None:
        """Serve until told to stop and what runs has come to its end, or its time is up."""
        if self.cfg.is_ssl or not isinstance(self.wsgi, Application):
            super().run()
            return
        limits = Limits(self.worker_connections, self.limits)
        self._loop = loop = Loop(list(self.sockets), self.wsgi, self._fall_back, limits, "gunicorn")
        loop.watch(self.method_queue.fileno(), lambda: self.method_queue.run_callbacks(None))
        while self.alive and self.is_parent_alive():
            self.notify()
            loop.turn(1.0)
        loop.drain()
        deadline = time.monotonic() + min(self.limits.graceful, max(0, self.cfg.graceful_timeout - _RESERVE_SECONDS))
        while loop.busy and time.monotonic() < deadline:
            self.notify()
            loop.turn(1.0)
        loop.close()
        self._end()

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """SIGQUIT, from an arbiter that got SIGINT: end now."""
        if self._loop is None:
            super().handle_quit(sig, frame)
        else:
            self._end()

    def _end(self) -> None:
        """End at once: the threads of the pool would keep the process while one of them sends."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self.wsgi.service.close()
        os._exit(0)

    def _fall_back(self, connection: socket.socket, received: bytes, address: Any) -> None:
        connection.settimeout(None)
        taken = TConn(self.cfg, connection, address, connection.getsockname())
        taken.init()
        # An empty line in front of a request is ignored (RFC 9112, section 2.2), but not by every version of Gunicorn.
        taken.parser.unreader.unread(received.removeprefix(b"\r\n"))
        if self._loop is not None:
            self._loop.lent += 1
        self.nr_conns += 1
        self.enqueue_req(taken)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Run the application, with a limit on how long the client may take nothing."""
        conn.sock.settimeout(self.limits.send)
        try:
            return super().handle_request(req, conn)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the client stopped reading") from error

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """A thread is done with a request: the loop has the connection back, or sees it off."""
        if self._loop is None:
            super().finish_request(conn, fs)
            return
        self.nr_conns -= 1
        if not fs.cancelled() and fs.exception() is None and fs.result() is True:
            self._loop.adopt(conn.sock, conn.client, conn.parser.unreader.buf.getvalue())
        else:
            self._loop.see_off(conn.sock, conn.client)
