"""Descriptions of requests, with the keys that dlmachine added to what was given."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from package_cache.compat.dlmachine._constants import PARAMS
from package_cache.compat.gone import Gone, gone
from package_cache.errors import DescriptorError
from package_cache.library.downloads import descriptors
from package_cache.library.downloads.descriptors import File

_ALWAYS = {
    "followlocation": "redirects are followed",
    "ssl_verifypeer": "certificates are checked; cainfo= names a file with those of your own authority",
    "ssl_verifyhost": "certificates are checked; cainfo= names a file with those of your own authority",
}
_NEVER = {
    "destination": "download(..., dest=) says where to",
    "ignore_content_length": "a body of another length than announced is never taken for the file",
    **dict.fromkeys(set(PARAMS) & {"tcp_keepalive", "tcp_keepidle", "ssl_enable_alpn", "http_version"}, "leave it out"),
}


class Descriptor(descriptors.Descriptor):
    """A `package_cache.Descriptor`. `[key]` of what is missing is None, and there are `baseurl`, `qs` and so on.

    Unlike dlmachine's it never changes, and never takes a string for the name of a file.
    """

    __slots__ = ()

    def __init__(self, url: str | None = None, **given: Any) -> None:
        address = given.pop("url", None) if url is None else url
        if address is None:
            raise DescriptorError("Missing URL: Descriptor('http://...'), or Descriptor.from_file(path)")
        if isinstance(address, str) and "://" not in address and os.path.isfile(address):  # noqa: PTH113 - see below
            gone(f"Descriptor({address!r}) with the name of a file", f"Descriptor.from_file({address!r}) reads one")
        super().__init__(address, **_accepted(given))

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], where: str = "") -> "Descriptor":
        """The request that a mapping describes, with the keys of dlmachine too. Raises DescriptorError."""
        if "url" not in given:
            raise DescriptorError(f"{where}url is missing")
        return cls(**given)

    def __getitem__(self, key: str) -> Any:
        return self._old().get(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; `default` if there is none."""
        return self._old().get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._old()

    def __iter__(self) -> Iterator[str]:
        return iter(self._old())

    def __len__(self) -> int:
        return len(self._old())

    def __hash__(self) -> int:
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return self._given == other._given if isinstance(other, descriptors.Descriptor) else NotImplemented

    def __setitem__(self, key: str, value: object) -> None:
        gone("changing a Descriptor", f"make another one with {key}={value!r}")

    def _old(self) -> dict[str, Any]:
        """What dlmachine would have had of it."""
        query = self.url.partition("?")[2]
        found: dict[str, Any] = {**self._given, "baseurl": self.baseurl, "followlocation": True}
        found |= {"qs": query, "query": dict(self.query)} if query else {}
        found["headers"] = [f"{name}: {value}" for name, value in self.headers]
        if "multipart" in self._given:
            files = {name: str(part.path) for name, part in self._parts if isinstance(part, File)}
            data = {name: part for name, part in self._parts if not isinstance(part, File)}
            found["multipart"] = {"data": data, "files": files}
        for body in {"post", "json"} & self._given.keys():
            sent = self._given[body]
            found |= {"query": dict(sent) if isinstance(sent, tuple) else sent, body: True}
        if self.method == "POST":
            found["post"] = True
        return found

    @property
    def headers_dict(self) -> dict[str, str]:
        """The fields to send, by name."""
        return dict(self.headers)

    @property
    def headers_bytes(self) -> list[bytes]:
        """The fields to send, as lines."""
        return [f"{name}: {value}".encode("latin-1") for name, value in self.headers]

    def set_get_post(self) -> None:
        """Raises: it is done."""
        _step("set_get_post")

    def set_headers(self) -> None:
        """Raises: it is done."""
        _step("set_headers")

    def set_multipart(self) -> None:
        """Raises: it is done."""
        _step("set_multipart")


def _step(name: str) -> None:
    gone(f"Descriptor.{name}()", "a Descriptor is complete when it is made")


def _accepted(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments by their names in this package. Raises Gone and DescriptorError."""
    if "baseurl" in given:  # a Descriptor, as a dict
        del given["baseurl"]
        if given.pop("qs", None) and ("multipart" in given or not given.get("post")):
            given.pop("query", None)
    for name, why in _ALWAYS.items():
        if name in given and not given.pop(name):
            gone(f"{name}=False", f"{why}, always")
    for name, why in _NEVER.items():
        if given.pop(name, None) not in (None, False):
            gone(name, why)
    unknown = sorted(given.keys() - set(descriptors.KEYS))
    if unknown:
        raise DescriptorError(f"unknown key {unknown[0]!r}; known are {', '.join(descriptors.KEYS)}")
    if isinstance(given.get("multipart"), Mapping):
        given["multipart"] = _parts(given["multipart"])
    return given


def _parts(multipart: Mapping[str, Any]) -> dict[str, Any]:
    if multipart.keys() == {"data", "files"} and all(isinstance(one, Mapping) for one in multipart.values()):
        return {**multipart["data"], **{name: File(path) for name, path in multipart["files"].items()}}
    for name, value in multipart.items():
        if isinstance(value, str) and os.path.isfile(value):  # noqa: PTH113 - any text: Path refuses a long one
            raise Gone(
                f"multipart[{name!r}]={value!r} is the name of a file, and dlmachine would have sent what is in it:"
                f" write package_cache.File({value!r}) to send that; package_cache.Descriptor sends the text itself"
            )
    return dict(multipart)
