"""What the URL of a file says of its bytes: the digest by which it is named there, and what those bytes must hash to.

Only what is delivered byte for byte as it was named is told. Not so an OSTree `.filez`, whose name is the checksum of what
is inside; nor what stands beside a file under its digest (a wheel's `.metadata`), nor an OCI manifest, of which older forms
are named without their signatures. Where kinds of repositories use one shape for different things, the preset decides.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from package_cache.model import Preset, Target
from package_cache.rules.http.digests import BLAKE2B_256, SIZES, Digest

_NIX_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
_REGISTRY = re.compile(r"ns=[^&;]+")
_LONG = re.compile(r"[0-9a-z]{30}")
"""Digits of any digest together: nearly no path has as many."""
_BY_LENGTH = {2 * SIZES[name]: name for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")}
"""The hash that createrepo took, by the number of its hexadecimal digits."""


def _bare(algorithm: str) -> Callable[[re.Match[str]], Digest]:
    """The digest whose hexadecimal digits the groups of a match are, put together."""
    return lambda match: Digest(algorithm, bytes.fromhex("".join(match.groups())))


def _named(match: re.Match[str]) -> Digest | None:
    """The digest that a folder with the name of its hash holds."""
    algorithm = match["algorithm"].lower().removesuffix("sum")
    value = bytes.fromhex(match["value"])
    return Digest(algorithm, value) if len(value) == SIZES[algorithm] else None


def _by_length(match: re.Match[str]) -> Digest | None:
    algorithm = _BY_LENGTH.get(len(match[1]))
    return None if algorithm is None else Digest(algorithm, bytes.fromhex(match[1]))


def _nix(match: re.Match[str]) -> Digest | None:
    """The digest in the digits of Nix: five bits each, the last digit the lowest of a little-endian number."""
    number = 0
    for digit in match[1]:
        number = number << 5 | _NIX_DIGITS.index(digit)
    try:
        return Digest("sha256", number.to_bytes(SIZES["sha256"], "little"))
    except OverflowError:
        return None


@dataclass(frozen=True, slots=True)
class _Shape:
    """Paths that end with a digest, in repositories of these presets."""

    presets: frozenset[Preset | None]
    pattern: re.Pattern[str]
    read: Callable[[re.Match[str]], Digest | None]


_EVERYWHERE: frozenset[Preset | None] = frozenset({None, *Preset})
_SHAPES = tuple(
    _Shape(presets, re.compile(pattern), read)
    for presets, pattern, read in (
        # apt's acquire-by-hash; each index of a Release, as it is compressed.
        (
            _EVERYWHERE,
            r"/by-hash/(?P<algorithm>MD5Sum|SHA1|SHA256|SHA512)/(?P<value>(?:[0-9a-f]{2}){16,64})$",
            _named,
        ),
        # Blobs of OCI registries.
        (_EVERYWHERE, r"/blobs/sha256:([0-9a-f]{64})$", _bare("sha256")),
        (_EVERYWHERE, r"/blobs/sha512:([0-9a-f]{128})$", _bare("sha512")),
        (_EVERYWHERE, r"/objects/([0-9a-f]{2})/([0-9a-f]{62})\.(?:commit|dirtree|dirmeta)$", _bare("sha256")),
        (_EVERYWHERE, r"\.git/gitlab-lfs/objects/([0-9a-f]{64})$", _bare("sha256")),
        # opam's archives: the first digits stand in front once more.
        (
            _EVERYWHERE,
            r"/(?P<algorithm>md5|sha256|sha512)/(?P<first>[0-9a-f]{2})/(?P<value>(?P=first)(?:[0-9a-f]{2}){15,63})$",
            _named,
        ),
        # Only what Nix itself names: others put the hash of what is inside in front of faster compressions.
        (frozenset({None, Preset.RAW}), rf"/nar/([01][{_NIX_DIGITS}]{{51}})\.nar(?:\.xz)?$", _nix),
        (
            frozenset({None, Preset.FEDORA}),
            r"/repodata/([0-9a-f]{32,128})-[^/]+\.(?:xml|sqlite|yaml|txt)(?:\.(?:gz|xz|bz2|zst|zck))?$",
            _by_length,
        ),
        (
            frozenset({None, Preset.PYPI}),
            r"/packages/([0-9a-f]{2})/([0-9a-f]{2})/([0-9a-f]{60})/[^/]+\.(?:whl|tar\.gz|tar\.bz2|tgz|zip|egg)$",
            _bare(BLAKE2B_256),
        ),
        # The archive of Debian's past.
        (frozenset({Preset.DEBIAN}), r"/file/([0-9a-f]{40})$", _bare("sha1")),
    )
)


def addressed(preset: Preset | None, target: Target) -> Digest | None:
    """What the bytes at a target must hash to, by its own word; None if it does not say.

    A query may ask for anything, but for the one that says through which registry a cache of OCI images is to go.
    """
    if target.query is not None and not _REGISTRY.fullmatch(target.query):
        return None
    if not _LONG.search(target.path):
        return None
    for shape in _SHAPES:
        if preset in shape.presets and (match := shape.pattern.search(target.path)):
            return shape.read(match)
    return None
