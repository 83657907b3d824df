"""What is found in an older cache."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from package_cache.model import Fields, Key, Status
from package_cache.storage.items.rows import Details


@dataclass(frozen=True, slots=True)
class Find:
    """One version. `name` is what to call it, `file` has its bytes.

    `fields`, `source` and `received` (seconds of the epoch) are what is known of the answer that the bytes came with.
    `sha256` is what these must be. With `measured`, size and digest are recorded as attributes. A `draft` is what somebody
    was writing. What is `lasting` never changes under its name.
    """

    name: str
    key: Key
    number: int | None
    status: Status = Status.READY
    file: Path | None = None
    fields: Fields = ()
    source: str = ""
    received: float = 0.0
    details: Details | None = None
    before: int | None = None
    last_read: int | None = None
    read_count: int = 0
    sha256: str | None = None
    measured: bool = False
    draft: bool = False
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that cannot be taken over, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is none of what is looked for, and why."""

    name: str
    reason: str


class Older(Protocol):
    """An older cache. `title` says what it is."""

    title: str

    def count(self) -> int:
        """How many there will be."""

    def __iter__(self) -> Iterator[Find | Refused | Skipped]: ...
