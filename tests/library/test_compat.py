"""The older packages' names and call shapes; and what could not be kept says what is there for it."""

import bz2
import gzip
import importlib
import io
import json
import logging
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from older import OldItems
from origin import Origin, Say

import package_cache
import package_cache.compat.cachedir as cm
import package_cache.compat.dlmachine as dm
from package_cache.compat import ust_download_cache as ust
from package_cache.compat.cachedir import _freshness, utils
from package_cache.compat.cachedir._cache import Cache
from package_cache.compat.cachedir._item import CacheItem
from package_cache.compat.cachedir._lock import Lock
from package_cache.compat.cachedir._open import Opener
from package_cache.compat.cachedir._status import Status
from package_cache.compat.dlmachine import _constants, _misc
from package_cache.compat.gone import Gone
from package_cache.errors import ArgumentError, ConfigError, PackageCacheError

URI = "http://mirror.example/d.tsv"


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SNAP_USER_COMMON", raising=False)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(str(tmp_path / "cache")) as one:
        yield one


def written(cache: Cache, data: bytes = b"a\tb\n", **given: Any) -> CacheItem:
    item = cache.create(**{"uri": URI, "status": Status.WRITE.value, **given})
    Path(item.path).write_bytes(data)
    item.ready()
    return item


# cachedir


def test_the_modules_of_cachedir_are_there() -> None:
    assert (cm.Cache, cm.CacheItem, cm.Lock, cm.Opener, cm.Status) == (Cache, CacheItem, Lock, Opener, Status)
    assert Status.from_str("ready").value == 3
    assert cm.__version__ == package_cache.__version__


def test_items_have_the_attributes_that_they_had(cache: Cache) -> None:
    item = written(cache, params={"n": 1}, attrs={"rows": 3}, label="lab", ext="tsv")
    assert item.params == {"_uri": URI, "n": 1}
    assert (item.uri, item.version, item.version_id) == (URI, 1, f"{item.key}-1")
    assert time.strptime(item.date, "%Y-%m-%d %H:%M:%S")
    assert (item.last_read, item.read_count, item.rstatus, item.status) == (None, 0, 3, 3)
    assert (item.cache_fname, item.size, item.cache) == (f"{item.key}-1.tsv", 4, cache)
    assert CacheItem.serialize(item.params) == utils.hash(item.params) == item.key
    assert repr(item) == f"CacheItem[{URI} V:1 READY]"
    assert cache.by_attrs({"rows": 3}) == {item._id}
    item.update(attrs={"rows": 4}, file_name="e.tsv", last_read="2020-01-02")
    assert (item.attrs, item.filename, item.last_read) == ({"rows": 4}, "e.tsv", "2020-01-02 00:00:00")
    item.accessed()
    item.update_date("checked", "2020-01-02")
    assert cache.by_attrs({"checked": "DATE:2020-01-02"}) == {item._id}


def test_the_parameters_of_an_item_find_it_in_the_trash_too(cache: Cache) -> None:
    item = written(cache, params={"n": 1})
    for method in (cache.remove, cache.restore, cache.remove, cache.purge):
        assert method(URI, item.params) == 1
    assert len(cache) == 0


def test_methods_take_what_they_took_in_its_order(cache: Cache) -> None:
    item = written(cache, params={"n": 1}, label="lab", ext="tsv", attrs={"rows": 3})
    asked = (
        URI,
        {"n": 1},
        {3},
        {1},
        "2020-01-01",
        "2099-01-01",
        "tsv",
        "lab",
        "d.tsv",
        None,
        {"rows>=": 3},
        False,
        item._id,
    )
    assert cache.search(*asked) == [item]
    assert cache.search(URI, {"_uri": URI, "n": 1}, status=None, attrs={}) == [item]
    assert cache.best(URI, {"n": 1}, 3, "2020-01-01", "2099-01-01") == item
    assert isinstance(cache.best(URI, {"n": 1}), CacheItem)
    assert cache.by_key(item.key, 1) == item
    cache.update(URI, {"n": 1}, update={"label": "other"})
    cache.update_status(URI, {"n": 1}, -1, Status.FAILED.value)
    cache.update_date(URI, {"n": 1}, -1, None, None, "2020-01-02", "date")
    [found] = cache.search(label="other")
    assert (found.status, found.date) == (2, "2020-01-02 00:00:00")
    cache.failed(URI, {"n": 1})
    cache.remove(URI, {"n": 1}, 1)
    assert (len(cache), cache.search()) == (1, [])
    assert cache.search(include_removed=True)[0].status == -1
    cache.restore()
    cache.remove(URI, {"n": 1}, None, None, None, None, None, None, None, None, True, False)
    assert len(cache) == 0


