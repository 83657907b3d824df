"""Frozen values that all floors use: what is requested, what a source said, what the registry holds.

Nothing here does I/O or decides anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple, NewType, TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[_T]) -> type[_T]:
    """A frozen dataclass with slots, as a type checker sees it, for values that are made often.

    At run time nothing prevents an assignment: that would make an instance four times as expensive, and each request makes
    twenty.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


Key = NewType("Key", str)
"""The canonical name of a thing: path and query in normal form, see `rules/http/targets.py`; it begins with a slash. Or the
name of an item of the library, see `rules/library/naming.py`; it never does."""

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
    """What decides how long a response is fresh."""

    IMMUTABLE = "immutable"
    HTTP = "http"
    REVALIDATE = "revalidate"
    TIMED = "timed"
    JSON_METADATA = "json-metadata"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Fresh:
    """How long a response is fresh: `text` is as in the configuration, `seconds` is set if it is TIMED."""

    how: Freshness
    text: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for the paths of a repository that the glob `match` matches; None if the rule does not say.

    `largest` is how many bytes a file may have to be stored.
    """

    match: str
    fresh: Fresh | None = None
    largest: int | None = None


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """A host by which clients address a repository: an authority, in lower case and without default port, and a path."""

    authority: str
    path: str = ""


Links = tuple[tuple[str, str], ...]
"""Beginnings of links, and their replacements."""


@dataclass(frozen=True, slots=True)
class Repository:
    """Files of one kind, and the sources that have them.

    `home` is the beginning of its keys: its prefix without the final slash, or `/-/NAME` if it is known by hosts alone.
    `preset` is the table of what is an index there; None stands for all tables. `largest` is how many bytes a file may
    have to be stored.
    """

    name: str
    sources: tuple[Source, ...]
    home: str = ""
    hosts: tuple[VirtualHost, ...] = ()
    preset: Preset | None = None
    rules: tuple[Rule, ...] = ()
    largest: int | None = None
    links: Links = ()
    """Links in its documents that are made to lead to other repositories of this cache."""
    posts: tuple[str, ...] | None = None
    """Globs on the paths where a POST is passed on to its sources; None for those of the preset."""
    tarballs: bool = False
    """Whether links to tarballs of npm in its documents, at any host, are made to lead to this repository."""

    @property
    def may_have_distfiles(self) -> bool:
        """Whether files of Gentoo may be there, in whatever layout (GLEP 75)."""
        return self.preset in (None, Preset.GENTOO)


@frozen
class Target:
    """What a request names: a path in the repository that is at `home`.

    `path` is absolute and percent-encoded in normal form; `query` is None if there is none. `spelled` is the path in the
    request, if that is another name of the same file: a source may know only that name.
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
        """Its name in this cache."""
        return self.home + self.path if self.query is None else f"{self.home}{self.path}?{self.query}"


class Request(NamedTuple):
    """One client request, already checked. Field names are lower case."""

    method: str
    target: Target
    fields: Mapping[str, str]
    modern: bool = True
    """Whether the client speaks HTTP/1.1, and so can tell a truncated chunked body from a whole one."""
    client: str = ""
    """The client, as far as it is known: downloads are shared fairly among clients."""
    text: str = ""
    """The target as it was sent."""
    scheme: str = "http"

    def of_client(self, client: str) -> "Request":
        """The same request, from that client."""
        return Request(self.method, self.target, self.fields, self.modern, client, self.text, self.scheme)


@frozen
class Span:
    """A half-open byte range [start, stop)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@frozen
class Validators:
    """The validators of a version, as the source wrote them (RFC 9110, section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return self.etag is not None or self.last_modified is not None


@frozen
class Representation:
    """What a source said about a body. `size` is in bytes, None while it is unknown.

    `good_until` is until when the body itself says that it is fresh, in seconds of the epoch, if a rule asks for that.
    """

    fields: Fields
    size: int | None
    source: str
    received: float
    """When the head arrived, in seconds of the epoch."""
    good_until: float | None = None

    def get(self, name: str) -> str | None:
        """The value of a field, by its name in lower case."""
        for key, value in self.fields:
            if key.lower() == name:
                return value
        return None

    def of_size(self, size: int | None) -> "Representation":
        """The same, for a body of `size` bytes."""
        return self if size == self.size else Representation(self.fields, size, self.source, self.received, self.good_until)

    @property
    def validators(self) -> Validators:
        """The validators of this version."""
        return Validators(self.get("etag"), self.get("last-modified"))


@frozen
class ErrorResponse:
    """What a source answered that does not serve what was asked for: its status, end-to-end fields, and body."""

    status: int
    fields: Fields
    body: bytes


@frozen
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

    def told(self, representation: Representation) -> "Entry":
        """The same entry, with what its source says now."""
        return Entry(self.id, self.key, self.version, self.status, self.digest, representation, self.created, self.used)

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        size = self.representation.size
        assert size is not None  # an entry is committed with its size
        return size
