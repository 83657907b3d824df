"""Archives that are damaged, cut short or made to do harm: a clear error in bounded memory, never a wrong or short file."""

import bz2
import errno
import io
import lzma
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from packing import ARCHIVES, METHODS, PACKERS, archive, entry, folder, hard, symbolic, tar, zipped

from package_cache.errors import (
    ArchiveTooLarge,
    BrokenArchive,
    ExtractionError,
    PackageCacheError,
    UnsafeMember,
    UnsupportedArchive,
)
from package_cache.library.archives.archive import open_archive
from package_cache.library.archives.streams import allowance, inflate

MEBI = 1 << 20
SMALL = b"The content of a small file, and some of it twice: of a small file.\n" * 3
FILES = {"a/b": SMALL, "empty": b"", "c": b"other\n"}
NOISE = random.Random(2).randbytes(1_000_000)


def contents(data: bytes, limit: int | None = None) -> tuple[str, bytes | dict[str, bytes]]:
    """The kind, and everything that is in it."""
    with open_archive(io.BytesIO(data), default_mode="rb", limit=limit) as opened:
        if opened.sizes:
            return opened.kind, {name: reader.read() for name, reader in opened.result.items()}
        return opened.kind, b"".join(opened)


def drain(reader: io.BufferedReader, into: bytearray) -> None:
    """Reads to the end, and notes what it has read."""
    while piece := reader.read1(10_000):
        into += piece


def compact(kind: str) -> bytes:
    """A small archive; a tar without the zeros that fill it to 10 KiB."""
    if not kind.startswith("tar"):
        return archive(kind, FILES)
    whole = tar(FILES, form=tarfile.USTAR_FORMAT)
    whole = whole[: len(whole.rstrip(b"\0")) + 511 & ~511] + bytes(1024)
    pack = PACKERS.get(kind.removeprefix("tar."))
    return pack(whole) if pack else whole


