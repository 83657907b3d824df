"""The files of items, as callers of the library see them: one path for the whole life of an item.

Owns `items-v1/`. Until an item is READY its path is a plain file of the caller's, if there is one yet; from then on it is a
symbolic link to the blob with its bytes. Between the two it is, for a moment, a second name of the blob.
"""

import errno
import io
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from package_cache.errors import ItemError, StoreError
from package_cache.storage.items.rows import ItemRow
from package_cache.storage.system import translated

_NAME = re.compile(r"([0-9a-f]{64}-[1-9]\d*)(?:\.[^/]*)?")
_NEW = "new-"


class ItemFiles:
    """The directory. Methods raise StoreError."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._numbers = count()

    def path(self, item: ItemRow) -> str:
        """Where the file of an item is, or would be."""
        ext = item.details.ext
        return f"{self._root}/{item.key[:2]}/{item.name}{'.' if ext else ''}{ext or ''}"

    def prepare(self, item: ItemRow) -> str:
        """The path, at which nothing is left, in a directory that is made if needed."""
        path = self.path(item)
        with translated(f"prepare {path}"):
            os.makedirs(f"{self._root}/{item.key[:2]}", exist_ok=True)  # noqa: PTH103 - often
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 - often
        return path

    def has_draft(self, item: ItemRow) -> bool:
        """Whether the caller has written a file at the path."""
        try:
            return stat.S_ISREG(os.lstat(self.path(item)).st_mode)
        except OSError:
            return False

    def open(self, item: ItemRow) -> io.FileIO:
        """The file that the caller has written at the path. Raises ItemError if there is none."""
        path = self.path(item)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise ItemError(f"{item.details.uri} version {item.version} has no file: write {path} first") from None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise StoreError(f"cannot open {path}: {error.strerror}") from error
            raise ItemError(f"{path} is a symbolic link: write a file there, or use move_in()") from None
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return io.FileIO(descriptor, "rb")
        os.close(descriptor)
        raise ItemError(f"{path} is not a plain file")

    def link(self, item: ItemRow) -> None:
        """Make the path a link to the blob of the item, in one step, whatever was there."""
        assert item.digest is not None
        path = self.path(item)
        new = f"{self._root}/{_NEW}{os.getpid()}-{threading.get_ident()}-{next(self._numbers)}"
        with translated(f"link {path} to its bytes"):
            os.makedirs(f"{self._root}/{item.key[:2]}", exist_ok=True)  # noqa: PTH103 - often
            os.symlink(f"../../blobs-v1/{item.digest[:2]}/{item.digest}", new)  # noqa: PTH211 - often
            os.rename(new, path)  # noqa: PTH104 - often

    def remove(self, item: ItemRow) -> None:
        """Remove what is at the path."""
        with translated(f"remove {self.path(item)}"), suppress(FileNotFoundError):
            os.unlink(self.path(item))  # noqa: PTH108 - often

    def unlink(self, item: ItemRow) -> None:
        """Remove what is at the path if it is a link, so that a new file can be written there."""
        path = self.path(item)
        with translated(f"remove {path}"):
            if os.path.islink(path):  # noqa: PTH114 - often
                os.unlink(path)  # noqa: PTH108 - often

    def is_temporary(self, path: Path) -> bool:
        """Whether a file is a link that is about to be renamed to its path."""
        return path.name.startswith(_NEW)

    def names(self) -> Iterator[tuple[str, Path]]:
        """Every file: the item that it belongs to, "" for none, and its path."""
        try:
            for directory in os.scandir(self._root) if os.path.isdir(self._root) else ():  # noqa: PTH112 - a text
                if not directory.is_dir(follow_symlinks=False):
                    yield "", Path(directory.path)
                    continue
                for entry in os.scandir(directory.path):
                    match = _NAME.fullmatch(entry.name)
                    yield match[1] if match else "", Path(entry.path)
        except OSError as error:
            raise StoreError(f"cannot list {self._root}: {error.strerror}") from error
