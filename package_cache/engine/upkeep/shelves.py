"""Compares what is stored with what the registry says, one directory of blobs at a time, with the rows of its digits."""

from dataclasses import dataclass

from package_cache.errors import StoreError
from package_cache.storage.audit import Audit
from package_cache.storage.blobs import BlobStore, is_digest

PREFIXES = tuple(f"{number:02x}" for number in range(256))
GRACE = 3600.0
"""Seconds that a blob without an entry stays: another process may be about to commit the entry."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """What is in one directory: `kept` and `missing` are needed, with their sizes in bytes; `strays` nobody needs."""

    kept: dict[str, int]
    missing: dict[str, int]
    strays: list[str]
    foreign: list[str]


def look(audit: Audit, blobs: BlobStore, prefix: str) -> Shelf:
    """Compare one directory. What changes meanwhile may look missing or astray: look again before anything is done."""
    needed = audit.needed(prefix)
    files = blobs.names(prefix)
    names = blobs.small_names(prefix).union(files)
    return Shelf(
        kept={digest: size for digest, size in sorted(needed.items()) if digest in names},
        missing={digest: size for digest, size in sorted(needed.items()) if digest not in names},
        strays=sorted(name for name in names - needed.keys() if is_digest(name) and name.startswith(prefix)),
        foreign=sorted(name for name in files if not is_digest(name) or not name.startswith(prefix)),
    )


def is_stray(audit: Audit, blobs: BlobStore, digest: str, now: float) -> bool:
    """Whether nobody has needed a blob for a while; of a row, whether nobody needs it. Raises StoreError."""
    try:
        return blobs.path(digest).stat().st_ctime < now - GRACE and not audit.is_needed(digest)
    except FileNotFoundError:
        return blobs.body(digest) is not None and not audit.is_needed(digest)
    except OSError as error:
        raise StoreError(f"cannot look at blob {digest}: {error.strerror}") from error


def remove_stray(audit: Audit, blobs: BlobStore, digest: str, now: float) -> bool:
    """Remove a blob that nobody needs; False if somebody does, or may be about to. Raises StoreError."""
    with blobs.claiming([digest]) as claimed:
        if not claimed or not is_stray(audit, blobs, digest, now):
            return False
        blobs.remove(digest)
        audit.forget(digest)
        return True
