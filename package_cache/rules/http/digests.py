"""Digests that a source declares: `Repr-Digest` and `Content-Digest` (RFC 9530), `Digest` (RFC 3230), `Content-MD5`.

Values that cannot be read, and unknown algorithms, are ignored, as the RFCs allow.
"""

import binascii
import hashlib
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

DIGEST_FIELDS = frozenset({"repr-digest", "content-digest", "digest", "content-md5"})
_OF_BYTES = re.compile("x-checksum-|x-amz-checksum-|x-goog-hash$|x-goog-stored-|x-ms-blob-content-md5$")
"""Fields of servers of their own kind that say what the bytes of the file are, or how many."""

_ALGORITHMS = {"sha-512": "sha512", "sha-256": "sha256", "sha": "sha1", "md5": "md5"}
"""From the names of both registries, in lower case, to those of hashlib."""
BLAKE2B_256 = "blake2b-256"
"""Not the one that hashlib calls `blake2b`: its length is a part of what is hashed (RFC 7693, section 2.5)."""
SIZES = {
    "sha512": 64,
    "sha384": 48,
    "sha256": 32,
    "sha224": 28,
    "sha1": 20,
    "md5": 16,
    "blake2b": 64,
    BLAKE2B_256: 32,
}
"""Bytes of a digest."""
_BY_SIZE = {SIZES[name]: name for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")}
_INTEGRITY = re.compile(r"(sha256|sha384|sha512)-([A-Za-z0-9+/]+={0,2})")
_NO_DIGEST = "{!r} is no digest: write sha256:HEX, or md5, sha1, sha512 or blake2b in its place, or the digits alone"
# A member of a Structured Field dictionary of byte sequences (RFC 8941, section 3.2).
_MEMBER = re.compile(r"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):[^,]*(?:,|$)")
_INSTANCE = re.compile(r"[ \t]*([A-Za-z0-9-]+)=([A-Za-z0-9+/=]+)[ \t]*(?:,|$)")


def tells_of_bytes(name: str) -> bool:
    """Whether a field, by its name in lower case, holds only for the bytes that the source sent."""
    return name in DIGEST_FIELDS or _OF_BYTES.match(name) is not None


@dataclass(frozen=True, slots=True)
class Digest:
    """What the bytes of a whole file must hash to; `algorithm` is one of `SIZES`."""

    algorithm: str
    value: bytes

    def is_of(self, body: bytes) -> bool:
        """Whether it is the digest of these bytes."""
        return hashed(self.algorithm, body).digest() == self.value

    @property
    def hex(self) -> str:
        """The digest in hex."""
        return self.value.hex()

    @property
    def name(self) -> str:
        """The algorithm, as it is written in texts."""
        return self.algorithm.upper().replace("SHA", "SHA-") if self.algorithm.startswith("sha") else self.algorithm

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def parse_digest(text: str) -> Digest:
    """A digest as people write it. Raises ValueError, saying what would be right.

    `sha256:HEX` with any of `SIZES`; hexadecimal digits alone, whose number tells the algorithm; or `sha256-BASE64` as web
    pages have it (Subresource Integrity, section 3.5).
    """
    text = text.strip()
    algorithm, colon, value = text.partition(":")
    integrity = _INTEGRITY.fullmatch(text)
    try:
        if integrity is not None:
            algorithm, digest = integrity[1], b64decode(integrity[2], validate=True)
        elif colon:
            algorithm, digest = algorithm.lower().replace("sha-", "sha"), bytes.fromhex(value)
        else:
            digest = bytes.fromhex(text)
            algorithm = _BY_SIZE[len(digest)]
    except (ValueError, KeyError):
        raise ValueError(_NO_DIGEST.format(text)) from None
    if SIZES.get(algorithm) != len(digest):
        raise ValueError(_NO_DIGEST.format(text))
    return Digest(algorithm, digest)


def first_differing(digests: Iterable[Digest], hash_by: Callable[[str], "hashlib._Hash"]) -> tuple[Digest, str] | None:
    """The first of these digests that is not that of some bytes, and theirs in hex; `hash_by` hashes them."""
    for digest in digests:
        found = hash_by(digest.algorithm)
        if found.digest() != digest.value:
            return digest, found.hexdigest()
    return None


def hashed(algorithm: str, data: bytes | bytearray | memoryview) -> "hashlib._Hash":
    """The hash of these bytes."""
    value = hasher(algorithm)
    value.update(data)
    return value


def hasher(algorithm: str) -> "hashlib._Hash":
    """A hash object for the bytes of a file; it protects no secret."""
    if algorithm == BLAKE2B_256:
        return cast("hashlib._Hash", hashlib.blake2b(digest_size=SIZES[BLAKE2B_256], usedforsecurity=False))
    return hashlib.new(algorithm, usedforsecurity=False)


def declared(fields: Mapping[str, str], *, whole: bool, coded: bool) -> tuple[Digest, ...]:
    """The digests of the whole file that the fields of a response declare; `fields` are by lower-case name.

    `whole` says that the body is the whole file, so that digests of the body are digests of the file. The older fields do
    not count for a `coded` body: servers disagree whether they are computed before or after the coding.
    """
    found: list[tuple[str, str]] = _MEMBER.findall(fields.get("repr-digest", ""))
    if whole:
        found += _MEMBER.findall(fields.get("content-digest", ""))
    if not coded:
        found += [(name.lower(), text) for name, text in _INSTANCE.findall(fields.get("digest", ""))]
        if whole and fields.get("content-md5"):
            found.append(("md5", fields["content-md5"].strip(" \t")))
    return _known(found)


def declared_of_part(content_digest: str | None) -> tuple[Digest, ...]:
    """The digests of a body that is a part of the file (RFC 9530, section 2)."""
    return _known(_MEMBER.findall(content_digest or ""))


def _known(found: Iterable[tuple[str, str]]) -> tuple[Digest, ...]:
    """The digests that are valid, each once."""
    digests = (_digest(name, text) for name, text in found)
    return tuple(dict.fromkeys(digest for digest in digests if digest is not None))


def _digest(name: str, text: str) -> Digest | None:
    algorithm = _ALGORITHMS.get(name)
    if algorithm is None:
        return None
    try:
        value = b64decode(text, validate=True)
    except binascii.Error:
        return None
    return Digest(algorithm, value) if len(value) == SIZES[algorithm] else None
