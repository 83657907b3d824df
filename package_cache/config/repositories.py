"""The tables `[[repository]]` of a file of configuration -> `Repository` values, with all that is wrong with them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from package_cache.config.globs import glob_pattern
from package_cache.config.parsing import basic, hint, nearest, parse_source
from package_cache.config.settings import SETTINGS
from package_cache.model import Fields, Fresh, Freshness, Preset, Repository, Rule, Source, VirtualHost
from package_cache.units import parse_bound, parse_duration

REPOSITORY_KEYS = {
    "name": "what it is called; letters, digits, '.', '_' and '-'",
    "prefix": "the beginning of the paths that are its files, such as /debian/",
    "hosts": "hosts that clients know it by, such as mirror.example, mirror.example:8080 or mirror.example/debian",
    "sources": "where to fetch from, in this order: URLs, or tables with url, and headers and credentials of it alone",
    "preset": f"what is an index there and what is a package: {', '.join(one.value for one in Preset)}; else any of these",
    "rule": "tables with match, and fresh or max-file-size or both; the first that matches holds",
    "max-file-size": "files that are larger are passed on, and not stored",
    "links-to": "repositories by name: links to their sources, in pages and JSON documents, lead to them here; "
    "without it, those of npm to tarballs lead to itself, and with [] they stay as they are",
    "pass-post": "globs on paths in the repository where a POST is passed on; the preset npm has those of npm audit",
    "headers": "fields to send to its sources and nobody else, each a text or a table with file or env",
    "credentials": "user:password for its sources and nobody else: a text, or better a table with file or env",
}
"""The keys of `[[repository]]`, and what they are for."""
RULE_KEYS = {
    "match": "glob on the path in the repository: * within a segment, ** across; without a slash, on the last segment",
    "fresh": "immutable, revalidate, http, json-metadata, never, or a time such as 5m",
    "max-file-size": "files that are larger are passed on, and not stored",
}
"""The keys of `[[repository.rule]]`."""
_SOURCE_KEYS = ("url", "headers", "credentials")

Secret = Callable[[str, str], str | None]
"""The text of a secret, by where it is (`file` or `env`) and its name there; None if it cannot be had and is not needed.

Raises ValueError if it is needed.
"""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*,;=:@-]+)*/?")
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?(/.*)?")
_LAST_PORT = 65535
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = re.compile(
    r"(?i)host|range|if-.*|connection|content-.*|transfer-encoding|te|trailer|upgrade|accept-encoding|via|expect|keep-alive"
)
_WORDS = {one.value: one for one in Freshness if one is not Freshness.TIMED}
_SETTINGS = frozenset(setting.key for setting in SETTINGS.values())
ABOVE = "the setting {} is written above the first table of the file"
"""What is said of a setting that is written below a table, so that TOML takes it for a part of that table."""


def read_repositories(tables: object, secret: Secret) -> tuple[tuple[Repository, ...], list[str]]:
    """The repositories, and every problem: `tables` is the value of `repository` in the file."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return (), ["repository: each is written [[repository]], in two brackets"]
    found: list[Repository] = []
    wanted: dict[str, tuple[str, ...]] = {}
    problems: list[str] = []
    for number, table in enumerate(tables, 1):
        name = table.get("name")
        reader = _Reader(f"repository {name if isinstance(name, str) else number}", table, secret, problems)
        repository, links = reader.read(), reader.links()
        if repository is not None:
            found.append(repository)
            wanted[repository.name] = links
    return tuple(_linked(one, wanted[one.name], found, problems) for one in found), problems + _conflicts(found)


