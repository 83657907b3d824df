"""Puts what the proxy has into a plain tree: the newest version of each file, at the path that clients ask for it by.

Package files go first: where `/x` and `/x/y` are both here, a tree can have one of them only, and an index never names a
package that is still to come. What is there already and right is left alone.
"""

import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from urllib.parse import unquote

from package_cache.errors import DamagedBlob, OnlyRead, StoreError
from package_cache.library.exporting.place import Place, Unplaceable, Way
from package_cache.model import Entry, Freshness, Target
from package_cache.rules.http.fields import parse_date
from package_cache.rules.repositories.layouts import FLAT, Structure, layout_text, parse_layout
from package_cache.rules.repositories.routes import Routes
from package_cache.rules.trees import LAYOUT, distfiles_of, is_layout, laid_out, names_of
from package_cache.storage.blobs import is_seal
from package_cache.storage.inventory import Inventory
from package_cache.storage.stores import Stores

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """What is not in the tree, and why."""

    key: str
    reason: str


@dataclass
class Tally:
    """What was done so far; `size` is of what was put there, in bytes."""

    put: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    size: int = 0
    here: int = 0
    refused: list[Left] = field(default_factory=list)
    skipped: list[Left] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a tree is made. `prefix` is what its paths do without, and what is not below it stays away.

    `structure` is that of distfiles; without one, what is there decides. Of the `ways` for package files the first possible
    one is taken.
    """

    prefix: str = ""
    structure: Structure | None = None
    ways: Sequence[Way] = tuple(Way)


class Exporter:
    """Fills one place. Raises StoreError where nothing can be put there."""

    def __init__(self, stores: Stores, routes: Routes, place: Place, terms: Terms) -> None:
        self._routes = routes
        self._inventory = Inventory(stores.registry.database)
        self._blobs = stores.blobs
        self._place = place
        self._terms = terms
        self._above = tuple(unquote(name) for name in terms.prefix.split("/")[1:])
        # An index that changes keeps its name: with the date of blobs, servers would call each version unchanged.
        self._ways_of_index = [way for way in terms.ways if way is not Way.LINK] or [Way.REFLINK, Way.COPY]
        self._structures: dict[tuple[str, ...], Structure] = {}
        self.tally = Tally()

    def run(self, glob: str | None, step: Callable[[], object]) -> None:
        """Put there what matches; `step` is called after each."""
        for entry, lasting in chain(self._entries(glob, lasting=True), self._entries(glob, lasting=False)):
            try:
                self._export(entry, lasting=lasting)
            except (Unplaceable, DamagedBlob) as error:
                self.tally.refused.append(Left(entry.key, str(error)))
            step()

    def _entries(self, glob: str | None, *, lasting: bool) -> Iterator[tuple[Entry, bool]]:
        """Either the package files or the indexes."""
        below = f"{self._terms.prefix}/"
        for entry in self._inventory.entries(f"{below}*" if glob is None else glob):
            target, _ = self._routes.of_key(entry.key)
            fresh = self._routes.policy(target).freshness(target, entry.representation.get("content-type"))
            if entry.key.startswith(below) and (fresh.how is Freshness.IMMUTABLE) is lasting:
                yield entry, lasting

    def _export(self, entry: Entry, *, lasting: bool) -> None:
        target, accept = self._routes.of_key(entry.key)
        if is_layout(target.path):
            return  # the tree has its own
        try:
            if accept is not None or target.query is not None:
                raise ValueError("it depends on more than its path")
            if entry.representation.get("content-encoding") not in (None, "", "identity"):
                raise ValueError("its bytes are in a content coding, which a tree cannot say")
            names = self._names(target)
        except ValueError as error:
            logger.info("%s is left out: %s", entry.key, error)
            self.tally.skipped.append(Left(entry.key, str(error)))
            return
        ways = self._terms.ways if lasting else self._ways_of_index
        if Way.LINK in ways or Way.COPY not in ways:
            ways = self._as_file(entry, ways)
        with self._blobs.holding([entry.digest]), self._blobs.open(entry.digest, entry.size) as blob:
            if self._is_there(entry, names, blob, lasting=lasting):
                self.tally.here += 1
                return
            way = self._place.put(names, blob, self._blobs.path(entry.digest), ways, _date(entry))
        self.tally.put[way] += 1
        self.tally.size += entry.size

    def _as_file(self, entry: Entry, ways: Sequence[Way]) -> Sequence[Way]:
        """Have a file that can get another name, or share its bytes; the ways that are left where there can be none."""
        try:
            self._blobs.as_file(entry.digest, entry.size)
        except OnlyRead:
            if Way.COPY not in ways:
                raise
            return [Way.COPY]
        return ways

    def _names(self, target: Target) -> tuple[str, ...]:
        """Where in the tree a file belongs. Raises ValueError, with why, if nowhere."""
        home, names = names_of(target.home) if target.home else (), names_of(target.path)
        folder = distfiles_of(names) if self._routes.repository(target).may_have_distfiles else None
        if folder is not None and (*home, *folder)[: len(self._above)] == self._above:
            names = laid_out(names, self._structure((*home, *folder)[len(self._above) :]))
        return (*home, *names)[len(self._above) :]

    def _structure(self, folder: tuple[str, ...]) -> Structure:
        """How distfiles are laid out in a folder of the tree, which says so from then on."""
        if folder not in self._structures:
            self._structures[folder] = self._agreed((*folder, LAYOUT))
        return self._structures[folder]

    def _agreed(self, names: tuple[str, ...]) -> Structure:
        wanted, data = self._terms.structure, self._place.read(names)
        if data is None:
            self._place.write(names, layout_text([wanted or FLAT]).encode())
            return wanted or FLAT
        try:
            known = [one for one in parse_layout(data.decode()) if one.by_name]
        except ValueError as error:
            raise StoreError(f"{'/'.join(names)} in that directory cannot be understood: {error}") from error
        if wanted is None and known:
            return known[0]
        if wanted in known:
            return wanted
        said = ", ".join(map(str, known)) or "nothing that is known here"
        raise StoreError(f"{'/'.join(names)} in that directory says {said}, not {wanted or FLAT}: choose another directory")

    def _is_there(self, entry: Entry, names: tuple[str, ...], blob: io.FileIO, *, lasting: bool) -> bool:
        """Whether a file is there as it should be. Raises Unplaceable for what is not, and may not be replaced."""
        there = self._place.find(names)
        if there is None:
            return False
        if os.path.samestat(there, os.fstat(blob.fileno())):
            return Way.LINK in self._terms.ways
        if there.st_size == entry.size:
            # Size and time are enough to know a package file again; an index may keep both and change.
            if lasting and not is_seal(there.st_mtime_ns) and int(there.st_mtime) == int(_date(entry)):
                return True
            if self._place.digest(names, entry.size) == entry.digest:
                return True
        if lasting:
            raise Unplaceable("it is there with other bytes; remove it to have it from here")
        return False


def _date(entry: Entry) -> float:
    """When the file was last changed, as its source said; else when it came. In seconds of the epoch."""
    date = parse_date(entry.representation.get("last-modified"))
    return date if date is not None and date >= 0 else entry.representation.received
