"""What is an index and what is a package, by the path: tables for Gentoo, Debian, Python, npm, Arch, Fedora and Alpine.

A package file has its version, date or digest in its name and never changes. A list of packages keeps its name while its
content changes, though some such names have numbers, too. A file that vouches for another is as fresh as that one. A file
that no row matches is kept if its name has a version, a date or a digest, and else revalidated each time.
"""

import re
from dataclasses import dataclass

from package_cache.model import Fresh, Freshness, Preset, Target
from package_cache.rules.http.digests import Digest
from package_cache.rules.repositories.names import has_suffix, has_version, vouched_for

IMMUTABLE = Fresh(Freshness.IMMUTABLE, "immutable")
REVALIDATE = Fresh(Freshness.REVALIDATE, "revalidate")
HTTP = Fresh(Freshness.HTTP, "http")

_ALL = frozenset(Preset) - {Preset.NPM, Preset.RAW}
"""npm has documents whose names end like those of files."""


@dataclass(frozen=True, slots=True)
class Row:
    """Paths, and the freshness of what is there.

    Each path contains one of `words`, if there are any: in any case, with no letters around it.
    """

    words: tuple[str, ...]
    pattern: re.Pattern[str]
    fresh: Fresh


@dataclass(frozen=True, slots=True)
class Judgement:
    """The freshness of a target by its name, and the reason, in words.

    `file` says that its name is that of a file, not of a document. If that is `settled`, the name cannot mean anything
    else, so neither the media type of a document counts nor a client's wish to have it confirmed.
    """

    fresh: Fresh
    reason: str
    file: bool = False
    settled: bool = False


_SUFFIX = r"\.(?=[0-9]*[A-Za-z])[A-Za-z0-9_+%]+$"
_FIXED = re.compile(r"/([^/]+)/(?=[^/]*[0-9])(?![^/]*-SNAPSHOT)([^/]+)/\1-\2(?:-[^/]*)?\.[a-z]+$")
_OF_MAVEN = (".jar", ".pom", ".module", ".aar", ".war", ".ear", ".klib")
"""Releases in Maven's layout: its clients want everything confirmed each time, and its POMs are XML."""


