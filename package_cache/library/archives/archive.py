"""Archives and compressed files, known by their first bytes, as a program wants them: lines, contents, members by name.

This is the face of the modules beside it, which do the work. It takes paths and binary files; it does not know the cache.
"""

import codecs
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from package_cache.errors import MissingMember
from package_cache.library.archives.inflating import allowance, compression, inflate, inflated
from package_cache.library.archives.members import Members, Mode, select
from package_cache.library.archives.reading import Forward, Window, buffered
from package_cache.library.archives.tars import BLOCK, is_tar, list_tar
from package_cache.library.archives.zips import list_zip

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
