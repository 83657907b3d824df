"""What is an index and what is a package, by its path: tables for Gentoo, Debian, Python, npm, Arch, Fedora and Alpine.

A package file carries its version, date or digest in its name and never changes. What lists packages keeps its name while
its content changes, though some of those names have numbers in them, too. What vouches for a file is as fresh as that file.
What no row knows, and has no version in its name, is asked for again each time.
"""

import re
from dataclasses import dataclass

from package_cache.model import Fresh, Freshness, Preset, Target
from package_cache.rules.repositories.addressed import addressed
from package_cache.rules.repositories.names import has_suffix, has_version, vouched_for

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


@dataclass(frozen=True, slots=True)
class Verdict:
    """How long what is at a target is good, and why, in words.

    `file` says that by its name it is a file, and no document. Where it is `settled`, that name cannot stand for anything
    else, so that neither a type of documents counts nor the doubt of a client.
    """

    fresh: Fresh
    reason: str
    file: bool = False
    settled: bool = False


_SUFFIX = r"\.(?=[0-9]*[A-Za-z])[A-Za-z0-9_+%]+$"
_FIXED = re.compile(r"/([^/]+)/(?=[^/]*[0-9])(?![^/]*-SNAPSHOT)([^/]+)/\1-\2(?:-[^/]*)?\.[a-z]+$")
_OF_MAVEN = (".jar", ".pom", ".module", ".aar", ".war", ".ear", ".klib")
"""A release in the layout of Maven, whose clients want everything confirmed each time, and whose POMs are XML."""


# First match wins; matched against the decoded-once path in normal form, without what is behind the name of a file that is
# vouched for.
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
    (frozenset({Preset.DEBIAN}), r"^(?=.*/pool/).*/(?=[^/]*[0-9])[^/]+" + _SUFFIX, IMMUTABLE),
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
    # Packages whose whole form is known, whatever words are in their names: `foo-nightly_1.2_amd64.deb`.
    (_ALL, r"_(?!x86_64)(?=[^/_]*[0-9])[^/_]*+_(?:x86_64|[^/_]+)\.(?:u|d)?deb$", IMMUTABLE),
    (_ALL, r"-(?=[^-/]*[0-9])[^-/]*+-(?=[^-/]*[0-9])[^-/]*\.[^-./]+\.d?rpm$", IMMUTABLE),
    (_ALL, r"/[^-/]+-[0-9][^-/]*(?:-[^-/]+){3,4}\.whl$", IMMUTABLE),
    (_ALL, r"-(?=[^-/]*[0-9])[^-/]*+-[0-9][^-/]*+-[^-/]+\.pkg\.tar(?:\.[a-z0-9]+)?$", IMMUTABLE),
    (_ALL, r"-[0-9][^-/]*-r[0-9]+\.apk$", IMMUTABLE),
    (_ALL, r"-[0-9][^-/]*_[0-9]+\.[^./]+\.xbps$", IMMUTABLE),
    (_ALL, r"/(?=[^/]*-[0-9])[^/]+\.(?:crate|gem|conda)$", IMMUTABLE),
    # What always leads to the newest one: `portage-latest.tar.xz`, `gentoo-current.xz.sqfs`, and a folder of that name.
    (_ALL, r"/(?=[^/]*+$)[^/]*(?<![A-Za-z])(?i:latest|current)(?![A-Za-z])", REVALIDATE),
    (_ALL, r"/(?i:latest|current|nightly)/", REVALIDATE),
    # What a mirror says about itself.
    (_ALL, r"/(ls-lR[^/]*|project/trace/[^/]*)$", REVALIDATE),
    # Lists of digests.
    (_ALL, r"/(?i:(md5|sha\d+|b2|blake2b?)sums?|checksums?)(\.txt)?$", REVALIDATE),
    # A distfile is what ebuilds know by its digest, whatever its name.
    (frozenset({Preset.GENTOO}), r"^(?=.*/distfiles/).*/[^/]+" + _SUFFIX, IMMUTABLE),
    # Names that stay with what they mean: a channel, a branch, what was built last.
    (
        _ALL,
        r"/(?=[^/]*+$)[^/]*(?<![A-Za-z])(?i:stable|nightly|rolling|snapshot(?![-_.]?[0-9]{6}))(?![A-Za-z])",
        REVALIDATE,
    ),
    (_ALL, r"-SNAPSHOT[-.]", REVALIDATE),
    (
        _ALL,
        r"[-_.](?i:dev|devel|git|svn|hg|head|master|main|trunk|tip|daily|weekly|edge|canary|unstable|testing)"
        r"(?:\.[A-Za-z][A-Za-z0-9]*)+$",
        REVALIDATE,
    ),
    (_ALL, r"/refs/heads/", REVALIDATE),
    # The databases, their older spellings and signatures.
    (frozenset({Preset.ARCH}), r"\.(db|files)(\.tar(\.[a-z0-9]+)?)?$", REVALIDATE),
    # Everything in repodata carries its digest in its name, but for the list itself.
    (frozenset({Preset.FEDORA}), r"/repodata/[0-9a-f]{32,}-[^/]+$", IMMUTABLE),
    (frozenset({Preset.FEDORA}), r"/repodata/", REVALIDATE),
    (frozenset({Preset.ALPINE}), r"/APKINDEX\.[^/]+$", REVALIDATE),
    # Pages and documents have no suffix; a few have one all the same.
    (frozenset({Preset.PYPI}), r"/simple/", REVALIDATE),
    # Indexes with numbers that are not their versions: of a format, or of the language that reads them.
    (_ALL, r"/(?:specs|latest_specs|prerelease_specs|Marshal)\.[0-9][^/]*$", REVALIDATE),
    (_ALL, r"/(?:0[01]-index|manifest-[0-9.]+|(?:index|entry)-v[0-9]+|nexus-maven-repository-index)\.[^/]+$", REVALIDATE),
    (_ALL, r"-(?:scm|cvs)-[0-9]+\.(?:rockspec|[a-z0-9_-]+\.rock)$", REVALIDATE),
    (_ALL, r"-release-[0-9]+(?:\.[^/-]+)?\.rpm$", REVALIDATE),
    (_ALL, r"/@v/v[0-9]+\.[0-9]+\.[0-9]+[^/]*\.(?:info|mod|zip)$", IMMUTABLE),
    (_ALL, r"/@v/|/sumdb/[^/]+/lookup/", REVALIDATE),
    (_ALL, r"^(?=.*/(?:tlnet|tlpkg)/).*/(?![^/]*\.r[0-9]+\.tar\.)[^/]*$", REVALIDATE),
    (_ALL, r"\.(?:narinfo|commitmeta)$|/delta-indexes/", REVALIDATE),
    (_ALL, r"/(?:manifests|info)/[^/]+$", REVALIDATE),
    # A number alone is that of the system, and the image is made again and again.
    (
        _ALL,
        r"/(?![^/]*(?:[0-9]\.[0-9]|[0-9]{6}))[^/]*\.(?:qcow2|img|raw|vmdk|vhdx?|box|ova)(?:\.(?:xz|gz|zst|bz2))?$",
        REVALIDATE,
    ),
    (_ALL, r"-cloudimg-[^/]*$|[0-9]\.x$", REVALIDATE),
    # A digest in the name, of nearly anything.
    (_ALL, r"/[^/]*(?<![0-9A-Za-z])[0-9a-f]{32,128}(?![0-9A-Za-z])[^/]*" + _SUFFIX, IMMUTABLE),
    # Documents, compressed or not.
    (_ALL, r"/(index\.[a-z]+|[^/]+\.html?)$", REVALIDATE),
    (
        _ALL,
        r"\.(?i:xhtml|xml|jsonl?|ya?ml|toml|txt|[ct]sv|rss|atom|md|ini|cfg|conf|list|repo|sources|properties|plist)"
        r"(?:\.(?i:gz|xz|bz2|zst|lzma|lz4|br|z))?$",
        REVALIDATE,
    ),
)
_ROWS = tuple((presets, Row(re.compile(pattern), fresh)) for presets, pattern, fresh in _TABLE)
_OWN = {
    Preset.NPM: (Row(re.compile(r"/-/.+\.tgz$"), IMMUTABLE),),
    # Nothing is known of what is there, but what its source says of it.
    Preset.RAW: (Row(re.compile(r"/"), HTTP),),
}
_BY_PRESET: dict[Preset | None, tuple[Row, ...]] = {
    preset: tuple(row for presets, row in _ROWS if preset is None or preset in presets) for preset in (None, *Preset)
} | _OWN

