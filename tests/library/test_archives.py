"""Archives and compressed files: what went in comes out, as lines, contents or members, whatever the kind and the mode."""

import gc
import gzip
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packing import ARCHIVES, METHODS, PACKERS, TARS, archive, folder, hard, symbolic, tar, zipped
from product import open_files

from package_cache.errors import ExtractionError, MissingMember, UnsupportedArchive
from package_cache.library.archives.archive import open_archive
from package_cache.library.archives.streams import CHUNK, inflate

SINGLES = ["plain", *PACKERS]
TEXT = "first\r\nsecond: äöü €\rthird\n\nlast"
FILES = {"a/b/c": b"one\r\ntwo\n", "empty": b"", "./d": b"\x00\xff" * 70_000, "é/ü": "€\n".encode()}
NOISE = random.Random(1).randbytes(200_000)
LONG = NOISE * 10

names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=30).filter(
    lambda name: name not in {".", ".."}
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join).filter(lambda path: path[1:2] != ":")


def packed(kind: str, data: bytes) -> io.BytesIO:
    return io.BytesIO(PACKERS[kind](data) if kind in PACKERS else data)


def as_text(data: bytes) -> str:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Fails the test if it leaves a file open."""
    gc.collect()
    before = open_files()
    yield
    gc.collect()
    assert open_files() <= before


class Slow(io.BytesIO):
    """A file that counts what is read from it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


