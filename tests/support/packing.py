"""Archives and compressed files for tests, made by the standard library (zst: by whatever this Python has)."""

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping

if sys.version_info >= (3, 14):
    from compression import zstd as _zstd

    def zstd(data: bytes) -> bytes:
        """One frame with a checksum."""
        return _zstd.compress(data, options={_zstd.CompressionParameter.checksum_flag: 1})

else:
    import zstandard

    def zstd(data: bytes) -> bytes:
        """One frame with a checksum."""
        return zstandard.ZstdCompressor(write_checksum=True).compress(data)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}
TARS = ["tar", *(f"tar.{kind}" for kind in PACKERS)]
ARCHIVES = ["zip", *TARS]
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def entry(name: str, *, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


def symbolic(name: str, link: str) -> tarfile.TarInfo:
    return entry(name, kind=tarfile.SYMTYPE, link=link)


def hard(name: str, link: str) -> tarfile.TarInfo:
    return entry(name, kind=tarfile.LNKTYPE, link=link)


def folder(name: str) -> tarfile.TarInfo:
    return entry(name, kind=tarfile.DIRTYPE)


def tar(*parts: tarfile.TarInfo | Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of bare entries, and of files with their content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for part in parts:
            if isinstance(part, tarfile.TarInfo):
                archive.addfile(part)
                continue
            for name, data in part.items():
                archive.addfile(entry(name, size=len(data)), io.BytesIO(data))
    return out.getvalue()


def zipped(files: Mapping[str, bytes], methods: list[int] | None = None) -> bytes:
    """A zip whose members take turns with the methods."""
    out = io.BytesIO()
    used = methods or METHODS
    with zipfile.ZipFile(out, "w") as archive:
        for number, (name, data) in enumerate(files.items()):
            archive.writestr(name, data, used[number % len(used)])
    return out.getvalue()


def archive(kind: str, files: Mapping[str, bytes]) -> bytes:
    """An archive of any kind."""
    if kind == "zip":
        return zipped(files)
    packer = PACKERS.get(kind.removeprefix("tar").removeprefix("."))
    return packer(tar(files)) if packer else tar(files)
