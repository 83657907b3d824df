"""What root makes in a cache of another user is given to that user: the service could not use it otherwise."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SLACK = 2.0
"""Seconds by which the times of a file system may be behind the clock."""
_TREES = ("blobs-v1", "items-v1")
_FLAT = ("parts-v1", "quarantine-v1", "sources-v1", "bounds-v1")


@contextmanager
def left_to_owner(where: Callable[[], Path]) -> Iterator[None]:
    """Give what root makes in the cache within the with-block to its owner; `where` says where the cache is."""
    begun = time.time() - _SLACK
    try:
        yield
    finally:
        if os.geteuid() == 0:
            root = where()
            with suppress(OSError):
                owner = root.stat()
                if owner.st_uid != 0:
                    _give(root, owner, begun)


def _give(root: Path, owner: os.stat_result, since: float) -> None:
    directories = [root, *(root / name for name in (*_TREES, *_FLAT))]
    for tree in _TREES:
        with suppress(FileNotFoundError):
            directories += [path for path in (root / tree).iterdir() if path.is_dir()]
    for directory in directories:
        with suppress(FileNotFoundError):
            # What is made in a directory changes its time: only those need to be looked through.
            if directory == root or directory.stat().st_mtime >= since:
                _give_in(directory, owner)


def _give_in(directory: Path, owner: os.stat_result) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_uid == 0:
                    os.chown(entry.path, owner.st_uid, owner.st_gid, follow_symlinks=False)
