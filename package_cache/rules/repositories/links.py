"""How links in documents that lead to files at another host are made to lead to this cache.

Documents are stored as the source sent them. Links are replaced on the way out, since a whole URL contains the host by
which the client knows the cache. A document with other links is another representation, so it has another ETag and digest.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import unquote

from package_cache.model import Fields, Links, Repository, Representation, Target
from package_cache.rules.http.digests import tells_of_bytes
from package_cache.rules.http.fields import is_document, is_strong, media_type

LONGEST = 128 << 20
"""Bytes of a document whose links are replaced; real ones are shorter."""
_PYTHON_INDEX = "application/vnd.pypi.simple."
_SLASH = rb"\\?/"
"""JSON may have a backslash before a slash."""
_TARBALL = re.compile(rb'("tarball"\s*+:\s*+)"(https?:' + _SLASH * 2 + rb'[^"]++)"')
_OF_BODY = frozenset({"etag", "content-length"})
"""What holds only for the bytes that the source sent, besides their digests."""


@dataclass(frozen=True, slots=True)
class Base:
    """Where the client finds this cache: `origin` is scheme and host, `path` where the repository begins.

    `origin` is empty if the client does not say which host it asked.
    """

    origin: str
    path: str


@dataclass(frozen=True, slots=True)
class Linking:
    """Which links are replaced in one document, and by what. `package` is the package that a document of npm describes."""

    links: Links
    base: Base
    package: str | None = None

    def head(self, representation: Representation, body: bytes | None) -> Representation:
        """The head of the document with these links; `body` is None while it is not known.

        Without a strong ETag of the source there is none here either: it is made from the digest of the body later.
        """
        etag = representation.get("etag")
        fields: Fields = tuple(
            pair for pair in representation.fields if (name := pair[0].lower()) not in _OF_BODY and not tells_of_bytes(name)
        )
        if etag is not None and is_strong(etag):
            mark = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
            fields = (*fields, ("ETag", f'{etag[:-1]};links={mark}"'))
        return replace(representation, fields=fields, size=None if body is None else len(body))

    def body(self, body: bytes) -> bytes:
        """The document with these links."""
        for there, here in self.links:
            body = _beginnings(there).sub((self.base.origin + here).encode().replace(b"\\", rb"\\"), body)
        return body if self.package is None else _TARBALL.sub(self._lead_home, body)

    def _lead_home(self, match: re.Match[bytes]) -> bytes:
        assert self.package is not None
        here = _tarball(match[2], self.package, self.base.origin + self.base.path)
        return match[0] if here is None else match[1] + b'"' + here + b'"'


def has_links(content_type: str | None, encoding: str | None) -> bool:
    """Whether a body is a page or a JSON document, without a content coding."""
    kind = media_type(content_type)
    return (is_document(kind) or kind.endswith("+html")) and (encoding or "identity").lower() == "identity"


def linking_of(repository: Repository, target: Target, head: Representation, base: Callable[[], Base]) -> Linking | None:
    """How the links in a response are replaced; None if they are not.

    Clients that read pages, and those of a Python index, take a link without a host for one to the host they asked, so it
    is right whatever a proxy before this cache makes of the host. All others need whole URLs.
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
    """The name of the package that a document of npm describes."""
    first, _, rest = unquote(target.path).lstrip("/").partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first.startswith("@") else first or None


def _beginnings(there: str) -> re.Pattern[bytes]:
    """Matches the beginnings of links to a source. Without a port, http and https lead to the same files."""
    scheme, _, rest = there.partition("://")
    scheme = scheme if ":" in rest.partition("/")[0] else "https?"
    escaped = _SLASH.join(re.escape(part.encode()) for part in rest.split("/"))
    return re.compile(scheme.encode() + b":" + _SLASH * 2 + escaped)


def _tarball(url: bytes, package: str, home: str) -> bytes | None:
    """Where a link to a tarball of a package leads in this cache; None for any other link.

    In every registry the path ends with NAME/-/FILE, whatever the host.
    """
    path = b"/" + url.replace(rb"\/", b"/").partition(b"://")[2].partition(b"/")[2]
    if not path.endswith(b".tgz") or b"?" in path or b"#" in path:
        return None
    for slash in ("/", "%2f", "%2F"):
        at = path.find(f"/{package.replace('/', slash)}/-/".encode())
        if at >= 0:
            return home.encode() + path[at:]
    return None