POSTS = {Preset.NPM: tuple(f"/-/npm/v1/security/{name}" for name in ("advisories/bulk", "audits", "audits/quick"))}
"""Where a POST is a question, whose answer nobody keeps."""


def rows_of(preset: Preset | None) -> tuple[Row, ...]:
    """The rows of a preset, of which the first that matches holds; all of them for None."""
    return _BY_PRESET[preset]


def judge(preset: Preset | None, target: Target) -> Verdict:
    """How long what is at a target is good by the table of a preset."""
    if preset not in _OWN and addressed(preset, target) is not None:
        return Verdict(IMMUTABLE, "its path names the digest of its bytes", file=True, settled=True)
    if target.query is not None and preset is not Preset.RAW:
        return Verdict(REVALIDATE, "it has a query")
    plain = vouched_for(target.path)
    if preset not in _OWN and plain.endswith(_OF_MAVEN) and _FIXED.search(plain):
        return Verdict(IMMUTABLE, "it is a release in the layout of Maven", file=True, settled=True)
    for row in rows_of(preset):
        if row.pattern.search(plain):
            return Verdict(row.fresh, f"its path matches {row.pattern.pattern}", file=row.fresh is IMMUTABLE)
    return Verdict(REVALIDATE, "it is no tarball") if preset is Preset.NPM else _by_name(plain)


def _by_name(path: str) -> Verdict:
    if not has_suffix(path):
        return Verdict(REVALIDATE, "its name has no suffix")
    if has_version(path):
        return Verdict(IMMUTABLE, "its name has a version, a date or a digest", file=True)
    return Verdict(REVALIDATE, "its name has neither a version, nor a date, nor a digest", file=True)


def tells_by_suffix(preset: Preset | None, path: str) -> bool:
    """Whether the suffix of a path says what file is there: npm has documents whose names end like those of files."""
    return preset is not Preset.NPM or any(row.pattern.search(path) for row in rows_of(preset))
