"""The access log: one record a request, one line a record, written in batches.

Whatever a client wrote is escaped. A record says how many of its bytes came from the cache, and how many were fetched.
"""

import errno
import json
import logging
import os
import re
import stat
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from package_cache.server.outlets import Outlet

logger = logging.getLogger("package_cache.access")

_PLAIN = re.compile(r"[ !#-\[\]-~]*")
"""What stands in a line as it is: printable ASCII but for the quotation mark and the backslash."""
_FETCHED = frozenset({"miss", "refetched", "relayed", "aside", "passed", "tunnel"})
_REOPEN_SECONDS = 1.0
_KEPT = 4096
"""Lines that wait for who reads the log; what comes beyond them is lost."""
_TELL_SECONDS = 60.0
_LAST_SECONDS = 1.0
"""How long, at the end, the log waits for a reader who takes nothing."""
_MOMENT = 0.01
"""Between two looks at whether he takes something."""


@dataclass(slots=True)
class Said:
    """What a client said in a request. `shown` is its request line and `by` its name for itself, as they stand in a log."""

    method: str
    target: str
    agent: str
    shown: str = field(init=False)
    by: str = field(init=False)

    def __post_init__(self) -> None:
        self.shown = f'"{_escaped(f"{self.method} {self.target}")} HTTP/1.1"'
        self.by = _as_agent(self.agent)


@dataclass(slots=True)
class AccessRecord:
    """What became of a request. `sent` counts bytes of the body, `seconds` run from the request to the end of the body."""

    client: str
    when: float
    said: Said
    status: int
    sent: int
    kind: str
    source: str
    seconds: float
    cut: bool

    @property
    def fetched(self) -> int:
        """Bytes that a source was asked for because of this request; the rest came from the cache."""
        return self.sent if self.kind in _FETCHED else 0


def combined(record: AccessRecord, stamp: str) -> str:
    """The combined format, followed by: kind, bytes from the cache, bytes from a source, seconds, source."""
    said, sent, fetched = record.said, record.sent, record.sent if record.kind in _FETCHED else 0
    return (
        f"{record.client} - - [{stamp}] {said.shown} {record.status} {sent} {said.by} {record.kind}"
        f"{'-cut' if record.cut else ''} {sent - fetched} {fetched} {record.seconds:.6f} {record.source}"
    )


def as_json(record: AccessRecord) -> str:
    """One JSON object."""
    return json.dumps(
        {
            "time": round(record.when, 3),
            "client": record.client,
            "method": record.said.method,
            "target": record.said.target,
            "agent": record.said.agent,
            "status": record.status,
            "kind": record.kind,
            "cut": record.cut,
            "bytes": record.sent,
            "bytes_from_cache": record.sent - record.fetched,
            "bytes_from_source": record.fetched,
            "seconds": round(record.seconds, 6),
            "source": record.source,
        }
    )


@lru_cache(256)
def _as_agent(agent: str) -> str:
    """How a client's name for itself stands in a line: clients of one kind say the same in each request."""
    return f'"-" "{_escaped(agent)}"'


def _escaped(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', "\\x22")


class Sink(Protocol):
    """Where finished lines go."""

    @property
    def wanted(self) -> bool:
        """Whether anybody reads the lines."""
        ...

    def write(self, lines: list[str]) -> int:
        """Write whole lines, without their line ends; how many need not come again."""
        ...

    def reopen(self) -> None:
        """Write to what has the name of the log now: its file may have been moved away."""
        ...

    def close(self) -> None:
        """Nothing more is written."""
        ...


class LoggerSink:
    """To the logger `package_cache.access`, where somebody listens to it: the command does with `-v`."""

    @property
    def wanted(self) -> bool:
        """Whether the logger passes INFO on."""
        return logger.isEnabledFor(logging.INFO)

    def write(self, lines: list[str]) -> int:
        """One record of the log a line."""
        for line in lines:
            logger.info("%s", line)
        return len(lines)

    def reopen(self) -> None:
        """Not this one's business."""

    def close(self) -> None:
        """There is nothing to close."""


class FileSink:
    """To a file, which is opened anew when it was moved away; to a pipe that has a name; or to standard error, for `-`."""

    wanted = True

    def __init__(self, path: str) -> None:
        self._path = None if path == "-" else Path(path)
        self._descriptor = 2 if self._path is None else _open(self._path)
        self._outlet = Outlet(self._descriptor)
        self._looked = 0.0

    @staticmethod
    def check(path: str) -> None:
        """Raise OSError where the file could not be written. Makes none: it might be another user's who is to write it."""
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK))
        except FileNotFoundError:
            folder = Path(path).parent.stat()
            if not os.access(Path(path).parent, os.W_OK | os.X_OK) or not stat.S_ISDIR(folder.st_mode):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None

    def write(self, lines: list[str]) -> int:
        """Append the lines in one call, so that those of several processes do not mix, as far as there is room for them.

        Raises OSError: a full disk, or a reader that is gone, must be told but not stop the service.
        """
        if time.monotonic() - self._looked >= _REOPEN_SECONDS:
            self.reopen()
        data = "\n".join(lines).encode("ascii", "backslashreplace")
        return self._outlet.write([line + b"\n" for line in data.split(b"\n")])

    def reopen(self) -> None:
        """Write to the file that has the name now; one that is moved away or gone is made anew."""
        if self._path is None or self._descriptor < 0:
            return
        self._looked = time.monotonic()
        with suppress(OSError):
            if self._path.exists() and os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                return
            fresh = _open(self._path)
            os.close(self._descriptor)
            self._descriptor, self._outlet = fresh, Outlet(fresh)

    def close(self) -> None:
        """Close the file. What is written later is lost."""
        self._outlet.close()
        if self._path is not None and self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_WRONLY, 0o640)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.open(path, flags | os.O_RDWR, 0o640)  # a pipe that nobody reads yet (fifo(7))