# Presets, words of which each path has one if there are any, a pattern, and the freshness. The first match wins. The
# pattern is matched against the path in normal form, without the suffixes of a file that vouches for another.
_TABLE: tuple[tuple[frozenset[Preset], str, str, Fresh], ...] = (
    # Names under by-hash, and the patches a pdiff Index lists, hold a digest or a date.
    (frozenset({Preset.DEBIAN}), "hash", r"/by-hash/[A-Za-z0-9]+/[0-9a-f]{32,}$", IMMUTABLE),
    (
        frozenset({Preset.DEBIAN}),
        "diff",
        r"\.diff/(T-)?\d{4}-\d\d-\d\d-[\d.]+(-F-\d{4}-\d\d-\d\d-[\d.]+)?\.(gz|xz)$",
        IMMUTABLE,
    ),
    # Some archives have their pool inside dists.
    (frozenset({Preset.DEBIAN}), "pool", r"/pool/.*\.u?deb$", IMMUTABLE),
    (frozenset({Preset.DEBIAN}), "pool", r"^(?=.*/pool/).*/(?=[^/]*[0-9])[^/]+" + _SUFFIX, IMMUTABLE),
    (frozenset({Preset.DEBIAN}), "dists", r"/dists/", REVALIDATE),
    (frozenset({Preset.DEBIAN}), "inrelease release", r"/(InRelease|Release(\.gpg)?)$", REVALIDATE),
    (
        frozenset({Preset.DEBIAN, Preset.GENTOO}),
        "packages sources contents translation components commands",
        r"/(Packages|Sources|Contents|Translation|Components|Commands)(-[^/]*)?(\.(gz|xz|bz2|lzma|lz4|zst))?$",
        REVALIDATE,
    ),
    # A binary package is rewritten in place unless its name ends with a build number.
    (frozenset({Preset.GENTOO}), "gpkg xpak", r"/([^/]+)/\1-[^/]+-\d+\.(gpkg\.tar|xpak)$", IMMUTABLE),
    (frozenset({Preset.GENTOO}), "gpkg xpak tbz", r"\.(gpkg\.tar|xpak|tbz2)$", REVALIDATE),
    (frozenset({Preset.GENTOO}), "", r"/(layout\.conf|timestamp[^/]*)$", REVALIDATE),
    # Packages whose whole form is known, whatever words are in their names: `foo-nightly_1.2_amd64.deb`.
    (_ALL, "deb udeb ddeb", r"_(?!x86_64)(?=[^/_]*[0-9])[^/_]*+_(?:x86_64|[^/_]+)\.(?:u|d)?deb$", IMMUTABLE),
    (_ALL, "rpm drpm", r"-(?=[^-/]*[0-9])[^-/]*+-(?=[^-/]*[0-9])[^-/]*\.[^-./]+\.d?rpm$", IMMUTABLE),
    (_ALL, "whl", r"/[^-/]+-[0-9][^-/]*(?:-[^-/]+){3,4}\.whl$", IMMUTABLE),
    (_ALL, "pkg", r"-(?=[^-/]*[0-9])[^-/]*+-[0-9][^-/]*+-[^-/]+\.pkg\.tar(?:\.[a-z0-9]+)?$", IMMUTABLE),
    (_ALL, "apk", r"-[0-9][^-/]*-r[0-9]+\.apk$", IMMUTABLE),
    (_ALL, "xbps", r"-[0-9][^-/]*_[0-9]+\.[^./]+\.xbps$", IMMUTABLE),
    (_ALL, "crate gem conda", r"/(?=[^/]*-[0-9])[^/]+\.(?:crate|gem|conda)$", IMMUTABLE),
    # What always leads to the newest one: `portage-latest.tar.xz`, `gentoo-current.xz.sqfs`, and a folder of that name.
    (_ALL, "latest current", r"/(?=[^/]*+$)[^/]*(?<![A-Za-z])(?i:latest|current)(?![A-Za-z])", REVALIDATE),
    (_ALL, "latest current nightly", r"/(?i:latest|current|nightly)/", REVALIDATE),
    # What a mirror says about itself.
    (_ALL, "ls trace", r"/(ls-lR[^/]*|project/trace/[^/]*)$", REVALIDATE),
    # Lists of digests.
    (
        _ALL,
        "sum sums bsum bsums checksum checksums",
        r"/(?i:(md5|sha\d+|b2|blake2b?)sums?|checksums?)(\.txt)?$",
        REVALIDATE,
    ),
    # A distfile is what ebuilds know by its digest, whatever its name.
    (frozenset({Preset.GENTOO}), "distfiles", r"^(?=.*/distfiles/).*/[^/]+" + _SUFFIX, IMMUTABLE),
    # Names that stay with what they mean: a channel, a branch, what was built last.
    (
        _ALL,
        "stable nightly rolling snapshot",
        r"/(?=[^/]*+$)[^/]*(?<![A-Za-z])(?i:stable|nightly|rolling|snapshot(?![-_.]?[0-9]{6}))(?![A-Za-z])",
        REVALIDATE,
    ),
    (_ALL, "snapshot", r"-SNAPSHOT[-.]", REVALIDATE),
    (
        _ALL,
        "dev devel git svn hg head master main trunk tip daily weekly edge canary unstable testing",
        r"[-_.](?i:dev|devel|git|svn|hg|head|master|main|trunk|tip|daily|weekly|edge|canary|unstable|testing)"
        r"(?:\.[A-Za-z][A-Za-z0-9]*)+$",
        REVALIDATE,
    ),
    (_ALL, "refs", r"/refs/heads/", REVALIDATE),
    # The databases, their older spellings and signatures.
    (frozenset({Preset.ARCH}), "db files", r"\.(db|files)(\.tar(\.[a-z0-9]+)?)?$", REVALIDATE),
    # Everything in repodata carries its digest in its name, but for the list itself.
    (frozenset({Preset.FEDORA}), "repodata", r"/repodata/[0-9a-f]{32,}-[^/]+$", IMMUTABLE),
    (frozenset({Preset.FEDORA}), "repodata", r"/repodata/", REVALIDATE),
    (frozenset({Preset.ALPINE}), "apkindex", r"/APKINDEX\.[^/]+$", REVALIDATE),
    # Pages and documents have no suffix; a few have one all the same.
    (frozenset({Preset.PYPI}), "simple", r"/simple/", REVALIDATE),
    # Indexes with numbers that are not their versions: of a format, or of the language that reads them.
    (_ALL, "specs marshal", r"/(?:specs|latest_specs|prerelease_specs|Marshal)\.[0-9][^/]*$", REVALIDATE),
    (
        _ALL,
        "index manifest entry",
        r"/(?:0[01]-index|manifest-[0-9.]+|(?:index|entry)-v[0-9]+|nexus-maven-repository-index)\.[^/]+$",
        REVALIDATE,
    ),
    (_ALL, "scm cvs", r"-(?:scm|cvs)-[0-9]+\.(?:rockspec|[a-z0-9_-]+\.rock)$", REVALIDATE),
    (_ALL, "release", r"-release-[0-9]+(?:\.[^/-]+)?\.rpm$", REVALIDATE),
    (_ALL, "v", r"/@v/v[0-9]+\.[0-9]+\.[0-9]+[^/]*\.(?:info|mod|zip)$", IMMUTABLE),
    (_ALL, "v sumdb", r"/@v/|/sumdb/[^/]+/lookup/", REVALIDATE),
    (_ALL, "tlnet tlpkg", r"^(?=.*/(?:tlnet|tlpkg)/).*/(?![^/]*\.r[0-9]+\.tar\.)[^/]*$", REVALIDATE),
    (_ALL, "narinfo commitmeta delta", r"\.(?:narinfo|commitmeta)$|/delta-indexes/", REVALIDATE),
    (_ALL, "manifests info", r"/(?:manifests|info)/[^/]+$", REVALIDATE),
    # A number alone is that of the system, and the image is made again and again.
    (
        _ALL,
        "qcow img raw vmdk vhd vhdx box ova",
        r"/(?![^/]*(?:[0-9]\.[0-9]|[0-9]{6}))[^/]*\.(?:qcow2|img|raw|vmdk|vhdx?|box|ova)(?:\.(?:xz|gz|zst|bz2))?$",
        REVALIDATE,
    ),
    (_ALL, "cloudimg x", r"-cloudimg-[^/]*$|[0-9]\.x$", REVALIDATE),
    # A digest in the name, of nearly anything.
    (_ALL, "", r"/[^/]*(?<![0-9A-Za-z])[0-9a-f]{32,128}(?![0-9A-Za-z])[^/]*" + _SUFFIX, IMMUTABLE),
    # Documents, compressed or not.
    (_ALL, "index htm html", r"/(index\.[a-z]+|[^/]+\.html?)$", REVALIDATE),
    (
        _ALL,
        "xhtml xml json jsonl yml yaml toml txt csv tsv rss atom md ini cfg conf list repo sources properties plist",
        r"\.(?i:xhtml|xml|jsonl?|ya?ml|toml|txt|[ct]sv|rss|atom|md|ini|cfg|conf|list|repo|sources|properties|plist)"
        r"(?:\.(?i:gz|xz|bz2|zst|lzma|lz4|br|z))?$",
        REVALIDATE,
    ),
)
_ROWS = tuple((presets, Row(tuple(words.split()), re.compile(pattern), fresh)) for presets, words, pattern, fresh in _TABLE)
_OWN = {
    Preset.NPM: (Row(("tgz",), re.compile(r"/-/.+\.tgz$"), IMMUTABLE),),
    # Nothing is known of what is there, but what its source says of it.
    Preset.RAW: (Row((), re.compile(r"/"), HTTP),),
}
_BY_PRESET: dict[Preset | None, tuple[Row, ...]] = {
    preset: tuple(row for presets, row in _ROWS if preset is None or preset in presets) for preset in (None, *Preset)
} | _OWN

