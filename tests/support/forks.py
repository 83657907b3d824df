"""The product, and programs, as forks of one process that has imported everything: the imports are most of a start.

A fork is the program itself in all but how it came to be: its words, its environment, its folder, its own standard output
and error, a process with a pid and an exit code. Where its start is what is tested, start the program.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import logging
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from product import surroundings

COMMAND = "package_cache"

# The side of the tests


class Child:
    """A forked program, with what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, code: socket.socket, said: int | None) -> None:
        self.pid = pid
        self.stderr = None if said is None else os.fdopen(said, encoding="utf-8", errors="surrogateescape")
        self.returncode: int | None = None
        self._guard = threading.Lock()
        self._code = code

    def poll(self) -> int | None:
        """The exit code, once there is one: the negative number of the signal that ended it, if one did."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; subprocess.TimeoutExpired if there is none after so many seconds."""
        with self._guard:
            if self.returncode is None:
                self._code.settimeout(timeout)
                try:
                    self.returncode = int(self._code.recv(10) or -signal.SIGKILL)
                except (BlockingIOError, TimeoutError):
                    raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0) from None
                self._code.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        """A signal; nothing if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """Forks programs. Safe for any number of threads. `within` is a command that runs the one they are forked from."""

    def __init__(self, within: Sequence[str] = ()) -> None:
        self._guard = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen([*within, sys.executable, str(Path(__file__))], stdin=theirs)
        theirs.close()

    @property
    def pid(self) -> int:
        """The process that they are forked from."""
        return self._process.pid

    def fork(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Mapping[int, int],
        said: int | None = None,
        **more: object,
    ) -> Child:
        """Run `package_cache` or `gunicorn` with these words, the first of which is its name, or the text `program`.

        `descriptors` are those that it has, by the number that each gets; `said` is where its standard error can be read.
        `more` may have `program`, `user`, `session`, to begin one, and `plan`, see `faulty.Plan`.
        """
        order = {"words": list(words), "environment": dict(environment), "folder": str(Path.cwd()), **more}
        order["numbers"] = list(descriptors)
        code, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self._guard, telling:
            socket.send_fds(self._control, [json.dumps(order).encode()], [telling.fileno(), *descriptors.values()])
            pid = int(self._control.recv(20))
        return Child(pid, code, said)

    def spawn(self, words: Sequence[str], environment: Mapping[str, str]) -> Child:
        """A server, whose log is read from `stderr`."""
        said, log = os.pipe()
        try:
            return self.fork(words, environment, {2: log}, said)
        finally:
            os.close(log)

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], user: int = 0, program: str = ""
    ) -> "subprocess.CompletedProcess[bytes]":
        """A command, or a program with these words, which is expected to end by itself."""
        out, err = (os.memfd_create(name) for name in ("out", "err"))
        with open(out, "rb") as output, open(err, "rb") as errors:
            name = "-c" if program else COMMAND
            code = self.fork([name, *words], environment, {1: out, 2: err}, user=user, program=program).wait()
            for file in (output, errors):
                file.seek(0)
            return subprocess.CompletedProcess([name, *words], code, output.read(), errors.read())

    def close(self) -> None:
        """End them all."""
        self._control.close()
        self._process.wait(30)


_open: list[Forks] = []


@contextlib.contextmanager
def opened(forks: Forks) -> Iterator[Forks]:
    """What `run` and `run_program` use meanwhile."""
    _open.append(forks)
    try:
        yield forks
    finally:
        _open.remove(forks)


def run_program(program: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """What `python -c` would do with a program and these words, for a test with the fixture `shell`."""
    return _as_text(_open[-1].run([str(word) for word in words], surroundings(), program=program))


def run(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command, without the settings of whoever runs the tests, for a test with the fixture `shell`."""
    return _as_text(_open[-1].run(words, surroundings(**variables)))


def _as_text(ended: "subprocess.CompletedProcess[bytes]") -> "subprocess.CompletedProcess[str]":
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


# The side of the process that forks

LATE = (
    *("encodings.ascii", "encodings.idna", "encodings.latin_1", "configparser", "difflib", "tomllib"),
    *("gunicorn.app.wsgiapp", "gunicorn.workers.gthread", "importlib.metadata", "faulty"),
)
"""What programs import when they need it, which would be in each fork."""

_HIGH = 100
"""Descriptors from here on are in nobody's way."""


def prepare() -> None:
    """Import what there is."""
    import package_cache  # noqa: PLC0415 - the side of the tests has no need of it

    for module in pkgutil.walk_packages(package_cache.__path__, "package_cache."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of what is optional
                importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    importlib.import_module("package_cache.upstream.reach").version_text()  # which reads it from a file
    gc.collect()
    gc.freeze()  # or each fork would copy what its collector looks at


def become(order: dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """The program, in a process of its own, which ends with it."""
    code: object = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        high = [fcntl.fcntl(one, fcntl.F_DUPFD, _HIGH) for one in descriptors]
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, own in zip(order["numbers"], high, strict=True):
            os.dup2(own, number)
        os.closerange(max(2, *order["numbers"]) + 1, 4096)
        os.environ.clear()
        os.environ.update(order["environment"])
        if "LISTEN_FDS" in os.environ:
            os.environ.setdefault("LISTEN_PID", str(os.getpid()))
        time.tzset()
        os.chdir(order["folder"])
        if order.get("session"):
            os.setsid()
        if order.get("user"):
            os.setgroups([])
            os.setgid(order["user"])
            os.setuid(order["user"])
        if order.get("plan"):
            faulty = importlib.import_module("faulty")
            faulty.watch(faulty.Plan(**order["plan"]))
        code = _perform(order["words"], order.get("program"))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except SystemExit as end:
        code = end.code
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else int(code is not None))


def _perform(words: list[str], program: str | None) -> object:
    sys.argv = words
    if program:
        exec(program, {"__name__": "__main__"})
        return 0
    if words[0] == "gunicorn":
        logging.getLogger("package_cache").handlers.clear()  # those of the library, which a server does not import
        return importlib.import_module("gunicorn.app.wsgiapp").run()
    return importlib.import_module("package_cache.cli.main").main(words[1:])


def main() -> None:
    """Fork a program for each order that comes in on standard input, a socket, until that ends; then end them all."""
    control = socket.socket(fileno=0)
    running: dict[int, int] = {}

    def reap(*_: object) -> None:
        while running:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # another signal came within this call, and all are reaped by now
                return
            if not pid:
                return
            telling = running.pop(pid)
            with contextlib.suppress(OSError):  # nobody asks any more
                os.write(telling, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(telling)

    signal.signal(signal.SIGCHLD, reap)
    prepare()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 8)
        if not message:
            break
        telling, *theirs = descriptors
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # until it is known where its end is to be told
        pid = os.fork()
        if not pid:
            become(json.loads(message), theirs)
        running[pid] = telling
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for descriptor in theirs:
            os.close(descriptor)
        control.send(str(pid).encode())
    for pid in list(running):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
