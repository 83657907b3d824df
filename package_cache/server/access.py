"""The access log: one record a request, one line a record, written in batches.

Whatever a client wrote is escaped. A record says how many of its bytes came from the cache, and how many were fetched.
"""

import json
import logging
import os
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

logger = logging.getLogger("package_cache.access")

_FETCHED = frozenset({"miss", "refetched", "relayed", "aside", "passed"})
_REOPEN_SECONDS = 1.0


@dataclass(slots=True)
class Said:
    """What a client said in a request. `shown` is its request line and `by` its name for itself, as they stand in a log."""

    method: str
    target: str
    agent: str
    shown: str = field(init=False)
    by: str = field(init=False)

    def __post_init__(self) -> None:
        self.shown = f'"{_escaped(self.method)} {_escaped(self.target)} HTTP/1.1"'
        self.by = f'"-" "{_escaped(self.agent)}"'


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
    said, sent, fetched = record.said, record.sent, record.fetched
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


def _escaped(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', "\\x22")


class Sink(Protocol):
    """Where finished lines go."""

    @property
    def wanted(self) -> bool:
        """Whether anybody reads the lines."""
        ...

    def write(self, lines: list[str]) -> None:
        """Write whole lines, without their line ends."""
        ...


class LoggerSink:
    """To the logger `package_cache.access`, where somebody listens to it: the command does with `-v`."""

    @property
    def wanted(self) -> bool:
        """Whether the logger passes INFO on."""
        return logger.isEnabledFor(logging.INFO)

    def write(self, lines: list[str]) -> None:
        """One record of the log a line."""
        for line in lines:
            logger.info("%s", line)


class FileSink:
    """To a file, which is opened anew when it was moved away; or to standard error, for `-`."""

    wanted = True

    def __init__(self, path: str) -> None:
        self._path = None if path == "-" else Path(path)
        self._descriptor = 2 if self._path is None else self._open(self._path)
        self._looked = 0.0

    @staticmethod
    def _open(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def write(self, lines: list[str]) -> None:
        """Append the lines in one call, so that those of several processes do not mix."""
        self._reopen_if_moved()
        with suppress(OSError):  # a full disk must not stop the service
            os.write(self._descriptor, ("\n".join(lines) + "\n").encode("ascii", "backslashreplace"))

    def _reopen_if_moved(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked < _REOPEN_SECONDS:
            return
        self._looked = now
        with suppress(OSError):
            if self._path.exists() and os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                return
            fresh = self._open(self._path)
            os.close(self._descriptor)
            self._descriptor = fresh


class AccessLog:
    """Gathers records and writes them when `flush` is called. Safe for any number of threads."""

    def __init__(self, sink: Sink, form: str = "combined") -> None:
        self._sink = sink
        self._json = form == "json"
        self._guard = threading.Lock()
        self.lines: deque[str] = deque()
        """What is still to be written."""
        self._second = 0
        self._stamp = ""

    @property
    def enabled(self) -> bool:
        """Whether anybody reads the log."""
        return self._sink.wanted

    def add(self, record: AccessRecord) -> None:
        """Note a finished request."""
        if self._json:
            self.lines.append(as_json(record))
            return
        second = int(record.when)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(second))
        self.lines.append(combined(record, self._stamp))

    def flush(self) -> None:
        """Write what was gathered."""
        if not self.lines:
            return
        with self._guard:
            lines = [self.lines.popleft() for _ in range(len(self.lines))]
            if lines:
                self._sink.write(lines)