def test_who_writes_an_item_keeps_it_through_the_old_face(cache: Cache, tmp_path: Path) -> None:
    item = cache.best_or_new(URI)
    assert cache.best_or_new(URI) == item
    with Cache(str(tmp_path / "cache")) as other, pytest.raises(package_cache.errors.ItemBusy):
        other.best_or_new(URI, timeout=0.01)
    Path(item.path).write_bytes(b"x")
    item.ready()
    assert cache.best_or_new(URI).status == Status.READY


def test_a_file_moves_in_and_everything_is_listed(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    item = cache.move_in(str(tmp_path / "file.txt"))
    assert (item.uri, item.status) == ("file.txt", 1)
    item.ready()
    [(name, said)] = cache.contents().items()
    assert (name, said["status"], said["disk_fname"]) == (item.version_id, 3, item.cache_fname)
    assert (cache.clean_db(), cache.clean_disk(), cache.autoclean()) == (0, 0, 0)
    assert cache.does_it_fit(1)
    assert cache.free_space > 0
    cache.reload()
    assert len(cache) == 1
    assert (cache.dir, Path(cache.path).parent) == (str(tmp_path / "cache"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("deed", "instead"),
    [
        ("cache.con", "every method of Cache is one transaction"),
        ("cache.cur", "every method of Cache is one transaction"),
        ("cache.remove()", "everything=True"),
        ('cache.update(URI, update={"read_count": 3})', "reads are counted by themselves"),
        ('cache.update_date(URI, datefield="last_search")', "last_read tells of use"),
        ("item.last_search", "last_read and read_count"),
        ("item.search_count", "last_read and read_count"),
        ('CacheItem("0123", 1)', "Cache.create() makes one"),
        ("CacheItem.new(URI)", "Cache.create() makes an item"),
        ("Lock(None)", "Cache.writing()"),
        ("Cache()", "give path"),
        ('Cache("/tmp/x.sqlite")', "give the directory"),
        ('utils.hash("x")', "item.key"),
        ('utils.serialize("x")', "item.key"),
        ("utils.parse_attr(1)", "keep their types"),
        ("utils.parse_attr_search({})", "Cache.by_attrs()"),
        ("cm.session", "logger 'package_cache'"),
        ("cm.log", "logger 'package_cache'"),
        ("_freshness.get_remote_headers(URI)", "refresh='check'"),
    ],
)
def test_what_is_gone_says_what_is_there_for_it(cache: Cache, deed: str, instead: str) -> None:
    names = {**globals(), "cache": cache, "item": written(cache)}
    with pytest.raises(ArgumentError) as caught:
        eval(deed, names)
    assert instead in str(caught.value)
    assert isinstance(caught.value, ValueError | Gone)
    assert not hasattr(cache, "con")


def test_the_words_reach_who_imports_what_is_gone() -> None:
    with pytest.raises(Gone, match="logger 'package_cache'"):
        from package_cache.compat.cachedir import session  # type: ignore[attr-defined]  # noqa: F401, PLC0415
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cm.nonsense
    for name in ("cachedir", "dlmachine", "ust_download_cache"):
        module = importlib.import_module(f"package_cache.compat.{name}")
        assert all(getattr(module, one) is not None for one in module.__all__)


def tar_of(path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as tar:
        info = tarfile.TarInfo("a.txt")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"a\nb"))
    return path


def test_files_and_archives_are_opened_into_what_they_were_opened_into(cache: Cache, tmp_path: Path) -> None:
    packed = {"plain": b"a\nb", "gz": gzip.compress(b"a\nb"), "bz2": bz2.compress(b"a\nb")}
    for kind, data in packed.items():
        item = written(cache, data, uri=f"demo://{kind}")
        lines = item.open()
        assert lines is not None
        assert (lines.type, list(lines.result)) == (kind, ["a\n", "b"])
        assert list(item.open(default_mode="rb").result) == [b"a\n", b"b"]  # type: ignore[union-attr]
        whole = item.open(large=False)
        assert whole is not None
        assert whole.result == ("a\nb" if kind == "plain" else b"a\nb")
    for mode in ("w", "w:gz", "w:xz"):
        path = tar_of(tmp_path / "x", mode)
        assert Opener(path).result["a.txt"].read() == b"a\nb"
        assert Opener(path, needed=["a.txt"], large=False).result == {"a.txt": b"a\nb"}
        assert (type(Opener(path).result), Opener(path).sizes) == (dict, {"a.txt": 3})
    with zipfile.ZipFile(tmp_path / "z", "w") as zipped:
        zipped.writestr("a.txt", "a\nb")
    with Opener(tmp_path / "z", ext="zip") as opened:
        assert opened.result["a.txt"].read() == "a\nb"
        assert (opened.size, list(opened)) == (3, ["a.txt"])
    assert Opener(tmp_path / "z", large=False).result == {"a.txt": b"a\nb"}


def test_an_item_that_is_not_ready_opens_into_nothing(cache: Cache) -> None:
    assert cache.create(URI, status=Status.WRITE.value).open() is None


def test_an_old_registry_in_the_directory_is_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = OldItems(tmp_path / "old").close()
    with Cache(str(place)):
        assert f"package-cache import {place} --cache {place}" in caplog.text


def test_freshness_is_told_as_it_was(tmp_path: Path, cache: Cache) -> None:
    path, told = tmp_path / "x", _freshness.check_freshness
    assert told(path, {}) == (False, "local file does not exist")
    path.write_bytes(b"1234")
    day = "Tue, 02 Jan 2024 03:04:05 GMT"
    later = "Wed, 03 Jan 2024 03:04:05 GMT"
    assert told(path, {}) == (False, "no check method available")
    assert told(path, {"etag": '"x"'}, {"etag": '"x"'}) == (True, "etag: etag match")
    assert told(path, {"ETag": '"x"'}, {"etag": '"y"'}, "etag") == (False, "etag mismatch")
    assert told(path, {"ETag": '"x"'}, None, "etag") == (False, "no local etag stored")
    assert told(path, {"Last-Modified": day}, {"last_modified": later}) == (True, "modified: not modified")
    assert told(path, {"Last-Modified": later}, {"last_modified": day}, "modified") == (False, "modified")
    assert told(path, {"Last-Modified": "x"}, {"last_modified": day}, "modified")[1].startswith("date parse error: ")
    assert told(path, {"Content-Length": "4"}) == (True, "size: size match")
    assert told(path, {"Content-Length": "5"}, None, "size") == (False, "size mismatch")
    assert told(path, {"Content-Length": "x"}, None, "size")[1].startswith("size check error: ")
    assert told(path, {"Content-MD5": "81dc9bdb52d04dc20036dbd8313ed055"}, None, "hash") == (True, "md5 match")
    assert told(path, {}, {"sha256": "00"}, "hash") == (False, "hash check requires download")
    assert told(path, {}, None, "size") == (False, "method_unavailable")
    assert told(path, {}, None, "foo") == (False, "unknown method: foo")
    item = written(cache, attrs={"etag": '"x"', "size": 4})
    assert _freshness.metadata_from_item(item) == {"etag": '"x"', "last_modified": None, "sha256": None, "size": 4}


def test_the_helpers_of_cachedir_are_there() -> None:
    assert [utils.list_like(one) for one in ([1], {1}, (1,), {}, "a", b"a", 1)] == [True] * 4 + [False] * 3
    assert utils.parse_time("2020-01-02") == "2020-01-02 00:00:00"
    assert time.strptime(utils.parse_time(), "%Y-%m-%d %H:%M:%S")


# dlmachine


def test_the_manager_takes_what_it_took(origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.tsv", b"one")
    options = {"backend": "urllib3", "progress": False, "timeout": 5}
    manager = dm.DownloadManager(str(tmp_path / "cache"), None, options, retries=1)
    url = f"{origin.url}a.tsv"
    assert (manager.config["timeout"], options) == (5, {"backend": "urllib3", "progress": False, "timeout": 5})
    path = manager.download(url, None, "2020-01-01", "2099-01-01")
    assert manager.download(url) == path
    assert isinstance(manager.cache, Cache)
    [item] = manager.cache.search(attrs={"http_code": 200})
    assert dm.Descriptor(**item.attrs[_constants.DL_DESC_KEY]) == dm.Descriptor(url)  # type: ignore[arg-type]
    assert item.params[_constants.DL_PARAMS_KEY] == {}
    assert (item.path, item.params["_uri"], item.attrs["size"]) == (path, url, 3)
    assert manager.download(url, check_freshness=True, check_method="etag") == path
    assert len(origin.requests()) == 2
    origin.put("/a.tsv", b"two")
    fresh = manager.download(url, force_download=True, keep_old=False)
    assert Path(str(fresh)).read_bytes() == b"two"
    assert len(manager.cache) == 1
    buffer = manager.download(url, dest=False)
    assert isinstance(buffer, io.BytesIO)
    assert buffer.read() == b"two"
    manager.close()


def test_a_file_that_is_at_the_destination_stays_unless_it_is_to_be_downloaded(origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.tsv", b"one")
    manager, target = dm.DownloadManager(), tmp_path / "file"
    target.write_bytes(b"mine")
    assert manager.download(f"{origin.url}a.tsv", str(target)) == str(target)
    assert target.read_bytes() == b"mine"
    manager.download(f"{origin.url}a.tsv", str(target), force_download=True)
    assert target.read_bytes() == b"one"
    assert manager.cache is None


def test_an_error_of_a_server_is_an_exception(origin: Origin, tmp_path: Path) -> None:
    manager = dm.DownloadManager(str(tmp_path / "cache"))
    with pytest.raises(dm.DownloadError) as caught:
        manager.download(f"{origin.url}none")
    assert caught.value.status == 404
    assert manager.cache is not None
    assert manager.cache.search(status=3) == []
    manager.close()


def test_descriptors_have_the_keys_that_they_had() -> None:
    one = dm.Descriptor("http://mirror.example/x", query={"a": 1}, headers=["X-A: b"], followlocation=True)
    assert (one["baseurl"], one["url"], one["qs"]) == ("http://mirror.example/x", "http://mirror.example/x?a=1", "a=1")
    assert (one["headers"], one["nothing"], one.get("nothing", 3)) == (["X-A: b"], None, 3)
    assert (one.headers_dict, one.headers_bytes) == ({"X-A": "b"}, [b"X-A: b"])
    assert "cainfo" not in one
    assert one["followlocation"] is True
    posted = dm.Descriptor("http://mirror.example/x", query={"a": "1"}, post=True)
    assert (posted["post"], posted["query"], posted["url"]) == (True, {"a": "1"}, "http://mirror.example/x")
    sent = dm.Descriptor("http://mirror.example/x", query={"a": [1]}, json=True)
    assert (sent["post"], sent["json"], sent["query"]) == (True, True, {"a": [1]})
    parts = dm.Descriptor("http://mirror.example/x", multipart={"a": "1", "f": package_cache.File("/etc/hostname")})
    assert parts["multipart"] == {"data": {"a": "1"}, "files": {"f": "/etc/hostname"}}
    assert dm.Descriptor("http://mirror.example/x", multipart={"ids": "P12345 " * 100}).method == "POST"
    for each in (one, posted, sent, parts):
        assert dm.Descriptor(**dict(each)) == each
        assert len(dict(each)) == len(each)
    assert {"query", "post", "json", "multipart", "headers"} == dm.DL_ATTRS
    assert "tcp_keepalive" in dm.PARAMS


def test_a_descriptor_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"url": "http://mirror.example/x", "query": {"a": 1}, "followlocation": True}))
    assert dm.Descriptor.from_file(str(path))["qs"] == "a=1"


