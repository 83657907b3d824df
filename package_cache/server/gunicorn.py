"""Gunicorn as the host: its arbiter keeps processes running, each of which is our event loop.

The only module that imports Gunicorn. Nothing of how it reads requests, runs applications or sends answers is used.
"""

import gc
import logging
import math
import mmap
import os
import signal
import sys
import tempfile
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.workers.base import Worker

from package_cache.engine.upkeep.memory import give_back
from package_cache.errors import PackageCacheError
from package_cache.server import addresses
from package_cache.server.addresses import Listening
from package_cache.server.app import Application
from package_cache.server.reactor import Limits
from package_cache.server.reloading import Settings
from package_cache.server.serving import Serving, limits_of
from package_cache.server.systemd import Notifier

logger = logging.getLogger(__name__)

_RESERVE_SECONDS = 5
"""What the arbiter waits longer than its workers do, so that they end by themselves."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - what is in there for a moment has no name
_HEARD_LATER = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1)
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
            "worker_class": f"{__name__}.{LoopWorker.__name__}",
            "backlog": addresses.BACKLOG,
            "timeout": 60,
            "worker_tmp_dir": self._temporary,
            "graceful_timeout": math.ceil(config.timeouts.graceful) + _RESERVE_SECONDS,
            "control_socket_disable": True,
            "logger_class": _Logger,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:  # some of them are newer than the oldest Gunicorn that will do
                self.cfg.set(name, value)

    @property
    def limits(self) -> Limits:
        """The bounds of each process."""
        return limits_of(self._settings.config)

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
        gc.collect()
        give_back()
        gc.freeze()  # what workers look through, they have copies of
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


class LoopWorker(Worker):  # type: ignore[misc]
    """A process of Gunicorn's that is our event loop.

    Usable by name in a Gunicorn of one's own: `--worker-class package_cache.server.gunicorn.LoopWorker`.
    """

    _serving: Serving | None = None
    _patience = 0.0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._shared = mmap.mmap(-1, 1)  # the arbiter makes the worker, and then forks

    @property
    def answers(self) -> bool:
        """Whether it has begun to answer requests; seen from the arbiter too."""
        return self._shared[0] != 0

    def run(self) -> None:
        """Serve until told to stop and what runs has come to its end, or its time is up."""
        self._require_ours()
        own = isinstance(self.app, GunicornServer)
        limits = self.app.limits if own else Limits(self.cfg.worker_connections)
        self._patience = min(limits.timeouts.graceful, max(0, self.cfg.graceful_timeout - _RESERVE_SECONDS))
        listening = Listening([one.sock for one in self.sockets])
        self._serving = serving = Serving(self.wsgi, listening, limits, "gunicorn")

        def meanwhile() -> None:
            self.notify()
            if not (self.alive and self.is_parent_alive()):
                serving.stop(self._patience)

        self._say_that_it_answers()
        serving.serve(meanwhile)
        serving.close()
        os._exit(0)  # a thread that waits for the disk would keep the process

    def _require_ours(self) -> None:
        """End where it is asked for what it cannot do; the arbiter ends then as well."""
        if isinstance(self.wsgi, Application) and not self.cfg.is_ssl:
            return
        what = "speaks no TLS" if self.cfg.is_ssl else "serves package_cache:create_app() and nothing else"
        logger.error("this worker class %s; any other class of Gunicorn's does", what)
        sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def is_parent_alive(self) -> bool:
        """Whether the arbiter is still there."""
        return bool(self.ppid == os.getppid())

    def _say_that_it_answers(self) -> None:
        self._shared[0] = 1
        if self.is_parent_alive():
            os.kill(self.ppid, signal.SIGCHLD)  # the one signal that does no more than have the arbiter look

    def init_signals(self) -> None:
        """Hear of signals from here on."""
        super().init_signals()
        signal.set_wakeup_fd(-1)  # into a pipe that nobody reads: the loop has one of its own
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD_LATER)

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """SIGTERM: come to an end."""
        super().handle_exit(sig, frame)
        if self._serving is not None:
            self._serving.reopen_logs()
            self._serving.stop(self._patience)

    def handle_usr1(self, sig: Any, frame: Any) -> None:
        """SIGUSR1: the access log may have been moved away."""
        super().handle_usr1(sig, frame)
        if self._serving is not None:
            self._serving.reopen_logs()

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """SIGQUIT, from an arbiter that got SIGINT: end after this turn of the loop, which may hold a lock now."""
        if self._serving is None:
            super().handle_quit(sig, frame)
        else:
            self.alive, self._patience = False, 0.0
            self._serving.stop(0.0)