@pytest.mark.parametrize("kind", SINGLES)
def test_single_file_gives_lines_of_text_or_bytes(kind: str) -> None:
    data = TEXT.encode()
    with open_archive(packed(kind, data)) as opened:
        assert opened.kind == kind
        assert list(opened.result) == list(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        assert opened.size == len(data)
        assert opened.sizes == {}
    with open_archive(packed(kind, data), default_mode="rb") as opened:
        assert list(opened) == list(io.BytesIO(data))


@pytest.mark.parametrize("kind", SINGLES)
def test_single_file_gives_its_whole_content(kind: str) -> None:
    with open_archive(packed(kind, TEXT.encode()), large=False) as opened:
        assert opened.result == as_text(TEXT.encode())
        assert list(opened) == as_text(TEXT.encode()).splitlines(keepends=True)
        assert opened.result is opened.result
        opened.fileobj.seek(0)
        assert opened.fileobj.read() == TEXT.encode()
    with open_archive(packed(kind, TEXT.encode()), large=False, default_mode="rb") as opened:
        assert opened.result == TEXT.encode()
        assert b"".join(opened) == TEXT.encode()


@pytest.mark.parametrize("kind", SINGLES)
def test_text_is_decoded_by_the_given_encoding(kind: str) -> None:
    with open_archive(packed(kind, "grün".encode("latin-1")), encoding="latin-1", large=False) as opened:
        assert opened.result == "grün"
    with open_archive(packed(kind, "grün".encode("latin-1"))) as opened, pytest.raises(UnicodeDecodeError):
        next(opened.result)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archive_gives_its_members_by_name(kind: str) -> None:
    with open_archive(io.BytesIO(archive(kind, FILES)), default_mode="rb") as opened:
        assert opened.kind == kind
        assert list(opened) == list(opened.result) == list(FILES)
        assert {name: reader.read() for name, reader in opened.result.items()} == FILES
        assert opened.sizes == {name: len(data) for name, data in FILES.items()}
        assert opened.size == sum(map(len, FILES.values()))
    with open_archive(io.BytesIO(archive(kind, FILES)), default_mode="rb", large=False) as opened:
        assert dict(opened.result) == FILES


@pytest.mark.parametrize("kind", ARCHIVES)
def test_members_are_text_unless_bytes_are_asked_for(kind: str) -> None:
    with open_archive(io.BytesIO(archive(kind, FILES))) as opened:
        assert list(opened.result["a/b/c"]) == ["one\n", "two\n"]
        assert opened.result.open("a/b/c", "rb").read() == FILES["a/b/c"]
    with open_archive(io.BytesIO(archive(kind, FILES)), large=False) as opened:
        assert opened.result["é/ü"] == "€\n"
        assert opened.result["empty"] == ""


@pytest.mark.parametrize("kind", ARCHIVES)
def test_members_are_read_in_any_order_and_side_by_side(kind: str) -> None:
    files = {f"{number}": NOISE[number * 1000 : 150_000] for number in range(4)}
    with open_archive(io.BytesIO(archive(kind, files)), default_mode="rb") as opened:
        assert {name: opened.result[name].read() for name in reversed(files)} == files
        one, other = opened.result["3"], opened.result["0"]
        for start in (0, 70_000):
            assert one.read(70_000) == files["3"][start : start + 70_000]
            assert other.read(70_000) == files["0"][start : start + 70_000]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_reader_of_a_member_can_be_sought_like_a_file(kind: str) -> None:
    with open_archive(io.BytesIO(archive(kind, {"noise": NOISE})), default_mode="rb") as opened:
        reader, model = opened.result["noise"], io.BytesIO(NOISE)
        for offset, whence in ((150_000, 0), (10, 0), (-5, 2), (-100_000, 1), (70_000, 1), (0, 2), (400_000, 0), (0, 0)):
            assert reader.seek(offset, whence) == reader.tell()
            model.seek(offset, whence)
            assert reader.read(1000) == model.read(1000)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archive_inside_an_archive_is_opened_from_its_reader(kind: str) -> None:
    inner = archive(kind, FILES)
    with (
        open_archive(io.BytesIO(archive(kind, {"inner": inner})), default_mode="rb") as outer,
        open_archive(outer.result["inner"], default_mode="rb", large=False) as opened,
    ):
        assert dict(opened.result) == FILES


@pytest.mark.parametrize("kind", ARCHIVES)
def test_only_needed_members_are_given(kind: str) -> None:
    data = archive(kind, FILES)
    with open_archive(io.BytesIO(data), needed={"empty", "a/b/c"}, large=False) as opened:
        assert list(opened) == ["a/b/c", "empty"]
        assert opened.size == len(FILES["a/b/c"])
        assert "é/ü" not in opened.result
        with pytest.raises(KeyError):
            opened.result["é/ü"]
    with open_archive(io.BytesIO(data), needed=[]) as opened:
        assert list(opened) == []


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize(("asked", "near"), [("a/b/C", "a/b/c"), ("x/y/c", "a/b/c"), ("d", "./d"), ("emtpy", "empty")])
def test_missing_member_is_an_error_that_names_the_nearest(kind: str, asked: str, near: str) -> None:
    with pytest.raises(MissingMember, match=rf"^the file: there is no member '{asked}'; the nearest is '{near}'$"):
        open_archive(io.BytesIO(archive(kind, FILES)), needed=[asked])
    with open_archive(io.BytesIO(archive(kind, FILES))) as opened, pytest.raises(MissingMember, match=near):
        opened.result[asked]


def test_what_is_no_archive_has_no_needed_members() -> None:
    with pytest.raises(MissingMember, match=r"is no archive \(gz\)"):
        open_archive(packed("gz", b"x"), needed=["a"])


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="needed='abc' is one name"):
        open_archive(io.BytesIO(), needed="abc")
    with pytest.raises(ValueError, match="default_mode='w'"):
        open_archive(io.BytesIO(), default_mode="w")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit=-1"):
        open_archive(io.BytesIO(), limit=-1)
    with pytest.raises(LookupError, match="utf-77"):
        open_archive(io.BytesIO(), encoding="utf-77")
    with pytest.raises(TypeError, match="text file"):
        open_archive(io.StringIO("x"))  # type: ignore[arg-type]


def test_pipe_is_refused_and_not_read() -> None:
    inlet, outlet = os.pipe()
    with open(outlet, "wb"), open(inlet, "rb") as pipe, pytest.raises(io.UnsupportedOperation, match="copy it"):
        open_archive(pipe)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"P", b"PK", b"PK\x03", b"BZh", b"BZh9", b"BZhello", b"\x1f", b"\xfd7z", b"ustar"]
)
def test_file_without_a_whole_magic_number_is_plain(data: bytes) -> None:
    with open_archive(io.BytesIO(data), default_mode="rb", large=False) as opened:
        assert (opened.kind, opened.result, opened.size) == ("plain", data, len(data))