@pytest.mark.parametrize(
    ("deed", "instead"),
    [
        ("dm.Descriptor()", "Missing URL"),
        ('dm.Descriptor("/etc/hostname")', "Descriptor.from_file('/etc/hostname')"),
        ('dm.Descriptor("http://a.example", followlocation=False)', "redirects are followed"),
        ('dm.Descriptor("http://a.example", ssl_verifypeer=0)', "cainfo="),
        ('dm.Descriptor("http://a.example", ignore_content_length=True)', "another length"),
        ('dm.Descriptor("http://a.example", tcp_keepidle=60)', "leave it out"),
        ('dm.Descriptor("http://a.example", destination="x")', "dest="),
        ('dm.Descriptor("http://a.example", headrs={})', "unknown key 'headrs'"),
        ('dm.Descriptor("http://a.example", multipart={"f": "/etc/hostname"})', "package_cache.File("),
        ('one.__setitem__("url", "x")', "make another one"),
        ("one.set_get_post()", "complete when it is made"),
        ("one.set_headers()", "complete when it is made"),
        ("one.set_multipart()", "complete when it is made"),
        ('dm.DownloadManager().download("http://a.example", check_method="size")', "leave it out"),
        ('dm.DownloadManager().download(one, query={"a": 1})', "beside a Descriptor"),
        ('dm.DownloadManager()._download("http://a.example")', "fetch()"),
        ("dm.DownloadManager(nonsense=1)", "nonsense"),
        ('dm.DownloadManager(backend="wget")', "curl"),
        ("dm.RequestsDownloader(one).init_handler()", "download() is the whole of it"),
        ("dm.CurlDownloader(one).update_progress(1)", "progress="),
        ("dm.session", "logger 'package_cache'"),
        (
            'importlib.import_module("package_cache.compat.dlmachine._curlopt").process("timeout", 1)',
            "timeout, connecttimeout",
        ),
    ],
)
def test_what_is_gone_of_dlmachine_says_what_is_there_for_it(deed: str, instead: str) -> None:
    names = {**globals(), "one": dm.Descriptor("http://mirror.example/x")}
    with pytest.raises((ArgumentError, ConfigError)) as caught:
        eval(deed, names)
    assert instead in str(caught.value)


