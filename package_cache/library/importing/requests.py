"""What dlmachine recorded of a download, in the words of this package: the same call finds it again."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from package_cache.errors import ArgumentError
from package_cache.library.downloads.descriptors import Descriptor
from package_cache.library.downloads.headers import is_secret
from package_cache.model import Fields

_JSON = "content-type: application/json"
_KEPT = ("content-type", "etag", "last-modified")

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Requested:
    """A download: what it is found by, what is recorded of it, and the fields of its answer."""

    uri: str
    params: Values
    attrs: Values
    url: str
    fields: Fields


def requested(uri: str, params: Values, attrs: Values) -> Requested | None:
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
    fields = _fields(attrs.get("resp_headers"))
    if "headers" in recorded:
        recorded["headers"] = [line for line in _lines(recorded["headers"]) if not is_secret(line.partition(":")[0])]
    known: Values = {
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


def _descriptor(uri: str, asked: Values, recorded: Values, attrs: Values) -> Descriptor:
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


def _fields(headers: object) -> Fields:
    """The fields of an answer; dlmachine took some of them apart, and invented empty ones."""
    if not isinstance(headers, dict):
        return ()
    several = ((str(name), _text(value)) for name, value in headers.items())
    return tuple((name, text) for name, text in several if text)


def _text(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    first = str(value.get("0", ""))
    return "; ".join([first, *(f"{name}={one}" for name, one in value.items() if name != "0")]) if first else ""