def test_name_of_the_file_does_not_matter(tmp_path: Path, descriptors: None) -> None:
    for kind in ARCHIVES:
        path = tmp_path / "notes.txt"
        path.write_bytes(archive(kind, FILES))
        with open_archive(path, default_mode="rb", large=False) as opened:
            assert (opened.kind, dict(opened.result)) == (kind, FILES)
        with open_archive(str(path)) as opened:
            assert opened.kind == kind


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_is_read_with_long_names(form: int) -> None:
    files = {"/".join(["d" * 60] * 3): b"long", "short": b"s"}
    with open_archive(io.BytesIO(tar(files, form=form)), default_mode="rb", large=False) as opened:
        assert dict(opened.result) == files


def test_tar_from_before_there_was_a_magic_word_is_known_by_its_checksum() -> None:
    data = bytearray(tar({"old": b"v7"}, form=tarfile.USTAR_FORMAT))
    data[257:345] = bytes(88)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    for packer in (bytes, *PACKERS.values()):
        with open_archive(io.BytesIO(packer(bytes(data))), large=False) as opened:
            assert dict(opened.result) == {"old": "v7"}


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_members_have_their_holes_filled_with_zeros(form: str, tmp_path: Path) -> None:
    content = b"head" + bytes(1_000_000) + b"middle" + bytes(500_000)
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(1_000_004)
        file.write(b"middle")
        file.truncate(len(content))
    (tmp_path / "after").write_bytes(b"next")
    command = ["tar", "-C", tmp_path, "-S", f"--format={form}", "-cf", tmp_path / "s.tar", "sparse", "after"]
    subprocess.run(command, check=True)
    assert (tmp_path / "s.tar").stat().st_size < 100_000
    with open_archive(tmp_path / "s.tar", default_mode="rb", large=False) as opened:
        assert dict(opened.result) == {"sparse": content, "after": b"next"}
        assert opened.sizes == {"sparse": len(content), "after": 4}


def test_later_member_of_the_same_name_is_the_one_that_counts() -> None:
    data = tar({"a": b"old"}, hard("kept", "a"), {"a": b"new"})
    with open_archive(io.BytesIO(data), large=False) as opened:
        assert dict(opened.result) == {"a": "new", "kept": "old"}


def test_links_in_a_tar_give_what_they_lead_to() -> None:
    data = tar(
        {"usr/lib64/x.1": b"library"},
        folder("var/empty"),
        symbolic("usr/lib", "lib64"),
        symbolic("usr/lib64/x", "x.1"),
        symbolic("top", "./usr/../usr/lib/x"),
        hard("usr/hard", "usr/lib64/x.1"),
        hard("linked", "usr/lib64/x"),
        symbolic("nothing", "var/empty"),
    )
    for packer in (bytes, *PACKERS.values()):
        with open_archive(io.BytesIO(packer(data)), large=False) as opened:
            assert dict(opened.result) == dict.fromkeys(
                ["usr/lib64/x.1", "usr/lib64/x", "top", "usr/hard", "linked"], "library"
            )
            assert set(opened.sizes.values()) == {7}