@pytest.mark.parametrize("kind", [dm.RequestsDownloader, dm.CurlDownloader])
def test_a_downloader_downloads_once(origin: Origin, tmp_path: Path, kind: type[dm.AbstractDownloader]) -> None:
    origin.put("/a.tsv", b"a\tb\n", content_type="text/plain; charset=utf-8")
    one = kind(dm.Descriptor(f"{origin.url}a.tsv"), str(tmp_path / "file"), progress=False)
    assert (one.ok, one.success, one.http_code, one.size, one.sha256, one.is_empty) == (False, False, 0, None, None, True)
    assert (one.filename, one.ext, one.url, one.open()) == ("a.tsv", ".tsv", f"{origin.url}a.tsv", None)
    one.setup()
    one.download()
    one.close_dest()
    assert (one.ok, one.http_code, one.size, one.to_buffer, one.path_exists) == (True, 200, 4, False, True)
    assert one.path == str(tmp_path / "file")
    assert one.sha256 == one.checksum() == _misc.file_digest(str(one.path))
    assert list(one.open()) == ["a\tb\n"]
    assert one.resp_headers["Content-Type"] == {"0": "text/plain", "charset": "utf-8"}
    assert one.resp_headers["content-length"] == "4"
    assert one.param("baseurl") == one.url
    buffered = kind(dm.Descriptor(f"{origin.url}a.tsv"), False, progress=False)
    buffered.download()
    assert (buffered.open().read(), buffered.checksum("md5")) == (b"a\tb\n", _misc.file_digest(str(one.path), "md5"))


