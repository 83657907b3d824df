"""Gunicorn as the host: the settings that fit this application, and a worker with the event loop in front.

The only module that imports Gunicorn. Of its internals the worker uses few: how a threaded worker handles a connection
(`TConn`, `enqueue_req`, `finish_request`), and the bytes that its parser was not given yet.
"""

import errno
import io
import logging
import math
import mmap
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from package_cache.config import Timeouts
from package_cache.errors import BadRequest, PackageCacheError
from package_cache.rules.http import wire
from package_cache.server import addresses
from package_cache.server.addresses import Listening
from package_cache.server.app import Application
from package_cache.server.connections import client_name
from package_cache.server.loop import Loop
from package_cache.server.pool import Pool
from package_cache.server.reactor import Limits
from package_cache.server.refusals import refuse
from package_cache.server.reloading import Settings
from package_cache.server.systemd import Notifier

logger = logging.getLogger(__name__)

_RESERVE_SECONDS = 5
"""What the arbiter waits longer than its workers do, so that they end by themselves."""
_SETTLE_SECONDS = 0.02
"""Between two looks, before the end, at whether the disk has what came."""
_ENDS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_MEMORY = Path("/dev/shm")  # noqa: S108 - what is in there for a moment has no name
_HEARD_LATER = (*_ENDS, signal.SIGUSR1)
"""What waits until a worker has handlers of its own."""


_UPGRADE = "GUNICORN_FD"
"""Set for an arbiter that another one starts in its place: the descriptors to listen on. Gunicorn takes it from there."""
_FILES = "GUNICORN_SOCKET_FILES"
"""Set together with it: the files of unix sockets that the new arbiter is to remove, separated by blanks."""


def upgraded(environment: MutableMapping[str, str]) -> Listening | None:
    """What an arbiter that is started in the place of another one has to close, apart from the sockets; else None."""
    if _UPGRADE not in environment:
        return None
    return Listening([], map(Path, environment.pop(_FILES, "").split()))


