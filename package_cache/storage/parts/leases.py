"""Leases: the right to download a key, for one thread of one process, and how the others see what comes of it.

Owns `parts-v1/`. A fill has a lease, a part for its bytes, and a journal: lines of JSON by which its leader tells others
how far it is. The lease is a lock on the key: it dies with its process, so a killed leader is replaced, never waited for.
The leader alone writes; everyone else, in any process, reads the journal's lines and the part's size. A part is
append-only. Where bytes turn out to be of another file, a new part is begun under a new number, so a reader never sees its
bytes change. The journal is written only once there is something to tell or to keep: what is fetched in a moment never has
one, and the processes that wait for it see the lease end.
"""

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from package_cache.errors import OnlyRead, StoreError
from package_cache.model import ErrorResponse, Key, Representation, frozen
from package_cache.storage.database.schema import dump_representation, load_representation
from package_cache.storage.parts.locks import NameLocks, hashed
from package_cache.storage.parts.part import Part
from package_cache.storage.system import Descriptor, append_whole, boot_id, translated

_WAITING = "somebody waits"
"""The name of a lock that all processes share which follow another one. It is no key."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A fill came to nothing; `status` is what a client is told, `answered` what a source said.

    It is `hopeless` if no source sent what can be right. `retry_after` are seconds for which the sources are not asked.
    `response` is all of what a source said, if clients are told that.
    """

    status: int
    reason: str
    answered: int | None = None
    hopeless: bool = False
    retry_after: int | None = None
    response: ErrorResponse | None = None


@frozen
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
        """The state after one more line. Raises ValueError for a line that this format does not know."""
        record: dict[str, object] = json.loads(line)
        match record:
            case {"claim": str(boot), "part": int(number)}:
                return Journal(number=number, head=self.head, boot=boot)  # a source is still to vouch for it
            case {"part": int(number), "head": str(text)}:
                return Journal(number=number, head=load_representation(text), confirmed=True, boot=self.boot)
            case {"whole": str(digest), "size": int(size)}:
                return replace(self, digest=digest, size=size)
            case {"done": True}:
                return self.ended(None)
            case {"failed": int(status), "reason": str(reason)}:
                answered, rest = record.get("answered"), record.get("retry_after")
                said, left = (one if isinstance(one, int) else None for one in (answered, rest))
                response = _load_response(record.get("response"))
                return self.ended(Failed(status, reason, said, record.get("hopeless") is True, left, response))
            case _:
                raise ValueError(f"unknown journal line {line!r}")

    def ended(self, failed: Failed | None) -> "Journal":
        """The state at the end of the fill."""
        # Not by `replace`, which takes ten times as long: each small file has one.
        return Journal(self.number, self.head, self.confirmed, self.digest, self.size, True, failed, self.boot)  # noqa: FBT003

    def lines(self) -> bytes:
        """The lines that add up to this state."""
        lines = _claim_line(self.boot, self.number)
        if self.confirmed and self.head is not None:
            lines += _head_line(self.number, self.head)
        if self.digest is not None and self.size is not None:
            lines += _whole_line(self.digest, self.size)
        return lines + _end_line(self.failed) if self.done else lines


def _claim_line(boot: str, number: int) -> bytes:
    """Somebody has the lease, in this boot of the machine; `number` is that of the part found."""
    return _line({"claim": boot, "part": number})


def _head_line(number: int, head: Representation) -> bytes:
    """A source vouches for the head of the part."""
    return _line({"part": number, "head": dump_representation(head)})


def _whole_line(digest: str, size: int) -> bytes:
    """Every byte is there and verified."""
    return _line({"whole": digest, "size": size})


def _end_line(failed: Failed | None) -> bytes:
    """The fill is over."""
    if failed is None:
        return _line({"done": True})
    record = {
        "answered": failed.answered,
        "hopeless": failed.hopeless or None,
        "retry_after": failed.retry_after,
        "response": None if failed.response is None else _dump_response(failed.response),
    }
    known = {name: value for name, value in record.items() if value is not None}
    return _line({"failed": failed.status, "reason": failed.reason, **known})