def test_a_downloader_says_what_a_server_refused(origin: Origin) -> None:
    origin.put("/a", b"", Say(403))
    one = dm.RequestsDownloader(dm.Descriptor(f"{origin.url}a"), progress=False)
    one.download()
    assert (one.ok, one.http_code, one.sha256, one.open()) == (False, 403, None, None)
    origin.stop()
    with pytest.raises(dm.DownloadError):
        one.download()
    with pytest.raises(TypeError):
        dm.AbstractDownloader(dm.Descriptor("http://a.example"))


def test_header_fields_are_taken_apart() -> None:
    assert _misc.parse_header("text/plain; charset=utf-8") == {"0": "text/plain", "charset": "utf-8"}
    assert _misc.parse_header('attachment; filename="a=b; c.txt"') == {"0": "attachment", "filename": "a=b; c.txt"}
    assert _misc.parse_header("text/plain; charset=utf-8", ["type"]) == {"type": "text/plain", "charset": "utf-8"}
    assert _misc.parse_header(None) == {"0": ""}


# UST-Download-Cache


def a_document(age: int = 0, ttl: int = 3600, **members: Any) -> bytes:
    return json.dumps({"metadata": {"timestamp": int(time.time()) - age, "ttl": ttl}, **members}).encode()


def test_documents_are_asked_for_by_parts(origin: Origin, tmp_path: Path) -> None:
    origin.put("/doc", a_document(data={"a": 1}))
    origin.put("/empty", a_document())
    cache = ust.USTDownloadCache(logging.getLogger(""), str(tmp_path / "docs"))
    url = f"{origin.url}doc"
    assert cache.get_data_from_url(url) == {"a": 1}
    assert cache.get_cache_metadata_from_url(url)["ttl"] == 3600
    assert sorted(cache.get_from_url(url)) == ["data", "metadata"]
    assert len(origin.requests()) == 1
    with pytest.raises(KeyError, match="data"):
        cache.get_data_from_url(f"{origin.url}empty")
    cache.save_cache()
    again = ust.USTDownloadCache(logging.getLogger(""), cache.cache_dir)
    assert set(again.file_cache) == {url, f"{origin.url}empty"}
    known = again.file_cache[url]
    assert (known.ttl, known.is_expired) == (3600, False)
    assert json.loads(Path(known.path).read_bytes())["data"] == {"a": 1}
    with pytest.raises(Gone, match="file_cache"):
        _ = cache.cache_metadata_file


