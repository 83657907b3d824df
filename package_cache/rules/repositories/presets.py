"""What is an index and what is a package, by its path: tables for Gentoo, Debian, Python, npm, Arch, Fedora and Alpine.

A package file carries its version, date or digest in its name and never changes. What lists packages keeps its name while
its content changes. What no row knows is asked for again each time.
"""

import re
from dataclasses import dataclass

from package_cache.model import Fresh, Freshness, Preset

IMMUTABLE = Fresh(Freshness.IMMUTABLE, "immutable")
REVALIDATE = Fresh(Freshness.REVALIDATE, "revalidate")
HTTP = Fresh(Freshness.HTTP, "http")

_ALL = frozenset(Preset) - {Preset.NPM, Preset.RAW}
"""npm has documents whose names end like those of files."""


@dataclass(frozen=True, slots=True)
class Row:
    """Paths, and how long what is there is good."""

    pattern: re.Pattern[str]
    fresh: Fresh


# First match wins; matched against the decoded-once path in normal form.
_TABLE: tuple[tuple[frozenset[Preset], str, Fresh], ...] = (
    # Names under by-hash, and the patches a pdiff Index lists, hold a digest or a date.
    (frozenset({Preset.DEBIAN}), r"/by-hash/[A-Za-z0-9]+/[0-9a-f]{32,}$", IMMUTABLE),
    (
        frozenset({Preset.DEBIAN}),
        r"\.diff/(T-)?\d{4}-\d\d-\d\d-[\d.]+(-F-\d{4}-\d\d-\d\d-[\d.]+)?\.(gz|xz)$",
        IMMUTABLE,
    ),
    # Some archives have their pool inside dists.
    (frozenset({Preset.DEBIAN}), r"/pool/.*\.u?deb$", IMMUTABLE),
    (frozenset({Preset.DEBIAN}), r"/dists/", REVALIDATE),
    (frozenset({Preset.DEBIAN}), r"/(InRelease|Release(\.gpg)?)$", REVALIDATE),
    (
        frozenset({Preset.DEBIAN, Preset.GENTOO}),
        r"/(Packages|Sources|Contents|Translation|Components|Commands)(-[^/]*)?(\.(gz|xz|bz2|lzma|lz4|zst))?$",
        REVALIDATE,
    ),
    # A binary package is rewritten in place unless its name ends with a build number.
    (frozenset({Preset.GENTOO}), r"/([^/]+)/\1-[^/]+-\d+\.(gpkg\.tar|xpak)$", IMMUTABLE),
    (frozenset({Preset.GENTOO}), r"\.(gpkg\.tar|xpak|tbz2)$", REVALIDATE),
    (frozenset({Preset.GENTOO}), r"/(layout\.conf|timestamp[^/]*)$", REVALIDATE),
    # What always leads to the newest one: `portage-latest.tar.xz`, `gentoo-current.xz.sqfs`, and a folder of that name.
    (_ALL, r"/(?=[^/]*+$)[^/]*(?<![A-Za-z])(latest|current)(?![A-Za-z])", REVALIDATE),
    (_ALL, r"/(latest|current)/", REVALIDATE),
    # What a mirror says about itself.
    (_ALL, r"/(ls-lR[^/]*|project/trace/[^/]*)$", REVALIDATE),
    # Lists of digests.
    (_ALL, r"/(?i:(md5|sha\d+|b2|blake2b?)sums?|checksums?)(\.txt)?(\.(asc|gpg|sig|sign))?$", REVALIDATE),
    # The databases, their older spellings and signatures.
    (frozenset({Preset.ARCH}), r"\.(db|files)(\.tar(\.[a-z0-9]+)?)?(\.sig)?$", REVALIDATE),
    # Everything in repodata carries its digest in its name, but for the list itself.
    (frozenset({Preset.FEDORA}), r"/repodata/[0-9a-f]{32,}-[^/]+$", IMMUTABLE),
    (frozenset({Preset.FEDORA}), r"/repodata/", REVALIDATE),
    (frozenset({Preset.ALPINE}), r"/APKINDEX\.[^/]+$", REVALIDATE),
    # Pages and documents have no suffix; a few have one all the same.
    (frozenset({Preset.PYPI}), r"/simple/", REVALIDATE),
    (_ALL, r"/(index\.[a-z]+|[^/]+\.html?)$", REVALIDATE),
    # A name without a suffix, or with nothing behind the last slash, is a page or a list.
    (_ALL, r"/[^/]*(?<!/)\.(?=[0-9]*[A-Za-z])[A-Za-z0-9_+%]+$", IMMUTABLE),
)
_ROWS = tuple((presets, Row(re.compile(pattern), fresh)) for presets, pattern, fresh in _TABLE)
_OWN = {
    Preset.NPM: (Row(re.compile(r"/-/.+\.tgz$"), IMMUTABLE),),
    # Nothing is known of what is there, but what its source says of it.
    Preset.RAW: (Row(re.compile(r"/"), HTTP),),
}

POSTS = {Preset.NPM: tuple(f"/-/npm/v1/security/{name}" for name in ("advisories/bulk", "audits", "audits/quick"))}
"""Where a POST is a question, whose answer nobody keeps."""


def rows_of(preset: Preset | None) -> tuple[Row, ...]:
    """The rows of a preset, of which the first that matches holds; all of them for None."""
    if preset is not None and preset in _OWN:
        return _OWN[preset]
    return tuple(row for presets, row in _ROWS if preset is None or preset in presets)


def tells_by_suffix(preset: Preset | None, path: str) -> bool:
    """Whether the suffix of a path says what file is there: npm has documents whose names end like those of files."""
    return preset is not Preset.NPM or any(row.pattern.search(path) for row in rows_of(preset))
