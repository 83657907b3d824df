"""Parts: the files that fills append to, the lease on each, and the journal that tells other processes about it.

Owns `parts-v1/`. A fill has a journal, named by the digest of its key, and a part for its bytes. The lease is an exclusive
flock on the journal: it dies with its process, so a killed leader is replaced, never waited for. The leader alone writes;
everyone else, in any process, reads the journal's lines and the part's size. A part is append-only. Where bytes turn out
to be of another file, a new part is begun under a new number, so a reader never sees its bytes change.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.model import Key, Representation
from package_cache.storage import records

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Failed:
    """A fill came to nothing; `status` is what a client is told."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Journal:
    """What the lines of a journal add up to.

    `number` names the part, 0 while there is none. `head` belongs to its bytes; `confirmed` says that a source vouched for
    it since the lease was last taken. `digest` is set once every byte is there and verified. `done` ends the fill.
    """

    number: int = 0
    head: Representation | None = None
    confirmed: bool = False
    digest: str | None = None
    size: int | None = None
    done: bool = False
    failed: Failed | None = None
    boot: str = ""

    def after(self, line: bytes) -> "Journal":
        """The state after one more line. Raises ValueError for a line this format does not know."""
        record: dict[str, object] = json.loads(line)
        match record:
            case {"claim": str(boot), "part": int(number)}:
                return Journal(number=number, head=self.head, boot=boot)
            case {"part": int(number), "head": str(text)}:
                return replace(self, number=number, head=records.load(text), confirmed=True, digest=None, size=None)
            case {"whole": str(digest), "size": int(size)}:
                return replace(self, digest=digest, size=size)
            case {"done": True}:
                return replace(self, done=True)
            case {"failed": int(status), "reason": str(reason)}:
                return replace(self, done=True, failed=Failed(status, reason))
            case _:
                raise ValueError(f"unknown journal line {line!r}")