def _dump_response(response: ErrorResponse) -> list[object]:
    return [response.status, response.fields, b64encode(response.body).decode("ascii")]


def _load_response(record: object) -> ErrorResponse | None:
    """Raises ValueError for what this format does not know."""
    match record:
        case None:
            return None
        case [int(status), list(fields), str(body)]:
            return ErrorResponse(status, tuple([(str(name), str(value)) for name, value in fields]), b64decode(body))
        case _:
            raise ValueError(f"unknown response {record!r}")


def _line(record: dict[str, object]) -> bytes:
    return json.dumps(record).encode("ascii") + b"\n"


class Watch:
    """A reader's view of a fill that another process leads."""

    def __init__(self, store: "PartStore", key: Key) -> None:
        self._store = store
        self._name = hashed(key)
        self._path = store.path_of(self._name)
        self._descriptor: int | None = None
        self._waits = store.wait()
        self._seen = (0, 0)
        self.journal = Journal()
        self.beat = 0.0

    @property
    def has_journal(self) -> bool:
        """Whether the leader wrote anything yet."""
        return self._descriptor is not None

    def refresh(self) -> Journal:
        """Read what the leader wrote. Raises OSError, and ValueError for lines this format does not know."""
        if self._descriptor is None:
            self._descriptor = _open_if_there(self._path)
            if self._descriptor is None:
                return self.journal
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
        """Whether the journal tells the end of a fill. Raises StoreError."""
        with suppress(ValueError), translated("follow a download"):
            return self.refresh().done
        return False

    def open_part(self) -> Descriptor | None:
        """The part, or None if it does not exist: the fill ended, or began another part."""
        number = _open_if_there(self._store.part_path(self._name, self.journal.number), os.O_RDONLY)
        return None if number is None else Descriptor(number)

    def seize(self) -> bool:
        """Take the lock of the key, if nobody holds it: call `succeed` or `let_go` next. Raises StoreError."""
        with translated("take a download over"):
            return self._store.locks.take_hashed(self._name)

    def succeed(self) -> "Lease | None":
        """The lease, once `seize` took the lock; None, and the lock is given back, if the journal tells of the end.

        Raises StoreError if the journal was removed, or if the disk refuses.
        """
        lease, is_over = None, False
        try:
            with translated("take a download over"):
                with suppress(ValueError):  # a lease uses of a damaged journal what it can
                    is_over = self.refresh().done
                if self._descriptor is not None and not is_over and not _is_at(self._descriptor, self._path):
                    raise StoreError("the files of a running download were removed")
                lease = None if is_over else Lease(self._store, self._name)
        finally:
            if lease is None:
                self.let_go()
        return lease

    def let_go(self) -> None:
        """Give the lock back."""
        self._store.locks.free_hashed(self._name)

    def close(self) -> None:
        """Close the journal."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        if self._waits:
            self._waits = False
            self._store.wait_no_more()


class Lease:
    """The right to write one fill's journal and part, until `done` or `failed` or the end of the process.

    Made by `PartStore.claim` and `Watch.succeed`, which hold the lock of the key; `name` stands for it.
    """

    def __init__(self, store: "PartStore", name: str) -> None:
        self._store = store
        self._name = name
        self._path = store.path_of(name)
        self._descriptor: int | None = None
        self._held = True
        self.part: Part | None = None
        self.unstored: Journal | None = None
        """What an earlier leader verified, but may not have stored."""
        self.journal = store.blank
        if os.access(self._path, os.F_OK):
            self._take_over()

    @property
    def has_remains(self) -> bool:
        """Whether an earlier leader left something that can be resumed or stored."""
        return self.part is not None or self.unstored is not None

    def _take_over(self) -> None:
        """Read the journal that an earlier leader left; one that this user may not use is removed."""
        try:
            self._descriptor = _open_if_there(self._path)
        except PermissionError:  # of another user, such as root
            self._store.remove_parts(self._name)
            os.unlink(self._path)  # noqa: PTH108 - a string
        if self._descriptor is None:
            return
        try:
            self.journal = self._recover(self._descriptor)
            self._tell(_claim_line(self._store.blank.boot, self.journal.number))
        except BaseException:
            self._close()
            raise

    def _recover(self, descriptor: int) -> Journal:
        """What an earlier leader left, as far as it is of use; anything else is removed."""
        journal = Journal()
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        if not data:
            return journal
        whole, newline, _ = data.rpartition(b"\n")
        try:
            for line in whole.split(b"\n") if newline else ():
                journal = journal.after(line)
        except ValueError:
            return self._start_over(descriptor, journal)
        # Unless the machine was booted since, what was written is there: the page cache outlives a process.
        if journal.head is None or journal.boot != self._store.blank.boot or not journal.boot:
            return self._start_over(descriptor, journal)
        if journal.digest is not None and not journal.done:
            self.unstored = journal
        try:
            self.part = Part(self._store.part_path(self._name, journal.number), create=False)
        except OSError:
            return self._start_over(descriptor, journal)
        os.ftruncate(descriptor, len(whole) + 1)
        return journal

    def _start_over(self, descriptor: int, journal: Journal) -> Journal:
        self._store.remove_parts(self._name)
        os.ftruncate(descriptor, 0)
        return Journal(number=journal.number)

    @property
    def have(self) -> int:
        """Bytes in the part."""
        return self.part.size if self.part else 0

    @property
    def exposed(self) -> bool:
        """Whether other processes can see more of the fill than that it is led."""
        return self._descriptor is not None

    def expose(self) -> None:
        """Write the journal from now on: others see the fill, and its bytes outlive this process. Raises StoreError."""
        if self._descriptor is not None:
            return
        with translated("write a download's journal"):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                append_whole(descriptor, self.journal.lines())
            except BaseException:
                _remove(self._path)
                os.close(descriptor)
                raise
        self._descriptor = descriptor

    def begin(self, head: Representation) -> None:
        """Note the head of the part's bytes, for which a source vouches now. Raises StoreError."""
        number = self.journal.number
        if self.part is None:
            number += 1
            with translated("begin a download"):
                self.part = Part(self._store.part_path(self._name, number), create=True)
        self._tell(_head_line(number, head))

    def reset(self) -> None:
        """Remove the part: its bytes are of a file that no source has."""
        if self.part is not None:
            self.part.path.unlink(missing_ok=True)
            self.adopted()

    def adopted(self) -> None:
        """The part became a blob, or was not needed for one; further bytes begin a new part."""
        if self.part is not None:
            self.part.close()
            self.part = None

    def whole(self, digest: str, size: int) -> None:
        """Tell readers that every byte is there and verified. Raises StoreError."""
        self._tell(_whole_line(digest, size))

    def leave(self) -> str:
        """Nothing of it was written, and it ends: the name of its lock, which the caller gives back."""
        assert self.part is None
        assert self._descriptor is None
        self._held = False
        return self._name

    def done(self) -> None:
        """Tell readers that the registry has the outcome, and remove the files. Raises StoreError."""
        self._end(None, keep=False)

    def failed(self, failure: Failed, *, keep: bool) -> None:
        """Tell readers that the fill failed. With `keep`, the bytes stay for the next attempt. Raises StoreError."""
        self._end(failure, keep=keep and self.part is not None and self.part.is_sound())

    def abandon(self) -> None:
        """Give the lease back in the middle of it, as the end of the process would: whoever takes it resumes the part.

        Raises StoreError if the part has to go, and cannot.
        """
        if not self._held:
            return
        try:
            if self.part is not None and self.part.is_sound():
                with suppress(StoreError):  # then nobody finds the part, and a sweep removes it
                    self.expose()
            else:
                with translated("remove a download"):
                    self.reset()
        finally:
            self._close()
            self._store.locks.free_hashed(self._name)

    def _end(self, failure: Failed | None, *, keep: bool) -> None:
        """Write the last line, and give the lease back even if the disk refuses."""
        if not self._held:
            return
        if self.part is None and self._descriptor is None:
            self._held = False
            self.journal = self.journal.ended(failure)
            self._store.locks.free_hashed(self._name)
            return
        try:
            if keep:
                self.expose()
            self._tell(_end_line(failure))
        finally:
            try:
                if not keep:
                    with translated("remove a download"):
                        if self.part is not None:
                            self.part.path.unlink(missing_ok=True)
                        if self._descriptor is not None:
                            _remove(self._path)
            finally:
                self._close()
                self._store.locks.free_hashed(self._name)

    def beat(self) -> None:
        """Show readers in other processes that the leader lives, even while no byte comes. Raises StoreError."""
        self.expose()
        assert self._descriptor is not None
        with suppress(OSError):  # readers elsewhere may give up for want of it; the download goes on
            os.utime(self._descriptor)

    def _close(self) -> None:
        self._held = False
        self.adopted()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _tell(self, line: bytes) -> None:
        """Write a line, if the journal is written; else `expose` will write it."""
        if self._descriptor is not None:
            with translated("write a download's journal"):
                append_whole(self._descriptor, line)
        self.journal = self.journal.after(line)


