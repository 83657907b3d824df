"""Whether a body can be the file that its name says, by file signatures ("magic numbers"), as in content sniffing.

Sources send a captive portal's page, an error in JSON, nothing, or a further content coding in the place of a file. This
decides by the suffix of the name, the first bytes, and the declared type and coding. Only what is surely wrong is refused:

- With a suffix whose files begin with known bytes (`.xz`, `.gz`, `.zip`, `.deb`, ...), a body without them that is empty,
  or is text, or is declared a document or to be in a content coding. Other unknown bytes pass: formats grow.
- With a suffix whose files may begin with anything but markup (`.tar`, `.iso`, `.sig`, `.patch`, ...), text that begins
  like HTML, XML or a JSON object, or any text that is declared a document. Binary data may begin like that by chance.
- With a suffix of gzip, a body that is declared to have the coding gzip and is gzip within gzip, or a document. If it is
  gzip once, the declaration is a common mistake about the type of the file, and the bytes are the file; so they are if
  the document is what the name says is inside (`.xml.gz`).

The declared type alone proves nothing if the first bytes are right: servers send text/html for types they do not know.
A document (`.html`, `.json`, a name without suffix) may be anything.
"""

import re
import zlib

from package_cache.rules.http.fields import media_type

FIRST = 512
"""Bytes from the beginning that are enough to tell."""

_GZIP = (b"\x1f\x8b",)
_XZ = (b"\xfd7zXZ\x00",)
_BZIP2 = (b"BZh",)
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60)))
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"#!")
"""A program in front of a zip is part of the format, and may be a script."""

_MAGIC: dict[str, tuple[bytes, ...]] = {
    **dict.fromkeys(("gz", "tgz", "taz", "crate", "svgz"), _GZIP),
    **dict.fromkeys(("xz", "txz"), _XZ),
    **dict.fromkeys(("bz2", "tbz", "tbz2", "tb2"), _BZIP2),
    **dict.fromkeys(("zst", "tzst"), _ZSTD),
    **dict.fromkeys(("zip", "whl", "jar", "egg", "conda", "nupkg", "xpi", "war"), _ZIP),
    **dict.fromkeys(("deb", "udeb"), (b"!<arch>\n",)),
    **dict.fromkeys(("rpm", "drpm"), (b"\xed\xab\xee\xdb", b"drpm")),
    "apk": (*_GZIP, *_ZIP, b"ADB"),
    "ipk": (*_GZIP, b"!<arch>\n"),
    "lz": (b"LZIP",),
    "tlz": (b"LZIP", b"\x5d\x00\x00"),
    "lzma": (b"\x5d\x00\x00",),
    "lz4": (b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"),
    "lzo": (b"\x89LZO",),
    "z": (b"\x1f\x9d", b"\x1f\xa0"),
    "7z": (b"7z\xbc\xaf\x27\x1c",),
    "rar": (b"Rar!",),
    "cab": (b"MSCF",),
    "sqfs": (b"hsqs", b"sqsh"),
    "squashfs": (b"hsqs", b"sqsh"),
}
_NO_MARKUP = frozenset({"tar", "gem", "iso", "img", "exe", "msi", "dmg", "run", "asc", "sig", "sign", "patch", "diff"})

_CONTROL = re.compile(rb"[^\t\n\f\r\x20-\x7e\x80-\xff]")
_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*+"
    rb"(?:<!doctype|<!--|<\?xml|<(?:html|head|body|title|meta|script|h1|p|error)\b|\{[\t\n\r ]*+[\"}])",
    re.IGNORECASE,
)
_DOCUMENTS = frozenset({"text/html", "application/xhtml+xml", "application/json", "application/xml", "text/xml"})
_PAGES = frozenset({"html", "htm", "xhtml", "xml", "json"})
"""Suffixes of documents; each is in the name of its media types."""
_CODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"})
_USTAR_AT = 257
_ARMOR = b"-----BEGIN PGP "
"""Of a signature in text (RFC 9580, section 6.2)."""


def has_signature(path: str) -> bool:
    """Whether the name of a file says anything about its first bytes."""
    suffix = _suffix(path)
    return suffix in _MAGIC or suffix in _NO_MARKUP


def is_doubtful(path: str, content_type: str | None) -> bool:
    """Whether a file is declared a document, which it is not by its name, so that its bytes have to decide."""
    return has_signature(path) and media_type(content_type) in _DOCUMENTS


def _suffix(path: str) -> str:
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return suffix.lower() if stem and dot else ""


def wrong_type(path: str, content_type: str | None, content_encoding: str | None, first: bytes) -> str | None:
    """Why a body cannot be the file of that path; None if it may be.

    `first` are its first `FIRST` bytes, or the whole body if that is shorter.
    """
    suffix = _suffix(path)
    codings = content_encoding.split(",") if content_encoding is not None else []
    coded = bool(codings) and not _CODINGS.isdisjoint([coding.strip(" \t").lower() for coding in codings])
    kind = media_type(content_type)
    document = kind in _DOCUMENTS
    if suffix in _MAGIC:
        within = _suffix(path.rpartition(".")[0])
        document = document and not (coded and within in _PAGES and within in kind)
        return _wrong_archive(suffix, first, coded=coded, document=document)
    if suffix in _NO_MARKUP:
        return _wrong_other(suffix, first, coded=coded, document=document)
    return None


def _wrong_archive(suffix: str, first: bytes, *, coded: bool, document: bool) -> str | None:
    if first.startswith(_MAGIC[suffix]):
        if coded and document:
            return f"sent a page in a content coding in the place of a .{suffix} file"
        return f"sent a .{suffix} file compressed once more" if coded and _is_gzip_twice(first) else None
    if not first:
        return f"sent nothing in the place of a .{suffix} file"
    if _is_text(first):
        return f"sent text in the place of a .{suffix} file"
    if document:
        return f"sent a page in the place of a .{suffix} file"
    return f"sent a .{suffix} file in a content coding that was not asked for" if coded else None


def _wrong_other(suffix: str, first: bytes, *, coded: bool, document: bool) -> str | None:
    if first.startswith(_ARMOR) or (suffix == "tar" and first.startswith(b"ustar", _USTAR_AT)):
        return None
    if (_MARKUP.match(first) and not _CONTROL.search(first)) or (document and _is_text(first)):
        return f"sent a page in the place of a .{suffix} file"
    if coded and first.startswith((*_GZIP, *_ZSTD)):
        return f"sent a .{suffix} file in a content coding that was not asked for"
    return None


def _is_text(first: bytes) -> bool:
    """Whether bytes are text in UTF-8, perhaps cut within a character."""
    if _CONTROL.search(first):
        return False
    try:
        first.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(first) - error.start < 4 and error.reason == "unexpected end of data"
    return True


def _is_gzip_twice(first: bytes) -> bool:
    if not first.startswith(_GZIP):
        return False
    try:
        inner = zlib.decompressobj(wbits=31).decompress(first, len(_GZIP[0]))
    except zlib.error:
        return False
    return inner.startswith(_GZIP)