def test_links_in_a_zip_give_what_they_lead_to() -> None:
    out = io.BytesIO(zipped({"lib/real": b"content"}))
    with zipfile.ZipFile(out, "a") as file:
        link = zipfile.ZipInfo("lib/link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        file.writestr(link, "../lib/real")
    with open_archive(out, large=False) as opened:
        assert dict(opened.result) == {"lib/real": "content", "lib/link": "content"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_directories_are_no_members(kind: str) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("d/", "")
        file.writestr("d/x", "x")
    data = out.getvalue() if kind == "zip" else tar(folder("d"), {"d/x": b"x"}, folder("."))
    with open_archive(io.BytesIO(data), large=False) as opened:
        assert dict(opened.result) == {"d/x": "x"}


def test_empty_zip_has_no_members() -> None:
    with open_archive(io.BytesIO(zipped({}))) as opened:
        assert (opened.kind, dict(opened.result), opened.size) == ("zip", {}, 0)


def test_zip_with_a_comment_is_read() -> None:
    out = io.BytesIO(zipped({"a": b"a"}))
    with zipfile.ZipFile(out, "a") as file:
        file.comment = b"a comment with PK\x05\x06 in it"[:18]
    with open_archive(out, large=False) as opened:
        assert dict(opened.result) == {"a": "a"}


@pytest.mark.parametrize("kind", PACKERS)
def test_concatenated_streams_and_zeros_behind_them_are_one_file(kind: str) -> None:
    pack = PACKERS[kind]
    data = pack(b"one\n") + bytes(8) + pack(b"") + pack(NOISE) + bytes(200_000)
    with open_archive(io.BytesIO(data), default_mode="rb", large=False) as opened:
        assert opened.result == b"one\n" + NOISE
    assert inflate(data) == b"one\n" + NOISE


def test_zst_that_begins_with_a_skippable_frame_is_read() -> None:
    data = b"\x50\x2a\x4d\x18\x04\0\0\0skip" + PACKERS["zst"](b"content")
    with open_archive(io.BytesIO(data), large=False) as opened:
        assert (opened.kind, opened.result) == ("zst", "content")


@pytest.mark.parametrize("kind", PACKERS)
def test_size_of_a_compressed_file_is_unknown_until_it_was_read(kind: str) -> None:
    with open_archive(packed(kind, NOISE), default_mode="rb") as opened:
        assert opened.size is None
        assert opened.result.read() == NOISE
        assert opened.size == len(NOISE)


@pytest.mark.parametrize("kind", SINGLES)
def test_little_of_a_file_is_read_before_its_lines_are_wanted(kind: str) -> None:
    file = Slow(PACKERS[kind](LONG) if kind in PACKERS else LONG)
    with open_archive(file, default_mode="rb") as opened:
        assert file.taken < 600_000  # bzip2 gives nothing before the end of a block of 900,000 bytes
        assert opened.result.read() == LONG


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_little_of_an_archive_is_read_before_a_member_is_wanted(kind: str) -> None:
    file = Slow(tar({"a": LONG, "b": b"b"}) if kind == "tar" else zipped({"a": LONG, "b": b"b"}, [0]))
    with open_archive(file, default_mode="rb") as opened:
        assert opened.result["b"].read() == b"b"
        assert file.taken < 600_000


@pytest.mark.parametrize("kind", [*SINGLES, *ARCHIVES])
def test_what_comes_from_an_archive_keeps_it_open(kind: str, tmp_path: Path, descriptors: None) -> None:
    path = tmp_path / "file"
    path.write_bytes(archive(kind, {"a": NOISE}) if kind in ARCHIVES else packed(kind, NOISE).getvalue())
    reader = open_archive(path, default_mode="rb").result
    if kind in ARCHIVES:
        reader = reader["a"]
    gc.collect()
    assert reader.read() == NOISE
    lines = iter(open_archive(path, encoding="latin-1"))
    gc.collect()
    assert next(lines) == "a" if kind in ARCHIVES else NOISE.startswith(next(lines).encode("latin-1")[:1])


@pytest.mark.parametrize("kind", [*SINGLES, *ARCHIVES])
def test_leaving_the_context_closes_the_file(kind: str, tmp_path: Path, descriptors: None) -> None:
    path = tmp_path / "file"
    path.write_bytes(archive(kind, {"a": NOISE}) if kind in ARCHIVES else packed(kind, NOISE).getvalue())
    with open_archive(path, default_mode="rb") as opened:
        reader = opened.result["a"] if kind in ARCHIVES else opened.result
        reader.read(10)
    assert str(path) not in dict(open_files()).values()
    with pytest.raises(ValueError, match="closed"):
        reader.read()
    opened.close()


def test_file_object_that_was_given_stays_open() -> None:
    for kind in (*SINGLES, *ARCHIVES):
        file = io.BytesIO(archive(kind, FILES) if kind in ARCHIVES else packed(kind, b"x").getvalue())
        file.seek(3)
        with open_archive(file) as opened:
            assert opened.kind == kind
            assert list(opened)
        assert not file.closed


def test_no_file_is_left_open_by_an_error(tmp_path: Path, descriptors: None) -> None:
    path = tmp_path / "file"
    for kind in ARCHIVES:
        path.write_bytes(archive(kind, FILES))
        with pytest.raises(MissingMember) as missing:
            open_archive(path, needed=["nowhere"])
        path.write_bytes(archive(kind, {"noise": NOISE})[:-20_000])
        with pytest.raises(ExtractionError) as broken:
            open_archive(path)
        assert str(path) not in dict(open_files()).values(), (missing, broken)
    with pytest.raises(FileNotFoundError):
        open_archive(tmp_path / "nowhere")


def test_without_its_package_zstandard_is_refused_with_the_way_to_get_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(PACKERS["zst"](b"content"))
    program = """
import sys
sys.modules["zstandard"] = None
from package_cache.library.archives.archive import open_archive
try:
    open_archive(sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""
    if sys.version_info >= (3, 14):
        pytest.skip("the standard library reads Zstandard here")
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{UnsupportedArchive.__name__} {path} is compressed with Zstandard")
    assert "pip install package-cache[zstd]" in done.stdout


@pytest.mark.parametrize("kind", SINGLES)
@given(data=st.binary(max_size=3000), repeat=st.integers(1, 100))
@settings(max_examples=30, deadline=None)
def test_content_comes_out_as_it_went_in(kind: str, data: bytes, repeat: int) -> None:
    data = b"\n" + data * repeat  # no content is taken for another kind
    assert inflate(packed(kind, data).getvalue()) == data
    with open_archive(packed(kind, data), default_mode="rb") as opened:
        assert b"".join(opened) == data
    with open_archive(packed(kind, data), encoding="latin-1", large=False) as opened:
        assert opened.result == io.TextIOWrapper(io.BytesIO(data), encoding="latin-1").read()


@pytest.mark.parametrize("kind", ARCHIVES)
@given(files=st.dictionaries(paths, st.binary(max_size=2000), min_size=1, max_size=5), large=st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_members_come_out_as_they_went_in(kind: str, files: dict[str, bytes], large: bool) -> None:
    with open_archive(io.BytesIO(archive(kind, files)), default_mode="rb", large=large) as opened:
        assert list(opened) == list(files)
        assert {name: opened.result[name].read() if large else opened.result[name] for name in opened} == files


@given(data=st.data(), kind=st.sampled_from(["plain", *PACKERS]))
@settings(max_examples=40, deadline=None)
def test_reading_and_seeking_at_random_is_as_in_a_file(data: st.DataObject, kind: str) -> None:
    content = b"\n" + NOISE[:100_000]
    model = io.BytesIO(content)
    with open_archive(packed(kind, content), default_mode="rb") as opened:
        for _ in range(data.draw(st.integers(1, 8))):
            if data.draw(st.booleans()):
                size = data.draw(st.integers(0, 70_000))
                assert opened.result.read(size) == model.read(size)
            else:
                target = data.draw(st.integers(0, len(content)))
                assert opened.result.seek(target) == model.seek(target)


def test_tar_kinds_are_known_though_the_compression_has_other_streams_first() -> None:
    for kind in TARS[1:]:
        pack = PACKERS[kind.removeprefix("tar.")]
        whole = tar(FILES)
        data = pack(whole[:100]) + pack(whole[100:])
        with open_archive(io.BytesIO(data), default_mode="rb", large=False) as opened:
            assert (opened.kind, dict(opened.result)) == (kind, FILES)


@pytest.mark.parametrize("method", METHODS)
def test_member_of_zeros_is_whole_wherever_its_last_chunk_ends(method: int) -> None:
    files = {f"{size}": bytes(size) for size in range(CHUNK - 300, CHUNK + 900, 41)}
    with open_archive(io.BytesIO(zipped(files, [method])), default_mode="rb", large=False) as opened:
        assert dict(opened.result) == files


def test_gz_with_every_part_of_its_header_is_read() -> None:
    out = io.BytesIO()
    with gzip.GzipFile("name of the file", "wb", fileobj=out) as file:
        file.write(b"content")
    assert inflate(out.getvalue()) == b"content"
