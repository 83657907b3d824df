"""Products as forks of one process that has imported everything, so that hundreds can be started, killed and started again.

Each is the real command on a real socket. What may befall it is told in `faulty.Plan`.
"""

import copy
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from faulty import Plan
from origin import until
from product import Proxy, children, surroundings


class Fork(Proxy):
    """A product in a forked process. Its log is the file `log_file`."""

    def __init__(self, cache: Path, address: tuple[str, int], pid: int, alive: int, log_file: Path) -> None:
        self.cache = cache
        self.pid = pid
        self.log_file = log_file
        self._address = address
        self._alive = alive

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    @property
    def url(self) -> str:
        return f"http://{self._address[0]}:{self._address[1]}/"

    def workers(self) -> list[int]:
        return children(self.pid)

    def is_alive(self) -> bool:
        """Whether any process of this product still runs."""
        return self._alive >= 0 and not select.select([self._alive], [], [], 0)[0]

    def wait_until_it_serves(self) -> bool:
        """Whether it came that far; False if it died before."""
        until(lambda: "serving " in self.log_file.read_text() or not self.is_alive())
        return self.is_alive()

    def kill(self) -> None:
        """SIGKILL to the process and its workers; may be called again."""
        if self._alive < 0:
            return
        family = [self.pid, *self.workers()] if self.is_alive() else []
        for pid in family:
            self.signal_kill(pid)
        self._bury()

    @classmethod
    def signal_kill(cls, pid: int) -> None:
        """SIGKILL to one process; nothing if it is gone."""
        cls._signal(pid, signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and the end; 0, since nobody but the one it was forked from learns its exit code."""
        if self.is_alive():
            self._signal(self.pid, signal.SIGTERM)
        self._bury()
        return 0

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    def _bury(self) -> None:
        if self._alive >= 0:
            until(lambda: not self.is_alive())
            os.close(self._alive)
            self._alive = -1

    @property
    def log(self) -> list[str]:  # type: ignore[override]
        """What it said so far."""
        return self.log_file.read_text().splitlines(keepends=True)

    def log_lines(self) -> list[str]:
        """What it said, but for the line that it serves."""
        return [line for line in self.log_file.read_text().splitlines() if "serving " not in line]


class Nursery:
    """Forks products. Safe for any number of threads. `within` is a command that runs the one they are forked from."""

    def __init__(self, within: Sequence[str] = ()) -> None:
        self._user = 0
        self._guard = threading.Lock()
        self._numbers = itertools.count(1)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = surroundings()
        program = [*within, sys.executable, "-B", str(Path(__file__).with_name("faulty.py"))]
        self._process = subprocess.Popen(program, stdin=theirs, env=environment)
        theirs.close()

    def run_by(self, user: int) -> "Nursery":
        """The same, but that a user runs its products: only what they need must be readable to him."""
        one = copy.copy(self)
        one._user = user
        return one

    def start(
        self,
        cache: Path,
        sources: Sequence[str],
        room: Path,
        plan: Plan | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Fork:
        """A product that begins to serve. Its log goes to the directory `room`."""
        options = [word for source in sources for word in ("--source", source)]
        order = {
            "arguments": ["--cache", str(cache), *options, *arguments],
            "environment": dict(environment or {}),
            "plan": asdict(plan) if plan else None,
            "user": self._user,
        }
        log_file = room / f"log.{next(self._numbers)}"
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        alive, theirs = os.pipe()
        try:
            with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, self._guard:
                address = listener.getsockname()
                socket.send_fds(self._control, [json.dumps(order).encode()], [listener.fileno(), theirs, log])
                pid = int(self._control.recv(20))
        finally:
            os.close(theirs)
            os.close(log)
        return Fork(cache, address, pid, alive, log_file)

    @property
    def pid(self) -> int:
        """The process that they are forked from."""
        return self._process.pid

    def close(self) -> None:
        """End them all."""
        self._control.close()
        self._process.wait(30)
