"""The ledger: a line for each change of the registry, from which a lost registry is made again.

Owns `ledger-v1` and its format. A line is a checksum, the number of an entry, its status, and, unless the entry
is gone, all of it as JSON: a torn, spoilt or missing line costs that change and no other. Lines are only ever
appended, by who holds the write lock of the registry and after its commit, so what the ledger tells happened. Nothing waits
for the disk: a power cut may cost the lines of some seconds, and what is missing is added later.
"""

import errno
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from package_cache.model import Status
from package_cache.storage.schema import SIDE_TABLES, Row, check_seal, seal_of

logger = logging.getLogger(__name__)

_LONGEST = 1 << 20
"""Bytes of a line; more of it is damage."""
_TAIL = 1 << 16


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `number` 0 is a row of another table; without `payload` an entry is gone."""

    number: int
    status: int
    payload: bytes = b""

    def row(self) -> Row:
        """The row of the entry. Raises ValueError."""
        key, version, digest, created, used, representation = json.loads(self.payload)
        text = json.dumps(representation)
        return self.number, key, version, self.status, digest, text, created, used, seal_of(key, version, digest, text)

    def side_row(self) -> tuple[str, list[object]]:
        """The name of another table, and the values of its row. Raises ValueError."""
        table, *values = json.loads(self.payload)
        if table not in SIDE_TABLES:
            raise ValueError("not a line of this format")
        return table, values


def row_line(row: Row) -> bytes:
    """An entry was added or changed. Raises DamagedRegistry."""
    check_seal(row)
    number, key, version, status, digest, representation, created, used, _ = row
    # The representation is JSON already.
    payload = f'[{json.dumps(key)}, {version}, "{digest}", {created!r}, {used!r}, {representation}]'
    return _line(f"{number} {status} {payload}")


def gone_line(number: int) -> bytes:
    """The row of an entry is gone."""
    return _line(f"{number} {int(Status.DELETED)}")


def side_line(table: str, values: Iterable[object], *, gone: bool = False) -> bytes:
    """A row of another table was added or changed; or is gone, where only its primary key is given."""
    return _line(f"0 {int(Status.DELETED if gone else Status.READY)} {json.dumps([table, *values])}")


def _line(text: str) -> bytes:
    data = text.encode("ascii")
    return b"%08x %b\n" % (zlib.crc32(data), data)


def parse(line: bytes) -> Record | None:
    """The record of a line, None if it is damaged."""
    checksum, _, rest = line.rstrip(b"\n").partition(b" ")
    try:
        if len(checksum) != 8 or int(checksum, 16) != zlib.crc32(rest):
            return None
        number, _, rest = rest.partition(b" ")
        status, _, payload = rest.partition(b" ")
        return Record(int(number), int(status), payload)
    except ValueError:
        return None


class Ledger:
    """The ledger in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failing = False

    def append(self, lines: bytes) -> None:
        """Add whole lines; the caller holds the write lock. A disk that refuses is told of in the log, once."""
        if not lines:
            return
        try:
            self._append(lines)
        except OSError as error:
            if not self._failing:
                logger.warning("cannot write %s, from which the registry could be restored: %s", self.path, error.strerror)
            self._failing = True
        else:
            self._failing = False

    def _append(self, lines: bytes) -> None:
        # Opened each time: it may have been replaced or removed by another process.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            end = os.fstat(descriptor).st_size
            if end and os.pread(descriptor, 1, end - 1) != b"\n":  # torn by a crash: what follows is a line of its own
                lines = b"\n" + lines
            if os.write(descriptor, lines) < len(lines):
                os.ftruncate(descriptor, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    def size(self) -> int:
        """Bytes in the file; 0 if there is none. Raises OSError."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, end: int | None = None) -> Iterator[Record | None]:
        """The records in order, up to a place in the file; None stands for damage. Raises OSError."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            while line := file.readline(_LONGEST):
                if end is not None and file.tell() > end:
                    return
                if line != b"\n":
                    yield parse(line)

    def tail(self) -> list[Record]:
        """The last records. Raises OSError."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            file.seek(max(0, self.size() - _TAIL))
            return [record for record in map(parse, file.read().split(b"\n")) if record is not None]
