"""What an archive holds, by name: its files, its links and where they lead, and the mapping that programs use.

Names are kept as they are in the archive. Nothing is read before it is asked for. The layout of archives is not known here.
"""

import bisect
import difflib
import io
import itertools
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from package_cache.errors import ArchiveTooLarge, BrokenArchive, ExtractionError, MissingMember, UnsafeMember
from package_cache.library.archives.streams import buffered

Mode = Literal["r", "rb"]

_OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:[/\\]|(?:.*[/\\])?\.\.(?:[/\\]|\Z)", re.DOTALL)
_STEPS = 1000
"""Directories and links passed at most on the way to one member."""
_LONGEST_LINK = 4096
"""Characters of a link's target, as on Linux."""
_COMPARED = 5000
"""Names looked at for one that is near to a missing name."""
_COMPARABLE = 255
"""Characters of such a name at most."""


class MemberFile(Protocol):
    """A member with content."""

    @property
    def size(self) -> int:
        """Bytes."""

    def open(self) -> io.RawIOBase:
        """A new stream of the content."""


@dataclass(frozen=True, slots=True)
class Link:
    """A name for what is at `target`, seen from `folder`; for a hard link that is the top of the archive."""

    target: str
    folder: str


class MemberTree:
    """The names in an archive. A later entry takes the place of an earlier one of that name. `archive` is for messages."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._names: dict[str, str] = {}
        self._entries: dict[str, MemberFile | Link] = {}
        self._folders = {""}

    def add_file(self, name: str, file: MemberFile) -> None:
        """Adds a member. This and the other ways to add raise UnsafeMember for a name that leads out of the archive."""
        self._add(name, file)

    def add_symbolic_link(self, name: str, target: str) -> None:
        """Adds a link that is followed when it is opened."""
        self._add(name, Link(target, _plain(name).rpartition("/")[0]))

    def add_hard_link(self, name: str, target: str) -> None:
        """Adds another name for what has the name `target` by now, if there is such a thing."""
        known = None if _OUTSIDE.match(target) else self._entries.get(_plain(target))
        self._add(name, known or Link(target, ""))

    def add_folder(self, name: str) -> None:
        """Notes a directory; it is no member, but links may lead to it."""
        self._check(name)
        self._folders.add(_plain(name))

    def find(self, name: str) -> MemberFile:
        """The file that a member is, or that it links to. Raises UnsafeMember or BrokenArchive for a link to none."""
        entry = self._entries[self._names[name]]
        if not isinstance(entry, Link):
            return entry
        found = self._entries.get(self._follow(name))
        if found is None or isinstance(found, Link):
            raise BrokenArchive(f"{name!r} in {self._archive} is a link to {entry.target!r}, which is no file in it")
        return found

    def sizes(self) -> dict[str, int | None]:
        """Every member with its size in bytes, in the archive's order; None for a link that leads to no file.

        Links that lead to a directory are left out, as directories are.
        """
        sizes: dict[str, int | None] = {}
        links = []
        for name, path in self._names.items():
            entry = self._entries[path]
            sizes[name] = None if isinstance(entry, Link) else entry.size
            if isinstance(entry, Link):
                links.append(name)
        if links:
            paths = sorted(self._entries)
            for name in links:
                self._measure(name, paths, sizes)
        return sizes

    def _measure(self, name: str, paths: list[str], sizes: dict[str, int | None]) -> None:
        """Notes the size of what a link leads to, or forgets the link if that is a directory. `paths` are sorted."""
        try:
            path = self._follow(name)
        except ExtractionError:
            return
        within = bisect.bisect_left(paths, f"{path}/")
        found = self._entries.get(path)
        if path in self._folders or (within < len(paths) and paths[within].startswith(f"{path}/")):
            del sizes[name]
        elif found is not None and not isinstance(found, Link):
            sizes[name] = found.size

    def _check(self, name: str) -> None:
        if _OUTSIDE.match(name):
            raise UnsafeMember(f"{self._archive} has a member that leads out of it: {name!r}")

    def _add(self, name: str, entry: MemberFile | Link) -> None:
        self._check(name)
        path = _plain(name)
        if not path:
            raise BrokenArchive(f"{self._archive} is damaged: it has a member without a name")
        self._names[name] = path
        self._entries[path] = entry

    def _follow(self, name: str) -> str:
        """The path that a link leads to in the end, part by part, as a file system finds it."""
        parts, path = deque(self._names[name].split("/")), ""
        for _ in range(_STEPS):
            if not parts:
                return path
            path = self._enter(path, parts.popleft(), name)
            entry = self._entries.get(path)
            if isinstance(entry, Link):
                if entry.target.startswith("/"):
                    raise self._escape(name)
                if len(entry.target) > _LONGEST_LINK:
                    break
                parts.extendleft(reversed(entry.target.split("/")))
                path = entry.folder
        raise BrokenArchive(f"{name!r} in {self._archive} is a link that leads in a circle, or too far")

    def _enter(self, path: str, part: str, name: str) -> str:
        if part in {"", "."}:
            return path
        if part != "..":
            return f"{path}/{part}" if path else part
        if not path:
            raise self._escape(name)
        return path.rpartition("/")[0]

    def _escape(self, name: str) -> UnsafeMember:
        return UnsafeMember(f"{name!r} in {self._archive} is a link that leads out of it")


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in {"", "."})


class Members(Mapping[str, Any]):
    """The members of an archive by name: new readers, or (if not `large`) contents, made each time they are asked for.

    Readers are binary or text files by the mode; they can be used side by side, but not from several threads. Where the
    archive is a compressed tar, going back to an earlier member inflates it again from its beginning.
    """

    def __init__(
        self, tree: MemberTree, sizes: Mapping[str, int | None], *, mode: Mode, encoding: str, large: bool
    ) -> None:
        self._tree = tree
        self.sizes = sizes
        """The size of each member in bytes; None for a link that leads to no file."""
        self._mode = mode
        self._encoding = encoding
        self._large = large

    def __getitem__(self, name: str) -> Any:
        reader = self.open(name)
        if self._large:
            return reader
        with reader:
            return reader.read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __contains__(self, name: object) -> bool:
        return name in self.sizes

    def open(self, name: str, mode: Mode | None = None) -> io.BufferedReader | io.TextIOWrapper:
        """A new reader of a member, text (`r`) or binary (`rb`); the default is that of the archive.

        Raises MissingMember, UnsafeMember for a link that leads out, and BrokenArchive for one that leads to no file.
        """
        if name not in self.sizes:
            raise MissingMember(_missing(name, self.sizes))
        reader = buffered(self._tree.find(name).open())
        return reader if (mode or self._mode) == "rb" else io.TextIOWrapper(reader, encoding=self._encoding)


def select(sizes: dict[str, int | None], needed: Collection[str] | None, limit: int, archive: str) -> dict[str, int | None]:
    """The members that are needed (None: all), in the archive's order.

    Raises MissingMember, and ArchiveTooLarge if more than `limit` bytes would come out of reading each once.
    """
    wanted = frozenset(sizes if needed is None else needed)
    for name in wanted:
        if name not in sizes:
            raise MissingMember(f"{archive}: {_missing(name, sizes)}")
    chosen = {name: size for name, size in sizes.items() if name in wanted}
    total = sum(size or 0 for size in chosen.values())
    if total > limit:
        raise ArchiveTooLarge(
            f"{archive} holds {total} bytes, more than {limit}; if you trust it, give a higher limit= or fewer needed="
        )
    return chosen


def _missing(name: str, names: Collection[str]) -> str:
    last = name.rpartition("/")[2]
    near = next((one for one in names if one.rpartition("/")[2] == last), None)
    if near is None:
        some = [one for one in itertools.islice(names, _COMPARED) if len(one) <= _COMPARABLE]
        near = next(iter(difflib.get_close_matches(name, some, 1, 0.5)), None)
    return f"there is no member {name!r}" + (f"; the nearest is {near!r}" if near else "")