class GunicornServer(BaseApplication):  # type: ignore[misc]
    """Serves the application of the settings, built in each worker.

    `answering` is called once, when every worker answers requests, with the places where it listens. `cache` is a
    directory where this process may write, if it may anywhere.
    """

    def __init__(
        self,
        settings: Settings,
        listening: Listening,
        notifier: Notifier,
        answering: Callable[[str], None],
        cache: Path,
    ) -> None:
        self._temporary = _place_for_heartbeats(cache)
        self.listening = listening
        self.notifier = notifier
        self.answering = answering
        self._settings = settings
        self._binds = [f"fd://{one.detach()}" for one in listening.sockets]
        super().__init__()

    def load_config(self) -> None:
        """Hand our settings over; no file and no environment variable of Gunicorn's is read."""
        config = self._settings.config
        settings = {
            "bind": self._binds,
            "workers": config.workers,
            "threads": config.threads,
            "worker_class": worker_class(config.timeouts),
            "worker_connections": max(config.connections, config.threads + 1),
            "backlog": addresses.BACKLOG,
            "keepalive": math.ceil(config.timeouts.idle),
            "timeout": 60,
            "worker_tmp_dir": self._temporary,
            "graceful_timeout": math.ceil(config.timeouts.graceful) + _RESERVE_SECONDS,
            "limit_request_line": 8190,
            "limit_request_field_size": wire.MAX_HEAD,
            "http_parser": "python",  # the one whose reading of a head is known to be that of the loop
            "forwarded_allow_ips": "",
            "control_socket_disable": True,
            "logger_class": _Logger,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:  # some of them are newer than the oldest Gunicorn that will do
                self.cfg.set(name, value)

    def load(self) -> Application:
        """Build the application; called once in each worker."""
        try:
            return self._settings.build()
        except (PackageCacheError, OSError) as error:
            logger.error("%s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def renew(self) -> bool:
        """Read the settings again, and try what the workers will do with them; whether they can be used."""
        application = self._settings.renew()
        if application is None:
            return False
        application.close()
        self.do_load_config()
        return True

    def run(self) -> None:
        """Serve until told to stop; ends in SystemExit."""
        _Arbiter(self).run()


def _place_for_heartbeats(cache: Path) -> str | None:
    """Where workers can have the file by which they show that they live: in memory, if they may, where no disk is slow.

    None leaves it to Gunicorn, which knows the usual directories for temporary files only.
    """
    for place in (_MEMORY, cache):
        with suppress(OSError), tempfile.TemporaryFile(dir=place):
            return str(place)
    return None


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Says when the workers answer, reloads without waiting for the old ones, and minds the files of its unix sockets.

    Gunicorn's own arbiter waits at a reload for the old workers, which may have downloads to see to their end. It hears no
    signal and replaces no dead worker meanwhile.
    """

    _retired = 0
    """Workers of this age and below are to end."""

    def __init__(self, server: GunicornServer) -> None:
        self._server = server
        self._announced = False
        self._settled = False
        self.LISTENERS: list[Any] = []
        super().__init__(server)

    def reap_workers(self) -> None:
        """Called at each SIGCHLD, which a worker sends too when it begins to answer."""
        super().reap_workers()
        workers = [worker for worker in self.WORKERS.values() if worker.age > self._retired]
        if self._settled or len(workers) < self.num_workers:
            return
        if all(worker.answers for worker in workers):
            self._settled = True
            if not self._announced:
                self._announced = True
                self._server.answering(addresses.where(listener.getsockname() for listener in self.LISTENERS))
            self._server.notifier.ready()

    def reload(self) -> None:
        """SIGHUP: read the settings again, start new workers and tell the old ones to end; these stay if that cannot be."""
        self._server.notifier.reloading()
        if not self._server.renew():
            self.kill_workers(signal.SIGUSR1)
            if self._settled:
                self._server.notifier.ready()
            return
        self._settled = False
        self.setup(self.app)
        self._retired = self.worker_age
        self.manage_workers()

    def manage_workers(self) -> None:
        """Keep as many workers as there should be, those that are to end not counted."""
        retired = {pid: worker for pid, worker in self.WORKERS.items() if worker.age <= self._retired}
        for pid in retired:
            del self.WORKERS[pid]
        try:
            super().manage_workers()
        finally:
            self.WORKERS.update(retired)
        for pid in retired:
            self.kill_worker(pid, signal.SIGTERM)

    def spawn_worker(self) -> Any:
        """Fork a worker. What it is told before it has handlers of its own waits for them; the arbiter's would lose it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD_LATER)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD_LATER)

    def reexec(self) -> None:
        """SIGUSR2: start another arbiter on the same sockets. It may remove their files, and speak for the service."""
        self.cfg.env_orig[_FILES] = " ".join(map(str, self._server.listening.files))
        self.cfg.env_orig["NOTIFY_SOCKET"] = self._server.notifier.address
        super().reexec()

    def stop(self, graceful: bool = True) -> None:
        """Take no more connections and end the workers."""
        self._settled = True
        if self.LISTENERS:
            self._leave()
        super().stop(graceful)

    def _leave(self) -> None:
        # Closed here, as Gunicorn would remove the file of every unix socket, also of one that it was given.
        while self.LISTENERS:
            self.LISTENERS.pop().close()
        server = self._server
        predecessor_lives = self.master_pid != 0 and self.master_pid == os.getppid()
        if self.reexec_pid or predecessor_lives:
            server.listening.leave_files()
        server.listening.close()
        if self.reexec_pid:
            server.notifier.succeeded(self.reexec_pid)
        elif not predecessor_lives:
            server.notifier.stopping()


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

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._shared = mmap.mmap(-1, 1)  # the arbiter makes the worker, and then forks

    @property
    def answers(self) -> bool:
        """Whether it has begun to answer requests; seen from the arbiter too."""
        return self._shared[0] != 0

    def run(self) -> None:
        """Serve until told to stop and what runs has come to its end, or its time is up."""
        if self.cfg.is_ssl or not isinstance(self.wsgi, Application):
            super().run()
            return
        limits = Limits(self.worker_connections, self.limits)
        self._loop = loop = Loop([one.sock for one in self.sockets], self.wsgi, self._fall_back, limits, "gunicorn")
        loop.watch(self.method_queue.fileno(), partial(self._hear, loop))
        self._say_that_it_answers()
        self.wsgi.service.caretaker.begin()
        while self.alive and self.is_parent_alive():
            self.notify()
            loop.turns(1.0)
        loop.drain()
        self.wsgi.service.retire()
        self.wsgi.access.reopen()
        for one in self.sockets:
            one.close()
        deadline = time.monotonic() + min(self.limits.graceful, max(0, self.cfg.graceful_timeout - _RESERVE_SECONDS))
        while (loop.busy or not self.wsgi.service.is_settled) and time.monotonic() < deadline:
            self.notify()
            loop.turn(1.0 if loop.busy else _SETTLE_SECONDS)
        loop.close()
        self._end()

    def _hear(self, loop: Loop) -> None:
        """Do what was left for the loop's thread, such as nothing when the worker is told to stop."""
        self.method_queue.run_callbacks(None)
        if not self.alive:
            loop.pause()

    def _say_that_it_answers(self) -> None:
        self._shared[0] = 1
        if self.is_parent_alive():
            os.kill(self.ppid, signal.SIGCHLD)  # the one signal that does no more than have the arbiter look

    def get_thread_pool(self) -> Pool:
        """What runs requests that the loop leaves."""
        return Pool(self.cfg.threads)

    def init_signals(self) -> None:
        """Hear of signals from here on."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD_LATER)

    def handle_usr1(self, sig: Any, frame: Any) -> None:
        """SIGUSR1: the access log may have been moved away."""
        super().handle_usr1(sig, frame)
        if self._loop is not None:
            self._loop.call(self.wsgi.access.reopen)

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """SIGQUIT, from an arbiter that got SIGINT: end now."""
        if self._loop is None:
            super().handle_quit(sig, frame)
        else:
            self._end()

    def _end(self) -> None:
        """End at once: the threads of the pool would keep the process while one of them sends."""
        for number in _ENDS:
            signal.signal(number, signal.SIG_IGN)
        self.wsgi.access.flush()
        self.wsgi.service.close()
        os._exit(0)

    def _fall_back(self, connection: socket.socket, received: bytes, address: Any) -> None:
        connection.settimeout(None)
        # Gunicorn would believe whatever a client on a unix socket says of itself, and take the Host field for our name.
        client = (client_name(address), address[1] if isinstance(address, tuple) else 0)
        taken = TConn(self.cfg, connection, client, addresses.own_name(connection.getsockname()))
        taken.init()
        taken.data_ready = True  # or newer versions of Gunicorn open a selector to wait for it
        # An empty line in front of a request is ignored (RFC 9112, section 2.2), but not by every version of Gunicorn.
        taken.parser.unreader.unread(received.removeprefix(b"\r\n"))
        self.enqueue_req(taken)
        self.nr_conns += 1
        if self._loop is not None:
            self._loop.lent += 1

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Run the application, with a limit on how long the client may take nothing."""
        conn.sock.settimeout(self.limits.send)
        if self._loop is not None and not self._is_wanted(req):
            req.body = io.BytesIO()  # the loop has read what there was, or nobody will
            req._expected_100_continue = False  # or Gunicorn would ask the client for what nobody reads
        if not _persists(req):
            req.force_close()
        req.version = min(req.version, (1, 1))  # Gunicorn would claim to speak whatever the client does
        try:
            return super().handle_request(req, conn)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the client stopped reading") from error

    def _is_wanted(self, req: Any) -> bool:
        """Whether the application reads what the client sends."""
        host = next((value for name, value in req.headers if name.lower() == "host"), None)
        return self.wsgi.service.routes.posted(req.method, req.uri, host) is not None

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Refuse a request that Gunicorn's parser does not read as the loop would, without a warning for each."""
        if self._loop is None or not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        with suppress(OSError):
            client.sendall(refuse(BadRequest("the request is none that is served here"), addr[0], self.wsgi.access))

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


def _persists(req: Any) -> bool:
    """Whether the connection persists: if the client wants it, and sent no content, which may not have been read.

    Gunicorn knows `close` only where it stands alone.
    """
    fields = tuple((name.lower(), value) for name, value in req.headers)
    head = wire.Head(req.method, req.uri, min(req.version[1], 1), fields)
    return head.keep_alive and not head.has_body
