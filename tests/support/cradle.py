"""Programs as forks of one process that has imported them, for tests that start hundreds: the imports are most of a start.

A fork is the program itself in all but how it came to be: its words, its environment, its folder, its own standard error,
a process with a pid and an exit code. Where its start is what is tested, start the program.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class Child:
    """A forked program, with what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, said: int, code: int) -> None:
        self.pid = pid
        self.stderr = os.fdopen(said, encoding="utf-8", errors="surrogateescape")
        self.returncode: int | None = None
        self._guard = threading.Lock()
        self._code = socket.socket(fileno=code)

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
            with suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Cradle:
    """Forks programs. Safe for any number of threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("cradled.py"))], stdin=theirs)
        theirs.close()

    def spawn(self, words: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Run `package-cache` or `gunicorn` with these words, the first of which is its name."""
        order = {"words": list(words), "environment": dict(environment), "folder": str(Path.cwd())}
        said, log = os.pipe()
        code, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self._guard, telling:
            socket.send_fds(self._control, [json.dumps(order).encode()], [log, telling.fileno()])
            pid = int(self._control.recv(20))
        os.close(log)
        return Child(pid, said, code.detach())

    def close(self) -> None:
        """End them all."""
        self._control.close()
        self._process.wait(30)
