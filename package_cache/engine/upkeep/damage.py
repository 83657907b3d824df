"""Takes damaged files out of service: looked at again with nobody about to mend them, condemned, and put aside."""

import logging
import time

from package_cache.errors import DamagedBlob, StoreError
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import BlobStore
from package_cache.storage.database.connections import FileId, file_id
from package_cache.storage.quarantine import Quarantine
from package_cache.storage.registry import Registry

logger = logging.getLogger(__name__)

_PATIENCE = 5.0
"""Seconds to wait for somebody who is about to store the same file."""
_TURN = 0.005


class Damages:
    """Where damaged files are reported. Safe for any number of threads and processes."""

    def __init__(self, registry: Registry, audit: Audit, blobs: BlobStore, quarantine: Quarantine) -> None:
        self._registry = registry
        self._audit = audit
        self._blobs = blobs
        self._quarantine = quarantine

    def take_out(self, digest: str, size: int, seen: FileId | None = None) -> bool:
        """Take a blob and all that is made of it out of service; False if it is not damaged, or not needed, any more.

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
        if seen is not None and body is not None:  # it came again meanwhile, as a row, which is what is served
            self._quarantine.receive(path)
            return False
        if seen is None:
            try:
                self._blobs.open(digest, size).close()
            except DamagedBlob as error:
                damage = str(error)
            else:
                return False
        names = ", ".join(dict.fromkeys(entry.key for entry in self._audit.entries(digest)))
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
                *(damage, f", now {aside}" if aside else "", names, versions),
            )
        return True
