"""Leases: the right to download a key, for one thread of one process, and how the others see what comes of it.

Owns `parts-v1/`. A fill has a lease, a part for its bytes, and a journal. The lease is a lock on the key: it dies with its
process, so a killed leader is replaced, never waited for. The leader alone writes; everyone else, in any process, reads the
journal's lines and the part's size. A part is append-only. Where bytes turn out to be of another file, a new part is begun
under a new number, so a reader never sees its bytes change. The journal is written only once there is something to tell or
to keep: what is fetched in a moment never has one, and who waits for it sees the lease end.
"""

import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from package_cache.errors import OnlyRead, StoreError
from package_cache.model import Key, Representation
from package_cache.storage.machine import boot_id
from package_cache.storage.parts import journals
from package_cache.storage.parts.descriptor import Descriptor
from package_cache.storage.parts.journals import Failed, Journal
from package_cache.storage.parts.locks import NameLocks
from package_cache.storage.parts.part import Part, translated

_SUFFIX = ".fill"


class Watch:
    """A reader's view of one fill that somebody else leads."""

    def __init__(self, store: "PartStore", key: Key) -> None:
        self._store = store
        self._key = key
        self._path = store.journal_path(key)
        self._descriptor: int | None = None
        self._seen = (0, 0)
        self.journal = Journal()
        self.beat = 0.0

    @property
    def has_journal(self) -> bool:
        """Whether the leader told anything yet."""
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
        """The part, or None if it is gone: the fill ended, or began another part."""
        number = _open_if_there(self._store.part_path(self._path, self.journal.number), os.O_RDONLY)
        return None if number is None else Descriptor(number)

    def take_over(self) -> "Lease | None":
        """The lease, if its holder is gone; None while somebody holds it, and where the journal tells the end of the fill.

        Raises StoreError if the journal was removed, or if the disk refuses.
        """
        return self.succeed() if self.seize() else None

    def seize(self) -> bool:
        """Take the lock of the key, if its holder is gone: `succeed` or `let_go` is next. Raises StoreError."""
        with translated("take a download over"):
            return self._store.take(self._key)

    def succeed(self) -> "Lease | None":
        """The lease of who has the lock; as `take_over`."""
        with translated("take a download over"):
            return self._store.under_lock(self._key, self._lease)

    def let_go(self) -> None:
        """Give the lock back."""
        self._store.free(self._key)

    def _lease(self) -> "Lease | None":
        with suppress(ValueError):  # the lease makes of a damaged journal what it can
            if self.refresh().done:
                return None
        if self._descriptor is not None and not _is_at(self._descriptor, self._path):
            raise StoreError("the files of a running download were removed")
        return Lease(self._store, self._key)

    def close(self) -> None:
        """Close the journal."""
        if self._descriptor is not None:
            os.close(self._descriptor)


