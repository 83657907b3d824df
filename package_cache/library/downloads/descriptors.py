"""What is to be downloaded: one request in full, its header fields and its body, that can be stored and made again."""

import hashlib
import json as jsons
import os
import re
import secrets
import tomllib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

from package_cache.errors import ArgumentError, DescriptorError
from package_cache.model import Fields
from package_cache.rules.library.attributes import dump
from package_cache.rules.library.naming import canonical_query, normal_url, split_query, with_query
from package_cache.upstream.calls import Body, Call
from package_cache.upstream.reach import Reach

_LONGEST = 10_000
"""Characters of a body that are stored as they are."""
_BYTES = "application/octet-stream"
KEYS = ("url", "query", "post", "json", "multipart", "headers", "timeout", "connecttimeout", "cainfo", "proxies")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_REFUSED = {
    **dict.fromkeys(("range", "if-range"), "a part of a file is not downloaded"),
    **dict.fromkeys(("if-none-match", "if-modified-since"), "refresh='check' asks whether a file has changed"),
    **dict.fromkeys(("content-length", "transfer-encoding", "connection", "expect"), "it follows from what is sent"),
}
_SECRET = re.compile(r"authori[sz]ation|cookie|token|secret|passw|credential|api-?key|-key$", re.IGNORECASE)


# -- header fields


class Headers(Mapping[str, str]):
    """Header fields of an answer, by name in any case. A field that was sent several times is one string, with commas."""

    def __init__(self, fields: Fields = ()) -> None:
        self._fields: dict[str, tuple[str, str]] = {}
        for name, value in fields:
            known = self._fields.get(name.lower())
            self._fields[name.lower()] = (known[0], f"{known[1]}, {value}") if known else (name, value)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


def is_secret(name: str) -> bool:
    """Whether a field of that name holds credentials, as far as the name tells."""
    return bool(_SECRET.search(name))


def headers_of(given: object, login: tuple[str, str] | None = None) -> Fields:
    """Fields to send, each once; with the user and password of a URL. Raises DescriptorError."""
    found = Headers(tuple(_checked_field(name, value) for name, value in _field_pairs(given)))
    if login is not None and "authorization" not in found:
        text = b64encode(":".join(login).encode("utf-8")).decode("ascii")
        return (*found.items(), ("Authorization", f"Basic {text}"))
    return tuple(found.items())


def _field_pairs(given: object) -> Iterable[tuple[object, object]]:
    if given is None:
        return
    if isinstance(given, Mapping):
        yield from given.items()
        return
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise DescriptorError(f"headers={given!r} is neither a mapping, nor pairs, nor a list of lines 'Name: value'")
    for one in given:
        if isinstance(one, str):
            name, colon, value = one.partition(":")
            if not colon:
                raise DescriptorError(f"the header {one!r} has no colon; 'Name: value' would be right")
            yield name, value
        elif isinstance(one, tuple | list) and len(one) == 2:
            yield one[0], one[1]
        else:
            raise DescriptorError(f"headers holds {one!r}, which is neither a pair nor a line 'Name: value'")


def _checked_field(name: object, value: object) -> tuple[str, str]:
    said, text = str(name).strip(), str(value).strip(" \t")
    if not _FIELD_NAME.fullmatch(said):
        raise DescriptorError(f"{said!r} cannot be the name of a header")
    if not _FIELD_VALUE.fullmatch(text):
        raise DescriptorError(f"the header {said} cannot have that value: it has control characters, or none of Latin-1")
    if said.lower() in _REFUSED:
        raise DescriptorError(f"the header {said} cannot be given: {_REFUSED[said.lower()]}")
    return said, text


# -- bodies

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class File:
    """A file to be sent in a multipart request. A string is never taken for the name of a file.

    `name` is sent as its name, by default the last part of `path`.
    """

    path: Path | str
    name: str | None = None
    content_type: str = "application/octet-stream"

    @property
    def said_name(self) -> str:
        """The name that the server is told."""
        return self.name or Path(self.path).name


Part = str | File


def pairs_of(values: object, what: str) -> Pairs:
    """Names and values as strings, from a mapping or pairs. A list gives a name several values, None leaves it out.

    Raises DescriptorError.
    """
    if isinstance(values, Mapping):
        values = values.items()
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DescriptorError(f"{what}={values!r} is neither a mapping nor pairs of name and value")
    found: list[tuple[str, str]] = []
    for pair in values:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DescriptorError(f"{what} holds {pair!r}, which is not a pair of name and value")
        name, value = pair
        several = value if isinstance(value, list | tuple) else [value]
        found += [(_text(str(name), what), _text(one, f"{what}[{name!r}]")) for one in several if one is not None]
    return tuple(found)


def _text(value: object, what: str) -> str:
    if isinstance(value, str | int | float):
        return unicode_text(str(value), what)
    raise DescriptorError(f"{what} is {value!r}: it can be a string, a number, or a list of them")


