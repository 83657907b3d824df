"""Which files may be kept for ever, and which must be asked for again each time.

A package file carries its version, date or digest in its name and never changes. What lists packages keeps its name while
its content changes. The table of the second kind covers Gentoo, Debian, Python, npm, Arch, Fedora and Alpine; what no
pattern knows is a package file, unless its name or its media type says otherwise.
"""

import re
from enum import Enum
from functools import lru_cache

from package_cache.model import Entry, Target
from package_cache.rules.fields import media_type


class Freshness(Enum):
    """How long an answer stays good without asking a source."""

    IMMUTABLE = "immutable"
    REVALIDATE = "revalidate"


# First match wins; matched against the decoded-once path in normal form.
_PATTERNS: tuple[tuple[re.Pattern[str], Freshness], ...] = tuple(
    (re.compile(pattern), freshness)
    for pattern, freshness in (
        # Debian: names under by-hash, and the patches a pdiff Index lists, hold a digest or a date.
        (r"/by-hash/[A-Za-z0-9]+/[0-9a-f]{32,}$", Freshness.IMMUTABLE),
        (r"\.diff/(T-)?\d{4}-\d\d-\d\d-[\d.]+(-F-\d{4}-\d\d-\d\d-[\d.]+)?\.(gz|xz)$", Freshness.IMMUTABLE),
        # Some archives have their pool inside dists.
        (r"/pool/.*\.u?deb$", Freshness.IMMUTABLE),
        (r"/dists/", Freshness.REVALIDATE),
        (r"/(InRelease|Release(\.gpg)?)$", Freshness.REVALIDATE),
        (
            r"/(Packages|Sources|Contents|Translation|Components|Commands)(-[^/]*)?(\.(gz|xz|bz2|lzma|lz4|zst))?$",
            Freshness.REVALIDATE,
        ),
        # Gentoo: a binary package is rewritten in place unless its name ends with a build number.
        (r"/([^/]+)/\1-[^/]+-\d+\.(gpkg\.tar|xpak)$", Freshness.IMMUTABLE),
        (r"\.(gpkg\.tar|xpak|tbz2)$", Freshness.REVALIDATE),
        (r"/(layout\.conf|timestamp[^/]*)$", Freshness.REVALIDATE),
        # What always leads to the newest one: `portage-latest.tar.xz`, `gentoo-current.xz.sqfs`, and a folder of that name.
        (r"/(?=[^/]*+$)[^/]*(?<![A-Za-z])(latest|current)(?![A-Za-z])", Freshness.REVALIDATE),
        (r"/(latest|current)/", Freshness.REVALIDATE),
        # What a mirror says about itself.
        (r"/(ls-lR[^/]*|project/trace/[^/]*)$", Freshness.REVALIDATE),
        # Lists of digests.
        (r"/(?i:(md5|sha\d+|b2|blake2b?)sums?|checksums?)(\.txt)?(\.(asc|gpg|sig|sign))?$", Freshness.REVALIDATE),
        # Arch: the databases, their older spellings and signatures.
        (r"\.(db|files)(\.tar(\.[a-z0-9]+)?)?(\.sig)?$", Freshness.REVALIDATE),
        # Fedora: everything in repodata carries its digest in its name, but for the list itself.
        (r"/repodata/[0-9a-f]{32,}-[^/]+$", Freshness.IMMUTABLE),
        (r"/repodata/", Freshness.REVALIDATE),
        # Alpine.
        (r"/APKINDEX\.[^/]+$", Freshness.REVALIDATE),
        # Python and npm: pages and documents have no suffix; a few have one all the same.
        (r"/simple/", Freshness.REVALIDATE),
        (r"/(index\.[a-z]+|[^/]+\.html?)$", Freshness.REVALIDATE),
        # A name without a suffix, or with nothing behind the last slash, is a page or a list.
        (r"/[^/]*(?<!/)\.(?=[0-9]*[A-Za-z])[A-Za-z0-9_+%]+$", Freshness.IMMUTABLE),
    )
)

_LONGEST_ACCEPT = 1024
_LONGEST_REMEMBERED = 512

_DOCUMENT_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/json"})


def freshness_of(target: Target, content_type: str | None = None) -> Freshness:
    """The rule for a target; `content_type` is that of the stored answer, if there is one."""
    if _is_document(media_type(content_type)) or target.query is not None:
        return Freshness.REVALIDATE
    path = target.path
    return _remembered(path) if len(path) <= _LONGEST_REMEMBERED else _of_path(path)


def _is_document(kind: str) -> bool:
    return kind in _DOCUMENT_TYPES or kind.endswith("+json")


def decided_by(target: Target, content_type: str | None = None) -> str:
    """What decides the rule for a target, in words."""
    kind = media_type(content_type)
    if _is_document(kind):
        return f"its type is {kind}"
    if target.query is not None:
        return "it has a query"
    found = next((pattern.pattern for pattern, _ in _PATTERNS if pattern.search(target.path)), None)
    return f"its path matches {found}" if found else "its name has no suffix"


@lru_cache(maxsize=4096)
def _remembered(path: str) -> Freshness:
    return _of_path(path)


def _of_path(path: str) -> Freshness:
    return next((freshness for pattern, freshness in _PATTERNS if pattern.search(path)), Freshness.REVALIDATE)


def is_fresh(entry: Entry, target: Target) -> bool:
    """Whether an entry may be served without asking a source."""
    return freshness_of(target, entry.representation.get("content-type")) is Freshness.IMMUTABLE


def accept_of(target: Target, accept: str | None) -> str | None:
    """The client's Accept where the answer may depend on it: for documents, not for package files.

    One that is very long, or of characters that no media type has, is taken for none: it becomes part of the key.
    """
    if accept is None or accept.strip() in ("", "*/*"):
        return None
    if len(accept) > _LONGEST_ACCEPT or not (accept.isascii() and accept.isprintable()):
        return None
    if freshness_of(target) is Freshness.IMMUTABLE and "json" not in accept:
        return None
    return ", ".join(part.strip() for part in accept.split(","))
