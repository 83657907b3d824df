"""Runs the product in forked processes that die, or meet a failing disk, at a chosen step of what they do to their cache.

`nursery.Nursery` starts this as a program: everything is imported once, each run is a fork. What a run does to the files of
its cache is seen by an audit hook; the few calls without an audit event (`os.pwrite`, `os.write`, `os.fsync`, statements of
SQLite) are wrapped. The product knows nothing of it.
"""

import errno
import fcntl
import gc
import importlib
import json
import os
import re
import signal
import socket
import sqlite3
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from package_cache.cli import main as command
from package_cache.upstream.reach import version_text

LATE = (
    *("encodings.ascii", "encodings.idna", "encodings.latin_1", "configparser", "difflib", "importlib.metadata", "tomllib"),
    "package_cache.cli.serving",
)
"""What the product imports when it needs it, which would be in each fork."""

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

_HIGH = 100
"""Descriptors from here on are in nobody's way."""

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


def serve(order: dict[str, Any], listener: int, alive: int, log: int) -> None:
    """Be the product, on the socket `listener`, and hold `alive` open. Runs in a process of its own, and ends it."""
    code = 70
    try:
        for own, number in ((log, 1), (log, 2), (listener, 3), (alive, 4)):
            os.dup2(own, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(5, _HIGH + 10)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.update(order["environment"])
        os.environ.update({"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})
        if order["user"]:
            os.setgroups([])
            os.setgid(order["user"])
            os.setuid(order["user"])
        if order["plan"]:
            watch(Plan(**order["plan"]))
        code = command.main(order["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


def main() -> None:
    """Fork a product for each order that comes in on standard input, a socket, until that ends; then end them all."""
    control = socket.socket(fileno=0)
    running: set[int] = set()
    for name in LATE:
        importlib.import_module(name)
    version_text()  # which reads it from a file
    gc.collect()
    gc.freeze()  # or each fork would copy what its collector looks at
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 3)
        while running:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            running.discard(pid)
        if not message:
            break
        pid = os.fork()
        if not pid:
            serve(json.loads(message), *(fcntl.fcntl(one, fcntl.F_DUPFD, _HIGH) for one in descriptors))
        running.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(str(pid).encode())
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