class PartStore:
    """The parts under one directory. Safe for any number of threads and processes on one machine."""

    def __init__(self, root: Path, *, only_read: bool = False) -> None:
        self._root = str(root)
        self._only_read = only_read
        self.blank = Journal(boot=boot_id())
        root.mkdir(parents=True, exist_ok=True)
        self.locks = NameLocks(root.with_name("leases-v2"))

    def claim(self, key: Key) -> Lease | None:
        """The lease on a key's fill; None if somebody holds it. Raises StoreError if the disk refuses."""
        if self._only_read:
            raise OnlyRead(f"{self._root} can be read here, and not written")
        name = hashed(key)
        with translated("begin a download"):
            if not self.locks.take_hashed(name):
                return None
            try:
                return Lease(self, name)
            except BaseException:
                self.locks.free_hashed(name)
                raise

    def end_all(self, leases: Iterable[Lease]) -> None:
        """Have leases end of which nothing was written. Raises StoreError."""
        with translated("end a download"):
            self.locks.free_all([lease.leave() for lease in leases])

    def is_led(self, key: Key) -> bool:
        """Whether somebody holds the lease on a key's fill. Raises StoreError."""
        with translated("look for a download"):
            return self.locks.is_held(key)

    def wait(self) -> bool:
        """Show other processes that somebody here waits for them; whether that could be done."""
        with suppress(OSError):
            return self.locks.share(_WAITING)
        return False

    def wait_no_more(self) -> None:
        """End one `wait`."""
        with suppress(OSError):
            self.locks.free(_WAITING)

    def is_awaited(self) -> bool:
        """Whether another process waits for a fill of some process, as far as can be told."""
        with suppress(OSError):
            return self.locks.is_held(_WAITING)
        return True

    def watch(self, key: Key) -> Watch:
        """A view of the fill of a key that another process leads."""
        return Watch(self, key)

    def path_of(self, name: str) -> str:
        """Where the journal of a fill is, if there is one; for the hash of a key."""
        return f"{self._root}/{name}.fill"

    def part_path(self, name: str, number: int) -> Path:
        """Where the part of that number is, for the hash of a key."""
        return Path(f"{self._root}/{name}.{number}.part")

    def remove_parts(self, name: str) -> None:
        """Remove every part of a fill, for the hash of a key."""
        for path in Path(self._root).glob(f"{name}.*.part"):
            path.unlink(missing_ok=True)


def _open_if_there(path: str | Path, flags: int = os.O_RDWR) -> int | None:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - a string


def _is_at(descriptor: int, path: str) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116 - a string
    return False
