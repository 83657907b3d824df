"""Zip archives: the members of the central directory, and their content by the decoders of this package.

zipfile reads the directory, but not the content, because it inflates some methods without a bound on memory.
"""

import io
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from package_cache.errors import ArchiveTooLarge, BrokenArchive, UnsupportedArchive
from package_cache.library.archives.inflating import MEMORY, inflated
from package_cache.library.archives.members import Tree
from package_cache.library.archives.reading import Forward, Window, buffered, chunks

_METHODS = {zipfile.ZIP_DEFLATED: "deflate", zipfile.ZIP_BZIP2: "bz2", zipfile.ZIP_LZMA: "lzma", 93: "zst"}
"""APPNOTE.TXT, section 4.4.5."""
_FAULTS = (zipfile.BadZipFile, struct.error, ValueError, ArithmeticError, LookupError, NotImplementedError)
"""What zipfile raises over a directory that makes no sense."""
_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_ENCRYPTED = 0x1
_END_MARKER = 0x2
_UTF8 = 0x800
_UNIX = 3
_LONGEST_LINK = 4096


@dataclass(frozen=True, slots=True)
class _Packed:
    """A member, as the central directory describes it."""

    file: BinaryIO
    archive: str
    info: zipfile.ZipInfo

    @property
    def size(self) -> int:
        return self.info.file_size

    @property
    def name(self) -> str:
        return f"{self.info.filename!r} in {self.archive}"

    def open(self) -> io.RawIOBase:
        if self.info.flag_bits & _ENCRYPTED:
            raise UnsupportedArchive(f"{self.name} is encrypted")
        if self.info.compress_type not in {zipfile.ZIP_STORED, *_METHODS}:
            raise UnsupportedArchive(
                f"{self.name} is compressed by method {self.info.compress_type}, which is not known here"
            )
        return Forward(self._verified)

    def _verified(self) -> Iterator[bytes]:
        """The content, whose length and checksum must be those of the directory."""
        checksum, left = 0, self.size
        for chunk in self._chunks():
            checksum = zlib.crc32(chunk, checksum)
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
        if left or checksum != self.info.CRC:
            raise BrokenArchive(f"{self.name} is damaged: its content is not what the directory of the zip says")

    def _chunks(self) -> Iterator[bytes]:
        data = self._data()
        if self.info.compress_type == zipfile.ZIP_STORED:
            return chunks(data)
        kind = _METHODS[self.info.compress_type]
        return inflated(self._alone(data) if kind == "lzma" else data, kind, self.name, sys.maxsize)

    def _data(self) -> Window:
        """The bytes of the member in the file: they follow a header of their own, which names it once more."""
        start = self.info.header_offset
        if start < 0:
            raise BrokenArchive(f"{self.name} is damaged: it would begin before the file")
        header = Window(self.file, start, _LOCAL.size + 2 * 0xFFFF, self.name)
        fields = header.read(_LOCAL.size) or b""
        if len(fields) < _LOCAL.size or not fields.startswith(b"PK\x03\x04"):
            raise BrokenArchive(f"{self.name} is damaged: it is not where the directory of the zip says")
        *_, name_size, extra_size = _LOCAL.unpack(fields)
        name = (header.read(name_size) or b"").decode("utf-8" if self.info.flag_bits & _UTF8 else "cp437", "replace")
        if name != self.info.orig_filename:
            raise BrokenArchive(f"{self.name} is damaged: in its own place its name is {name!r}")
        return Window(self.file, start + _LOCAL.size + name_size + extra_size, self.info.compress_size, self.name)

    def _alone(self, data: Window) -> io.BufferedReader:
        """LZMA data as a `.lzma` file has them: a zip has another header before them (APPNOTE.TXT, section 5.8.8)."""
        _, _, size = struct.unpack("<BBH", (data.read(4) or b"").ljust(4, b"\0"))
        properties = data.read(size) or b""
        if len(properties) != 5:
            raise BrokenArchive(f"{self.name} is damaged: its header for LZMA makes no sense")
        if int.from_bytes(properties[1:], "little") > MEMORY:
            raise ArchiveTooLarge(f"{self.name} needs more than {MEMORY} bytes of memory to be inflated")
        length = -1 if self.info.flag_bits & _END_MARKER else self.size
        head = properties + length.to_bytes(8, "little", signed=True)
        return buffered(Forward(lambda: _joined(head, data)))


def _joined(head: bytes, data: Window) -> Iterator[bytes]:
    yield head
    yield from chunks(data)


def list_zip(file: BinaryIO, archive: str) -> Tree:
    """Everything in a zip. Raises BrokenArchive and UnsafeMember."""
    tree = Tree(archive)
    try:
        with zipfile.ZipFile(file) as directory:
            infos = directory.infolist()
            _check_end(file, directory, archive)
    except _FAULTS as error:
        raise BrokenArchive(f"{archive} is damaged or cut short: {error}") from error
    for info in infos:
        _add(tree, info, _Packed(file, archive, info))
    return tree


def _check_end(file: BinaryIO, directory: zipfile.ZipFile, archive: str) -> None:
    """Zipfile would be content with the end of a zip inside the zip, and with a directory that lacks entries."""
    comment = directory.comment
    file.seek(-_END.size - len(comment), io.SEEK_END)
    *_, count, _, start, _ = _END.unpack(file.read(_END.size))
    if start not in {directory.start_dir, 0xFFFFFFFF} or count not in {len(directory.infolist()) & 0xFFFF, 0xFFFF}:
        raise BrokenArchive(f"{archive} is damaged or cut short: its directory is not what its end says")


def _add(tree: Tree, info: zipfile.ZipInfo, file: _Packed) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    if info.filename.endswith("/"):
        if info.file_size:
            raise BrokenArchive(f"{file.name} is damaged: it has content, and the name of a directory")
        tree.add_folder(info.filename)
    elif kind == stat.S_IFLNK and not info.flag_bits & _ENCRYPTED:
        if info.file_size > _LONGEST_LINK:
            raise BrokenArchive(f"{file.name} is damaged: it is a link of {info.file_size} bytes")
        with file.open() as stream:
            tree.add_symbolic_link(info.filename, stream.read().decode("utf-8", "surrogateescape"))
    else:
        tree.add_file(info.filename, file)
