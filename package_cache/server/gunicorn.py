"""Gunicorn as the host: the settings that fit this application, and a worker that keeps time.

The only module that imports Gunicorn. `HeadTimeWorker` is its threaded worker with what that one lacks: a limit on the
time a request head may take, and on the time a client may take nothing of what is sent.
"""

import errno
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.workers.gthread import TConn, ThreadWorker

from package_cache.config import Config, Timeouts
from package_cache.server.app import Application
from package_cache.server.loop import Limits, Loop


class GunicornServer(BaseApplication):  # type: ignore[misc]
    """Serves the application that `make` builds in each worker."""

    def __init__(self, config: Config, make: Callable[[], Application], started: Callable[[str], None]) -> None:
        self._config = config
        self._make = make
        self._started = started
        super().__init__()

    def load_config(self) -> None:
        """Hand our settings over; no file and no environment variable of Gunicorn's is read."""
        config = self._config
        host = f"[{config.host}]" if ":" in config.host else config.host
        settings = {
            "bind": [f"{host}:{config.port}"],
            "workers": config.workers,
            "threads": config.threads,
            "worker_class": worker_class(config.timeouts),
            "worker_connections": config.connections,
            "backlog": 2048,
            "keepalive": int(config.timeouts.idle),
            "timeout": 60,
            "graceful_timeout": int(config.timeouts.graceful),
            "limit_request_line": 8190,
            "forwarded_allow_ips": "",
            "control_socket_disable": True,
            "logger_class": _Logger,
            "when_ready": self._when_ready,
            "worker_exit": _close_application,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Application:
        """Build the application; called once in each worker."""
        return self._make()

    def _when_ready(self, arbiter: Any) -> None:
        self._started(", ".join(f"http://{_text(listener.getsockname())}/" for listener in arbiter.LISTENERS))


def _text(address: tuple[Any, ...]) -> str:
    host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
    return f"{host}:{address[1]}"


def _close_application(_server: Any, worker: Any) -> None:
    """Let a worker that ends write what it still holds."""
    application = getattr(worker, "wsgi", None)
    if isinstance(application, Application):
        application.service.close()


class _Logger(GunicornLogger):  # type: ignore[misc]
    """Lets Gunicorn's messages go where the command sends all others."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.setLevel(logging.NOTSET)
        self.error_log.propagate = True


def worker_class(limits: Timeouts) -> type[ThreadWorker]:
    """A worker class bound to its limits; Gunicorn makes the instances."""
    return type("PackageCacheWorker", (LoopWorker,), {"limits": limits})


class HeadTimeWorker(ThreadWorker):  # type: ignore[misc]
    """Gunicorn's threaded worker, with limits on the time of a request head and of a stuck send.

    Gunicorn reads a head on a blocking socket, so a client that sends half of one would hold a thread for ever.
    """

    limits = Timeouts()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._reading: dict[TConn, float] = {}

    def handle(self, conn: TConn) -> Any:
        """Serve a request; its head is due from now on."""
        self._reading[conn] = time.monotonic() + self.limits.request
        try:
            return super().handle(conn)
        finally:
            self._reading.pop(conn, None)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Run the application: the head is complete, what counts now is that the client reads."""
        self._reading.pop(conn, None)
        conn.sock.settimeout(self.limits.send)
        try:
            return super().handle_request(req, conn)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the client stopped reading") from error

    def murder_pending(self) -> None:
        """Called every second by the main loop: also end the connections whose head is overdue."""
        super().murder_pending()
        now = time.monotonic()
        for conn, due in list(self._reading.items()):
            if due < now:
                self._reading.pop(conn, None)
                _hang_up(conn)


class LoopWorker(HeadTimeWorker):
    """The event loop in front, Gunicorn's threads and parser for what it leaves."""

    def run(self) -> None:
        """Serve until told to stop, then until what runs is done."""
        if self.cfg.is_ssl or not isinstance(self.wsgi, Application):
            super().run()
            return
        self._serve(self.wsgi)

    def _serve(self, application: Application) -> None:
        limits = Limits(self.worker_connections, self.limits)
        self._loop = loop = Loop(list(self.sockets), application, self._fall_back, self.tpool, limits, "gunicorn")
        loop.watch(self.method_queue.fileno(), lambda: self.method_queue.run_callbacks(None))
        while self.alive and self.is_parent_alive():
            self.notify()
            loop.turn(1.0)
            self.murder_pending()
        loop.drain()
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while loop.busy and time.monotonic() < deadline:
            self.notify()
            loop.turn(0.5)
        loop.close()
        self.tpool.shutdown(wait=False, cancel_futures=True)

    def _fall_back(self, connection: socket.socket, received: bytes, address: Any) -> None:
        connection.settimeout(None)
        taken = TConn(self.cfg, connection, address, connection.getsockname())
        taken.init()
        taken.parser.unreader.unread(received)
        self._loop.lent += 1
        self.nr_conns += 1
        self.enqueue_req(taken)

    def finish_request(self, conn: TConn, fs: Any) -> None:
        """A thread is done with a request: the loop has the connection back, or it ends."""
        if not hasattr(self, "_loop") or conn.parser is None:
            super().finish_request(conn, fs)
            return
        self.nr_conns -= 1
        if not fs.cancelled() and fs.exception() is None and fs.result() is True and self.alive:
            self._loop.adopt(conn.sock, conn.client, conn.parser.unreader.buf.getvalue())
        else:
            conn.close(graceful=True)
            self._loop.returned()


def _hang_up(conn: TConn) -> None:
    """Make the thread that reads from the connection see its end."""
    try:
        conn.sock.shutdown(2)
    except OSError:
        return