class AccessLog:
    """Gathers records and writes them when `flush` is called. Safe for any number of threads.

    Once another one has its place, that one gets what still comes.
    """

    def __init__(self, sink: Sink, form: str = "combined") -> None:
        self._sink = sink
        self._json = form == "json"
        self._guard = threading.RLock()  # a signal that ends the process may come while lines are written
        self.lines: deque[str] = deque()
        """What is still to be written."""
        self._lost = 0
        self._told = -_TELL_SECONDS
        self._second = 0
        self._stamp = ""
        self._successor: AccessLog | None = None

    @property
    def enabled(self) -> bool:
        """Whether anybody reads the log."""
        return self._sink.wanted if self._successor is None else self._successor.enabled

    def add(self, record: AccessRecord) -> None:
        """Note a finished request."""
        if self._successor is not None:
            self._successor.add(record)
            return
        if self._json:
            self.lines.append(as_json(record))
            return
        self.lines.append(combined(record, self._stamped(record.when)))

    def add_hit(self, client: str, when: float, line: bytes, like: Said, sent: int, seconds: float, source: str) -> None:
        """As `add`, for the whole of a stored file, where the first line of the request has nothing to be escaped."""
        text = line.decode("ascii")
        if self._json or self._successor is not None:
            method, target, _ = text.split(" ")
            said = Said(method, target, like.agent)
            self.add(AccessRecord(client, when, said, 200, sent, "hit", source, seconds, cut=False))
            return
        stamp = self._stamp if int(when) == self._second else self._stamped(when)
        self.lines.append(f'{client} - - [{stamp}] "{text}" 200 {sent} {like.by} hit {sent} 0 {seconds:.6f} {source}')

    def _stamped(self, when: float) -> str:
        second = int(when)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(second))
        return self._stamp

    def flush(self) -> None:
        """Write what was gathered."""
        if not self.lines:
            return
        with self._guard:
            self._write()

    def _write(self) -> None:
        lines = [self.lines.popleft() for _ in range(len(self.lines))]
        if self._successor is not None:
            self._successor.lines.extend(lines)
            self._successor.flush()
        elif lines:
            self._put(lines)

    def _put(self, lines: list[str]) -> None:
        """Write lines; those for which there is no room now come again, if they are not too many."""
        reason = "nobody takes them"
        try:
            left = lines[self._sink.write(lines) :]
        except OSError as error:
            reason, kept, left = error.strerror or str(error), [], lines
        else:
            kept = left[:_KEPT]
        self.lines.extendleft(reversed(kept))
        self._lost += len(left) - len(kept)
        if self._lost and time.monotonic() - self._told > _TELL_SECONDS:
            logger.warning("%d lines of the access log are lost: %s (this is said once a minute)", self._lost, reason)
            self._lost, self._told = 0, time.monotonic()

    def drain(self) -> None:
        """Write what was gathered, at the end: a reader who takes nothing for a second gets no more."""
        with self._guard:
            until = time.monotonic() + _LAST_SECONDS
            while (before := len(self.lines)) and time.monotonic() < until:
                self._write()
                if len(self.lines) < before:
                    until = time.monotonic() + _LAST_SECONDS
                else:
                    time.sleep(_MOMENT)

    def reopen(self) -> None:
        """Write what was gathered; what comes goes to the file that has the name of the log then."""
        with self._guard:
            self._write()
            self._sink.reopen()

    def give_way(self, successor: "AccessLog") -> None:
        """Write what was gathered. Requests that are still running are noted in another log when they end."""
        with self._guard:
            self._write()
            self._successor = successor
            self._sink.close()

    def close(self) -> None:
        """Write what was gathered, and nothing more."""
        with self._guard:
            self.drain()
            self._sink.close()