def _linked(one: Repository, names: tuple[str, ...], known: list[Repository], problems: list[str]) -> Repository:
    """A repository with the links that its documents have to others."""
    by_name = {other.name: other for other in known}
    for name in names:
        if name not in by_name:
            told = hint(name, by_name, f"known are {', '.join(by_name)}")
            problems.append(f"repository {one.name}: links-to: there is no repository {name}; {told}")
        elif by_name[name].home.startswith("/-/"):
            problems.append(f"repository {one.name}: links-to: {name} has no prefix, so that no link can lead there")
    others = [by_name[name] for name in names if name in by_name]
    return replace(one, links=tuple((f"{source.base}/", f"{other.home}/") for other in others for source in other.sources))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one table, and adds what is wrong with it to `problems`, after the words of `where`."""

    where: str
    table: Mapping[str, Any]
    secret: Secret
    problems: list[str]

    def _add(self, key: str, text: object) -> None:
        self.problems.append(f"{self.where}: {key}: {text}" if key else f"{self.where}: {text}")

    def _check_keys(self, given: Iterable[str], known: Iterable[str]) -> None:
        for key in given:
            if key not in known:
                above = ABOVE.format(key) if key in _SETTINGS else None
                told = hint(key, known, f"known are {', '.join(known)}", above)
                self._add("", f"there is no key {key}; {told}")

    def read(self) -> Repository | None:
        """The repository; None if it has no name."""
        before = len(self.problems)
        self._check_keys(self.table, REPOSITORY_KEYS)
        name = self._value("name", _name)
        if name is None:
            if "name" not in self.table:
                self._add("", "it has no name")
            return None
        prefix = self._value("prefix", _prefix)
        places = self._list("hosts", parse_place)
        if "prefix" not in self.table and "hosts" not in self.table:
            self._add(
                "", 'it has neither prefix nor hosts, so that nobody could ask for it; a prefix looks like "/debian/"'
            )
        sources = self._sources()
        if not sources and len(self.problems) == before:
            self._add("", 'it has no sources; they look like ["http://mirror.example/debian/"]')
        return Repository(
            name,
            sources,
            f"/-/{name}" if prefix is None else prefix,
            places,
            self._value("preset", _preset),
            self._rules(),
            self._value("max-file-size", parse_bound),
            posts=self._list("pass-post", _glob) if "pass-post" in self.table else None,
            # With links-to, the configuration has said where all links lead.
            tarballs=self.table.get("preset") == Preset.NPM.value and "links-to" not in self.table,
        )

    def links(self) -> tuple[str, ...]:
        """The names of the repositories that its documents link to."""
        return self._list("links-to", _name)

    def _value(self, key: str, parse: Callable[[str], Any], table: Mapping[str, Any] | None = None) -> Any:
        value = (self.table if table is None else table).get(key)
        if value is None:
            return None
        if not isinstance(value, str | int) or isinstance(value, bool):
            self._add(key, "it is no string")
            return None
        try:
            return parse(str(value))
        except ValueError as error:
            self._add(key, error)
            return None

    def _list(self, key: str, parse: Callable[[str], Any]) -> tuple[Any, ...]:
        values = self.table.get(key, [])
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            self._add(key, 'it is a list of strings: ["...", "..."]')
            return ()
        return tuple(found for one in values if (found := self._value(key, parse, {key: one})) is not None)

    def _sources(self) -> tuple[Source, ...]:
        values = self.table.get("sources", [])
        if not isinstance(values, list):
            self._add("sources", 'it is a list: ["http://mirror.example/debian/"]')
            return ()
        common = self._fields(self.table)
        return tuple(found for one in values if (found := self._source(one, common)) is not None)

    def _source(self, value: object, common: Fields) -> Source | None:
        table = value if isinstance(value, dict) else {"url": value}
        self._check_keys(table, _SOURCE_KEYS)
        source: Source | None = self._value("url", parse_source, table)
        if source is None:
            if "url" not in table:
                self._add("sources", 'a table of it has no url; it looks like { url = "http://mirror.example/" }')
            return None
        own = self._fields(table) if isinstance(value, dict) else ()
        return replace(source, fields=_merged(common, source.fields, own))

    def _fields(self, table: Mapping[str, Any]) -> Fields:
        headers = table.get("headers", {})
        if not isinstance(headers, dict):
            self._add("headers", 'it is a table: { X-Token = { file = "/etc/package-cache/token" } }')
            return ()
        fields: list[tuple[str, str]] = []
        for name, value in headers.items():
            text = self._secret(f"headers: {name}", value)
            if not _FIELD_NAME.fullmatch(name) or _OURS.fullmatch(name):
                self._add("headers", f"{name} is not a field that can be set for a source")
            elif text is not None:
                fields.append((name, text))
        if "credentials" in table:
            pair = self._secret("credentials", table["credentials"])
            if pair is not None and ":" not in pair:
                self._add("credentials", "a user and a password are separated by a colon, as in user:password")
            elif pair is not None:
                fields += basic(pair.encode())
        return tuple(fields)

    def _secret(self, key: str, value: object) -> str | None:
        """A string, or the secret at the place that a table names. Errors never contain it."""
        if isinstance(value, dict):
            [(kind, name)] = list(value.items()) if len(value) == 1 else [("", "")]
            if kind not in ("file", "env") or not isinstance(name, str):
                self._add(key, 'it is a string, or { file = "/path" }, or { env = "VARIABLE" }')
                return None
            try:
                value = self.secret(kind, name)
            except ValueError as error:
                self._add(key, error)
                return None
            if value is None:
                return None
        if not isinstance(value, str) or not re.fullmatch(r"[\x20-\x7e]+", value):
            self._add(key, "it is not one line of printable ASCII")
            return None
        return value

    def _rules(self) -> tuple[Rule, ...]:
        tables = self.table.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            self._add("rule", "each is written [[repository.rule]], in two brackets")
            return ()
        return tuple(found for one in tables if (found := self._rule(one)) is not None)

    def _rule(self, table: Mapping[str, Any]) -> Rule | None:
        self._check_keys(table, RULE_KEYS)
        if "match" not in table or not {"fresh", "max-file-size"} & set(table):
            self._add("rule", 'it says match and fresh, as in match = "*.iso" and fresh = "immutable"; or max-file-size')
        match = self._value("match", _glob, table)
        fresh, largest = self._value("fresh", parse_fresh, table), self._value("max-file-size", parse_bound, table)
        return None if match is None else Rule(match, fresh, largest)


def _merged(*several: Fields) -> Fields:
    """The fields, of which the last one of each name counts."""
    return tuple({name.lower(): (name, value) for fields in several for name, value in fields}.values())


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name: it has letters, digits, '.', '_' and '-', and begins with a letter or digit"
        )
    return text


def _prefix(text: str) -> str:
    if not text.startswith("/") or not _PREFIX.fullmatch(text):
        raise ValueError(f"{text!r} is not the beginning of a path; it looks like /debian/")
    if text == "/-" or text.startswith("/-/"):
        raise ValueError("/-/ is the cache's own; any other beginning will do")
    return text.rstrip("/")


def parse_place(text: str) -> VirtualHost:
    """A host by which clients know a repository, perhaps with a port and a path. Raises ValueError."""
    match = _PLACE.fullmatch(text)
    if match is None or int(match[2] or 0) > _LAST_PORT or not _PREFIX.fullmatch(match[3] or "/"):
        raise ValueError(
            f"{text!r} is no host; one looks like mirror.example, mirror.example:8080 or mirror.example/debian"
        )
    port = f":{int(match[2])}" if match[2] and int(match[2]) not in (80, 443) else ""
    return VirtualHost(match[1].lower().rstrip(".") + port, (match[3] or "").rstrip("/"))


def _preset(text: str) -> Preset:
    try:
        return Preset(text)
    except ValueError:
        names = [one.value for one in Preset]
        near = nearest(text, names)
        near = "" if near is None else f"the nearest is {near}, "
        raise ValueError(f"{text!r} is no preset; {near}known are {', '.join(names)}") from None


def _glob(text: str) -> str:
    glob_pattern(text)
    return text


def parse_fresh(text: str) -> Fresh:
    """The `fresh` of a rule. Raises ValueError."""
    if text in _WORDS:
        return Fresh(_WORDS[text], text)
    try:
        return Fresh(Freshness.TIMED, text, parse_duration(text))
    except ValueError:
        raise ValueError(f"{text!r} is none of {', '.join(_WORDS)}, and no time such as 5m, 12h or 1d") from None


def _conflicts(repositories: list[Repository]) -> list[str]:
    """Where repositories contradict each other."""
    named = [(one, "", one.name, f"there are two of the name {one.name}") for one in repositories]
    homes = [(one, "prefix: ", one.home, f"{one.home}/ is that of another one already") for one in repositories]
    places = [
        (one, "hosts: ", place, f"{place.authority}{place.path} is one of another repository already")
        for one in repositories
        for place in one.hosts
    ]
    problems, seen = [], set[object]()
    for one, key, value, text in (*named, *homes, *places):
        if (key, value) in seen:
            problems.append(f"repository {one.name}: {key}{text}")
        seen.add((key, value))
    return [*problems, *_nested(repositories), *differing(repositories)]


def _nested(repositories: list[Repository]) -> list[str]:
    return [
        f"repository {one.name}: prefix: {one.home}/ is within {other.home}/ of {other.name}; only / may have others within"
        for one in repositories
        for other in repositories
        if other.home and one.home.startswith(other.home + "/")
    ]


def differing(repositories: Sequence[Repository]) -> list[str]:
    """Where repositories contradict each other about a source: it has one set of credentials, found by its URL."""
    first = {source.base: source.fields for one in reversed(repositories) for source in reversed(one.sources)}
    return [
        f"repository {one.name}: sources: {source.base} has other headers or credentials elsewhere"
        for one in repositories
        for source in one.sources
        if source.fields != first[source.base]
    ]
