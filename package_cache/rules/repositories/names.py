"""What the name of a file tells: that it vouches for another one, and whether it has a version, a date or a digest.

A number counts as a version where it stands for itself (`foo-1.tar`, `1.2`, `v3`, `1.2rc1`), as a date with six digits or
more, as a digest with seven hexadecimal ones, or 32 of any alphabet. One within a word (`python3`, `l3kernel`, `sha256`,
`texlive2024`) is part of a name that stays while the file changes; so is one of an architecture (`x86_64`, `win-64`). A
wrong no costs a question to a source, a wrong yes would keep an index for ever.
"""

import re
from urllib.parse import unquote

_TWIN = re.compile(
    r"\.(?i:sig2?|asc|sign|gpg|gpgsig|minisig|p7s|sigstore(?:\.json)?|crt"
    r"|(?:sha-?(?:1|224|256|384|512)|sha3-?(?:256|512)|md5|blake2[bs]?|b2|b3)(?:sums?)?|cksum|checksum|digests"
    r"|zsync|torrent|metalink|meta4|metadata|provenance|prov|attestation|intoto\.jsonl|sbom(?:\.json)?)$"
)
"""What a file is called that vouches for another, or describes it, behind the name of that one."""
_MOST_TWINS = 4
_SUFFIX = re.compile(r"[^/]\.(?=[0-9]*[A-Za-z])[A-Za-z0-9_+%]+$")
_ARCHITECTURE = re.compile(
    r"(?<![A-Za-z0-9])(?i:x86[-_]64(?:[-_.]v\d)?|(?:amd|arm)64[-_.]v\d|arm(?:32|hf)?[-_.]?v\d[a-z]*"
    r"|(?:win|windows|linux|osx|mac|macos|utf|sha|mips|ppc|arm|sparc|riscv)[-_.](?:1|8|16|32|64|224|256|384|512)"
    r"|(?:32|64)[-_.]?bit)(?![A-Za-z0-9])"
)
_VERSION = re.compile(
    r"(?<![0-9])[0-9]+(?:\.[0-9]+)+"
    r"|(?<![A-Za-z0-9])(?i:[vr]?[0-9]+(?:(?:alpha|beta|rc|pre|post|dev|p|a|b)[0-9]*)?)(?![A-Za-z0-9])"
    r"|[0-9]{6}"
    r"|(?<![A-Za-z0-9])(?:(?=[a-f]*[0-9])[0-9a-f]{7,}|(?=[a-z]*[0-9])[0-9a-z]{32,})(?![A-Za-z0-9])"
)


def vouched_for(path: str) -> str:
    """The path of the file for which the one at a path vouches, or that it describes; else the path itself."""
    for _ in range(_MOST_TWINS):
        found = _TWIN.search(path)
        if found is None or path[found.start() - 1 : found.start()] in ("", "/"):
            break
        path = path[: found.start()]
    return path


def has_suffix(path: str) -> bool:
    """Whether the name at the end of a path has a suffix with a letter in it: what has none is a page or a list."""
    return _SUFFIX.search(path) is not None


def has_version(path: str) -> bool:
    """Whether the name at the end of a path has a version, a date or a digest in it."""
    name = unquote(path.rpartition("/")[2])
    return _VERSION.search(_ARCHITECTURE.sub(" ", name)) is not None
