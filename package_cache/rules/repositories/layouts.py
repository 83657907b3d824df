"""Where a distfile is on a Gentoo mirror: the structures of GLEP 75, from its name to its path and back.

A mirror says in `layout.conf` by which structures its files can be found, the best one first: flat, in folders named by the
first digits of a hash of the file's name, or by a digest of its bytes. The functions here take names as they are, decoded.
"""

import configparser
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, count, pairwise, takewhile
from urllib.parse import unquote

_FUNCTIONS = {
    "BLAKE2B": "blake2b",
    "SHA512": "sha512",
    "BLAKE2S": "blake2s",
    "SHA256": "sha256",
    "SHA3_256": "sha3_256",
    "SHA3_512": "sha3_512",
    "SHA1": "sha1",
    "MD5": "md5",
}
"""The names that Manifest files have for hashes, and those of hashlib; what mirrors use comes first."""

_FOLDERS = re.compile(r"((?:[0-9a-f]{1,128}/)+)([^/]+)", re.ASCII)
DISTFILES = "/distfiles/"
"""The folder of distfiles in paths."""
_LEAST = 2
"""Digits of a hash that make a folder: one alone is right by chance in half of the names."""
_SECTION = "structure"


@dataclass(frozen=True, slots=True)
class Structure:
    """One way to find files. `cutoffs` are the bits of the hash that name each folder, multiples of 4."""

    kind: str
    algorithm: str = ""
    cutoffs: tuple[int, ...] = ()

    @property
    def by_name(self) -> bool:
        """Whether the name of a file is enough to find it."""
        return self.kind != _CONTENT

    def path(self, name: str) -> str:
        """The path of a file below the folder of distfiles. Raises ValueError if its name does not tell."""
        if not self.by_name:
            raise ValueError("a path by content-hash does not follow from the name of a file")
        if self.kind == _FLAT:
            return name
        digits = _digits(name, self.algorithm)
        ends = [bits // 4 for bits in accumulate(self.cutoffs, initial=0)]
        folders = (digits[start:end] for start, end in pairwise(ends))
        return "/".join((*folders, name))

    def __str__(self) -> str:
        """Its words in `layout.conf`."""
        return " ".join(filter(None, (self.kind, self.algorithm, ":".join(map(str, self.cutoffs)))))


_FLAT, _NAME, _CONTENT = "flat", "filename-hash", "content-hash"

FLAT = Structure(_FLAT)
HASHED = Structure(_NAME, "BLAKE2B", (8,))
"""What the mirrors of Gentoo have had since 2019."""


def parse_layout(text: str) -> tuple[Structure, ...]:
    """The structures that a `layout.conf` names, best first; those unknown here are left out (GLEP 75, mirror layout file).

    Raises ValueError for a text that is none, such as a page in its place.
    """
    # What two lines say differently is for the package manager to refuse; the last one holds here.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
        section = parser[_SECTION]
    except configparser.Error as error:
        raise ValueError(f"it is no layout.conf: {str(error).splitlines()[0]}") from None
    except KeyError:
        raise ValueError(f"it is no layout.conf: it has no section [{_SECTION}]") from None
    lines = (section.get(str(number)) for number in count())
    found = (_structure((line or "").split()) for line in takewhile(lambda line: line is not None, lines))
    return tuple(one for one in found if one is not None)


def _structure(words: list[str]) -> Structure | None:
    match words:
        case ["flat"]:
            return FLAT
        case ["filename-hash" | "content-hash" as kind, algorithm, cutoffs] if algorithm in _FUNCTIONS:
            if not re.fullmatch(r"\d{1,4}(?::\d{1,4})*", cutoffs, re.ASCII):
                return None
            bits = tuple(int(part) for part in cutoffs.split(":"))
            fits = sum(bits) <= 4 * len(_digits("", algorithm))
            return Structure(kind, algorithm, bits) if fits and all(one and one % 4 == 0 for one in bits) else None
    return None


def layout_text(structures: Iterable[Structure]) -> str:
    """A `layout.conf` that names these structures, best first."""
    lines = (f"{number}={structure}\n" for number, structure in enumerate(structures))
    return f"[{_SECTION}]\n{''.join(lines)}"


def flat_name(path: str) -> str:
    """The name of the file at a path below the folder of distfiles, if its folders are what a hash of that name says.

    Any other path is returned as it is. `path` is decoded. Folders of two digits are right by chance for one name in 32.
    """
    match = _FOLDERS.fullmatch(path)
    return match[2] if match and _is_hash_of(match[2], match[1]) else path


def flat_path(path: str) -> str:
    """As `flat_name`, for a path that is percent-encoded, as in keys; a slash that is encoded parts no folders."""
    match = _FOLDERS.fullmatch(path)
    return match[2] if match and _is_hash_of(decoded(match[2]), match[1]) else path


def decoded(name: str) -> str:
    """The name of a file, of one that is percent-encoded."""
    return unquote(name, errors="surrogateescape")


def _is_hash_of(name: str, folders: str) -> bool:
    digits = folders.replace("/", "")
    return len(digits) >= _LEAST and any(_digits(name, algorithm).startswith(digits) for algorithm in _FUNCTIONS)


def _digits(name: str, algorithm: str) -> str:
    """The hash of a name (as UTF-8), in hex."""
    # What is no UTF-8 on disk comes as surrogates; its own bytes are meant then.
    data = name.encode("utf-8", "surrogateescape")
    return hashlib.new(_FUNCTIONS[algorithm], data, usedforsecurity=False).hexdigest()