def test_errors_have_their_old_names(origin: Origin, tmp_path: Path) -> None:
    cache = ust.USTDownloadCache(logging.getLogger(""), str(tmp_path / "docs"))
    with pytest.raises(ust.DownloadError, match="404"):
        cache.get_from_url(f"{origin.url}none")
    for name, body, error in (
        ("gz", gzip.compress(a_document())[:-9], ust.GZExtractionError),
        ("bz2", bz2.compress(a_document())[:-9], ust.BZ2ExtractionError),
        ("json", b"{", ust.DownloadError),
        ("old", b'{"metadata": {"ttl": 1}}', ust.DownloadError),
    ):
        origin.put(f"/{name}", body)
        with pytest.raises(error) as caught:
            cache.get_from_url(f"{origin.url}{name}")
        assert isinstance(caught.value, PackageCacheError)
    assert cache.file_cache == {}


def test_the_directory_is_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("")
    assert ust.USTDownloadCache(logger).cache_dir == str(tmp_path / ".ust_cache")
    monkeypatch.setenv("SNAP_USER_COMMON", str(tmp_path / "snap"))
    assert ust.USTDownloadCache(logger).cache_dir == str(tmp_path / "snap" / ".ust_cache")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        ust.USTDownloadCache(logger, str(tmp_path / "file"))
    with pytest.raises(ust.FileCacheLoadError):
        ust.USTDownloadCache(logger, str(tmp_path / "file" / "below"))


def test_a_cached_file_knows_whether_it_is_expired() -> None:
    now = int(time.time())
    assert not ust.CachedFile("u", "p", now - 5, 3600).is_expired
    assert ust.CachedFile("u", "p", now - 7200, 3600).is_expired
    one = ust.CachedFile("u", "p", 1, 2)
    text = json.dumps(one, cls=ust.CacheJSONEncoder)
    assert ust.CachedFile.from_dict(json.loads(text)) == one
    with pytest.raises(KeyError, match="ttl"):
        ust.CachedFile.from_dict({"url": "u", "path": "p", "timestamp": 1})
    with pytest.raises(TypeError):
        json.dumps(object(), cls=ust.CacheJSONEncoder)
