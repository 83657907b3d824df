"""JSON documents with their own time to live, from a publisher: how long they are used, and what there is meanwhile."""

import bz2
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from origin import Gate, Hang, Origin, Raw, Say, Serve

from package_cache.errors import ArgumentError, DocumentError, DownloadError
from package_cache.library.downloads.manager import DownloadManager

Make = Callable[..., DownloadManager]


def packed(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def document(timestamp: object, ttl: object = 60, data: object = None) -> bytes:
    return json.dumps({"metadata": {"timestamp": timestamp, "ttl": ttl, "version": "1.0"}, "data": data}).encode()


def now() -> int:
    return int(time.time())


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[DownloadManager] = []

    def _make(**options: object) -> DownloadManager:
        usual = {"path": tmp_path / "cache", "retries": 1, "timeout": 0.5, "proxies": {}}
        made.append(DownloadManager(**{**usual, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield _make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(make: Make) -> DownloadManager:
    return make()


def test_a_fresh_document_is_downloaded_once(make: Make, origin: Origin) -> None:
    origin.put("/d.json", document(now(), 60, {"a": 1}))
    for manager in (make(), make()):
        for _ in range(2):
            found = manager.get_json(origin.url + "d.json")
            assert found.data == {"a": 1}
            assert found.metadata["version"] == "1.0"
            assert not found.stale
            assert found.fresh_until.timestamp() >= now() + 59
    assert len(origin.requests()) == 1


@pytest.mark.parametrize("pack", [packed, bz2.compress])
def test_a_compressed_document_is_kept_as_it_was_sent(
    manager: DownloadManager, origin: Origin, pack: Callable[[bytes], bytes]
) -> None:
    sent = origin.put("/d.json", pack(document(now(), 60, [1])))
    found = manager.get_json(origin.url + "d.json")
    assert found.data == [1]
    assert Path(found.path).read_bytes() == sent


def test_an_old_document_is_asked_for_again_and_replaced(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/d.json", document(now() - 100, 60, "one"))
    url = origin.url + "d.json"
    assert manager.get_json(url, min_interval=0).data == "one"
    assert manager.get_json(url, min_interval=0).data == "one"
    assert "if-none-match" in origin.requests()[-1].fields
    origin.put("/d.json", document(now(), 60, "two"))
    assert manager.get_json(url, min_interval=0).data == "two"
    assert manager.get_json(url, min_interval=0).data == "two"
    assert len(origin.requests()) == 3


def test_a_publisher_whose_documents_are_always_old_is_asked_once_in_an_interval(make: Make, origin: Origin) -> None:
    origin.put("/d.json", document(now() - 1000, 60))
    for manager in (make(), make()):
        for _ in range(3):
            found = manager.get_json(origin.url + "d.json")
            assert not found.stale
            assert found.fresh_until.timestamp() > now()
    assert len(origin.requests()) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        Say(500),
        Say(404),
        Hang(),
        Raw(b""),
        Serve(body=b"{"),
        Serve(body=b"{}"),
        Serve(body=document("soon")),
        Serve(body=packed(document(7))[:-3]),
        Serve(cut=0),
    ],
)
def test_the_old_document_is_what_there_is_until_there_is_a_whole_and_valid_one(
    make: Make, origin: Origin, trouble: Say
) -> None:
    origin.put("/d.json", document(now() - 100, 60, "old"), etag=None, modified=None)
    url, manager = origin.url + "d.json", make()
    path = manager.get_json(url, min_interval=0).path
    origin.script("/d.json", trouble)
    found = manager.get_json(url, min_interval=0)
    assert (found.data, found.stale, found.path) == ("old", True, path)
    assert found.reason
    asked = len(origin.requests())
    again = make().get_json(url)
    assert (again.data, again.stale) == ("old", True)
    assert len(origin.requests()) == asked
    origin.put("/d.json", document(now(), 60, "new"))
    found = manager.get_json(url, min_interval=0)
    assert (found.data, found.stale) == ("new", False)
    assert not manager.get_json(url).stale


@pytest.mark.parametrize("body", [b"{", b"{}", document(None), document(7, "60"), b"\x1f\x8bnot"])
def test_a_document_that_cannot_be_used_is_an_error_and_never_stored(
    manager: DownloadManager, origin: Origin, body: bytes
) -> None:
    origin.put("/d.json", body)
    for _ in range(2):
        with pytest.raises(DocumentError, match="cannot be used: it") as caught:
            manager.get_json(origin.url + "d.json")
        assert caught.value.status == 200
    assert manager.cache is not None
    assert not manager.cache.search(include_removed=True)
    origin.put("/d.json", document(now()))
    assert not manager.get_json(origin.url + "d.json").stale


def test_a_mirror_is_asked_where_the_first_one_has_no_valid_document(
    manager: DownloadManager, origin: Origin, another: Origin
) -> None:
    origin.put("/d.json", b"{}")
    another.put("/d.json", document(now(), 60, "mirrored"))
    assert manager.get_json(origin.url + "d.json", fallback_urls=[another.url + "d.json"]).data == "mirrored"


def test_without_a_copy_a_publisher_that_is_down_is_an_error(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/d.json", b"", Say(503))
    with pytest.raises(DownloadError) as caught:
        manager.get_json(origin.url + "d.json")
    assert caught.value.status == 503


def test_a_document_without_data_says_what_it_has(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/d.json", json.dumps({"metadata": {"timestamp": now(), "ttl": 60}, "names": {}}).encode())
    found = manager.get_json(origin.url + "d.json")
    assert found.content["names"] == {}
    with pytest.raises(DocumentError, match="no member data; it has metadata, names"):
        _ = found.data


def test_a_document_that_was_damaged_is_fetched_again(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/d.json", document(now(), 60, "whole"))
    path = Path(manager.get_json(origin.url + "d.json").path).resolve()
    path.chmod(0o644)
    path.write_bytes(b"{")
    assert manager.get_json(origin.url + "d.json").data == "whole"
    assert len(origin.requests()) == 2


def test_a_file_that_was_downloaded_before_and_is_no_document_is_fetched_anew(
    manager: DownloadManager, origin: Origin
) -> None:
    origin.put("/d.json", b"[]")
    manager.download(origin.url + "d.json")
    origin.put("/d.json", document(now(), 60, "good"))
    assert manager.get_json(origin.url + "d.json").data == "good"


def test_eight_threads_that_want_the_same_old_document_make_one_request(make: Make, origin: Origin) -> None:
    gate = Gate()
    origin.put("/d.json", document(now() - 100, 60), Serve(before=gate))
    manager = make(timeout=30)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(manager.get_json(origin.url + "d.json"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert gate.reached.wait(30)
    gate.open()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(origin.requests()) == 1


def test_a_manager_without_a_cache_keeps_no_documents(origin: Origin) -> None:
    with DownloadManager() as manager, pytest.raises(ArgumentError, match="path= or pkg="):
        manager.get_json(origin.url + "d.json")
