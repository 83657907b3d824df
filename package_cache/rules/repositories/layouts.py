"""Where a file is in a tree: the structures of GLEP 75 for distfiles, and plain trees of package files.

A Gentoo mirror says in `layout.conf` by which structures its files can be found, the best one first: flat, in folders named
by the first digits of a hash of the file's name, or by a digest of its bytes. A plain tree, such as a folder that was
exported, has the paths that clients ask for. Names are decoded, unless a function says otherwise.
"""

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
DISTFILES = "distfiles"
DISTFILES_PATH = f"/{DISTFILES}/"
"""The folder of distfiles in paths."""
_LEAST = 2
"""Digits of a hash that make a folder: one alone is right by chance in half of the names."""
_SECTION = "structure"
LAYOUT = "layout.conf"
"""The file in a folder of distfiles that says how they are laid out."""
CHECKOUTS = frozenset({"git3-src", "cvs-src", "svn-src", "hg-src", "bzr-src", "darcs-src"})
"""Folders beside distfiles in which live ebuilds keep what they check out."""
UNFINISHED = frozenset({"partial"})
"""Folders of downloads that are not finished."""
CONTROL = ".aria2"
"""Beside a file of aria2 that is not finished: its name and this."""
_LONGEST_NAME = 255
"""Bytes that a name may have on every file system."""

_SET_ASIDE = (
    (re.compile(r"\.__download__"), "Portage has not finished it"),
    (re.compile(r"\._checksum_failure_\."), "Portage did not find it good"),
    (re.compile(r"\.(?:part|partial|aria2)$"), "a download that is not finished"),
    (re.compile(r"(?:^lock|\.lck|\.portage_lockfile)$"), "a lock"),
)


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
        """How it is written in `layout.conf`."""
        return " ".join(filter(None, (self.kind, self.algorithm, ":".join(map(str, self.cutoffs)))))


_FLAT, _NAME, _CONTENT = "flat", "filename-hash", "content-hash"

FLAT = Structure(_FLAT)
HASHED = Structure(_NAME, "BLAKE2B", (8,))
"""What the mirrors of Gentoo have had since 2019."""


def parse_layout(text: str) -> tuple[Structure, ...]:
    """The structures that a `layout.conf` names, best first; those unknown here are left out (GLEP 75, mirror layout file).

    Raises ValueError for a text that is no `layout.conf`, such as a page in its place.
    """
    # Lines that contradict each other are for the package manager to refuse; the last one counts here.
    import configparser  # noqa: PLC0415 - few mirrors have such a file

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


def flat_path(path: str) -> str:
    """The name of the file at a path below the folder of distfiles, if its folders are what a hash of that name says.

    Any other path is returned as it is. `path` is percent-encoded; an encoded slash does not separate folders. Folders of
    two digits are right by chance for one name in 32.
    """
    match = _FOLDERS.fullmatch(path)
    if match is None:
        return path
    name, digits = decoded(match[2]), match[1].replace("/", "")
    hashed = len(digits) >= _LEAST and any(_digits(name, algorithm).startswith(digits) for algorithm in _FUNCTIONS)
    return match[2] if hashed else path


def decoded(name: str) -> str:
    """A percent-encoded name, decoded."""
    return unquote(name, errors="surrogateescape")


def _digits(name: str, algorithm: str) -> str:
    """The hash of a name (as UTF-8), in hex."""
    # A name on disk that is not UTF-8 comes with surrogates; its own bytes are meant.
    data = name.encode("utf-8", "surrogateescape")
    return hashlib.new(_FUNCTIONS[algorithm], data, usedforsecurity=False).hexdigest()


def set_aside(name: str, size: int) -> str | None:
    """Why a file of that name and size in bytes is not a finished package file; None if it is one."""
    if size == 0 and name.endswith(".lock"):
        return "a lock"
    return next((reason for pattern, reason in _SET_ASIDE if pattern.search(name)), None)


def is_layout(path: str) -> bool:
    """Whether a path is that of a mirror's `layout.conf`."""
    return path.endswith(DISTFILES_PATH + LAYOUT)


def names_of(path: str) -> tuple[str, ...]:
    """Folders and name of the file that a path has in a tree, decoded. Raises ValueError with why it has none.

    `path` is percent-encoded in normal form.
    """
    if path.endswith("/"):
        raise ValueError("it is the page of a folder")
    names = tuple(unquote(name) for name in path[1:].split("/"))
    for name in names:
        if not name or name.startswith(".") or "/" in name:
            raise ValueError("it has no plain path: a part is empty, hidden, or has a slash in itself")
        if len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"a part of its path is longer than {_LONGEST_NAME} bytes")
    return names


def distfiles_of(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The folder of distfiles that a file is directly in; None if there is none."""
    return names[:-1] if DISTFILES in names[:-1] and names.index(DISTFILES) == len(names) - 2 else None


def laid_out(names: tuple[str, ...], structure: Structure) -> tuple[str, ...]:
    """Folders and name of the file in a folder of distfiles with this structure."""
    return (*names[:-1], *structure.path(names[-1]).split("/"))