_WORD = re.compile("[a-z]+")
_ANYWHERE = {preset: tuple(at for at, row in enumerate(rows) if not row.words) for preset, rows in _BY_PRESET.items()}
_BY_WORD = {
    preset: {
        word: tuple(at for at, row in enumerate(rows) if word in row.words)
        for word in {word for row in rows for word in row.words}
    }
    for preset, rows in _BY_PRESET.items()
}
"""Indexes of the rows of a preset: those that need no word, and those that need this word."""

POSTS = {Preset.NPM: tuple(f"/-/npm/v1/security/{name}" for name in ("advisories/bulk", "audits", "audits/quick"))}
"""Paths where a POST is a query, whose answer is not stored."""


def rows_of(preset: Preset | None) -> tuple[Row, ...]:
    """The rows of a preset, of which the first match wins; those of all presets for None."""
    return _BY_PRESET[preset]


def judge(preset: Preset | None, target: Target, digest: Digest | None) -> Judgement:
    """The freshness of a target by the table of a preset; `digest` is the one in its path."""
    if preset not in _OWN and digest is not None:
        return Judgement(IMMUTABLE, "its path names the digest of its bytes", file=True, settled=True)
    if target.query is not None and preset is not Preset.RAW:
        return Judgement(REVALIDATE, "it has a query")
    plain = vouched_for(target.path)
    if preset not in _OWN and plain.endswith(_OF_MAVEN) and _FIXED.search(plain):
        return Judgement(IMMUTABLE, "it is a release in the layout of Maven", file=True, settled=True)
    row = _first(preset, plain)
    if row is not None:
        return Judgement(row.fresh, f"its path matches {row.pattern.pattern}", file=row.fresh is IMMUTABLE)
    return Judgement(REVALIDATE, "it is no tarball") if preset is Preset.NPM else _by_name(plain)


def _first(preset: Preset | None, path: str) -> Row | None:
    """The first row that matches. Looking for its words first is ten times as quick as searching for each pattern."""
    rows, by_word = _BY_PRESET[preset], _BY_WORD[preset]
    found = set(_ANYWHERE[preset])
    for word in by_word.keys() & _WORD.findall(path.lower()):
        found.update(by_word[word])
    for at in sorted(found):
        if rows[at].pattern.search(path):
            return rows[at]
    return None


_NO_SUFFIX = Judgement(REVALIDATE, "its name has no suffix")
_WITH_VERSION = Judgement(IMMUTABLE, "its name has a version, a date or a digest", file=True)
_WITHOUT = Judgement(REVALIDATE, "its name has neither a version, nor a date, nor a digest", file=True)


def _by_name(path: str) -> Judgement:
    if not has_suffix(path):
        return _NO_SUFFIX
    return _WITH_VERSION if has_version(path) else _WITHOUT


def tells_by_suffix(preset: Preset | None, path: str) -> bool:
    """Whether the suffix of a path says what is there: npm has documents whose names end like those of files."""
    return preset is not Preset.NPM or any(row.pattern.search(path) for row in rows_of(preset))