def fixed(header: bytes) -> bytes:
    """The header of a tar with a checksum that is right."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.GNU_FORMAT)


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


KINDS: dict[str, tuple[Callable[[], bytes], bytes | dict[str, bytes]]] = {
    **{kind: (lambda pack=pack: pack(SMALL), SMALL) for kind, pack in PACKERS.items()},
    **{kind: (lambda kind=kind: compact(kind), FILES) for kind in ARCHIVES},
}


@pytest.mark.parametrize("kind", KINDS)
def test_cut_anywhere_it_is_an_error_or_whole(kind: str) -> None:
    make, true = KINDS[kind]
    data = make()
    assert contents(data) == (kind, true)
    for length in range(len(data)):
        try:
            found, content = contents(data[:length])
        except ExtractionError:
            continue
        assert content == true or (found, content) == ("plain", data[:length]), length
        if found == "plain":
            assert length < 512 if kind == "tar" else length < 10
        else:  # only padding is missing
            assert not data[length:].strip(b"\0")


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tar"])
def test_with_any_byte_changed_it_is_an_error_or_right(kind: str, flip: int) -> None:
    make, true = KINDS[kind]
    data = make()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= flip
        try:
            found, content = contents(bytes(damaged), 100 * MEBI)
        except ExtractionError:
            continue
        if found == "plain":  # the magic number was hit
            assert position < 10
            assert content == damaged
        else:
            assert content == true, position


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_with_any_byte_of_a_header_changed_a_tar_is_an_error_or_plain(flip: int) -> None:
    data = compact("tar")
    headers = [start for start in range(0, len(data), 512) if data[start + 257 : start + 262] == b"ustar"]
    assert len(headers) == len(FILES)
    for position in (start + offset for start in headers for offset in range(500)):
        damaged = bytearray(data)
        damaged[position] ^= flip
        try:
            found, content = contents(bytes(damaged))
        except BrokenArchive:
            continue
        assert (found, content) in {("plain", bytes(damaged))} if found == "plain" else content == FILES
        assert found == "tar" or position in range(257, 262)


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_tar_is_checked_to_its_end_before_anything_is_given(kind: str) -> None:
    data = PACKERS[kind](tar(FILES) + bytes(1_000_000))
    assert contents(data) == (f"tar.{kind}", FILES)
    with pytest.raises(BrokenArchive):
        open_archive(io.BytesIO(data[:-3]))


@pytest.mark.parametrize("kind", PACKERS)
def test_junk_behind_the_last_stream_is_an_error(kind: str) -> None:
    for junk in (b"x", b"\0\0\0x", PACKERS[kind](SMALL)[:-1], PACKERS[kind](SMALL)[1:]):
        with pytest.raises(BrokenArchive):
            inflate(PACKERS[kind](SMALL) + junk)


@pytest.mark.parametrize("kind", [*PACKERS, "zip"])
def test_error_of_a_reader_is_raised_again_and_never_becomes_an_end(kind: str) -> None:
    if kind == "zip":
        data = bytearray(zipped({"a": NOISE}, [8]))
        data[len(data) - 1000] ^= 1
    else:
        data = bytearray(PACKERS[kind](NOISE)[:-30])
    with open_archive(io.BytesIO(data), default_mode="rb") as opened:
        reader = opened.result["a"] if kind == "zip" else opened.result
        taken = bytearray()
        with pytest.raises(BrokenArchive):
            drain(reader, taken)
        assert NOISE.startswith(taken)
        with pytest.raises(BrokenArchive):
            reader.read1(10_000)


@pytest.mark.parametrize("method", METHODS)
def test_member_with_a_wrong_checksum_is_never_given_whole(method: int) -> None:
    data = bytearray(zipped({"a": SMALL}, [method]))
    checksum = struct.pack("<L", zlib.crc32(SMALL))
    assert data.count(checksum) == 2
    wrong = bytes(data).replace(checksum, b"\1\2\3\4")
    with (
        open_archive(io.BytesIO(wrong), default_mode="rb") as opened,
        pytest.raises(BrokenArchive, match="'a' in the file"),
    ):
        opened.result["a"].read(len(SMALL))


def test_failure_of_the_disk_stays_one_and_reading_goes_on_after_it() -> None:
    class Failing(io.BytesIO):
        fails = False

        def read(self, size: int | None = -1, /) -> bytes:
            if self.fails:
                raise OSError(errno.EIO, "disk")
            return super().read(size)

    for kind, pack in {"plain": bytes, **PACKERS}.items():
        file = Failing(pack(NOISE))
        with open_archive(file, default_mode="rb") as opened:
            begin = opened.result.read1(100)
            assert NOISE.startswith(begin), kind
            file.fails = True
            taken = bytearray(begin)
            for _ in range(2):
                with pytest.raises(OSError, match="disk"):
                    drain(opened.result, taken)
            file.fails = False
            assert taken + opened.result.read() == NOISE


@pytest.mark.parametrize("kind", PACKERS)
def test_no_more_comes_out_than_the_limit_allows(kind: str) -> None:
    data = PACKERS[kind](bytes(MEBI))
    assert inflate(data, MEBI) == bytes(MEBI)
    with pytest.raises(ArchiveTooLarge, match=f"inflates to more than {MEBI - 1} bytes.*limit="):
        inflate(data, MEBI - 1)
    with pytest.raises(ArchiveTooLarge):
        contents(data, MEBI - 1)
    with pytest.raises(ArchiveTooLarge), open_archive(io.BytesIO(data), limit=MEBI - 1, large=False) as opened:
        _ = opened.result
    with pytest.raises(ArchiveTooLarge):
        open_archive(io.BytesIO(data), limit=0)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archive_that_holds_more_than_the_limit_is_not_opened(kind: str) -> None:
    data = archive(kind, {"a": bytes(MEBI), "b": bytes(MEBI)})
    most = 2 * MEBI if kind in {"zip", "tar"} else 2 * MEBI + 20_000
    assert contents(data, most)[0] == kind
    with pytest.raises(ArchiveTooLarge, match=r"the file .*limit="):
        open_archive(io.BytesIO(data), limit=2 * MEBI - 1)
    if kind in {"zip", "tar"}:
        with open_archive(io.BytesIO(data), needed=["b"], limit=MEBI, large=False) as opened:
            assert opened.result["b"] == "\0" * MEBI


def test_links_count_for_the_limit_as_what_they_lead_to() -> None:
    data = tar({"a": bytes(MEBI)}, *(symbolic(f"{number}", "a") for number in range(9)))
    assert contents(data, 10 * MEBI)[0] == "tar"
    with pytest.raises(ArchiveTooLarge, match=str(10 * MEBI)):
        open_archive(io.BytesIO(data), limit=10 * MEBI - 1)


def test_without_a_limit_it_is_a_gibibyte_or_256_times_the_size() -> None:
    assert allowance(1000, None) == 1 << 30
    assert allowance(1 << 30, None) == 256 << 30
    assert allowance(1 << 30, 7) == 7


@pytest.mark.parametrize("kind", PACKERS)
def test_bomb_is_stopped_in_little_memory(kind: str) -> None:
    part = PACKERS[kind](bytes(16 * MEBI))
    with little_memory(48 * MEBI), open_archive(io.BytesIO(part * 4), default_mode="rb", limit=60 * MEBI) as opened:
        assert sum(len(opened.result.read(MEBI)) for _ in range(30)) == 30 * MEBI
        with pytest.raises(ArchiveTooLarge):
            opened.result.seek(0, io.SEEK_END)


@pytest.mark.parametrize("method", METHODS)
def test_member_larger_than_the_directory_of_its_zip_says_is_stopped_in_little_memory(method: int) -> None:
    data = zipped({"a": bytes(32 * MEBI)}, [method])
    small = data.replace(struct.pack("<L", 32 * MEBI), struct.pack("<L", 100))
    with little_memory(len(small) + 16 * MEBI), pytest.raises(BrokenArchive):
        contents(small)


def test_sparse_member_of_a_tebibyte_is_stopped() -> None:
    info = entry("sparse", kind=tarfile.GNUTYPE_SPARSE)
    raw = bytearray(header(info))
    raw[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    data = fixed(bytes(raw)) + bytes(1024)
    with pytest.raises(ArchiveTooLarge, match=str(1 << 40)):
        open_archive(io.BytesIO(data))
    with open_archive(io.BytesIO(data), default_mode="rb", limit=1 << 41) as opened:
        assert opened.sizes == {"sparse": 1 << 40}
        assert opened.result["sparse"].read(1000) == bytes(1000)


def test_stream_that_needs_much_memory_is_refused() -> None:
    xz = bytearray(lzma.compress(SMALL))
    assert xz[14] == 0x21  # LZMA2, whose dictionary is the byte after the next
    xz[16] = 40
    length = (xz[12] + 1) * 4
    xz[12 + length - 4 : 12 + length] = zlib.crc32(xz[12 : 12 + length - 4]).to_bytes(4, "little")
    zst = b"\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00"
    member = bytearray(zipped({"a": SMALL}, [zipfile.ZIP_LZMA]))
    start = member.index(b"\x05\0\x5d") + 3
    member[start : start + 4] = b"\xff" * 4
    for data in (xz, zst):
        with pytest.raises(ArchiveTooLarge, match="memory"):
            inflate(bytes(data))
    with pytest.raises(ArchiveTooLarge, match="memory"):
        contents(bytes(member))


OUTSIDE = ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "..\\x", "a\\..\\x", "\\x", "C:\\x", "c:/x", "a/../b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_archive_with_a_name_that_leads_out_of_it_is_not_opened(name: str) -> None:
    for data in (
        tar({"good": b"", name: b"x"}),
        tar(symbolic(name, "good")),
        tar(hard(name, "good")),
        tar(folder(name + "/x")),
        zipped({"good": b"", name: b"x"}),
        zipped({name + "/": b""}),
        *(pack(tar({name: b"x"})) for pack in PACKERS.values()),
    ):
        with pytest.raises(UnsafeMember, match="leads out of it"):
            open_archive(io.BytesIO(data))


@pytest.mark.parametrize("name", ["..a", "a..", "...", "a/...b", "~/x", "a:b", "%2e%2e/x"])
def test_name_with_dots_that_stays_inside_is_kept(name: str) -> None:
    for data in (tar({name: b"x"}), zipped({name: b"x"})):
        assert contents(data)[1] == {name: b"x"}


@pytest.mark.parametrize(
    ("link", "error"),
    [
        (symbolic("d/l", "../../etc/passwd"), UnsafeMember),
        (symbolic("d/l", "/d/real"), UnsafeMember),
        (hard("d/l", "../x"), UnsafeMember),
        (hard("d/l", "/d/real"), UnsafeMember),
        (symbolic("d/l", "nothing"), BrokenArchive),
        (symbolic("d/l", "real/x"), BrokenArchive),
        (hard("d/l", "real"), BrokenArchive),
        (symbolic("d/l", "l"), BrokenArchive),
        (symbolic("d/l", "l/l/l"), BrokenArchive),
        (symbolic("d/l", "x/" * 3000), BrokenArchive),
    ],
)
def test_link_that_leads_to_no_member_is_an_error_when_it_is_opened(link: tarfile.TarInfo, error: type[Exception]) -> None:
    with open_archive(io.BytesIO(tar({"d/real": b"real"}, link)), large=False) as opened:
        assert opened.sizes == {"d/real": 4, "d/l": None}
        assert opened.result["d/real"] == "real"
        with pytest.raises(error, match="'d/l' in the file is a link"):
            opened.result["d/l"]


def test_chain_of_links_is_followed_and_a_circle_is_not() -> None:
    chain = [symbolic(f"{number}", f"{number + 1}") for number in range(30)]
    assert contents(tar(*chain, {"30": b"end"}))[1] == {f"{number}": b"end" for number in range(31)}
    with open_archive(io.BytesIO(tar(*chain, symbolic("30", "0")))) as opened, pytest.raises(BrokenArchive, match="circle"):
        _ = opened.result["7"]


def test_circle_of_long_links_takes_little_memory() -> None:
    data = tar({"a": b"a"}, symbolic("l", "l/" * 20_000))
    with little_memory(16 * MEBI), open_archive(io.BytesIO(data)) as opened:
        assert opened.sizes == {"a": 1, "l": None}


def test_damaged_headers_of_a_tar_are_errors() -> None:
    good = tar({"a": b"a"}, form=tarfile.GNU_FORMAT)
    long = header(entry("././@LongLink", kind=tarfile.GNUTYPE_LONGNAME, size=512)) + b"n" * 512
    end = bytes(1024)
    minus = bytearray(header(entry("minus")))
    minus[124:136] = b"\xff" * 12
    back = bytearray(header(entry("back", kind=tarfile.GNUTYPE_SPARSE)))
    back[124:136] = b"\xff" * 10 + b"\xfe\x00"
    back[483:495] = b"%011o\0" % 5
    for data, error in {
        good[:1024] + fixed(bytes(back)) + end: BrokenArchive,
        tar({".": b"a"}): BrokenArchive,
        long * 3000 + good: BrokenArchive,
        header(entry("x", kind=tarfile.XHDTYPE, size=5 * MEBI)) + bytes(6 * MEBI): ArchiveTooLarge,
        header(entry("././@LongLink", kind=tarfile.GNUTYPE_LONGNAME, size=1 << 40)) + end: ArchiveTooLarge,
        header(entry("huge", size=(1 << 80))) + end: BrokenArchive,
        fixed(bytes(minus)) + end: BrokenArchive,
        good.rstrip(b"\0") + bytes(511): BrokenArchive,
        good[:1024]: BrokenArchive,
        good[:1024] + good[:100] + bytes(1000): BrokenArchive,
        good[:1024] + bytes(512) + good: BrokenArchive,
        header(entry("pax", kind=tarfile.XHDTYPE, size=512)) + b"99 size=-512\n".ljust(512, b"\0") + good: BrokenArchive,
        header(entry("pax", kind=tarfile.XHDTYPE, size=512)) + b"13 size=-512\n".ljust(512, b"\0") + good: BrokenArchive,
    }.items():
        for whole in (data, PACKERS["gz"](data)):
            with pytest.raises(error):
                open_archive(io.BytesIO(whole))


def flagged(data: bytes, *, flags: int = 0, method: int | None = None) -> bytes:
    """A zip of one member with other flags, or another method, in both its headers."""
    changed = bytearray(data)
    for start, offset in ((data.index(b"PK\3\4"), 6), (data.index(b"PK\1\2"), 8)):
        changed[start + offset] |= flags
        if method is not None:
            changed[start + offset + 2] = method
    return bytes(changed)


def test_encrypted_members_are_refused_and_the_others_are_not() -> None:
    with open_archive(io.BytesIO(flagged(zipped({"a": b"secret", "b": b"open"}), flags=1)), large=False) as opened:
        assert opened.result["b"] == "open"
        with pytest.raises(UnsupportedArchive, match="'a' in the file is encrypted"):
            opened.result["a"]


def test_unknown_method_of_a_zip_is_refused_by_its_number() -> None:
    data = flagged(zipped({"a": b"x"}), method=9)
    with open_archive(io.BytesIO(data)) as opened, pytest.raises(UnsupportedArchive, match="method 9"):
        _ = opened.result["a"]


def test_member_of_a_zip_may_be_compressed_with_zstandard() -> None:
    frame = PACKERS["zst"](SMALL)
    data = bytearray(flagged(zipped({"a": frame}, [0]), method=93))
    right = bytes(data).replace(struct.pack("<L", zlib.crc32(frame)), struct.pack("<L", zlib.crc32(SMALL)))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        start = right.index(signature) + offset
        right = right[:start] + struct.pack("<L", len(SMALL)) + right[start + 4 :]
    assert contents(right) == ("zip", {"a": SMALL})


def test_zip_inside_a_zip_that_is_cut_short_is_not_taken_for_the_whole() -> None:
    inner = zipped({"x": b"x"})
    outer = zipped({"a": b"a", "inner": inner}, [0])
    cut = outer[: outer.index(inner) + len(inner)]
    with pytest.raises(BrokenArchive):
        open_archive(io.BytesIO(cut))


def test_zip_whose_end_and_directory_differ_is_an_error() -> None:
    data = zipped({"a": b"1", "b": b"2"}, [0])
    fewer = data[:-12] + struct.pack("<H", 3) + data[-10:]
    for broken in (fewer, data + b"x", data.replace(b"PK\1\2", b"PK\1\3"), data[:-22], zipped({"x/": b"content"})):
        with pytest.raises(BrokenArchive):
            open_archive(io.BytesIO(broken))


def test_member_that_has_another_name_in_its_own_place_is_an_error() -> None:
    data = zipped({"name": b"1"}, [0]).replace(b"name", b"eman", 1)
    with open_archive(io.BytesIO(data)) as opened, pytest.raises(BrokenArchive, match="its name is 'eman'"):
        opened.result["name"].read()


def test_every_error_belongs_to_one_tree() -> None:
    for error in (ArchiveTooLarge, BrokenArchive, UnsafeMember, UnsupportedArchive):
        assert issubclass(error, ExtractionError)
    assert issubclass(ExtractionError, PackageCacheError)
    with pytest.raises(BrokenArchive, match="the bz2 document is cut short"):
        inflate(bz2.compress(SMALL)[:-1])
