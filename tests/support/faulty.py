"""The product in forked processes that die, or meet a failing disk, at a chosen step of what they do to their cache.

Each is the real command on a real socket. What a run does to the files of its cache is seen by an audit hook; the few calls
without an audit event (`os.pwrite`, `os.write`, `os.fsync`, statements of SQLite) are wrapped. The product knows nothing of
it.
"""

import errno
import fcntl
import itertools
import json
import os
import re
import select
import signal
import socket
import sqlite3
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forks import COMMAND, Child, Forks
from origin import until
from product import Proxy, children, surroundings

DISK_ERRORS: dict[int, frozenset[str]] = {
    errno.ENOSPC: frozenset({"create", "mkdir", "write", "commit", "script"}),
    errno.EDQUOT: frozenset({"create", "mkdir", "write", "commit", "script"}),
    errno.EIO: frozenset(
        {"create", "modify", "write", "fsync", "truncate", "rename", "remove", "commit", "begin", "script"}
    ),
    errno.EROFS: frozenset(
        {"create", "modify", "mkdir", "rename", "remove", "chmod", "utime", "truncate", "begin", "script"}
    ),
    errno.EACCES: frozenset({"create", "modify", "mkdir", "rename", "remove", "chmod", "utime", "begin", "script"}),
    errno.EMFILE: frozenset({"create", "modify", "open", "connect"}),
    errno.ENOLCK: frozenset({"lock", "flock"}),
}
"""Which calls each error of a disk strikes."""

