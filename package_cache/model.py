"""Frozen values that cross the floors: what is asked for, what a source said, what the registry holds.

Nothing here does I/O or decides anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NewType

Key = NewType("Key", str)
"""The canonical name of a thing: path and query in normal form, see `rules/http/targets.py`; it begins with a slash. Or the
name of an item of the library, see `rules/library/keys.py`; it never does."""

Fields = tuple[tuple[str, str], ...]
"""HTTP header fields, in order, names as first written."""


class Status(IntEnum):
    """The state of an entry."""

    UNINITIALIZED = 0
    WRITE = 1
    FAILED = 2
    READY = 3
    TRASH = -1
    DELETED = -2

    @classmethod
    def from_str(cls, name: str) -> "Status":
        """The status of that name, in capitals or not. Raises ValueError, which lists the names."""
        try:
            return cls[name.strip().upper()]
        except KeyError:
            raise ValueError(f"{name!r} is no status: write one of {', '.join(one.name for one in cls)}") from None


@dataclass(frozen=True, slots=True)
class Source:
    """An upstream base URL without its final slash, and the fields, such as credentials, sent to its host only."""

    base: str
    fields: Fields = field(default=(), repr=False)


class Preset(Enum):
    """Kinds of repositories of which it is known what is an index there and what is a package."""

    GENTOO = "gentoo"
    DEBIAN = "debian"
    PYPI = "pypi"
    NPM = "npm"
    ARCH = "arch"
    FEDORA = "fedora"
    ALPINE = "alpine"
    RAW = "raw"


class Freshness(Enum):
    """By what an answer is good without asking a source."""

    IMMUTABLE = "immutable"
    HTTP = "http"
    REVALIDATE = "revalidate"
    TIMED = "timed"
    JSON_METADATA = "json-metadata"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Fresh:
    """How long an answer is good: `text` as a person writes it, `seconds` where it is TIMED."""

    how: Freshness
    text: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for the paths of a repository that a glob matches. None where the rule says nothing of it.

    `largest` is how many bytes a file may have to be stored.
    """

    match: str
    fresh: Fresh | None = None
    largest: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where clients believe a repository to be: an authority in lower case, without its scheme's port, and a path."""

    authority: str
    path: str = ""


Links = tuple[tuple[str, str], ...]
"""Beginnings of links, and what is put in their place."""


@dataclass(frozen=True, slots=True)
class Repository:
    """Files of one kind, and the sources that have them.

    `home` is what its keys begin with: its prefix without the final slash, and of one that is known by hosts alone
    `/-/NAME`. `preset` is the table of what is an index there; None stands for all of them. `largest` is how many bytes a
    file may have to be stored.
    """

    name: str
    sources: tuple[Source, ...]
    home: str = ""
    places: tuple[Place, ...] = ()
    preset: Preset | None = None
    rules: tuple[Rule, ...] = ()
    largest: int | None = None
    links: Links = ()
    """Links in its documents that are to lead to other repositories of this cache."""
    posts: tuple[str, ...] | None = None
    """Globs on the paths where a POST is passed on to its sources; None stands for those of the preset."""
    tarballs: bool = False
    """Whether links to tarballs of npm in its documents, at whatever host, are to lead to itself."""

    @property
    def may_have_distfiles(self) -> bool:
        """Whether files of Gentoo may be there, in whatever layout (GLEP 75)."""
        return self.preset in (None, Preset.GENTOO)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request names: a path in the repository that is at `home`.

    `path` is absolute and percent-encoded in normal form; `query` None if there is none. `spelled` is the path that was
    asked for, where that is another name of the same thing: a source may know it by that alone.
    """

    path: str
    query: str | None = None
    home: str = ""
    spelled: str | None = field(default=None, compare=False)

    @property
    def asked(self) -> str:
        """Path and query as they are sent to a source."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    @property
    def text(self) -> str:
        """Its name here."""
        return self.home + self.asked


@dataclass(frozen=True, slots=True)
class Request:
    """One client request, already checked. Field names are lower case."""

    method: str
    target: Target
    fields: Mapping[str, str]
    modern: bool = True
    """Whether the client speaks HTTP/1.1, and so can tell a cut chunked body from a whole one."""
    client: str = ""
    """Who asks, as far as it is known: downloads are shared out among clients."""
    text: str = ""
    """The target as it was sent."""
    scheme: str = "http"


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open byte range [start, stop)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Validators:
    """What a source said to recognise a version by (RFC 9110, section 8.8), as it wrote it."""

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return self.etag is not None or self.last_modified is not None


@dataclass(frozen=True, slots=True)
class Representation:
    """What a source said about a body, apart from the body. `size` is None while nobody knows it (bytes).

    `good_until` is what the body itself says of that, in seconds of the epoch, where it was asked.
    """

    fields: Fields
    size: int | None
    source: str
    received: float
    """When the head arrived, in seconds of the epoch."""
    good_until: float | None = None

    def get(self, name: str) -> str | None:
        """The value of a field, by its name in lower case."""
        return next((value for key, value in self.fields if key.lower() == name), None)

    @property
    def validators(self) -> Validators:
        """What the source recognises this version by."""
        return Validators(self.get("etag"), self.get("last-modified"))


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the registry: one version of one key. `digest` is the SHA-256 of its bytes in hex."""

    id: int
    key: Key
    version: int
    status: Status
    digest: str
    representation: Representation
    created: float
    used: float

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        size = self.representation.size
        assert size is not None  # an entry is committed with its size
        return size
