"""The older caches that can be imported, known by what is in their directories; `recognise` tells which one it is.

- cachedir, and so dlmachine: `cache.sqlite`, and the files beside it. The keys are made anew. Attributes and parameters get
  back the types that the tables say; what cachedir itself did not keep (runs of white space, bool, None, bytes) is gone.
  What dlmachine recorded of a download becomes a record of this package: the same call finds it again.
- UST-Download-Cache: `file_cache.json` says which file has which document.
- A tree of files: see `trees`.

They are only read. Nothing here writes to the store: see `importing`.
"""

import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from package_cache.errors import ArgumentError
from package_cache.library.core import new_item
from package_cache.library.downloads.descriptors import Descriptor, is_secret
from package_cache.library.importing import OlderCache, OlderItem, Refused
from package_cache.library.trees import FileTree, prefix_of
from package_cache.model import Fields, Status
from package_cache.rules.library.attributes import microseconds
from package_cache.rules.library.naming import extension
from package_cache.rules.repositories.documents import parse
from package_cache.rules.repositories.routes import Routes

_JSON = "content-type: application/json"
_KEPT = ("content-type", "etag", "last-modified")

_REGISTRY = "cache.sqlite"
_LISTING = "file_cache.json"
_Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Requested:
    """A download: what it is found by, what is recorded of it, and the fields of its answer."""

    uri: str
    params: _Values
    attrs: _Values
    url: str
    fields: Fields


def requested(uri: str, params: _Values, attrs: _Values) -> Requested | None:
    """The download that an item is; None if it is none, or sent files: of these nothing was recorded but names."""
    asked = params.get("dl_params")
    if set(params) != {"dl_params"} or not isinstance(asked, dict) or "multipart" in asked:
        return None
    recorded = attrs.get("dl_descriptor")
    recorded = dict(recorded) if isinstance(recorded, dict) else {}
    try:
        descriptor = _descriptor(uri, asked, recorded, attrs)
    except ArgumentError:
        return None
    fields = _response_fields(attrs.get("resp_headers"))
    if "headers" in recorded:
        recorded["headers"] = [line for line in _lines(recorded["headers"]) if not is_secret(line.partition(":")[0])]
    known: _Values = {
        **attrs,
        **{name: _time(attrs[name]) for name in ("download_started", "download_finished") if name in attrs},
        "url": descriptor.url,
        "resolved_url": attrs.get("resolved_url") or descriptor.url,
        "resp_headers": {name.lower(): value for name, value in fields},
        "descriptor": descriptor.record(),
        **({"dl_descriptor": recorded} if recorded else {}),
    }
    kept = tuple((name, value) for name, value in fields if name.lower() in _KEPT)
    return Requested(descriptor.baseurl, {"dl_params": descriptor.identity()}, known, descriptor.url, kept)


def _descriptor(uri: str, asked: _Values, recorded: _Values, attrs: _Values) -> Descriptor:
    """The request. Raises ArgumentError."""
    lines = _lines(asked.get("headers"))
    as_json = any(line.lower() == _JSON for line in lines)
    query = asked.get("query")
    if attrs.get("download_method") == "POST":
        headers = [line for line in lines if not (as_json and line.lower() == _JSON)]
        body = {"json": query} if as_json else {"post": query or ()}
        return Descriptor(uri, headers=headers, **body)
    url = recorded.get("url") or attrs.get("url")
    if isinstance(url, str):
        return Descriptor(url, headers=lines)
    return Descriptor(uri, query=query, headers=lines)


def _time(value: object) -> object:
    """A time that was recorded as text."""
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(value)  # type: ignore[arg-type]
    return value


def _lines(headers: object) -> list[str]:
    return [str(one) for one in headers] if isinstance(headers, list) else []


def _response_fields(headers: object) -> Fields:
    """The fields of an answer; dlmachine took some of them apart, and invented empty ones."""
    if not isinstance(headers, dict):
        return ()
    several = ((str(name), _field_text(value)) for name, value in headers.items())
    return tuple((name, text) for name, text in several if text)


