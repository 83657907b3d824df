"""What is to be downloaded: one request, in full, that can be stored and made again."""

import hashlib
import json as jsons
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from package_cache.errors import ArgumentError, DescriptorError
from package_cache.library.downloads.bodies import (
    File,
    Pairs,
    Part,
    form,
    json_body,
    json_text,
    multipart_body,
    pairs_of,
    parts_of,
    unicode_text,
)
from package_cache.library.downloads.files import load_table
from package_cache.library.downloads.headers import headers_of, is_secret
from package_cache.model import Fields
from package_cache.rules.library.attributes import dump
from package_cache.rules.library.urls import canonical, clean, split_query, with_query
from package_cache.upstream.asking import Call
from package_cache.upstream.calls import Body, Reach


class Descriptor(Mapping[str, object]):
    """One request. As a mapping it has what was given, in normal form: `Descriptor(**descriptor)` is equal to it.

    - `query`: names and values, added to those in the URL. With `post=True` or `json=True` they are the body instead.
    - `post`: a form; or bytes or a text, sent as they are. `json`: a value that is sent as JSON.
    - `multipart`: fields by name; a `File` is sent as a file.
    - `headers`: a mapping, pairs, or lines `Name: value`. Those that hold credentials go to the host of `url` alone, and
      so do a user and a password in the URL.
    - `timeout`: seconds that a server may be silent; `connecttimeout`: seconds that a connection may take.
    - `cainfo`: a file with the certificates to trust. `proxies`: URLs by scheme, or by `all`; `no` names hosts that need
      none. Without it those of the environment count, with `{}` there is none.

    Raises DescriptorError for what cannot be sent.
    """

    __slots__ = ("_given", "baseurl", "headers", "query", "url")

    def __init__(
        self,
        url: str,
        *,
        query: object = None,
        post: object = None,
        json: object = None,
        multipart: object = None,
        headers: object = None,
        timeout: float | None = None,
        connecttimeout: float | None = None,
        cainfo: str | Path | None = None,
        proxies: object = None,
    ) -> None:
        body = _body_of(post, json, multipart, query)
        address, login = _address(url)
        if query is not None and not (post is True or json is True):
            address = with_query(address, pairs_of(query, "query"))
        self.url = address
        """The URL that is asked, with its query."""
        self.baseurl, self.query = split_query(address)
        self.headers = headers_of(headers, login)
        given: dict[str, object] = {"url": address, **body}
        if self.headers:
            given["headers"] = self.headers
        for name, seconds in (("timeout", timeout), ("connecttimeout", connecttimeout)):
            if seconds is not None:
                given[name] = seconds_of(seconds, name)
        if cainfo is not None:
            given["cainfo"] = str(cainfo)
        if proxies is not None:
            given["proxies"] = pairs_of(proxies, "proxies")
        self._given = given

    @classmethod
    def from_file(cls, path: str | Path) -> "Descriptor":
        """The request described in a JSON, TOML or YAML file. Raises DescriptorError."""
        return cls.from_mapping(load_table(path), f"in {path}: ")

    @classmethod
    def from_mapping(cls, given: Mapping[str, object], where: str = "") -> "Descriptor":
        """The request that a mapping describes. Raises DescriptorError, also for keys that mean nothing."""
        unknown = sorted(set(given) - set(KEYS))
        if unknown:
            raise DescriptorError(f"{where}unknown key {unknown[0]!r}; known are {', '.join(KEYS)}")
        if "url" not in given:
            raise DescriptorError(f"{where}url is missing")
        return cls(**given)  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> object:
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __hash__(self) -> int:
        return hash(self.url)

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.record().items() if name != "url"}
        return f"Descriptor({self.url!r}{''.join(f', {name}={value!r}' for name, value in shown.items())})"

    @property
    def method(self) -> str:
        """GET, or POST if there is a body."""
        return "POST" if {"post", "json", "multipart"} & self._given.keys() else "GET"

    def identity(self) -> dict[str, object]:
        """What makes the answer another one besides `baseurl`: query, body and headers, as JSON values.

        Credentials and bodies of bytes are in it by their SHA-256. Raises DescriptorError if a file cannot be read.
        """
        found: dict[str, object] = {}
        if self.query:
            found["query"] = canonical(self.query)
        match self._given.get("post"):
            case tuple() as pairs:
                form_of = canonical(pairs)
                found["post"] = _brief(form_of, f"form {json_text(form_of)}")
            case bytes() as data:
                found["post"] = {"sha256": hashlib.sha256(data).hexdigest()}
            case str() as text:
                found["post"] = _brief(text, text)
            case _:
                pass
        if "json" in self._given:
            found["json"] = _brief(self._given["json"], json_text(self._given["json"]))
        if "multipart" in self._given:
            parts = [[name, _identity_of(part)] for name, part in self._parts]
            found["multipart"] = _brief(parts, json_text(parts))
        if self.headers:
            found["headers"] = {name.lower(): self._told(name, value) for name, value in sorted(self.headers)}
        return found

    def _told(self, name: str, value: str) -> str:
        """A value as it may be stored: credentials by a hash, which tells one from another and no more."""
        if not is_secret(name):
            return value
        return "sha256:" + hashlib.sha256(f"{self.baseurl}\n{name.lower()}\n{value}".encode()).hexdigest()[:16]

    def record(self) -> dict[str, object]:
        """What was given, as JSON values and without credentials: `from_mapping` makes of it the same request.

        Of a body that is long or cannot be stored, or of bytes that are no text, only the SHA-256 is in it.
        """
        found = dict(self._given)
        if self.headers:
            found["headers"] = {name: value for name, value in self.headers if not is_secret(name)}
        match self._given.get("post"):
            case tuple() as pairs:
                found["post"] = [list(pair) for pair in pairs]
            case bytes() as data:
                try:
                    found["post"] = data.decode("utf-8")
                except UnicodeDecodeError:
                    found["post"] = f"sha256:{hashlib.sha256(data).hexdigest()}"
            case _:
                pass
        if "multipart" in found:
            found["multipart"] = [
                [name, {"file": str(part.path)} if isinstance(part, File) else part] for name, part in self._parts
            ]
        found.pop("proxies", None)
        for name in {"post", "json", "multipart"} & found.keys():
            found[name] = _brief(found[name], json_text(found[name]))
        return found

    @property
    def _parts(self) -> tuple[tuple[str, Part], ...]:
        return self._given["multipart"]  # type: ignore[return-value]

    def _pairs(self, name: str) -> Pairs:
        return self._given[name]  # type: ignore[return-value]

    def call(self, agent: str) -> Call:
        """The call to be made at the URL and at its mirrors; `agent` is the User-Agent where no other one is given."""
        fields = tuple(pair for pair in self.headers if not is_secret(pair[0]))
        said = {name.lower() for name, _ in self.headers}
        usual = (("User-Agent", agent), ("Accept", "*/*"), ("Accept-Encoding", "identity"))
        fields += tuple(pair for pair in usual if pair[0].lower() not in said)
        body = self._body()
        if body is not None and "content-type" in said:
            content_type = next(value for name, value in fields if name.lower() == "content-type")
            body = Body(content_type, body.pieces)
        fields = tuple(pair for pair in fields if pair[0].lower() != "content-type")
        return Call(self.method, fields, (self.private,), body, ranges=body is None)

    @property
    def private(self) -> tuple[str, Fields]:
        """The URL, and the fields that are sent to its host alone."""
        return self.url, tuple(pair for pair in self.headers if is_secret(pair[0]))

    def reach(self, reach: Reach) -> Reach:
        """How its servers are reached, where `reach` is the rule."""
        limits = reach.timeouts
        silence, connect = self._given.get("timeout"), self._given.get("connecttimeout")
        if isinstance(silence, float):
            limits = replace(limits, head=silence, stall=silence, crawl=max(limits.crawl, silence))
        if isinstance(connect, float):
            limits = replace(limits, connect=connect)
        cafile = self._given.get("cainfo")
        if cafile is not None and not os.path.isfile(str(cafile)):  # noqa: PTH113 - where it cannot be looked at, too
            raise DescriptorError(f"cainfo={cafile!r} is not a file")
        return Reach(
            limits,
            Path(str(cafile)) if cafile is not None else reach.cafile,
            self._pairs("proxies") if "proxies" in self._given else reach.proxies,
        )

    def _body(self) -> Body | None:
        if "multipart" in self._given:
            return multipart_body(self._parts)
        if "json" in self._given:
            return json_body(self._given["json"])
        match self._given.get("post"):
            case tuple():
                return form(self._pairs("post"))
            case bytes() as data:
                return Body(_BYTES, (data,))
            case str() as text:
                return Body(_BYTES, (text.encode("utf-8"),))
            case _:
                return None


