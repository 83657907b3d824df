"""The directory of cachedir, and so of dlmachine: `cache.sqlite`, and the files beside it.

The keys are made anew. Attributes and parameters get back the types that the tables say; what cachedir itself did not keep
(runs of white space, bool, None, bytes) is gone.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from package_cache.errors import ArgumentError
from package_cache.library.forms import new_item
from package_cache.library.importing.finds import Find, Refused
from package_cache.library.importing.requests import requested
from package_cache.model import Status
from package_cache.rules.library.attributes import microseconds
from package_cache.rules.library.files import extension

NAME = "cache.sqlite"
_COLUMNS = "id, item_id, version_id, version, status, file_name, label, date, ext, last_read, read_count"
_TABLES = ("attr_varchar", "attr_int", "attr_datetime", "attr_float", "attr_text")
"""In the order in which cachedir read them: where a name is in several, the last one counts."""
_SECONDS = 10.0

Values = dict[str, Any]
_Attribute = tuple[int, str | None, int, str, Any]


class ItemRegistry:
    """The items in a registry, which is only read. Raises ArgumentError if it is none."""

    title = "a cache of cachedir"

    def __init__(self, place: Path) -> None:
        self._place = place
        self._removed: dict[str, tuple[Values, Values]] = {}
        try:
            with closing(self._connect()) as connection:
                connection.execute(f"SELECT {_COLUMNS} FROM main LIMIT 0")  # noqa: S608 - constant names
                for table in _TABLES:
                    connection.execute(f"SELECT id, namespace, keyvar, name, value FROM {table} LIMIT 0")  # noqa: S608
                self._count = int(connection.execute("SELECT count(*) FROM main").fetchone()[0])
                doubled = connection.execute("SELECT version_id FROM main GROUP BY version_id HAVING count(*) > 1")
                self._doubled = {row[0] for row in doubled}
        except sqlite3.Error as error:
            raise ArgumentError(f"{place} is no registry of cachedir that can be read: {error}") from error

    def count(self) -> int:
        """How many items there are."""
        return self._count

    def __iter__(self) -> Iterator[Find | Refused]:
        try:
            with closing(self._connect()) as connection:
                several = [_by_item(connection, table) for table in _TABLES]
                rows = connection.execute(f"SELECT {_COLUMNS} FROM main ORDER BY id")  # noqa: S608
                for row in rows:
                    yield self._find(row, [next_of(row[0]) for next_of in several])
        except sqlite3.Error as error:
            yield Refused(str(self._place), f"it cannot be read to its end: {error}")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{self._place.absolute().as_uri()}?mode=ro", uri=True, timeout=_SECONDS)
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        return connection

    def _find(self, row: tuple[Any, ...], tables: list[list[_Attribute]]) -> Find | Refused:
        number, item_id, version_id, version, state, *_ = row
        params, attrs = _values(tables, keyvar=1), _values(tables, keyvar=0)
        if version_id in self._doubled:
            # What was made after its version was removed has its attributes with that.
            if "_uri" not in params:
                params, attrs = self._removed.get(version_id, (params, attrs))
            self._removed[version_id] = dict(params), dict(attrs)
        uri = params.pop("_uri", None)
        name = f"{uri} version {version}" if uri else f"{item_id} version {version}"
        if not isinstance(uri, str):
            return Refused(name, f"its row {number} has no uri")
        if not isinstance(version, int) or version < 1 or state not in tuple(Status):
            return Refused(name, f"its row {number} has the version {version!r} and the status {state!r}")
        if version_id in self._doubled and state < 0:
            return Refused(name, "it was removed, and its version given to another item, whose file is in its place")
        try:
            return self._made(name, row, uri, params, attrs)
        except (ArgumentError, OverflowError) as error:
            return Refused(name, str(error))

    def _made(self, name: str, row: tuple[Any, ...], uri: str, params: Values, attrs: Values) -> Find | Refused:
        _, item_id, version_id, version, state, filename, label, date, ext, last_read, read_count = row
        file = self._file(str(version_id or f"{item_id}-{version}"), ext)
        request = requested(uri, params, attrs)
        if request is not None:
            uri, params, attrs = request.uri, request.params, request.attrs
        has_bytes = file is not None and state in (Status.READY, Status.TRASH)
        if request is not None and state == Status.READY and file is None:
            return Refused(name, "it was downloaded, but its file is missing")
        new = new_item(uri, params, attrs, state, None, label, filename)
        digest = attrs.get("sha256")
        made = _moment(date)
        return Find(
            name,
            new.key,
            version,
            new.status,
            file if has_bytes or (request is None and state in (Status.UNINITIALIZED, Status.WRITE)) else None,
            request.fields if request is not None else (),
            request.url if request is not None else "",
            (made or 0) / 1e6,
            replace(new.details, ext=extension(ext or "", None), date=made or new.details.date),
            Status.READY if state == Status.TRASH else None,
            _moment(last_read),
            read_count if isinstance(read_count, int) else 0,
            digest if isinstance(digest, str) and request is not None and has_bytes else None,
            request is not None and has_bytes,
            state in (Status.UNINITIALIZED, Status.WRITE),
        )

    def _file(self, stem: str, ext: str | None) -> Path | None:
        """The file of an item; dlmachine left some under their first names when it gave them an extension."""
        names = self._files.get(stem, [])
        exact = f"{stem}.{ext}" if ext else stem
        found = exact if exact in names else next(iter(names), None)
        return None if found is None else self._place.parent / found

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """The plain files beside the registry, by their names without extension."""
        found: dict[str, list[str]] = {}
        with os.scandir(self._place.parent) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    found.setdefault(entry.name.partition(".")[0], []).append(entry.name)
        return found


def _by_item(connection: sqlite3.Connection, table: str) -> Any:
    """A function that gives the attributes of an item in a table, if it is called with ascending numbers of items."""
    rows = connection.execute(
        f"SELECT id, namespace, keyvar, name, value FROM {table} WHERE id IS NOT NULL ORDER BY id, rowid"  # noqa: S608
    )
    groups = groupby(rows, itemgetter(0))
    waiting: tuple[int, list[_Attribute]] | None = None

    def of(number: int) -> list[_Attribute]:
        nonlocal waiting
        while waiting is None or waiting[0] < number:
            following = next(groups, None)
            if following is None:
                return []
            waiting = following[0], [(*one[:4], _typed(table, one[4])) for one in following[1]]
        return waiting[1] if waiting[0] == number else []

    return of


def _values(tables: list[list[_Attribute]], *, keyvar: int) -> Values:
    """Attributes, or with 1 parameters, by name; what has a namespace is in a dict of that name."""
    found: Values = {}
    for rows in tables:
        for _, namespace, of, name, value in rows:
            if of != keyvar or name is None:
                continue
            place = found if namespace is None else found.setdefault(namespace, {})
            if isinstance(place, dict):
                place[name] = value
    return found


def _typed(table: str, value: Any) -> Any:
    """A value, of the type that its table is for."""
    if table == "attr_datetime" and isinstance(value, str):
        with suppress(ValueError):
            return datetime.fromisoformat(value)
    if table == "attr_text" and isinstance(value, str):
        with suppress(ValueError):
            return json.loads(value)
    if table == "attr_float" and isinstance(value, int):
        return float(value)
    return value


def _moment(text: object) -> int | None:
    """A time as cachedir wrote it, local and without a zone, in microseconds of the epoch."""
    if isinstance(text, str):
        with suppress(ValueError):
            return microseconds(datetime.fromisoformat(text), "date")
    return None
