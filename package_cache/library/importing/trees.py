"""The tree of package-cache 0.2: the path of a file is the path that it was asked for by, its date is Last-Modified."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from package_cache.errors import ArgumentError, BadRequest
from package_cache.library.importing.finds import Find, Refused
from package_cache.model import Key
from package_cache.rules.fields import format_date
from package_cache.rules.targets import key_of, parse_target

Entry: TypeAlias = "os.DirEntry[str] | Refused"
_UNFINISHED = (".__download__", "._checksum_failure_.")
"""In names of files that Portage has not finished, or not found good."""


class Tree:
    """All plain files below a directory, but for hidden ones. `prefix` comes before their paths; `cache` is left out."""

    title = "a tree of package-cache 0.2"

    def __init__(self, root: Path, cache: Path, prefix: str = "") -> None:
        self._root = root
        self._cache = cache
        self._prefix = _normal(prefix)

    def count(self) -> int:
        """How many files there are."""
        return sum(1 for _ in self._files(self._root))

    def is_empty(self) -> bool:
        """Whether there is no file at all."""
        return next(self._files(self._root), None) is None

    def __iter__(self) -> Iterator[Find | Refused]:
        for entry in self._files(self._root):
            yield self._find(entry)

    def _files(self, directory: Path) -> Iterator[Entry]:
        """What is below a directory and is no directory itself, in the order of names."""
        open_ones = [iter(self._listed(directory))]
        while open_ones:
            entry = next(open_ones[-1], None)
            if entry is None:
                open_ones.pop()
            elif isinstance(entry, Refused) or not entry.is_dir(follow_symlinks=False):
                yield entry
            elif not self._is_cache(entry.path):
                open_ones.append(iter(self._listed(Path(entry.path))))

    def _listed(self, directory: Path) -> list[Entry]:
        try:
            with os.scandir(directory) as entries:
                found = (one for one in entries if not one.name.startswith("."))
                return sorted(found, key=lambda one: one.name)
        except OSError as error:
            return [Refused(self._name(directory), f"it cannot be listed: {error.strerror}")]

    def _is_cache(self, path: str) -> bool:
        try:
            return self._cache.samefile(path)
        except OSError:
            return False

    def _find(self, entry: Entry) -> Find | Refused:
        if isinstance(entry, Refused):
            return entry
        path = Path(entry.path)
        name = self._name(path)
        if any(part in entry.name for part in _UNFINISHED):
            return Refused(name, "Portage has not finished it, or not found it good")
        try:
            status = entry.stat(follow_symlinks=False)
            key = self._key(path)
        except OSError as error:
            return Refused(name, f"it cannot be read: {error.strerror}")
        except BadRequest as error:
            return Refused(name, f"its name cannot be asked for: {error}")
        if status.st_size == 0:
            return Refused(name, "it is empty, as version 0.2 left what it could not download")
        fields = (("Last-Modified", format_date(status.st_mtime)),)
        source = f"file://{quote(os.fsencode(path))}"
        return Find(name, key, None, file=path, fields=fields, source=source, received=min(status.st_ctime, time.time()))

    def _key(self, path: Path) -> Key:
        parts = (quote(os.fsencode(part), safe="") for part in path.relative_to(self._root).parts)
        return key_of(parse_target(f"{self._prefix}/{'/'.join(parts)}")[1])

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))


def _normal(prefix: str) -> str:
    """A path in normal form, without a final slash. Raises ArgumentError."""
    if not prefix.strip("/"):
        return ""
    try:
        _, target = parse_target("/" + prefix.strip("/"))
    except BadRequest as error:
        raise ArgumentError(f"{prefix!r} cannot be the beginning of a path: {error}") from error
    if target.query is not None:
        raise ArgumentError(f"{prefix!r} cannot be the beginning of a path: it has a query")
    return target.path