def unicode_text(value: str, what: str) -> str:
    """A string that can be sent. Raises DescriptorError."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DescriptorError(f"{what} is {value[:100]!r}: that is not valid Unicode (a lone surrogate)") from None
    return value


def parts_of(values: object) -> tuple[tuple[str, Part], ...]:
    """The fields and files of a multipart request. Raises DescriptorError."""
    pairs = list(values.items()) if isinstance(values, Mapping) else values
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise DescriptorError(f"multipart={values!r} is neither a mapping nor pairs of name and value")
    found: list[tuple[str, Part]] = []
    for name, value in pairs:
        if isinstance(value, Path):
            raise DescriptorError(f"multipart[{name!r}] is a path: File({str(value)!r}) sends the file of that name")
        if isinstance(value, Mapping) and "file" in value:
            value = _file_of(value)  # noqa: PLW2901
        found.append(
            (_text(str(name), "multipart"), value if isinstance(value, File) else _text(value, f"multipart[{name!r}]"))
        )
    return tuple(found)


def _file_of(value: Mapping[str, object]) -> File:
    """A file as a JSON or TOML file describes one."""
    try:
        return File(**{"path" if name == "file" else name: str(one) for name, one in value.items()})
    except TypeError:
        raise DescriptorError(f"multipart holds {dict(value)!r}; known are file, name and content_type") from None


def json_text(value: object) -> str:
    """The JSON of a value. Raises DescriptorError for what JSON cannot say."""
    try:
        return unicode_text(jsons.dumps(value, ensure_ascii=False, allow_nan=False), "json")
    except DescriptorError:
        raise
    except (TypeError, ValueError) as error:
        raise DescriptorError(f"json={value!r} cannot be sent as JSON: {error}") from None


def multipart_body(parts: Iterable[tuple[str, Part]]) -> Body:
    """Fields and files (RFC 7578)."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes | Path] = []
    for name, value in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_escaped(name)}"'
        if isinstance(value, File):
            head += f'; filename="{_escaped(value.said_name)}"\r\nContent-Type: {value.content_type}'
        pieces.append(f"{head}\r\n\r\n".encode("utf-8", "surrogateescape"))  # the name of a file need not be Unicode
        pieces.append(Path(value.path) if isinstance(value, File) else value.encode())
        pieces.append(b"\r\n")
    pieces.append(f"--{boundary}--\r\n".encode())
    return Body(f"multipart/form-data; boundary={boundary}", tuple(pieces))


def _escaped(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


# -- files


def load_table(path: str | Path) -> dict[str, object]:
    """The mapping in a file. Raises DescriptorError if there is none."""
    file = Path(path)
    parse = _PARSERS.get(file.suffix.lower())
    if parse is None:
        raise DescriptorError(f"{file} cannot be read: its name ends with none of {', '.join(_PARSERS)}")
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DescriptorError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DescriptorError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DescriptorError(f"{file} holds no mapping of names to values")
    return {str(name): value for name, value in found.items()}


def _yaml(text: str) -> object:
    try:
        import yaml  # noqa: PLC0415 - not a dependency
    except ImportError:
        raise ValueError("YAML needs PyYAML, which is not installed; JSON and TOML need nothing") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_PARSERS: dict[str, Callable[[str], object]] = {
    ".json": jsons.loads,
    ".toml": tomllib.loads,
    ".yaml": _yaml,
    ".yml": _yaml,
}


class Descriptor(Mapping[str, object]):
    """One request. As a mapping it has what was given, in normal form: `Descriptor(**descriptor)` is equal to it.

    - `query`: names and values, added to those in the URL. With `post=True` or `json=True` they are the body instead.
    - `post`: a form; or bytes or a string, sent as they are. `json`: a value that is sent as JSON.
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
        if not isinstance(url, str):
            raise DescriptorError(f"url={url!r} is not a string")
        try:
            address, login = normal_url(url)
        except ValueError as error:
            raise DescriptorError(f"url={url!r} cannot be downloaded: {error}") from None
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
        """What the answer depends on besides `baseurl`: query, body and headers, as JSON values.

        Credentials and bodies of bytes are in it by their SHA-256. Raises DescriptorError if a file cannot be read.
        """
        found: dict[str, object] = {}
        if self.query:
            found["query"] = canonical_query(self.query)
        match self._given.get("post"):
            case tuple() as pairs:
                form_of = canonical_query(pairs)
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
        """A value as it may be stored: of credentials only a hash, which tells one from another and no more."""
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
        """The call to be made at the URL and at its mirrors; `agent` is the User-Agent unless a header field gives one."""
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
        """How its servers are reached: `reach`, unless this says otherwise."""
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
            return Body("application/json", (json_text(self._given["json"]).encode("utf-8"),))
        match self._given.get("post"):
            case tuple():
                return Body("application/x-www-form-urlencoded", (urlencode(self._pairs("post")).encode("ascii"),))
            case bytes() as data:
                return Body(_BYTES, (data,))
            case str() as text:
                return Body(_BYTES, (text.encode("utf-8"),))
            case _:
                return None


def _brief(value: object, text: str) -> object:
    """The value itself, unless it cannot be stored, or its text is too long for that: then the SHA-256 of its text."""
    if len(text) <= _LONGEST:
        with suppress(ArgumentError):  # JSON knows larger numbers, and is nested deeper
            dump({"dl_params": {"json": value}}, "json")
            return value
    return {"sha256": hashlib.sha256(text.encode("utf-8")).hexdigest()}


def seconds_of(value: object, what: str) -> float:
    """A time in seconds. Raises DescriptorError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise DescriptorError(f"{what}={value!r} is not a number of seconds above 0")
    return float(value)


def _body_of(post: object, json: object, multipart: object, query: object) -> dict[str, object]:
    """The body, by the one name under which it was given."""
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
