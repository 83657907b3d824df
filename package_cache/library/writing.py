"""Writes an item in one go: READY when all went well, FAILED and without a file when not, and nothing in between."""

import io
import os
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from package_cache.errors import ArgumentError, ItemError
from package_cache.library.core import Core
from package_cache.library.items import CacheItem
from package_cache.model import Status
from package_cache.storage.items.table import New
from package_cache.storage.parts.part import translated


class BinaryWriter(io.BufferedWriter):
    """A binary file; `item` is what is written."""

    item: CacheItem


class TextWriter(io.TextIOWrapper):
    """A text file; `item` is what is written."""

    item: CacheItem


_W = TypeVar("_W", BinaryWriter, TextWriter)
MODES = ("wb", "w", "wt")


class Writing(Generic[_W]):
    """What `Cache.writing` gives: a context manager that is used once."""

    def __init__(self, core: Core, new: New, mode: Literal["wb", "w", "wt"], encoding: str | None) -> None:
        if mode not in MODES:
            raise ArgumentError(f"mode: {mode!r} does not write an item from its beginning; 'wb' and 'w' do")
        if mode == "wb" and encoding is not None:
            raise ArgumentError(f"encoding: {encoding!r} is for text; write mode='w'")
        if encoding is not None and not _is_text_encoding(encoding):
            raise ArgumentError(f"encoding: there is no text encoding {encoding!r}; write 'utf-8'")
        self._core = core
        self._new = new
        self._binary = mode == "wb"
        self._encoding = encoding
        self._file: Any = None

    def __enter__(self) -> _W:
        row = self._core.begin(self._new)
        item = CacheItem(self._core, row)
        self._core.writers.hold(row.name, item)
        with translated(f"write {item.path}"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            raw = io.FileIO(os.open(item.path, flags, 0o666), "wb")
        if self._binary:
            self._file = BinaryWriter(raw)
        else:
            self._file = TextWriter(io.BufferedWriter(raw), encoding=self._encoding or "utf-8")
        self._file.item = item
        return self._file  # type: ignore[no-any-return]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        item: CacheItem = self._file.item
        try:
            with translated(f"write {item.path}"):
                self._file.close()
            if error is None:
                item.ready()
        except BaseException:
            self._give_up(item)
            raise
        if error is not None:
            self._give_up(item)

    def _give_up(self, item: CacheItem) -> None:
        with suppress(ItemError):  # its record may be gone by now: what ended the writing is what to tell
            row = self._core.again(item._row)
            if row.status == Status.WRITE:
                self._core.files.remove(row)
                item.failed()


def _is_text_encoding(name: str) -> bool:
    try:
        "".encode(name)
    except LookupError:
        return False
    return True
