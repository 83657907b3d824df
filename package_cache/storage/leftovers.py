"""What killed processes left: parts and journals of downloads that nobody goes on with, and files half made."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from package_cache.errors import StoreError
from package_cache.storage.parts.locks import NameLocks

DEAD_SECONDS = 86400.0
"""How long nothing happened to a download that nobody goes on with."""

_OF_FILL = re.compile(r"([0-9a-f]{64})\.(?:fill|\d+\.part)")
SET_ASIDE_SECONDS = 30 * 86400.0
"""How long a registry that was set aside stays."""
_SET_ASIDE = re.compile(r"registry-v1\.db\.damaged-.*")
_HALF_MADE = re.compile(r"(?:registry-v1\.db|ledger-v1|scrub-v1|fsck-v1)\.new(?:-journal|-wal|-shm)?")


@dataclass(frozen=True, slots=True)
class Leftover:
    """Files of one dead download, or one file half made; `size` is in bytes."""

    name: str
    paths: tuple[Path, ...]
    size: int


def dead_fills(parts: Path, locks: NameLocks, now: float) -> Iterator[Leftover]:
    """Downloads that nobody leads, and that nothing happened to for a day. Raises StoreError."""
    for name, paths in sorted(_fills(parts).items()):
        if _is_dead(paths, now) and locks.take_hashed(name):
            locks.free_hashed(name)
            yield Leftover(name, tuple(paths), _size(paths))


def remove_fill(fill: Leftover, locks: NameLocks, now: float) -> bool:
    """Remove a dead download; False if it came to life. Raises StoreError."""
    if not locks.take_hashed(fill.name):
        return False
    try:
        if not _is_dead(list(fill.paths), now):
            return False
        remove(fill)
        return True
    finally:
        locks.free_hashed(fill.name)


def half_made(root: Path, now: float) -> Iterator[Leftover]:
    """Files that a killed process was making, and that nobody goes on with; and registries that were set aside long ago."""
    for entry in os.scandir(root):
        path = Path(entry.path)
        if (_HALF_MADE.fullmatch(entry.name) and _is_dead([path], now)) or (
            _SET_ASIDE.fullmatch(entry.name) and entry.stat().st_ctime < now - SET_ASIDE_SECONDS
        ):
            yield Leftover(entry.name, (path,), _size([path]))


def remove(leftover: Leftover) -> None:
    """Remove the files. Raises StoreError."""
    try:
        for path in leftover.paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot remove {leftover.name}: {error.strerror}") from error


def _fills(parts: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    try:
        for entry in os.scandir(parts):
            match = _OF_FILL.fullmatch(entry.name)
            if match:
                found.setdefault(match[1], []).append(Path(entry.path))
    except OSError as error:
        raise StoreError(f"cannot list {parts}: {error.strerror}") from error
    return found


def _is_dead(paths: list[Path], now: float) -> bool:
    """Whether nothing happened to any of the files; those that are gone do not count."""
    moments = []
    for path in paths:
        with suppress(FileNotFoundError):
            moments.append(path.stat().st_mtime)
    return bool(moments) and max(moments) < now - DEAD_SECONDS


def _size(paths: list[Path]) -> int:
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
