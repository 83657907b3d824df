"""Room on the disk, for who downloads without being asked to keep a cache within bounds: what is free may be filled."""

import os
from pathlib import Path

from package_cache.engine.upkeep.room import Refusal, Reservation
from package_cache.engine.upkeep.space import Claim
from package_cache.errors import StoreError
from package_cache.units import size_text


class FreeSpace:
    """The file system that a directory is on. Removes nothing: what goes, a proxy or a command decides."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def reserve(self, size: int | None, have: int = 0) -> Reservation | Refusal:
        """Room for a file of `size` bytes, of which `have` are there. Raises StoreError."""
        lacks = 0 if size is None else size - have
        try:
            status = os.statvfs(self._root)
        except OSError as error:
            raise StoreError(f"cannot look how much of {self._root} is free: {error.strerror}") from error
        free = status.f_bavail * status.f_frsize
        if lacks > free:
            return Refusal(f"{size_text(lacks)} do not fit: {size_text(free)} of the disk are free")
        return Reservation(Claim(0, have), _grow, _release)

    def relieve(self, error: StoreError) -> None:
        """A download ended with this error; nothing is removed for it."""

    def close(self) -> None:
        """Nothing is open."""


def _grow(claim: Claim, size: int) -> Refusal | None:  # noqa: ARG001 - the disk says when it is full
    return None


def _release(claim: Claim) -> None:
    pass
