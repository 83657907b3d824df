"""Archives and compressed files, known by their first bytes, as a program wants them: lines, contents, members by name.

Takes paths and binary files; it does not know the cache. The standard library reads headers and directories of tar and zip,
but not the contents: it inflates some methods without a bound on memory, and takes damage for the end.
"""

import codecs
import io
import os
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tarfile import InvalidHeaderError  # type: ignore[attr-defined]  # typeshed has only its base
from types import TracebackType
from typing import Any, BinaryIO, Self

from package_cache.errors import ArchiveTooLarge, BrokenArchive, MissingMember, UnsupportedArchive
from package_cache.library.archives.members import Members, MemberTree, Mode, select
from package_cache.library.archives.streams import (
    CHUNK,
    MEMORY,
    Forward,
    Window,
    allowance,
    buffered,
    chunks,
    compression,
    inflate,
    inflated,
)

BLOCK = tarfile.BLOCKSIZE
_HEADER = 1 << 20
"""Bytes of one header at most: it is read into memory, and holds a name or a few attributes."""
_TAR_FAULTS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What tarfile raises over headers that make no sense."""


@dataclass(frozen=True, slots=True)
class _TarFile:
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
    except _TAR_FAULTS:
        return False
    return True


def list_tar(file: BinaryIO, archive: str) -> MemberTree:
    """Everything in a tar. Reads it to its end, so that the checks of a compressed one have been made too.

    Raises BrokenArchive, ArchiveTooLarge and UnsafeMember. Devices, sockets and pipes are left out.
    """
    tree = MemberTree(archive)
    try:
        headers = _Headers(file, archive)
        with tarfile.TarFile(fileobj=headers, tarinfo=_Info, encoding="utf-8", errors="surrogateescape") as tar:
            previous = -1
            while (info := tar.next()) is not None:
                if info.size < 0 or info.offset <= previous:
                    raise BrokenArchive(f"{archive} is damaged: {info.name!r} has an impossible size")
                previous = info.offset
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                _add_tar_member(tree, info, file, archive)
            end = tar.offset
    except _TAR_FAULTS as error:
        raise BrokenArchive(f"{archive} is damaged: {error}") from error
    _check_tar_end(file, end, archive)
    return tree


def _add_tar_member(tree: MemberTree, info: tarfile.TarInfo, file: BinaryIO, archive: str) -> None:
    if info.isdir():
        tree.add_folder(info.name)
    elif info.issym():
        tree.add_symbolic_link(info.name, info.linkname)
    elif info.islnk():
        tree.add_hard_link(info.name, info.linkname)
    elif info.isreg():
        sparse: Any = info.sparse  # pairs, though typeshed says that it is bytes
        pieces = None if sparse is None else tuple(piece for piece in sparse if piece[1])
        tree.add_file(info.name, _TarFile(file, archive, info.name, info.offset_data, info.size, pieces))


def _check_tar_end(file: BinaryIO, end: int, archive: str) -> None:
    """Tarfile takes a header that it cannot read for the end. The end is marked by two blocks of zeros; one will do."""
    file.seek(end)
    mark = file.read(2 * BLOCK)
    if len(mark) < BLOCK or any(mark):
        raise BrokenArchive(f"{archive} is damaged or cut short: what follows byte {end} is no header and no end mark")
    while file.read(CHUNK):
        pass


_METHODS = {zipfile.ZIP_DEFLATED: "deflate", zipfile.ZIP_BZIP2: "bz2", zipfile.ZIP_LZMA: "lzma", 93: "zst"}
"""APPNOTE.TXT, section 4.4.5."""
_ZIP_FAULTS = (zipfile.BadZipFile, struct.error, ValueError, ArithmeticError, LookupError, NotImplementedError)
"""What zipfile raises over a directory that makes no sense."""
_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_ENCRYPTED = 0x1
_END_MARKER = 0x2
_UTF8 = 0x800
_UNIX = 3
_LONGEST_LINK = 4096


@dataclass(frozen=True, slots=True)
class _ZipFile:
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


def list_zip(file: BinaryIO, archive: str) -> MemberTree:
    """Everything in a zip. Raises BrokenArchive and UnsafeMember."""
    tree = MemberTree(archive)
    try:
        with zipfile.ZipFile(file) as directory:
            infos = directory.infolist()
            _check_zip_end(file, directory, archive)
    except _ZIP_FAULTS as error:
        raise BrokenArchive(f"{archive} is damaged or cut short: {error}") from error
    for info in infos:
        _add_zip_member(tree, info, _ZipFile(file, archive, info))
    return tree


def _check_zip_end(file: BinaryIO, directory: zipfile.ZipFile, archive: str) -> None:
    """Zipfile would be content with the end of a zip inside the zip, and with a directory that lacks entries."""
    comment = directory.comment
    file.seek(-_END.size - len(comment), io.SEEK_END)
    *_, count, _, start, _ = _END.unpack(file.read(_END.size))
    if start not in {directory.start_dir, 0xFFFFFFFF} or count not in {len(directory.infolist()) & 0xFFFF, 0xFFFF}:
        raise BrokenArchive(f"{archive} is damaged or cut short: its directory is not what its end says")


def _add_zip_member(tree: MemberTree, info: zipfile.ZipInfo, file: _ZipFile) -> None:
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


__all__ = ["Members", "Opened", "inflate", "open_archive"]


class Opened:
    """An open archive or file. Use it in a `with` statement, or `close` it.

    Iterating it gives lines, or the names of the members. Nothing that has come from it needs it to be kept.
    """

    def __init__(self, kind: str, fileobj: io.BufferedReader, members: Members | None, make: Callable[[], Any]) -> None:
        self.kind = kind
        """`plain`, `gz`, `bz2`, `xz`, `zst`, `zip`, `tar`, `tar.gz`, `tar.bz2`, `tar.xz` or `tar.zst`."""
        self.fileobj = fileobj
        """A binary file of what is beneath: the plain or inflated bytes (of a compressed tar: the tar), or the zip.
        Lines in `result` are read from it."""
        self._members = members
        self._make = make

    @cached_property
    def result(self) -> Any:
        """Of an archive: a `Members` mapping from names to readers or, if not `large`, to contents.

        Otherwise a text or binary file, hence an iterator over lines; if not `large`, the whole content as str or bytes.
        """
        return self._make()

    @property
    def size(self) -> int | None:
        """Bytes of a plain file, of all members together, or of what a file inflates to (None until it has been read)."""
        if self._members is not None:
            return sum(size or 0 for size in self.sizes.values())
        raw = self.fileobj.raw
        assert isinstance(raw, Window | Forward)
        return raw.size

    @property
    def sizes(self) -> Mapping[str, int | None]:
        """The size of each member in bytes; None for a link that leads to no file. Empty if there can be no members."""
        return {} if self._members is None else self._members.sizes

    def close(self) -> None:
        """Closes the file; readers that have come from it are of no more use. A file object that was given stays open."""
        self.fileobj.close()

    def __iter__(self) -> Iterator[Any]:
        match self.result:
            case str() as text:
                return io.StringIO(text)
            case bytes() as data:
                return io.BytesIO(data)
            case readers:
                return iter(readers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_archive(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    needed: Collection[str] | None = None,
    large: bool = True,
    default_mode: Mode = "r",
    encoding: str | None = None,
    limit: int | None = None,
) -> Opened:
    """Opens a path, or a seekable binary file from its beginning, by its content and not by its name.

    `Opened.result` is what comes of it.

    `needed` names the members that are wanted (default: all). `large=False` gives contents in memory instead of readers.
    Text (`default_mode="r"`) is decoded as UTF-8, or by `encoding`, with universal newlines; `"rb"` gives bytes.

    `limit` is the most that may come out, in bytes: of a compressed file, of a compressed tar as a whole, of the members
    that are needed. None means 1 GiB, or 256 times the size of the file if that is more.

    Opening a compressed tar inflates it once, to list and to check it. To read its members in their order inflates it once
    more; to go back to an earlier one begins again.

    Raises UnsafeMember if any name leads out of the archive, MissingMember, ArchiveTooLarge, BrokenArchive,
    UnsupportedArchive, and OSError if the file cannot be read. The readers raise the last four too, and UnicodeDecodeError.
    """
    if isinstance(needed, str | bytes):
        raise TypeError(f"needed={needed!r} is one name; give a list of names")
    if default_mode not in {"r", "rb"}:
        raise ValueError(f"default_mode={default_mode!r} is neither 'r' (text) nor 'rb' (bytes)")
    codec = codecs.lookup(encoding or "utf-8").name
    base, name = _base(source)
    try:
        allowed = allowance(base.seek(0, os.SEEK_END), limit)
        kind, fileobj = _recognised(base, name, allowed)
        if not (kind == "zip" or kind.startswith("tar")):
            if needed:
                raise MissingMember(f"{name} is no archive ({kind}): it has no members, such as needed={sorted(needed)}")
            return Opened(kind, fileobj, None, lambda: _content(fileobj, mode=default_mode, encoding=codec, large=large))
        tree = list_zip(fileobj, name) if kind == "zip" else list_tar(fileobj, name)
        sizes = select(tree.sizes(), needed, allowed, name)
    except BaseException:
        base.close()
        raise
    members = Members(tree, sizes, mode=default_mode, encoding=codec, large=large)
    return Opened(kind, fileobj, members, lambda: members)


def _base(source: str | os.PathLike[str] | BinaryIO) -> tuple[io.BufferedReader, str]:
    """The bytes of a path or of a file object, with a name for messages. Closing them closes only what was opened here."""
    if isinstance(source, io.TextIOBase):
        raise TypeError(f"{source!r} is a text file; open it with mode 'rb'")
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        file = Path(source).open("rb", buffering=0)  # noqa: SIM115
        try:
            return buffered(Window(file, 0, _size(file, name), name, owned=True)), name
        except BaseException:
            file.close()
            raise
    title = getattr(source, "name", None)
    name = title if isinstance(title, str) else "the file"
    return buffered(Window(source, 0, _size(source, name), name)), name


def _size(file: BinaryIO, name: str) -> int:
    if not file.seekable():
        raise io.UnsupportedOperation(f"{name} can only be read from first to last; copy it to a file")
    return file.seek(0, os.SEEK_END)


def _recognised(base: io.BufferedReader, name: str, allowed: int) -> tuple[str, io.BufferedReader]:
    """The kind of a file, and its bytes, inflated unless it is a zip."""
    head = _head(base)
    kind = compression(head)
    if kind is None:
        return ("zip" if head.startswith((b"PK\3\4", b"PK\5\6")) else "tar" if is_tar(head) else "plain"), base

    def begin() -> Iterator[bytes]:
        base.seek(0)
        return inflated(base, kind, name, allowed)

    content = buffered(Forward(begin, owned=base))
    return (f"tar.{kind}" if is_tar(_head(content)) else kind), content


def _head(file: io.BufferedReader) -> bytes:
    file.seek(0)
    head = file.read(BLOCK)
    file.seek(0)
    return head


def _content(file: io.BufferedReader, *, mode: Mode, encoding: str, large: bool) -> Any:
    """A file of lines, or all of them."""
    if mode == "rb":
        return file if large else file.read()
    reader = io.TextIOWrapper(file, encoding=encoding)
    if large:
        return reader
    try:
        return reader.read()
    finally:
        reader.detach()  # it would close the file when it goes out of use
