"""JSON documents with their own time to live: what they must be, how long they are fresh, and what there is meanwhile."""

import bz2
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from origin import Gate, Hang, Origin, Raw, Say, Serve

from package_cache.errors import ArgumentError, DocumentError, DownloadError
from package_cache.library.downloads.manager import DownloadManager
from package_cache.rules.repositories.documents import TimedDocument, inflated, parse

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


# --- the rule


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**41), st.integers(0, 2**41), st.integers(0, 10**6))
def test_a_document_is_fresh_up_to_and_including_its_time_or_the_interval(
    timestamp: int, ttl: int, at: int, checked: int, interval: int
) -> None:
    one = TimedDocument({}, timestamp, ttl)
    assert one.is_fresh(at, checked, interval) == (at <= timestamp + ttl or at <= checked + interval)
    assert one.is_fresh(timestamp + ttl, 0, 0)
    assert not one.is_fresh(timestamp + ttl + 1, 0, 0)


@pytest.mark.parametrize("pack", [bytes, packed, bz2.compress, lambda body: packed(body[:9]) + packed(body[9:])])
def test_a_document_may_be_compressed(pack: Callable[[bytes], bytes]) -> None:
    assert parse(pack(document(7, 1.5))) == TimedDocument(json.loads(document(7, 1.5)), 7.0, 1.5)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no object named metadata"),
        (b"{}", "no object named metadata"),
        (b'{"metadata": 7}', "no object named metadata"),
        (b'{"metadata": {"ttl": 7}}', "no timestamp"),
        (b'{"metadata": {"timestamp": 7}}', "no ttl"),
        (document("7"), "metadata.timestamp is '7'"),
        (document(7, "3600"), "metadata.ttl is '3600'"),
        (document(7, True), "metadata.ttl is True"),
        (document(7, -1), "metadata.ttl is -1"),
        (document(10**400), "which is no such time"),
        (b'{"metadata": {"timestamp": NaN, "ttl": 1}}', "which is no such time"),
        (packed(document(7))[:-4], "gzip ends too early"),
        (packed(document(7)) + b"more", "gzip is broken"),
        (b"\x1f\x8bnot", "no gzip"),
        (bz2.compress(document(7))[:-4], "bzip2 ends too early"),
        (b"BZhnot bzip2", "no bzip2"),
    ],
)
def test_what_is_no_such_document_is_told_with_the_reason(body: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(body)


@pytest.mark.parametrize("pack", [bytes, packed, bz2.compress])
def test_what_would_be_too_large_is_not_inflated(pack: Callable[[bytes], bytes]) -> None:
    body = pack(b" " * 1_000_000)
    assert len(inflated(body, 1_000_000)) == 1_000_000
    with pytest.raises(ValueError, match="more than 999999 bytes"):
        inflated(body, 999_999)


# --- from a publisher


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