class Lease:
    """The right to write one fill's journal and part, until `done` or `failed` or the end of the process.

    Made by `PartStore.claim` and `Watch.take_over`, which hold the lock of the key.
    """

    def __init__(self, store: "PartStore", key: Key) -> None:
        self._store = store
        self._key = key
        self._path = store.journal_path(key)
        self._descriptor: int | None = self._open()
        self._held = True
        self.part: Part | None = None
        self.unstored: Journal | None = None
        """What an earlier leader verified, and perhaps could not put into the store any more."""
        self.journal = Journal()
        try:
            if self._descriptor is not None:
                self.journal = self._recover(self._descriptor)
            claim = journals.claim_line(store.boot, self.journal.number)
            self._tell(self.journal.claimed(store.boot), claim)
        except BaseException:
            self._close()
            raise

    def _open(self) -> int | None:
        """The journal that an earlier leader left; one that this user may not use is removed."""
        try:
            return _open_if_there(self._path)
        except PermissionError:  # of another user, such as root, who led here once
            self._store.remove_parts(self._path)
            self._path.unlink()
            return None

    def _recover(self, descriptor: int) -> Journal:
        """What an earlier leader left, as far as it can be used; anything else is removed."""
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
        # Without a boot in between, what was written is what is there: the page cache outlives a process.
        if journal.head is None or journal.boot != self._store.boot or not journal.boot:
            return self._start_over(descriptor, journal)
        if journal.digest is not None and not journal.done:
            self.unstored = journal
        try:
            self.part = Part(self._store.part_path(self._path, journal.number), create=False)
        except OSError:
            return self._start_over(descriptor, journal)
        os.ftruncate(descriptor, len(whole) + 1)
        return journal

    def _start_over(self, descriptor: int, journal: Journal) -> Journal:
        self._store.remove_parts(self._path)
        os.ftruncate(descriptor, 0)
        return Journal(number=journal.number)

    @property
    def have(self) -> int:
        """Bytes in the part."""
        return self.part.size if self.part else 0

    @property
    def exposed(self) -> bool:
        """Whether other processes can see more of the fill than that somebody leads it."""
        return self._descriptor is not None

    def expose(self) -> None:
        """Let other processes see the fill from now on, and let what it has outlive this one. Raises StoreError."""
        if self._descriptor is not None:
            return
        with translated("write a download's journal"):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _append(descriptor, self.journal.lines())
            except BaseException:
                self._path.unlink(missing_ok=True)
                os.close(descriptor)
                raise
        self._descriptor = descriptor

    def begin(self, head: Representation) -> None:
        """Note the head of the part's bytes, now that a source vouches for it. Raises StoreError."""
        number = self.journal.number
        if self.part is None:
            number += 1
            with translated("begin a download"):
                self.part = Part(self._store.part_path(self._path, number), create=True)
        self._tell(self.journal.begun(number, head), journals.head_line(number, head) if self.exposed else b"")

    def reset(self) -> None:
        """Drop the part; its bytes are of a file that no source has."""
        if self.part is not None:
            self.part.path.unlink(missing_ok=True)
            self.adopted()

    def adopted(self) -> None:
        """The part became a blob, or was not needed for one; what comes next begins a new one."""
        if self.part is not None:
            self.part.close()
            self.part = None

    def whole(self, digest: str, size: int) -> None:
        """Tell readers that every byte is there and verified. Raises StoreError."""
        self._tell(self.journal.whole(digest, size), journals.whole_line(digest, size))

    def done(self) -> None:
        """Tell readers that the registry has the outcome, and remove the files. Raises StoreError."""
        self._end(None, keep=False)

    def failed(self, failure: Failed, *, keep: bool) -> None:
        """Tell readers that nothing came of it. With `keep`, the bytes stay for the next attempt. Raises StoreError."""
        self._end(failure, keep=keep and self.part is not None and self.part.is_sound())

    def _end(self, failure: Failed | None, *, keep: bool) -> None:
        """Write the last line and give the lease back, whatever the disk says to it."""
        if not self._held:
            return
        try:
            if keep:
                self.expose()
            self._tell(self.journal.ended(failure), journals.end_line(failure))
        finally:
            try:
                if not keep:
                    self._remove()
            finally:
                self._close()
                self._store.free(self._key)

    def beat(self) -> None:
        """Show readers in other processes that the leader lives, though no byte may be added. Raises StoreError."""
        self.expose()
        assert self._descriptor is not None
        with suppress(OSError):  # who reads elsewhere may give up for want of it; the download goes on
            os.utime(self._descriptor)

    def _remove(self) -> None:
        with translated("remove a download"):
            if self.part is not None:
                self.part.path.unlink(missing_ok=True)
            if self._descriptor is not None:
                self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        self._held = False
        self.adopted()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _tell(self, journal: Journal, line: bytes) -> None:
        if self._descriptor is not None:
            with translated("write a download's journal"):
                _append(self._descriptor, line)
        self.journal = journal


class PartStore:
    """The parts under one directory. Safe for any number of threads and processes on one machine."""

    def __init__(self, root: Path, *, only_read: bool = False) -> None:
        self._root = root
        self._only_read = only_read
        self.boot = boot_id()
        root.mkdir(parents=True, exist_ok=True)
        self._locks = NameLocks(root.with_name("leases-v1"))

    def claim(self, key: Key) -> Lease | None:
        """The lease on a key's fill; None if somebody holds it. Raises StoreError if the disk refuses."""
        if self._only_read:
            raise OnlyRead(f"{self._root} can be read here, and not written")
        with translated("begin a download"):
            return self.under_lock(key, lambda: Lease(self, key)) if self.take(key) else None

    def take(self, key: Key) -> bool:
        """Take the lock of a key, unless somebody holds it. Never waits. Raises OSError."""
        return self._locks.take(key)

    def under_lock(self, key: Key, make: Callable[[], Lease | None]) -> Lease | None:
        """What `make` makes under the lock of a key that this process has taken; it is freed if that is nothing."""
        lease = None
        try:
            lease = make()
        finally:
            if lease is None:
                self._locks.free(key)
        return lease

    def free(self, key: Key) -> None:
        """Give a lock back."""
        self._locks.free(key)

    def is_led(self, key: Key) -> bool:
        """Whether somebody holds the lease on a key's fill. Raises StoreError."""
        with translated("look for a download"):
            return self._locks.is_held(key)

    def watch(self, key: Key) -> Watch:
        """A view of the fill of a key that somebody leads."""
        return Watch(self, key)

    def part_path(self, journal: Path, number: int) -> Path:
        """Where the part of that number is."""
        return Path(f"{str(journal)[: -len(_SUFFIX)]}.{number}.part")

    def remove_parts(self, journal: Path) -> None:
        """Remove every part of a fill."""
        for path in self._root.glob(f"{journal.stem}.*.part"):
            path.unlink(missing_ok=True)

    def journal_path(self, key: Key) -> Path:
        """Where the journal of a fill is, if there is one."""
        return Path(f"{self._root}/{hashlib.sha256(key.encode('utf-8')).hexdigest()}{_SUFFIX}")


def _append(descriptor: int, lines: bytes) -> None:
    """Write whole lines, or nothing."""
    end = os.fstat(descriptor).st_size
    if os.pwrite(descriptor, lines, end) < len(lines):
        os.ftruncate(descriptor, end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open_if_there(path: Path, flags: int = os.O_RDWR) -> int | None:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