def _field_text(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    first = str(value.get("0", ""))
    return "; ".join([first, *(f"{name}={one}" for name, one in value.items() if name != "0")]) if first else ""


_COLUMNS = "id, item_id, version_id, version, status, file_name, label, date, ext, last_read, read_count"
_TABLES = ("attr_varchar", "attr_int", "attr_datetime", "attr_float", "attr_text")
"""In the order in which cachedir read them: where a name is in several, the last one counts."""
_SECONDS = 10.0

_Attribute = tuple[int, str | None, int, str, Any]


class ItemRegistry:
    """The items in a registry, which is only read. Raises ArgumentError if it is none."""

    title = "a cache of cachedir"

    def __init__(self, place: Path) -> None:
        self._place = place
        self._removed: dict[str, tuple[_Values, _Values]] = {}
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

    def __iter__(self) -> Iterator[OlderItem | Refused]:
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

    def _find(self, row: tuple[Any, ...], tables: list[list[_Attribute]]) -> OlderItem | Refused:
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

    def _made(self, name: str, row: tuple[Any, ...], uri: str, params: _Values, attrs: _Values) -> OlderItem | Refused:
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
        return OlderItem(
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


def _values(tables: list[list[_Attribute]], *, keyvar: int) -> _Values:
    """Attributes, or with 1 parameters, by name; what has a namespace is in a dict of that name."""
    found: _Values = {}
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


class FileCache:
    """The documents in a directory. Raises ArgumentError for a list of them that cannot be read."""

    title = "a directory of UST-Download-Cache"

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            listed = json.loads((root / _LISTING).read_bytes())
        except OSError as error:
            raise ArgumentError(f"{root / _LISTING} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ArgumentError(f"{root / _LISTING} is no JSON: {error}") from error
        if not isinstance(listed, dict):
            raise ArgumentError(f"{root / _LISTING} is no list of documents by their URLs")
        self._listed: dict[str, Any] = listed

    def count(self) -> int:
        """How many documents are listed."""
        return len(self._listed)

    def __iter__(self) -> Iterator[OlderItem | Refused]:
        for url, record in self._listed.items():
            try:
                yield self._find(url, record)
            except (ValueError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                yield Refused(url, f"its document cannot be used: {reason}")

    def _find(self, url: str, record: Any) -> OlderItem | Refused:
        path = self._file(record)
        if path is None:
            return Refused(url, "its document is missing")
        parse(path.read_bytes())
        descriptor, written = Descriptor(url), path.stat().st_mtime
        params = {"dl_params": descriptor.identity()}
        new = new_item(descriptor.baseurl, params, _attributes(descriptor), Status.READY, None, None, None)
        received = min(written, time.time())
        # Its date is when the publisher was asked last.
        details = replace(new.details, date=int(received * 1e6))
        return OlderItem(
            url, new.key, None, file=path, source=descriptor.url, received=received, details=details, measured=True
        )

    def _file(self, record: Any) -> Path | None:
        """The file of a document, also if the directory was moved."""
        path = record.get("path") if isinstance(record, dict) else None
        if not isinstance(path, str) or "\0" in path:
            return None
        return next((one for one in (self._root / Path(path).name, Path(path)) if one.is_file()), None)


def _attributes(descriptor: Descriptor) -> dict[str, object]:
    url = descriptor.url
    return {"url": url, "resolved_url": url, "http_code": 200, "descriptor": descriptor.record()}


_HEAD = b"SQLite format 3\0"
_OWN = "registry-v1.db"


def recognise(place: Path, cache: Path, routes: Routes, prefix: str | None = None) -> OlderCache:
    """The older cache at a place, for the cache directory `cache`. Raises ArgumentError.

    `routes` and `prefix`, as a person writes it, are for trees.
    """
    mode = _mode_of(place)
    if stat.S_ISREG(mode):
        return ItemRegistry(_checked(place))
    if not stat.S_ISDIR(mode):
        raise ArgumentError(f"{place} is no directory")
    found: OlderCache | None = None
    if (place / _REGISTRY).is_file():
        found = ItemRegistry(_checked(place / _REGISTRY))
    elif (place / _LISTING).is_file():
        found = FileCache(place)
    if found is not None:
        if prefix is not None:
            raise ArgumentError(f"a prefix is for the paths of a tree, and {place} is {found.title}")
        return found
    if (place / _OWN).exists():
        raise ArgumentError(f"{place} is a cache of this version, with {_OWN}: use it with --cache {place}")
    tree = FileTree(place, cache, routes, prefix_of(routes, place, prefix))
    if tree.is_empty():
        raise ArgumentError(
            f"{place} is no older cache: it has neither {_REGISTRY} (cachedir, dlmachine), nor {_LISTING}"
            " (UST-Download-Cache), nor any file at all, hidden ones aside (a tree, as of package-cache 0.2)"
        )
    return tree


def _mode_of(place: Path) -> int:
    """What is at a place. Raises ArgumentError if that cannot be told."""
    try:
        return place.stat().st_mode
    except FileNotFoundError:
        raise ArgumentError(f"{place} is no directory: there is nothing of that name") from None
    except OSError as error:
        raise ArgumentError(f"{place} cannot be looked at: {error.strerror}") from error


def _checked(place: Path) -> Path:
    try:
        with place.open("rb") as file:
            head = file.read(len(_HEAD))
    except OSError as error:
        raise ArgumentError(f"{place} cannot be read: {error.strerror}") from error
    if head != _HEAD:
        raise ArgumentError(f"{place} is no registry of cachedir: it is no SQLite database")
    return place
