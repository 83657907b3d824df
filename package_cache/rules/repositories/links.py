"""Documents whose links lead to files at another host: how they are made to lead here, for the client that asks.

What is stored is what the source sent. Links are replaced on the way out, since a whole URL has in it the host by which
this client knows the cache. A document with other links is another representation, so it has another tag and digest.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import unquote

from package_cache.model import Fields, Links, Repository, Representation, Target
from package_cache.rules.http.fields import is_document, is_strong, media_type

LONGEST = 128 << 20
"""Bytes of a document whose links are replaced; there is none of that size."""
_PYTHON_INDEX = "application/vnd.pypi.simple."
_SLASH = rb"\\?/"
"""JSON may have a backslash in front of it."""
_TARBALL = re.compile(rb'("tarball"\s*+:\s*+)"(https?:' + _SLASH * 2 + rb'[^"]++)"')
_OF_BODY = frozenset({"etag", "content-length", "content-md5", "digest", "content-digest", "repr-digest"})
"""Fields that hold for the bytes of the source."""


@dataclass(frozen=True, slots=True)
class Base:
    """Where the client that asks finds this cache: a scheme with a host, and where the repository begins there.

    `origin` is empty where a client does not say which host it asked.
    """

    origin: str
    path: str


@dataclass(frozen=True, slots=True)
class Linking:
    """Which links are replaced in one document, and by what. `package` is what a document of npm is about."""

    links: Links
    base: Base
    package: str | None = None

    @property
    def _mark(self) -> str:
        """What the tag ends with."""
        return f';links={hashlib.sha256(repr(self).encode()).hexdigest()[:8]}"'

    def head(self, representation: Representation, body: bytes | None) -> Representation:
        """The head of the document with these links, whose `body` is as given, or not known.

        Where the source has no strong tag there is none either: it is made of the digest of the body.
        """
        etag = representation.get("etag")
        fields: Fields = tuple(pair for pair in representation.fields if pair[0].lower() not in _OF_BODY)
        if etag is not None and is_strong(etag):
            fields = (*fields, ("ETag", etag.removesuffix('"') + self._mark))
        return replace(representation, fields=fields, size=None if body is None else len(body))

    def body(self, body: bytes) -> bytes:
        """The document with these links."""
        for there, here in self.links:
            body = _beginnings(there).sub(_literal(self.base.origin + here), body)
        return body if self.package is None else _TARBALL.sub(self._lead_home, body)

    def _lead_home(self, match: re.Match[bytes]) -> bytes:
        assert self.package is not None
        here = _tarball(match[2], self.package, self.base.origin + self.base.path)
        return match[0] if here is None else match[1] + b'"' + here + b'"'


def has_links(content_type: str | None, encoding: str | None) -> bool:
    """Whether a body is a page or a JSON document, as it is."""
    kind = media_type(content_type)
    return (is_document(kind) or kind.endswith("+html")) and (encoding or "identity").lower() == "identity"


def linking_of(repository: Repository, target: Target, head: Representation, base: Callable[[], Base]) -> Linking | None:
    """How the links in an answer are replaced; None if they are not.

    Clients that read pages, and those of a Python index, take a link without a host for one to the host they asked, which
    holds whatever a proxy in front of this cache makes of the host. To all others a link is a whole URL.
    """
    if not repository.links and not repository.tarballs:
        return None
    kind = head.get("content-type")
    if not has_links(kind, head.get("content-encoding")) or (head.size or 0) > LONGEST:
        return None
    may_be_relative = "html" in media_type(kind) or media_type(kind).startswith(_PYTHON_INDEX)
    return Linking(
        repository.links,
        replace(base(), origin="") if may_be_relative else base(),
        _package_of(target) if repository.tarballs else None,
    )


def _package_of(target: Target) -> str | None:
    """The name of the package that a document of npm is about."""
    first, _, rest = unquote(target.path).lstrip("/").partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first.startswith("@") else first or None


def _beginnings(there: str) -> re.Pattern[bytes]:
    """Where links to a source begin. Without a port, http and https lead to the same files."""
    scheme, _, rest = there.partition("://")
    scheme = scheme if ":" in rest.partition("/")[0] else "https?"
    return re.compile(scheme.encode() + b":" + _SLASH * 2 + _escaped(rest))


def _escaped(text: str) -> bytes:
    return _SLASH.join(re.escape(part.encode()) for part in text.split("/"))


def _literal(text: str) -> bytes:
    """A text as what a regular expression is replaced by."""
    return text.encode().replace(b"\\", rb"\\")


def _tarball(url: bytes, package: str, home: str) -> bytes | None:
    """Where a link to a tarball of a package leads here; None for any other link.

    Whatever its host, its path ends in each registry with NAME/-/FILE.
    """
    path = b"/" + url.replace(rb"\/", b"/").partition(b"://")[2].partition(b"/")[2]
    if not path.endswith(b".tgz") or b"?" in path or b"#" in path:
        return None
    for slash in ("/", "%2f", "%2F"):
        at = path.find(f"/{package.replace('/', slash)}/-/".encode())
        if at >= 0:
            return home.encode() + path[at:]
    return None
