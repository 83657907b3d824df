"""Damaged blobs: checked again while no process can be repairing them, condemned in the registry, and quarantined."""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from package_cache.errors import DamagedBlob, StoreError
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import BlobStore
from package_cache.storage.database.connections import FileId, file_id
from package_cache.storage.registry import Registry

logger = logging.getLogger(__name__)

KEPT_FILES = 16
KEPT_BYTES = 1 << 30
KEPT_SECONDS = 30 * 86400.0
"""How many files stay in quarantine, of how many bytes together, and for how long."""
_PATIENCE = 5.0
"""Seconds to wait for a process that is about to store the same blob."""
_TURN = 0.005


class Quarantine:
    """The directory `quarantine-v1`: keeps damaged files for a while, so that a person can see what became of them.

    It holds the newest files, and no more of them than the bounds above allow.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def receive(self, blob: Path, body: bytes | None = None) -> Path | None:
        """Move a damaged blob here, or write down what its row had; where it is now.

        None if it does not exist or is too large to be kept. Raises StoreError.
        """
        target = self._root / f"{blob.name}.{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        try:
            self._root.mkdir(exist_ok=True)
            if body is None:
                blob.rename(target)
            else:
                target.write_bytes(body)
            with suppress(OSError):  # it is kept for less long then
                os.utime(target)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot put the damaged {blob.name} aside: {error.strerror}") from error
        self.tidy(time.time())
        return target if target.exists() else None

    def tidy(self, now: float) -> None:
        """Remove what has been here for long, and what exceeds the bounds."""
        with suppress(FileNotFoundError):
            found = [(entry.stat(), entry.path) for entry in os.scandir(self._root)]
            total = 0
            for number, (status, path) in enumerate(sorted(found, key=lambda one: one[0].st_mtime, reverse=True)):
                total += status.st_size
                if number >= KEPT_FILES or total > KEPT_BYTES or status.st_mtime < now - KEPT_SECONDS:
                    Path(path).unlink(missing_ok=True)


class Damages:
    """Takes damaged blobs out of service. Safe for any number of threads and processes."""

    def __init__(self, registry: Registry, audit: Audit, blobs: BlobStore, quarantine: Quarantine) -> None:
        self._registry = registry
        self._audit = audit
        self._blobs = blobs
        self._quarantine = quarantine

    def take_out(self, digest: str, size: int, seen: FileId | None = None) -> bool:
        """Take a blob and all versions made of it out of service; False if it is no longer damaged, or no longer needed.

        `seen` is a file that was read through and is damaged for sure; without it, the blob is opened to see.
        Raises StoreError.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            with self._blobs.claiming([digest]) as claimed:
                if claimed:
                    return self._take_out(digest, size, seen)
            if time.monotonic() > deadline:
                return False
            time.sleep(_TURN)

    def _take_out(self, digest: str, size: int, seen: FileId | None) -> bool:
        path, body = self._blobs.path(digest), self._blobs.body(digest)
        damage = f"blob {digest} has other bytes than its name says"
        if not self._audit.is_needed(digest) or (seen is not None and file_id(path) != seen):
            return False
        if seen is not None and body is not None:  # it was stored again meanwhile, as a row, which is what is served
            self._quarantine.receive(path)
            return False
        if seen is None:
            try:
                self._blobs.open(digest, size).close()
            except DamagedBlob as error:
                damage = str(error)
            else:
                return False
        keys = ", ".join(dict.fromkeys(entry.key for entry in self._audit.entries(digest)))
        versions = self._registry.condemn(digest, body)
        if versions is None:  # it is stored again, or has become a file: no lock keeps rows as they are
            return False
        aside = None
        try:
            aside = self._quarantine.receive(path, body)
        except StoreError as error:
            logger.warning("%s", error)
        if versions:  # else it was removed on purpose, a moment ago
            logger.error(
                "%s%s: it is fetched again when it is asked for; it was %s (versions taken out: %d)",
                *(damage, f", now {aside}" if aside else "", keys, versions),
            )
        return True