_LONGEST = 10_000
"""Characters of a body that are stored as they are."""
_BYTES = "application/octet-stream"
KEYS = ("url", "query", "post", "json", "multipart", "headers", "timeout", "connecttimeout", "cainfo", "proxies")


def _brief(value: object, text: str) -> object:
    """The value itself, unless it cannot be stored, or its text is too long for that: then the SHA-256 of its text."""
    if len(text) <= _LONGEST:
        with suppress(ArgumentError):  # JSON knows larger numbers, and is nested deeper
            dump({"dl_params": {"json": value}}, "json")
            return value
    return {"sha256": hashlib.sha256(text.encode("utf-8")).hexdigest()}


def _address(url: object) -> tuple[str, tuple[str, str] | None]:
    if not isinstance(url, str):
        raise DescriptorError(f"url={url!r} is not a text")
    try:
        return clean(url)
    except ValueError as error:
        raise DescriptorError(f"url={url!r} cannot be downloaded: {error}") from None


def seconds_of(value: object, what: str) -> float:
    """A time in seconds. Raises DescriptorError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise DescriptorError(f"{what}={value!r} is not a number of seconds above 0")
    return float(value)


def _body_of(post: object, json: object, multipart: object, query: object) -> dict[str, object]:
    """What is sent along, by the one name under which it was given."""
    bodies: dict[str, object] = {
        name: value for name, value in (("post", post), ("json", json)) if value is not None and value is not False
    }
    if multipart is not None:
        bodies["multipart"] = multipart
        if bodies.get("post") is True:
            del bodies["post"]
    if bodies.get("json") is not None and bodies.get("post") is True:
        del bodies["post"]
    if len(bodies) > 1:
        raise DescriptorError(f"{' and '.join(bodies)} are given: a request has one body")
    if "post" in bodies:
        return {"post": _posted(query if post is True else post)}
    if "json" in bodies:
        # Through its text and back: what was given may change later, and what was sent must not.
        return {"json": jsons.loads(json_text(({} if query is None else query) if json is True else json))}
    return {"multipart": parts_of(multipart)} if "multipart" in bodies else {}


def _posted(value: object) -> Pairs | bytes | str:
    if value is None:
        return ()
    if isinstance(value, str):
        return unicode_text(value, "post")
    return value if isinstance(value, bytes) else pairs_of(value, "post")


def _identity_of(part: Part) -> object:
    if isinstance(part, str):
        return part
    try:
        with Path(part.path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DescriptorError(f"the file {part.path} cannot be sent: {error.strerror}") from error
    return {"sha256": digest, "name": part.said_name, "type": part.content_type}
