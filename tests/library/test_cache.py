"""The library's cache: versions, states, files, and what the older system got wrong."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from product import blobs

import package_cache
from package_cache import Cache, CacheItem
from package_cache.errors import ArgumentError, ItemError, PackageCacheError, StoreError
from package_cache.model import Key, Representation, Status
from package_cache.storage.registry import Registry

URI = "https://mirror.example/data.tar.gz"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(tmp_path / "cache") as one:
        yield one


def written(cache: Cache, uri: str = URI, data: bytes = b"some bytes", **more: Any) -> CacheItem:
    with cache.writing(uri, **more) as file:
        file.write(data)
    return file.item


def content(item: CacheItem) -> bytes:
    return Path(item.path).read_bytes()


# Opening


def test_importing_the_package_writes_nothing_and_loads_little(tmp_path: Path) -> None:
    code = (
        "import sys, package_cache; print(len([m for m in sys.modules if m.startswith('package_cache')]),"
        " 'urllib3' in sys.modules, 'sqlite3' in sys.modules, 'logging' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "False", "False", "False"]
    assert list(tmp_path.iterdir()) == []


def test_public_names_are_there_and_no_others() -> None:
    errors = {
        name for name, one in vars(package_cache.errors).items() if isinstance(one, type) and issubclass(one, Exception)
    }
    assert errors <= set(package_cache.__all__)
    for name in package_cache.__all__:
        assert getattr(package_cache, name) is not None
    assert set(package_cache.__all__) <= set(dir(package_cache))
    with pytest.raises(AttributeError, match="Cash"):
        _ = package_cache.Cash  # type: ignore[attr-defined]


def test_a_name_with_a_dot_is_a_directory_too(tmp_path: Path) -> None:
    with Cache(tmp_path / "my.cache") as cache:
        assert (tmp_path / "my.cache" / "CACHEDIR.TAG").is_file()
        assert cache.dir == str(tmp_path / "my.cache")
    assert [one.name for one in tmp_path.iterdir()] == ["my.cache"]


def test_a_file_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "cache.sqlite").touch()
    with pytest.raises(ArgumentError, match="is a file"):
        Cache(tmp_path / "cache.sqlite")


def test_a_path_that_cannot_be_looked_at_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="File name too long"):
        Cache(tmp_path / ("x" * 300))


def test_a_directory_that_cannot_be_made_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="path=") as caught:
        Cache(tmp_path / "file" / "cache")
    assert isinstance(caught.value, PackageCacheError)


@pytest.mark.parametrize(("variable", "place"), [("XDG_CACHE_HOME", "x"), ("SNAP_USER_COMMON", "y")])
def test_without_a_path_it_is_the_cache_of_the_program_or_of_package_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, place: str
) -> None:
    monkeypatch.delenv("SNAP_USER_COMMON", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / place))
    with Cache(pkg="pipeline") as one, Cache() as other:
        assert one.dir == str(tmp_path / place / "pipeline")
        assert other.dir == str(tmp_path / place / "package-cache")


# Creating, writing, finding


def test_an_item_goes_from_its_path_into_the_store_and_keeps_its_path(cache: Cache) -> None:
    item = cache.create(URI, {"n": 1}, {"rows": 1200}, Status.WRITE)
    path = item.path
    assert (item.version, item.status, item.size, item.ext, item.filename) == (1, 1, None, "tar.gz", "data.tar.gz")
    assert path.endswith(".tar.gz")
    assert not os.path.lexists(path)
    Path(path).write_bytes(b"hello")
    assert item.size == 5
    item.ready()
    assert (item.status, item.rstatus, item.path, item.size) == (3, 3, path, 5)
    assert content(item) == b"hello"
    [blob] = blobs(Path(cache.dir))
    assert Path(path).resolve() == blob
    assert not os.path.isabs(os.readlink(path))
    found = cache.best(URI, {"n": 1})
    assert found == item
    assert (found.params, found.attrs, found.sha256) == ({"n": 1}, {"rows": 1200}, blob.name)
    assert cache.best(URI) is None


def test_equal_bytes_are_stored_once(cache: Cache) -> None:
    one, other = written(cache, "a"), written(cache, "b")
    assert content(one) == content(other)
    assert len(blobs(Path(cache.dir))) == 1
    one.remove(disk=True)
    assert content(other) == b"some bytes"
    other.remove(disk=True)
    assert blobs(Path(cache.dir)) == []


def test_writing_makes_ready_what_went_well(cache: Cache) -> None:
    with cache.writing(URI, {"n": 1}, {"a": b"1"}, mode="w", label="demo", ext="tsv") as file:
        assert file.item.status == Status.WRITE
        assert cache.best(URI, {"n": 1}) is None
        file.write("ä\n")
    item = file.item
    assert (item.rstatus, content(item), item.label, item.ext, item.attrs) == (
        3,
        "ä\n".encode(),
        "demo",
        "tsv",
        {"a": b"1"},
    )
    assert cache.best(URI, {"n": 1}) == item


def test_writing_that_fails_leaves_nothing_but_its_record(cache: Cache) -> None:
    class Oops(BaseException):
        pass

    for _ in range(3):
        with pytest.raises(Oops), cache.writing(URI) as file:  # noqa: PT012
            file.write(b"half")
            raise Oops
    assert [item.status for item in cache.search(URI)] == [Status.FAILED]
    assert not os.path.lexists(file.item.path)
    assert blobs(Path(cache.dir)) == []
    assert written(cache).version == 1


def test_what_ended_the_writing_is_told_though_the_record_is_gone(cache: Cache) -> None:
    def fail() -> None:
        with cache.writing(URI):
            cache.remove(URI, keep_record=False)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert len(cache) == 0


@pytest.mark.parametrize(("mode", "encoding"), [("a", None), ("r", None), ("wb", "utf-8"), ("w", "utf-9"), ("w", "hex")])
def test_writing_in_another_mode_is_refused(cache: Cache, mode: Any, encoding: str | None) -> None:
    with pytest.raises(ArgumentError), cache.writing(URI, mode=mode, encoding=encoding):
        pass
    assert len(cache) == 0


def test_ready_without_a_file_says_where_to_write_it(cache: Cache) -> None:
    item = cache.create(URI)
    with pytest.raises(ItemError, match=item.path):
        item.ready()
    with pytest.raises(ItemError, match=item.path):
        cache.ready(URI)
    os.mkdir(item.path)
    with pytest.raises(ItemError, match="plain file"):
        item.ready()
    os.rmdir(item.path)
    os.symlink("/etc/passwd", item.path)
    with pytest.raises(ItemError, match="symbolic link"):
        item.ready()
    assert item.status == Status.UNINITIALIZED


def test_an_item_may_be_written_anew_and_made_ready_again(cache: Cache) -> None:
    item = written(cache)
    Path(item.path).unlink()
    Path(item.path).write_bytes(b"other")
    item.ready()
    assert content(item) == b"other"
    assert cache.best(URI) == item
    item.ready()
    assert content(item) == b"other"


def test_a_file_is_moved_in_or_copied(cache: Cache, tmp_path: Path) -> None:
    source = tmp_path / "report.csv"
    source.write_text("a,b\n")
    item = cache.move_in(source, attrs={"n": 1})
    assert (item.uri, item.status, item.ext, item.filename) == ("report.csv", 1, "csv", "report.csv")
    item.ready()
    assert content(item) == b"a,b\n"
    assert source.read_text() == "a,b\n"
    moved = cache.move_in(source, "other", status=Status.READY, copy=False)
    assert (moved.status, content(moved), source.exists()) == (3, b"a,b\n", False)
    with pytest.raises(ArgumentError, match="not a file"):
        cache.move_in(source)


def test_of_a_link_the_bytes_are_moved_in_and_the_link_is_gone(cache: Cache, tmp_path: Path) -> None:
    source, link = tmp_path / "report.csv", tmp_path / "latest.csv"
    source.write_text("a,b\n")
    link.symlink_to(source)
    moved = cache.move_in(link, copy=False)
    moved.ready()
    assert content(moved) == source.read_bytes() == b"a,b\n"
    assert not os.path.lexists(link)


def test_the_end_of_the_path_is_the_extension(cache: Cache) -> None:
    cases = [
        ("x", None, None),
        ("x", ".tsv", "tsv"),
        ("x?a=b.txt", None, None),
        ("x/y.txt?z", None, "txt"),
        ("x/.rc", None, None),
    ]
    for uri, ext, wanted in cases:
        item = cache.create(uri, ext=ext)
        assert (item.ext, os.path.basename(item.path)) == (wanted, item.version_id + (f".{wanted}" if wanted else ""))
    assert cache.create("x", filename="y.txt").ext == "txt"
    for ext in ("a/b", "\0", "x" * 200):
        with pytest.raises(ArgumentError, match="ext"):
            cache.create("x", ext=ext)


@pytest.mark.parametrize(
    "uri", ["a b%2F\n\t", "ä" * 300, "../../../etc/passwd", "x\0y", "/", "q\"'", "http://m.example/a?b#c"]
)
def test_any_text_is_a_uri(cache: Cache, uri: str) -> None:
    item = written(cache, uri, label=uri, filename=uri)
    found = cache.best(uri)
    assert found == item
    assert (found.uri, found.label, found.filename, content(found)) == (uri, uri, uri, b"some bytes")
    assert Path(item.path).parent.parent == Path(cache.dir) / "items-v1"
    assert cache.search(label=uri) == [item]


def test_opening_gives_what_is_in_the_file(cache: Cache) -> None:
    item = written(cache, data=b"hello\nworld\n")
    with item.open() as opened:
        assert list(opened) == ["hello\n", "world\n"]
    assert item.open(large=False, default_mode="rb").result == b"hello\nworld\n"
    assert next(iter(item.open(default_mode="r", encoding="utf-8", large=True).result)).strip() == "hello"
    again = cache.by_key(item.key, item.version)
    assert again is not None
    assert again.read_count == 3
    with pytest.raises(ItemError, match="no bytes"):
        cache.create("other").open()


def test_reads_are_counted_and_written_in_the_end(tmp_path: Path) -> None:
    with Cache(tmp_path / "cache") as cache:
        written(cache)
        before = datetime.now(UTC)
        assert cache.best(URI) is not None
        item = cache.search(URI)[0]
        item.accessed()
        assert item.read_count == 2
    with Cache(tmp_path / "cache") as cache:
        [item] = cache.search(URI)
        assert item.read_count == 2
        assert item.last_read is not None
        assert before <= item.last_read <= datetime.now(UTC)


def test_reading_one_version_is_not_reading_the_others(cache: Cache) -> None:
    one, other = written(cache), written(cache)
    one.accessed()
    cache.reload()
    assert [item.read_count for item in cache.search(URI)] == [1, 0]
    assert other.last_read is None


def test_what_was_read_is_written_though_nobody_closes_the_cache(tmp_path: Path) -> None:
    item = written(Cache(tmp_path / "cache"))
    assert Cache(tmp_path / "cache").best(URI) == item
    gc.collect()
    with Cache(tmp_path / "cache") as cache:
        assert cache.search(URI)[0].read_count == 1


def test_contents_names_every_item_and_its_file(cache: Cache) -> None:
    one = written(cache)
    other = cache.create("other")
    other.remove()
    contents = cache.contents()
    assert contents.keys() == {one.version_id, other.version_id}
    assert contents[one.version_id]["disk_fname"] == contents[one.version_id]["fname"] == os.path.basename(one.path)
    assert (contents[other.version_id]["disk_fname"], contents[other.version_id]["status"]) == (None, -1)
    assert len(cache) == 2


def test_free_space_is_that_of_the_file_system(cache: Cache) -> None:
    assert cache.does_it_fit(1)
    assert not cache.does_it_fit(cache.free_space * 2)


def test_a_cache_goes_on_after_it_was_closed_or_loaded_again(cache: Cache) -> None:
    item = written(cache)
    cache.reload()
    assert cache.best(URI) == item
    cache.close()
    assert cache.best(URI) == item
    assert repr(cache) == f"Cache({cache.dir!r})"
    assert repr(item) == f"CacheItem[{URI} V:1 READY]"


# States and versions


def test_versions_count_up_and_are_never_used_twice(cache: Cache) -> None:
    assert [written(cache).version for _ in range(3)] == [1, 2, 3]
    cache.remove(URI, version=3, keep_record=False)
    assert written(cache).version == 4
    cache.remove(URI, keep_record=False)
    assert len(cache) == 0
    assert written(cache).version == 5


def test_any_status_may_be_set_by_hand_and_comes_back_with_its_bytes(cache: Cache) -> None:
    item = written(cache)
    for status in (Status.FAILED, 1, "uninitialized"):
        item.status = status
        assert not os.path.lexists(item.path)
        assert cache.best(URI) is None
        assert cache.update_status(URI, status=Status.READY) == 1
        assert content(item) == b"some bytes"
        assert cache.best(URI) == item
    for status in (99, "finished", None):
        with pytest.raises(ArgumentError, match="3 READY"):
            item.status = status
    with pytest.raises(ArgumentError, match="which item"):
        cache.update_status()


def test_the_latest_version_is_meant_unless_another_is_named(cache: Cache) -> None:
    one, two = cache.create(URI), cache.create(URI)
    cache.update_status(URI)
    assert (one.status, two.status) == (0, 3)
    cache.failed(URI, version=1)
    assert (one.status, two.status) == (2, 3)
    assert cache.update_status(URI, version=None, status=1) == 2
    assert cache.update_status(key="0" * 64) == 0
    assert cache.failed(URI) == cache.failed(URI) == 1


def test_a_record_without_bytes_may_be_ready_by_hand(cache: Cache) -> None:
    item = cache.create(URI, status=Status.READY)
    assert cache.best(URI) == item
    assert cache.best_or_new(URI) == item
    assert item.size is None
    with pytest.raises(ItemError, match="no bytes"):
        item.open()
    Path(item.path).write_bytes(b"late")
    item.ready()
    assert content(item) == b"late"


def test_update_changes_what_is_named_and_nothing_else(cache: Cache) -> None:
    one, two = cache.create(URI, attrs={"foo": "bar", "n": 1}), cache.create(URI, label="old")
    assert cache.update(URI, update={"attrs": {"n": 2.5, "new": [1]}, "label": None}) == 2
    found = cache.search(URI)
    assert [item.attrs for item in found] == [{"foo": "bar", "n": 2.5, "new": [1]}, {"n": 2.5, "new": [1]}]
    assert [item.label for item in found] == [None, None]
    assert cache.search(attrs={"n": 1}) == []
    assert cache.search(attrs={"n": 2.5, "new": 1}) == [one, two]
    one.update(attrs={"n": "text"}, filename="f", date="2020-01-01T00:00:00+00:00", status=2)
    assert (one.attrs["n"], one.filename, one.date, one.rstatus) == ("text", "f", datetime(2020, 1, 1, tzinfo=UTC), 2)
    assert cache.search(attrs={"n": 2.5}) == [two]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bar": 0}, "'attrs': {'bar'"),
        ({"lable": "x"}, "did you mean 'label'"),
        ({"version": 9}, "stays the same"),
        ([], "a dict"),
    ],
)
def test_what_cannot_be_updated_is_refused(cache: Cache, change: Any, words: str) -> None:
    cache.create(URI)
    with pytest.raises(ArgumentError) as caught:
        cache.update(URI, update=change)
    assert words in str(caught.value)


def test_dates_are_set_now_or_as_said(cache: Cache) -> None:
    item = cache.create(URI)
    assert datetime.now(UTC) - item.date < timedelta(minutes=5)
    item.update_date(newdate=datetime(2020, 1, 1, tzinfo=UTC))
    assert item.date == datetime(2020, 1, 1, tzinfo=UTC)
    assert cache.update_date(URI, datefield="checked") == 1
    assert cache.update_date(URI, datefield="last_read", newdate="2021-01-01T00:00:00+00:00") == 1
    [found] = cache.search(URI)
    assert found.last_read == datetime(2021, 1, 1, tzinfo=UTC)
    assert isinstance(found.attrs["checked"], datetime)


def test_what_the_caller_gave_is_not_changed(cache: Cache) -> None:
    params: dict[str, object] = {"a": 1}
    attrs: dict[str, object] = {"b": [1], "__and": True}
    item = cache.create(URI, params, attrs)
    item.params["a"] = 2
    cache.search(URI, params)
    assert (params, attrs) == ({"a": 1}, {"b": [1], "__and": True})
    assert item.attrs == attrs


# The trash


def test_the_trash_keeps_the_file_until_it_is_emptied(cache: Cache) -> None:
    item, other = written(cache), written(cache, "other")
    assert cache.remove(URI) == 1
    assert item.status == Status.TRASH
    assert cache.best(URI) is None
    assert cache.search(URI) == []
    assert cache.search(URI, include_removed=True) == cache.search(URI, status=-1) == [item]
    assert content(item) == b"some bytes"
    new = written(cache, data=b"new")
    assert new.version == 2
    assert cache.restore(URI) == 1
    assert item.status == Status.READY
    assert [content(one) for one in cache.search(URI)] == [b"some bytes", b"new"]
    cache.remove(URI, version=1)
    assert cache.purge() == 1
    assert cache.restore() == 0
    assert cache.search(include_removed=True) == [other, new]
    assert not os.path.lexists(item.path)
    assert len(blobs(Path(cache.dir))) == 2


def test_what_was_not_ready_is_not_ready_when_it_is_restored(cache: Cache) -> None:
    item = cache.create(URI, status=Status.FAILED)
    Path(item.path).write_bytes(b"draft")
    item.remove()
    assert Path(item.path).read_bytes() == b"draft"
    assert cache.restore(URI) == 1
    assert item.status == Status.FAILED


def test_what_was_deleted_is_no_more_when_it_is_restored(cache: Cache) -> None:
    item = written(cache)
    item.remove(disk=True)
    assert cache.remove(URI, include_removed=True) == 1
    assert item.status == Status.TRASH
    assert cache.restore(URI) == 1
    assert item.status == Status.DELETED
    assert cache.best(URI) is None


def test_deleting_takes_the_bytes_and_keeps_the_record(cache: Cache) -> None:
    item = written(cache, attrs={"a": 1})
    draft = cache.create("draft")
    Path(draft.path).write_bytes(b"x")
    assert cache.remove(URI, disk=True) == 1
    draft.remove(disk=True)
    assert (item.status, draft.status) == (-2, -2)
    assert not os.path.lexists(item.path)
    assert not os.path.lexists(draft.path)
    assert blobs(Path(cache.dir)) == []
    assert [one.attrs for one in cache.search(URI, include_removed=True)] == [{"a": 1}]
    with pytest.raises(ItemError, match="no bytes"):
        item.open()


def test_a_record_that_is_gone_is_told(cache: Cache) -> None:
    item = written(cache)
    item.remove(keep_record=False)
    assert item.status == Status.DELETED
    for act in (item.ready, item.failed, item.remove, item.open, item.update_date):
        with pytest.raises(ItemError, match="removed"):
            act()
    assert cache.by_key(item.key, 1) is None


def test_everything_is_removed_only_if_that_is_said(cache: Cache) -> None:
    written(cache)
    with pytest.raises(ArgumentError, match="everything=True"):
        cache.remove()
    with pytest.raises(ArgumentError, match="everything=True"):
        cache.remove(disk=True, include_removed=True)
    assert cache.remove(everything=True) == 1


def test_only_what_meets_the_criteria_is_removed(cache: Cache) -> None:
    one, two = cache.create("a", label="x", attrs={"n": 1}), cache.create("b", label="y", attrs={"n": 2})
    cache.remove(label="zz")
    cache.remove(label='zz" OR "1"="1')
    cache.remove(attrs={"n": 3})
    assert (one.status, two.status) == (0, 0)
    assert cache.remove(attrs={"n": 1}) == 1
    assert cache.remove(ext="txt", label="y") == 0
    assert (one.status, two.status) == (-1, 0)
    assert cache.purge(attrs={"n": 2}) == 0


# Damage and cleaning


@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_a_damaged_item_is_never_the_best(cache: Cache, damage: str) -> None:
    older = written(cache, data=b"old")
    item = written(cache, data=b"new bytes")
    blob = Path(item.path).resolve()
    blob.chmod(0o600)
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(b"new" if damage == "short" else b"new-bytes")
    assert cache.best(URI) == older
    assert item.status == Status.FAILED
    with pytest.raises(ItemError):
        item.open()
    assert os.path.islink(item.path)
    assert cache.clean_disk() == 1
    assert not os.path.lexists(item.path)
    assert content(older) == b"old"


def test_a_link_that_is_gone_is_made_again(cache: Cache) -> None:
    item = written(cache)
    Path(item.path).unlink()
    assert cache.best(URI) == item
    assert content(item) == b"some bytes"


def test_records_without_a_file_are_cleaned_but_not_those_that_are_being_written(cache: Cache) -> None:
    kept = [written(cache), cache.create("writing", status=Status.WRITE), cache.create("draft")]
    Path(kept[2].path).write_bytes(b"x")
    lost = written(cache, "lost", b"lost")
    Path(lost.path).resolve().unlink()
    cache.create("empty")
    cache.create("by hand", status=3)
    written(cache, "deleted", b"deleted").remove(disk=True)
    assert cache.clean_db() == 4
    assert cache.search(include_removed=True) == kept


def test_files_without_a_record_are_cleaned_and_no_others(cache: Cache) -> None:
    kept = [written(cache), cache.create("draft"), written(cache, "trash", b"trash")]
    Path(kept[1].path).write_bytes(b"x")
    kept[2].remove()
    gone = cache.create("gone")
    path = Path(gone.path)
    gone.remove(keep_record=False)
    path.write_bytes(b"late")
    beside = Path(kept[0].path + ".bak")
    beside.write_bytes(b"foreign")
    (path.parent / "README").write_text("a person's")
    about_to_be_named = Path(cache.dir) / "items-v1" / "new-1-1-1"
    about_to_be_named.symlink_to("../../blobs-v1/aa/aaaa")
    assert cache.clean_disk() == 2
    assert about_to_be_named.is_symlink()
    assert not path.exists()
    assert not beside.exists()
    assert (path.parent / "README").exists()
    assert all(os.path.exists(item.path) for item in kept)
    assert cache.clean_disk() == 0


def test_autoclean_keeps_the_best_version_of_each(cache: Cache) -> None:
    written(cache, data=b"1")
    best = written(cache, data=b"2")
    cache.create(URI).failed()
    cache.create(URI)
    writing = cache.create(URI, status=Status.WRITE)
    abandoned = cache.create("abandoned", status=Status.WRITE).id
    trashed = written(cache, "trash", b"t")
    trashed.remove()
    assert cache.autoclean() == 3
    assert {item.id for item in cache.search(include_removed=True)} == {best.id, writing.id, abandoned, trashed.id}
    assert len(blobs(Path(cache.dir))) == 2


def test_fsck_reports_and_repairs_only_if_told(cache: Cache) -> None:
    written(cache)
    assert not cache.fsck()
    lost = written(cache, "lost", b"lost")
    Path(lost.path).resolve().unlink()
    begun = cache.create("begun")
    stray = Path(begun.path).with_name("0" * 64 + "-1.txt")
    stray.write_bytes(b"x")
    report = cache.fsck()
    assert (report.missing, report.abandoned, report.strays) == ((lost,), (begun,), (str(stray),))
    assert stray.exists()
    assert cache.fsck(repair=True)
    assert not cache.fsck()
    assert len(cache) == 1


# With the proxy's own entries


def test_the_proxy_never_serves_an_item_nor_counts_one_without_bytes(cache: Cache) -> None:
    by_hand = cache.create(URI, status=3)
    assert by_hand.key < "g"
    registry = Registry(Path(cache.path))
    assert registry.best(Key(by_hand.key)) is None
    assert registry.totals().entries == 0
    item = written(cache)
    assert registry.totals().entries == 1
    registry.commit(Key("/a.tar"), str(item.sha256), Representation((), 10, "x", 0.0))
    cache.remove(everything=True, include_removed=True, keep_record=False)
    assert registry.totals() == type(registry.totals())(1, 1, 10)
    assert registry.best(Key("/a.tar")) is not None
    assert len(cache) == 0
    registry.close()