class Part:
    """An append-only file of a fill. `size` is what was written, in bytes."""

    def __init__(self, path: Path, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            path.unlink(missing_ok=True)
            flags |= os.O_CREAT | os.O_EXCL
        self.path = path
        self._descriptor = os.open(path, flags, 0o600)
        self.size = os.fstat(self._descriptor).st_size

    def fileno(self) -> int:
        """The descriptor, for calls that take one."""
        return self._descriptor

    def put(self, at: int, data: bytes) -> bool:
        """Compare what is below `size`, append what is beyond. False if a compared byte differs; nothing is written then.

        Raises StoreError if the disk refuses.
        """
        known = min(len(data), self.size - at)
        if known > 0 and os.pread(self._descriptor, known, at) != data[:known]:
            return False
        fresh = memoryview(data)[max(known, 0) :]
        with _translated("write a download"):
            while fresh:
                written = os.pwrite(self._descriptor, fresh, self.size)
                self.size += written
                fresh = fresh[written:]
        return True

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        os.close(self._descriptor)


class Watch:
    """A reader's view of one fill's journal."""

    def __init__(self, store: "PartStore", path: Path, descriptor: int) -> None:
        self._store = store
        self._path = path
        self._descriptor = descriptor
        self._seen = (0, 0)
        self.journal = Journal()
        self.beat = 0.0

    def refresh(self) -> Journal:
        """Read what the leader wrote. Raises ValueError for lines this format does not know."""
        status = os.fstat(self._descriptor)
        self.beat = status.st_mtime
        seen = (status.st_size, status.st_mtime_ns)
        if seen != self._seen:
            # From the first line each time: a leader that cannot use what it took over begins the journal anew.
            journal = Journal()
            for line in os.pread(self._descriptor, status.st_size, 0).split(b"\n")[:-1]:
                journal = journal.after(line)
            self.journal, self._seen = journal, seen
        return self.journal

    def is_over(self) -> bool:
        """Whether the journal tells the end of a fill."""
        with suppress(ValueError):
            return self.refresh().done
        return False

    def open_part(self) -> int | None:
        """A descriptor of the part, or None if it is gone: the fill ended, or began another part."""
        try:
            return os.open(self._store.part_path(self._path, self.journal.number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def take_over(self) -> "Lease | None":
        """The lease, if its holder died; None while somebody holds it. Raises StoreError if the journal was removed."""
        if not _lock(self._descriptor):
            return None
        try:
            with suppress(ValueError):  # the lease makes of a damaged journal what it can
                if self.refresh().done:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                    return None
            if not _is_at(self._descriptor, self._path):
                raise StoreError("the files of a running download were removed")
            return Lease(self._store, self._path, os.dup(self._descriptor))
        except BaseException:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            raise

    def close(self) -> None:
        """Close the journal."""
        os.close(self._descriptor)


class Lease:
    """The right to write one fill's journal and part, until `done` or `failed` or the end of the process."""

    def __init__(self, store: "PartStore", path: Path, descriptor: int) -> None:
        self._store = store
        self._path = path
        self._descriptor = descriptor
        self.part: Part | None = None
        self.unstored: Journal | None = None
        """What an earlier leader verified, and perhaps could not put into the store any more."""
        self.journal = Journal()
        try:
            self.journal = self._recover()
            self._write({"claim": store.boot, "part": self.journal.number})
        except BaseException:
            self._release()
            raise

    def _recover(self) -> Journal:
        """What an earlier leader left, as far as it can be used; anything else is removed."""
        journal = Journal()
        data = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        if not data:
            return journal
        whole, newline, _ = data.rpartition(b"\n")
        try:
            for line in whole.split(b"\n") if newline else ():
                journal = journal.after(line)
        except ValueError:
            return self._start_over(journal)
        # Without a boot in between, what was written is what is there: the page cache outlives a process.
        if journal.head is None or journal.boot != self._store.boot or not journal.boot:
            return self._start_over(journal)
        if journal.digest is not None and not journal.done:
            self.unstored = journal
        try:
            self.part = Part(self._store.part_path(self._path, journal.number), create=False)
        except OSError:
            return self._start_over(journal)
        os.ftruncate(self._descriptor, len(whole) + 1)
        return journal

    def _start_over(self, journal: Journal) -> Journal:
        self._store.remove_parts(self._path)
        os.ftruncate(self._descriptor, 0)
        return Journal(number=journal.number)

    @property
    def have(self) -> int:
        """Bytes in the part."""
        return self.part.size if self.part else 0

    def begin(self, head: Representation) -> None:
        """Tell readers the head of the part's bytes, now that a source vouches for it. Raises StoreError."""
        number = self.journal.number
        if self.part is None:
            number += 1
            with _translated("begin a download"):
                self.part = Part(self._store.part_path(self._path, number), create=True)
        self._write({"part": number, "head": records.dump(head)})

    def reset(self) -> None:
        """Drop the part; its bytes are of a file that no source has."""
        if self.part is not None:
            self.part.path.unlink(missing_ok=True)
            self.part.close()
            self.part = None

    def adopted(self) -> None:
        """The part became a blob, or was not needed for one; what comes next begins a new one."""
        if self.part is not None:
            self.part.close()
            self.part = None

    def whole(self, digest: str, size: int) -> None:
        """Tell readers that every byte is there and verified."""
        self._write({"whole": digest, "size": size})

    def done(self) -> None:
        """Tell readers that the registry has the outcome, and remove the files."""
        self._end({"done": True}, keep=False)

    def failed(self, failure: Failed, *, keep: bool) -> None:
        """Tell readers that nothing came of it. With `keep`, the bytes stay for the next attempt."""
        self._end({"failed": failure.status, "reason": failure.reason}, keep=keep and self.part is not None)

    def _end(self, record: dict[str, object], *, keep: bool) -> None:
        """Write the last line and give the lease back, whatever the disk says to it. Raises StoreError afterwards."""
        if self._descriptor < 0:
            return
        try:
            self._write(record)
        finally:
            try:
                if not keep:
                    self._remove()
            finally:
                self._release()

    def beat(self) -> None:
        """Show readers in other processes that the leader lives, though no byte may be added."""
        with _translated("write a download's journal"):
            os.utime(self._descriptor)

    def _remove(self) -> None:
        with _translated("remove a download"):
            self._store.part_path(self._path, self.journal.number).unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)

    def _release(self) -> None:
        if self.part is not None:
            self.part.close()
            self.part = None
        if self._descriptor >= 0:
            # A watch that took over shares the lock, and lives as long as the slowest reader: closing would not end it.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, record: dict[str, object]) -> None:
        line = json.dumps(record).encode("ascii")
        with _translated("write a download's journal"):
            end = os.fstat(self._descriptor).st_size
            if os.pwrite(self._descriptor, line + b"\n", end) <= len(line):
                os.ftruncate(self._descriptor, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.journal = self.journal.after(line)


class PartStore:
    """The parts under one directory. Safe for any number of threads and processes on one machine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.boot = _boot_id()
        root.mkdir(parents=True, exist_ok=True)

    def claim(self, key: Key) -> Lease | None:
        """The lease on a key's fill; None if somebody holds it. Raises StoreError if the disk refuses."""
        path = self._journal_path(key)
        with _translated("begin a download"):
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if not _lock(descriptor):
                    os.close(descriptor)
                    return None
                # Between open and flock the holder may have removed the file: that lock would guard nothing.
                if _is_at(descriptor, path):
                    return Lease(self, path, descriptor)
                os.close(descriptor)

    def watch(self, key: Key) -> Watch | None:
        """A view of the fill of a key that somebody leads; None if there is none."""
        path = self._journal_path(key)
        with _translated("follow a download"):
            try:
                return Watch(self, path, os.open(path, os.O_RDWR | os.O_CLOEXEC))
            except FileNotFoundError:
                return None

    def part_path(self, journal: Path, number: int) -> Path:
        """Where the part of that number is."""
        return journal.with_suffix(f".{number}.part")

    def remove_parts(self, journal: Path) -> None:
        """Remove every part of a fill."""
        for path in self._root.glob(f"{journal.stem}.*.part"):
            path.unlink(missing_ok=True)

    def _journal_path(self, key: Key) -> Path:
        return self._root / f"{hashlib.sha256(key.encode('utf-8')).hexdigest()}.fill"


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _boot_id() -> str:
    """A name for the time since the machine started; empty where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


@contextmanager
def _translated(deed: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {deed}: {error.strerror}") from error
