"""Tar archives (POSIX ustar and pax, GNU, v7): where each member's bytes lie, and that no part of it is missing."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from tarfile import InvalidHeaderError  # type: ignore[attr-defined]  # typeshed has only its base
from typing import Any, BinaryIO, Self

from package_cache.errors import ArchiveTooLarge, BrokenArchive
from package_cache.library.archives.members import Tree
from package_cache.library.archives.reading import CHUNK, Forward, Window, chunks

BLOCK = tarfile.BLOCKSIZE
_HEADER = 1 << 20
"""Bytes of one header at most: it is read into memory, and holds a name or a few attributes."""
_FAULTS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What tarfile raises over headers that make no sense."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A member: where it begins in the tar. Of a sparse one only `pieces` (offset, size) lie there, the rest is zeros."""

    file: BinaryIO
    archive: str
    name: str
    start: int
    size: int
    pieces: tuple[tuple[int, int], ...] | None

    def open(self) -> io.RawIOBase:
        if self.pieces is None:
            return Window(self.file, self.start, self.size, f"{self.name!r} in {self.archive}")
        return Forward(self._filled)

    def _filled(self) -> Iterator[bytes]:
        assert self.pieces is not None
        position, stored = 0, self.start
        for offset, size in (*self.pieces, (self.size, 0)):
            if offset < position:
                raise BrokenArchive(f"{self.name!r} in {self.archive} is damaged: its pieces overlap")
            yield from _zeros(offset - position)
            yield from chunks(Window(self.file, stored, size, f"{self.name!r} in {self.archive}"))
            position, stored = offset + size, stored + size


def _zeros(count: int) -> Iterator[bytes]:
    for start in range(0, count, CHUNK):
        yield bytes(min(CHUNK, count - start))


class _Headers(io.RawIOBase):
    """What tarfile may see of an archive: it asks for headers, and a damaged one may claim any length."""

    def __init__(self, file: BinaryIO, archive: str) -> None:
        self._file = file
        self._archive = archive

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _HEADER:
            raise ArchiveTooLarge(f"{self._archive} has a header of {size} bytes; at most {_HEADER} are read")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class _Info(tarfile.TarInfo):
    """A header that says what cannot be is an error. Tarfile takes one behind the first for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except InvalidHeaderError as error:
            raise ValueError(str(error)) from error


def is_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a tar: by its magic word, or (v7, which had none) by its checksum."""
    if head[257:262] == b"ustar":
        return True
    if len(head) < BLOCK:
        return False
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK], "utf-8", "surrogateescape")
    except _FAULTS:
        return False
    return True


def list_tar(file: BinaryIO, archive: str) -> Tree:
    """Everything in a tar. Reads it to its end, so that the checks of a compressed one have been made too.

    Raises BrokenArchive, ArchiveTooLarge and UnsafeMember. Devices, sockets and pipes are left out.
    """
    tree = Tree(archive)
    try:
        headers = _Headers(file, archive)
        with tarfile.TarFile(fileobj=headers, tarinfo=_Info, encoding="utf-8", errors="surrogateescape") as tar:
            previous = -1
            while (info := tar.next()) is not None:
                if info.size < 0 or info.offset <= previous:
                    raise BrokenArchive(f"{archive} is damaged: {info.name!r} has an impossible size")
                previous = info.offset
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                _add(tree, info, file, archive)
            end = tar.offset
    except _FAULTS as error:
        raise BrokenArchive(f"{archive} is damaged: {error}") from error
    _check_end(file, end, archive)
    return tree


def _add(tree: Tree, info: tarfile.TarInfo, file: BinaryIO, archive: str) -> None:
    if info.isdir():
        tree.add_folder(info.name)
    elif info.issym():
        tree.add_symbolic_link(info.name, info.linkname)
    elif info.islnk():
        tree.add_hard_link(info.name, info.linkname)
    elif info.isreg():
        sparse: Any = info.sparse  # pairs, though typeshed says that it is bytes
        pieces = None if sparse is None else tuple(piece for piece in sparse if piece[1])
        tree.add_file(info.name, _Stretch(file, archive, info.name, info.offset_data, info.size, pieces))


def _check_end(file: BinaryIO, end: int, archive: str) -> None:
    """Tarfile takes a header that it cannot read for the end. The end is marked by two blocks of zeros; one will do."""
    file.seek(end)
    mark = file.read(2 * BLOCK)
    if len(mark) < BLOCK or any(mark):
        raise BrokenArchive(f"{archive} is damaged or cut short: what follows byte {end} is no header and no end mark")
    while file.read(CHUNK):
        pass
