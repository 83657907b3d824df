"""What the name of a file tells: which file it vouches for, whether it has a version, and which digest its bytes have.

A number counts as a version where it stands for itself (`foo-1.tar`, `1.2`, `v3`, `1.2rc1`), as a date with six digits or
more, as a digest with seven hexadecimal ones, or 32 of any alphabet. A number within a word (`python3`, `l3kernel`,
`sha256`, `texlive2024`) is part of a name that stays while the file changes; so is that of an architecture (`x86_64`,
`win-64`). A wrong no costs a question to a source, a wrong yes would keep an index for ever.

A digest in a path counts only if the file is delivered byte for byte as it was named. So an OSTree `.filez` has none: its
name is the checksum of what is inside. Nor has what stands beside a file under its digest (a wheel's `.metadata`), nor an
OCI manifest, of which older forms are named without their signatures. Where kinds of repositories use one shape for
different things, the preset decides.
"""

import re
from urllib.parse import unquote

from package_cache.model import Preset, Target
from package_cache.rules.http.digests import BLAKE2B_256, SIZES, Digest

_TWIN = re.compile(
    r"\.(?i:sig2?|asc|sign|gpg|gpgsig|minisig|p7s|sigstore(?:\.json)?|crt"
    r"|(?:sha-?(?:1|224|256|384|512)|sha3-?(?:256|512)|md5|blake2[bs]?|b2|b3)(?:sums?)?|cksum|checksum|digests"
    r"|zsync|torrent|metalink|meta4|metadata|provenance|prov|attestation|intoto\.jsonl|sbom(?:\.json)?)$"
)
"""The suffixes of files that vouch for another file or describe it, after the name of that file."""
_MOST_TWINS = 4
_SUFFIX = re.compile(r"[^/]\.(?=[0-9]*[A-Za-z])[A-Za-z0-9_+%]+$")
_ARCHITECTURE = re.compile(
    r"(?<![A-Za-z0-9])(?i:x86[-_]64(?:[-_.]v\d)?|(?:amd|arm)64[-_.]v\d|arm(?:32|hf)?[-_.]?v\d[a-z]*"
    r"|(?:win|windows|linux|osx|mac|macos|utf|sha|mips|ppc|arm|sparc|riscv)[-_.](?:1|8|16|32|64|224|256|384|512)"
    r"|(?:32|64)[-_.]?bit)(?![A-Za-z0-9])"
)
_OF_ARCHITECTURES = re.compile("86|arm|amd|win|lin|osx|mac|utf|sha|mips|ppc|sparc|riscv|bit")
"""Each of them has one of these: to look for that first is many times as quick."""
_VERSION = re.compile(
    r"(?<![0-9])[0-9]+(?:\.[0-9]+)+"
    r"|(?<![A-Za-z0-9])(?i:[vr]?[0-9]+(?:(?:alpha|beta|rc|pre|post|dev|p|a|b)[0-9]*)?)(?![A-Za-z0-9])"
    r"|[0-9]{6}"
    r"|(?<![A-Za-z0-9])(?:(?=[a-f]*[0-9])[0-9a-f]{7,}|(?=[a-z]*[0-9])[0-9a-z]{32,})(?![A-Za-z0-9])"
)
_NIX = "sha256 in the digits of Nix"
_NIX_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
_REGISTRY = re.compile(r"ns=[^&;]+")
_LONG = re.compile(r"[0-9a-z]{30}")
"""As many digits in a row as any digest has: hardly any other path has them."""
_BY_LENGTH = {2 * SIZES[name]: name for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")}
"""Algorithms by the hexadecimal digits of their digests."""


def vouched_for(path: str) -> str:
    """The path of the file that the one at `path` vouches for or describes; else `path` itself."""
    for _ in range(_MOST_TWINS):
        found = _TWIN.search(path)
        if found is None or path[found.start() - 1 : found.start()] in ("", "/"):
            break
        path = path[: found.start()]
    return path


def has_suffix(path: str) -> bool:
    """Whether the name at the end of a path has a suffix with a letter in it. A name without one is a page or a list."""
    return _SUFFIX.search(path) is not None


def has_version(path: str) -> bool:
    """Whether the name at the end of a path has a version, a date or a digest in it."""
    name = path.rpartition("/")[2]
    if "%" in name:
        name = unquote(name)
    if _OF_ARCHITECTURES.search(name.casefold()):
        name = _ARCHITECTURE.sub(" ", name)
    return _VERSION.search(name) is not None


def _in_hex(match: re.Match[str], algorithm: str | None) -> Digest | None:
    """The digest in the group `value`, or in all groups together.

    Its algorithm is the one given, that in the group `algorithm`, or the one with so many digits.
    """
    named = match.groupdict()
    digits = named.get("value") or "".join(match.groups())
    if algorithm is None:
        algorithm = named.get("algorithm", "").lower().removesuffix("sum") or _BY_LENGTH.get(len(digits))
    if algorithm is None or len(digits) != 2 * SIZES[algorithm]:
        return None
    return Digest(algorithm, bytes.fromhex(digits))


def _nix(match: re.Match[str]) -> Digest | None:
    """The digest in the digits of Nix: five bits each, the last digit the lowest of a little-endian number."""
    number = 0
    for digit in match[1]:
        number = number << 5 | _NIX_DIGITS.index(digit)
    try:
        return Digest("sha256", number.to_bytes(SIZES["sha256"], "little"))
    except OverflowError:
        return None


_EVERYWHERE: frozenset[Preset | None] = frozenset({None, *Preset})
_SHAPES: tuple[tuple[frozenset[Preset | None], str, str | None], ...] = (
    # apt's acquire-by-hash: each index of a Release, as it is compressed.
    (_EVERYWHERE, r"/by-hash/(?P<algorithm>MD5Sum|SHA1|SHA256|SHA512)/(?P<value>(?:[0-9a-f]{2}){16,64})$", None),
    # Blobs of OCI registries.
    (_EVERYWHERE, r"/blobs/sha256:([0-9a-f]{64})$", "sha256"),
    (_EVERYWHERE, r"/blobs/sha512:([0-9a-f]{128})$", "sha512"),
    (_EVERYWHERE, r"/objects/([0-9a-f]{2})/([0-9a-f]{62})\.(?:commit|dirtree|dirmeta)$", "sha256"),
    (_EVERYWHERE, r"\.git/gitlab-lfs/objects/([0-9a-f]{64})$", "sha256"),
    # opam's archives: the first digits stand in front once more.
    (
        _EVERYWHERE,
        r"/(?P<algorithm>md5|sha256|sha512)/(?P<first>[0-9a-f]{2})/(?P<value>(?P=first)(?:[0-9a-f]{2}){15,63})$",
        None,
    ),
    # Only what Nix itself names: others put the hash of what is inside in front of faster compressions.
    (frozenset({None, Preset.RAW}), rf"/nar/([01][{_NIX_DIGITS}]{{51}})\.nar(?:\.xz)?$", _NIX),
    # createrepo's, which has several algorithms.
    (
        frozenset({None, Preset.FEDORA}),
        r"/repodata/([0-9a-f]{32,128})-[^/]+\.(?:xml|sqlite|yaml|txt)(?:\.(?:gz|xz|bz2|zst|zck))?$",
        None,
    ),
    (
        frozenset({None, Preset.PYPI}),
        r"/packages/([0-9a-f]{2})/([0-9a-f]{2})/([0-9a-f]{60})/[^/]+\.(?:whl|tar\.gz|tar\.bz2|tgz|zip|egg)$",
        BLAKE2B_256,
    ),
    # The archive of Debian's past.
    (frozenset({Preset.DEBIAN}), r"/file/([0-9a-f]{40})$", "sha1"),
)
"""Presets, the paths that contain a digest there, and its algorithm, where the path does not tell that, too."""
_BY_PRESET = {
    preset: tuple((re.compile(pattern), algorithm) for presets, pattern, algorithm in _SHAPES if preset in presets)
    for preset in _EVERYWHERE
}


def digest_in_path(preset: Preset | None, target: Target) -> Digest | None:
    """What the bytes at a target must hash to, if its path says so.

    With a query it may be anything, but for the query by which a client of an OCI mirror names the registry.
    """
    if target.query is not None and not _REGISTRY.fullmatch(target.query):
        return None
    if not _LONG.search(target.path):
        return None
    for pattern, algorithm in _BY_PRESET[preset]:
        if match := pattern.search(target.path):
            return _nix(match) if algorithm == _NIX else _in_hex(match, algorithm)
    return None