SQLITE_ERRORS = {
    errno.ENOSPC: (sqlite3.SQLITE_FULL, "database or disk is full"),
    errno.EDQUOT: (sqlite3.SQLITE_FULL, "database or disk is full"),
    errno.EIO: (sqlite3.SQLITE_IOERR_WRITE, "disk I/O error"),
    errno.EROFS: (sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    errno.EACCES: (sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    errno.EMFILE: (sqlite3.SQLITE_CANTOPEN, "unable to open database file"),
}

AUDITED = {
    "os.rename": "rename",
    "os.remove": "remove",
    "os.rmdir": "rmdir",
    "os.mkdir": "mkdir",
    "os.chmod": "chmod",
    "os.utime": "utime",
    "os.truncate": "truncate",
    "os.link": "link",
    "fcntl.flock": "flock",
    "sqlite3.connect": "connect",
}
STATEMENT = re.compile(
    r"\s*(?:(BEGIN|COMMIT|ROLLBACK|PRAGMA \w+)|(INSERT|UPDATE|DELETE|REPLACE)\b.*?\b(\w+)\s*(?:\(|SET|VALUES|WHERE))", re.S
)

pwrite, write, fsync, connect, link, sendfile = os.pwrite, os.write, os.fsync, sqlite3.connect, os.link, os.sendfile


@dataclass(frozen=True)
class Plan:
    """What befalls a run.

    Steps are counted once the file `armed` is there; without a name, from the start. At the `ordinal`-th step named `point`
    the `deed` is done: "kill" before it, "half" way through a write, "after" it, or "error" with `number`. As long as the
    file `broken` holds the number of an error, every call that a disk may answer so is. Each step is a line of `report`.
    What is removed gets another name in the directory `kept`.
    """

    cache: str
    report: str
    armed: str = ""
    point: str = ""
    ordinal: int = 0
    deed: str = "kill"
    number: int = 0
    broken: str = ""
    kept: str = ""
    lacks: dict[str, int] = field(default_factory=dict)
    """Calls that the file system does not have, with the error that it answers: those of steps, "sendfile" besides."""


class Steps:
    """Counts what the process does to its cache, and does the deed of the plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._guard = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._own = threading.local()
        self._report = os.open(plan.report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._armed = not plan.armed

    def place(self, where: object) -> str | None:
        """The path of a file of the cache, by name or descriptor, below the cache's; None for any other file."""
        try:
            path = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else os.fsdecode(where)  # type: ignore
        except (OSError, TypeError):
            return None
        path = path.removesuffix(" (deleted)").removeprefix("file://").removesuffix("?mode=rw")
        return path.removeprefix(self._plan.cache).lstrip("/") or "." if path.startswith(self._plan.cache) else None

    def meet(
        self, call: str, path: str | None, detail: str = "", to: str | None = None, descriptor: int | None = None
    ) -> str:
        """A step is about to be done; what befalls it: "", "half" or "after". May raise OSError, or never return."""
        if path is None or getattr(self._own, "busy", False):
            return ""
        self._own.busy = True
        try:
            with self._guard:
                return self._step(call, path, detail, to, descriptor)
        finally:
            self._own.busy = False

    def _step(self, call: str, path: str, detail: str, to: str | None, descriptor: int | None) -> str:
        if not self._armed:
            self._armed = os.path.exists(self._plan.armed)
            if not self._armed:
                return ""
        kind = re.sub("[0-9a-f]{64}", "SHA", path)
        kind = re.sub(r"^(blobs-v1)/[0-9a-f]{2}\b", r"\1/XX", kind)
        name = f"{call}{detail and ' '}{detail} {kind}"
        self._counts[name] += 1
        planned = name == self._plan.point and self._counts[name] == self._plan.ordinal
        lacking = f"{call} directory" if os.path.isdir(f"{self._plan.cache}/{path}") else call
        if lacking in self._plan.lacks:
            raise OSError(self._plan.lacks[lacking], os.strerror(self._plan.lacks[lacking]))
        number = self._plan.number if planned and self._plan.deed == "error" else self._number_of_broken_disk(call)
        self._note(name, "refused" if number else call, path, to, descriptor)
        if number:
            refuse(call, number)
        if planned and self._plan.deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return self._plan.deed if planned else ""

    def _note(self, name: str, call: str, path: str, to: str | None, descriptor: int | None) -> None:
        try:
            status = os.stat(f"{self._plan.cache}/{path}") if descriptor is None else os.fstat(descriptor)
            inode, size = status.st_ino, status.st_size
        except OSError:
            inode, size = 0, 0
        kept = ""
        if self._plan.kept and call == "remove" and inode:
            kept = f"{self._plan.kept}/{sum(self._counts.values())}"
            link(f"{self._plan.cache}/{path}", kept)
        line = {"name": name, "ordinal": self._counts[name], "call": call, "path": path, "to": to}
        line |= {"inode": inode, "size": size, "kept": kept}
        write(self._report, json.dumps(line).encode() + b"\n")

    def _number_of_broken_disk(self, call: str) -> int:
        """The error with which a broken disk answers a call; 0 if it does what it should."""
        if not self._plan.broken:
            return 0
        try:
            descriptor = os.open(self._plan.broken, os.O_RDONLY)
        except OSError:
            return 0
        try:
            number = int(os.read(descriptor, 10))
        finally:
            os.close(descriptor)
        return number if call in DISK_ERRORS[number] else 0

    def finish(self, deed: str) -> None:
        """The step was done, in full or half."""
        if deed:
            os.kill(os.getpid(), signal.SIGKILL)

    # -- where steps are seen

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if event == "open":
            path = self.place(arguments[0])
            if path is not None:
                self.meet(self._way_to_open(arguments[0], arguments[2]), path)
        elif event == "fcntl.fcntl" and isinstance(arguments[2], bytes):
            kind, _, start = struct.unpack_from("hhq", arguments[2])
            self.meet("unlock" if kind == fcntl.F_UNLCK else "lock", self.place(arguments[0]), to=str(start))
        elif event == "os.rename":
            self.meet("rename", self.place(arguments[0]), to=self.place(arguments[1]))
        elif event in AUDITED:
            descriptor = arguments[0] if isinstance(arguments[0], int) else None
            self.meet(AUDITED[event], self.place(arguments[0]), descriptor=descriptor)

    @staticmethod
    def _way_to_open(name: Any, flags: int) -> str:
        if flags & os.O_CREAT and not os.path.exists(name):
            return "create"
        return "modify" if flags & os.O_ACCMODE != os.O_RDONLY else "open"

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        """In the place of `os.pwrite`."""
        deed = self.meet("write", self.place(descriptor), descriptor=descriptor)
        done = pwrite(descriptor, memoryview(data)[: len(data) // 2] if deed == "half" else data, offset)
        self.finish(deed)
        return done

    def write(self, descriptor: int, data: Any) -> int:
        """In the place of `os.write`."""
        deed = self.meet("write", self.place(descriptor), descriptor=descriptor)
        done = write(descriptor, memoryview(data)[: len(data) // 2] if deed == "half" else data)
        self.finish(deed)
        return done

    def sendfile(self, out: int, source: int, *more: int) -> int:
        """In the place of `os.sendfile`, which is no step."""
        if "sendfile" in self._plan.lacks and self.place(source) is not None:
            raise OSError(self._plan.lacks["sendfile"], os.strerror(self._plan.lacks["sendfile"]))
        return sendfile(out, source, *more)

    def fsync(self, descriptor: int) -> None:
        """In the place of `os.fsync` and `os.fdatasync`."""
        deed = self.meet("fsync", self.place(descriptor), descriptor=descriptor)
        fsync(descriptor)
        self.finish(deed)

    def connect(self, database: Any, *more: Any, factory: Any = sqlite3.Connection, **options: Any) -> sqlite3.Connection:
        """In the place of `sqlite3.connect`."""
        steps, path = self, self.place(database)

        class Watched(factory):  # type: ignore[misc]
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                return steps.around(path, sql, lambda: super(Watched, self).execute(sql, *arguments))

            def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                return steps.around(path, sql, lambda: super(Watched, self).executemany(sql, *arguments))

            def executescript(self, script: str) -> sqlite3.Cursor:
                on_disk = path if "CREATE TEMP" not in script else None
                return steps.around(on_disk, "", lambda: super(Watched, self).executescript(script))

        return connect(database, *more, factory=Watched, **options)

    def around(self, path: str | None, sql: str, do: Callable[[], Any]) -> Any:
        """A statement; those that only read are no step."""
        call, detail = "script", ""
        if sql:
            match = STATEMENT.match(sql)
            if match is None:
                return do()
            word = match[1] or match[2]
            call = {"BEGIN": "begin", "COMMIT": "commit"}.get(word, "sqlite")
            detail = "" if call != "sqlite" else " ".join(part for part in (word, match[3]) if part)
        deed = self.meet(call, path, detail)
        result = do()
        self.finish(deed)
        return result


def refuse(call: str, number: int) -> None:
    """Answer a call as a failing disk does."""
    if call in ("begin", "commit", "script", "connect", "sqlite"):
        code, text = SQLITE_ERRORS[number]
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        raise error
    raise OSError(number, os.strerror(number))


def watch(plan: Plan) -> None:
    """See every step of this process from now on."""
    steps = Steps(plan)
    os.pwrite, os.write, os.fsync, os.fdatasync = steps.pwrite, steps.write, steps.fsync, steps.fsync
    os.sendfile = steps.sendfile
    sqlite3.connect = steps.connect  # type: ignore[assignment]
    sys.addaudithook(steps.audit)


class Fork(Proxy):
    """A product in a forked process. Its log is the file `log_file`."""

    def __init__(self, cache: Path, address: tuple[str, int], child: Child, alive: int, log_file: Path) -> None:
        self.cache = cache
        self.pid = child.pid
        self.log_file = log_file
        self._child = child
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
        """SIGTERM, and the end; the exit code."""
        self._child.terminate()
        self._bury()
        return self._child.wait(30)

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
            self._child.wait(30)

    @property
    def log(self) -> list[str]:  # type: ignore[override]
        """What it said so far."""
        return self.log_file.read_text().splitlines(keepends=True)

    def log_lines(self) -> list[str]:
        """What it said, but for the line that it serves."""
        return [line for line in self.log_file.read_text().splitlines() if "serving " not in line]


class Nursery:
    """Starts such products. Safe for any number of threads; `user` runs them, who can read what they need."""

    def __init__(self, forks: Forks, user: int = 0) -> None:
        self._forks = forks
        self._user = user
        self._numbers = itertools.count(1)

    def run_by(self, user: int) -> "Nursery":
        """The same, but that a user runs its products."""
        return Nursery(self._forks, user)

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
        words = [COMMAND, "--cache", str(cache), *options, *arguments]
        told = surroundings(LISTEN_FDS="1", **(environment or {}))
        log_file = room / f"log.{next(self._numbers)}"
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        alive, theirs = os.pipe()
        try:
            with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
                address = listener.getsockname()
                numbers = {1: log, 2: log, 3: listener.fileno(), 4: theirs}
                planned = asdict(plan) if plan else None
                child = self._forks.fork(words, told, numbers, user=self._user, plan=planned)
        finally:
            os.close(theirs)
            os.close(log)
        return Fork(cache, address, child, alive, log_file)
