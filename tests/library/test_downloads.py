"""The download manager: destinations, what a later call finds, mirrors, errors, freshness, what is recorded."""

import fcntl
import gzip
import hashlib
import io
import json
import os
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from origin import Gate, Hang, Origin, Raw, Say, Serve

from package_cache.errors import ArgumentError, ConfigError, DownloadError, StoreError
from package_cache.library.downloads.descriptors import Descriptor
from package_cache.library.downloads.manager import DownloadManager
from package_cache.model import Status
from package_cache.upstream.calls import NAMES

BODY = bytes(range(256)) * 400
Make = Callable[..., DownloadManager]


def packed(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes managers with a cache in one place: `make(retries=...)`; without one: `make(path=None)`."""
    made: list[DownloadManager] = []

    def _make(path: Path | None = tmp_path / "cache", **options: object) -> DownloadManager:
        made.append(DownloadManager(path, **{"timeout": 5, "connecttimeout": 5, "proxies": {}, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield _make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(make: Make) -> DownloadManager:
    return make()


def read(path: object) -> bytes:
    assert isinstance(path, str)
    return Path(path).read_bytes()


def drafts(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("."))


# --- destinations


def test_without_a_cache_it_is_downloaded_into_memory(make: Make, origin: Origin) -> None:
    origin.put("/a.bin", BODY)
    buffer = make(path=None).download(origin.url + "a.bin")
    assert isinstance(buffer, io.BytesIO)
    assert buffer.read() == BODY


def test_into_memory_the_cache_is_passed_by(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/a.bin", BODY)
    for _ in range(2):
        buffer = manager.download(origin.url + "a.bin", dest=False)
        assert isinstance(buffer, io.BytesIO)
        assert buffer.getvalue() == BODY
    assert len(origin.requests("/a.bin")) == 2
    assert manager.cache is not None
    assert len(manager.cache) == 0


@pytest.mark.parametrize("dest", [None, True])
def test_with_a_cache_it_is_downloaded_once(manager: DownloadManager, origin: Origin, dest: bool | None) -> None:
    origin.put("/a.tar.gz", packed(BODY))
    paths = {manager.download(origin.url + "a.tar.gz", dest) for _ in range(3)}
    assert len(paths) == 1
    path = paths.pop()
    assert str(path).endswith("-1.tar.gz")
    assert gzip.decompress(read(path)) == BODY
    assert len(origin.requests("/a.tar.gz")) == 1


def test_a_later_manager_finds_what_an_earlier_one_has_downloaded(make: Make, origin: Origin) -> None:
    origin.put("/a.bin", BODY)
    first = make().fetch(origin.url + "a.bin")
    second = make().fetch(origin.url + "a.bin")
    assert (first.verdict, second.verdict) == ("downloaded", "hit")
    assert first.path == second.path
    assert second.sha256 == hashlib.sha256(BODY).hexdigest()
    assert second.status == 200
    assert second.headers["ETag"] == origin.things["/a.bin"].etag


def test_a_path_gets_the_file_in_one_step_and_with_the_users_mode(make: Make, origin: Origin, tmp_path: Path) -> None:
    gate = Gate()
    origin.put("/a.bin", BODY, Serve(gate=gate, gate_at=50_000))
    target = tmp_path / "out.bin"
    target.write_bytes(b"what was there")
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(make(path=None).download(origin.url + "a.bin", target)))
    thread.start()
    assert gate.reached.wait(30)
    assert target.read_bytes() == b"what was there"
    assert drafts(tmp_path)
    gate.open()
    thread.join()
    assert result == [str(target)]
    assert target.read_bytes() == BODY
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    assert not drafts(tmp_path)


def test_a_path_is_downloaded_to_each_time_where_nothing_remembers_what_it_is(
    make: Make, origin: Origin, tmp_path: Path
) -> None:
    origin.put("/a.bin", BODY)
    manager = make(path=None)
    for _ in range(2):
        assert manager.fetch(origin.url + "a.bin", tmp_path / "out").verdict == "downloaded"
    assert len(origin.requests("/a.bin")) == 2


def test_a_path_that_holds_this_download_is_left_as_it_is(manager: DownloadManager, origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", BODY)
    origin.put("/b.bin", BODY[1:])
    target = tmp_path / "out"
    verdicts = [manager.fetch(origin.url + "a.bin", target).verdict for _ in range(2)]
    before = target.stat()
    os.utime(target)
    again = manager.fetch(origin.url + "a.bin", target)
    assert [*verdicts, again.verdict] == ["downloaded", "hit", "hit"]
    assert again.sha256 == hashlib.sha256(BODY).hexdigest()
    assert target.stat().st_ino == before.st_ino
    assert manager.fetch(origin.url + "b.bin", target).verdict == "downloaded"
    assert target.read_bytes() == BODY[1:]
    assert manager.fetch(origin.url + "a.bin", target).verdict == "downloaded"
    assert target.read_bytes() == BODY


def test_a_path_whose_file_was_changed_is_downloaded_to_again(
    manager: DownloadManager, origin: Origin, tmp_path: Path
) -> None:
    origin.put("/a.bin", BODY)
    target = tmp_path / "out"
    manager.fetch(origin.url + "a.bin", target)
    target.write_bytes(b"x" * len(BODY))
    assert manager.fetch(origin.url + "a.bin", target).verdict == "downloaded"
    assert target.read_bytes() == BODY


def test_a_path_gets_what_the_cache_has_without_a_server(manager: DownloadManager, origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", BODY)
    cached = manager.download(origin.url + "a.bin")
    target = tmp_path / "out"
    assert manager.fetch(origin.url + "a.bin", target).verdict == "hit"
    target.write_bytes(b"mine")
    assert read(cached) == BODY
    assert len(origin.requests("/a.bin")) == 1


def test_what_is_at_a_path_stays_where_it_is_not_to_be_overwritten(
    manager: DownloadManager, origin: Origin, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"mine")
    result = manager.fetch(origin.url + "a.bin", target, overwrite=False)
    assert (result.verdict, result.path, result.ok) == ("kept", str(target), True)
    assert target.read_bytes() == b"mine"
    assert not origin.requests()


def test_an_error_leaves_what_is_at_a_path(make: Make, origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", BODY, Say(404))
    origin.put("/b.bin", BODY)
    target = tmp_path / "out"
    target.write_bytes(b"mine")
    for name in ("a.bin", "b.bin"):
        with pytest.raises(DownloadError):
            make(path=None, retries=1).download(origin.url + name, target, sha256="0" * 64)
        assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["", "none/out", "pipe", "x" * 300])
def test_what_cannot_be_replaced_is_refused(make: Make, origin: Origin, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="cannot write"):
        make(path=None).download(origin.url + "a.bin", tmp_path / name)
    assert not origin.requests()


def test_a_link_is_written_through(make: Make, origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", BODY)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    make(path=None).download(origin.url + "a.bin", tmp_path / "link")
    assert (tmp_path / "real" / "file").read_bytes() == BODY
    assert (tmp_path / "link").is_symlink()


def test_a_name_that_is_no_text_is_one_all_the_same(manager: DownloadManager, origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", BODY)
    for _ in range(2):
        manager.download(origin.url + "a.bin", os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    assert (tmp_path / os.fsdecode(b"caf\xe9")).read_bytes() == BODY
    assert len(origin.requests()) == 1


def test_a_draft_that_somebody_else_could_have_put_there_is_refused(make: Make, origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", BODY, Serve(cut=60_000, ranges=False), Say(503))
    manager, target = make(path=None, retries=1), tmp_path / "out"
    with pytest.raises(DownloadError):
        manager.download(origin.url + "a.bin", target)
    (tmp_path / "victim").write_bytes(b"")
    part = next(tmp_path.glob(".out.*.part"))
    part.unlink()
    part.symlink_to(tmp_path / "victim")
    origin.script("/a.bin", Serve())
    for _ in range(2):
        with pytest.raises(StoreError, match="not a file of this user alone"):
            manager.download(origin.url + "a.bin", target)
    assert (tmp_path / "victim").read_bytes() == b""
    part.unlink()
    assert Path(str(manager.download(origin.url + "a.bin", target))).read_bytes() == BODY


# --- broken transfers and mirrors


@pytest.mark.parametrize("where", ["cache", "path", "memory"])
def test_a_broken_transfer_goes_on_where_it_stopped(make: Make, origin: Origin, tmp_path: Path, where: str) -> None:
    origin.put("/a.bin", BODY, Serve(cut=60_000), Serve())
    dest = {"cache": None, "path": tmp_path / "out", "memory": False}[where]
    result = make().fetch(origin.url + "a.bin", dest)
    assert result.sha256 == hashlib.sha256(BODY).hexdigest()
    assert [one.status for one in result.attempts] == [200, 206]
    assert origin.requests("/a.bin")[1].fields["range"].startswith("bytes=5")


@pytest.mark.parametrize("backend", NAMES)
def test_every_backend_serves_every_destination(make: Make, origin: Origin, tmp_path: Path, backend: str) -> None:
    pytest.importorskip({"builtin": "package_cache", "requests": "requests", "curl": "pycurl"}[backend])
    manager = make(backend=backend)
    for number, dest in enumerate((None, tmp_path / "out", False)):
        url = f"a.bin?{number}"
        origin.put(f"/{url}", BODY, Serve(cut=60_000), Serve())
        result = manager.fetch(origin.url + url, dest)
        assert result.sha256 == hashlib.sha256(BODY).hexdigest()
        assert [one.status for one in result.attempts] == [200, 206]
    assert manager.fetch(origin.url + "a.bin?0", refresh="check").verdict == "confirmed"


@pytest.mark.parametrize("where", ["cache", "path"])
def test_what_a_failed_call_has_is_gone_on_with_by_a_later_one(
    make: Make, origin: Origin, tmp_path: Path, where: str
) -> None:
    origin.put("/a.bin", BODY, Serve(cut=60_000), Say(503))
    dest = {"cache": None, "path": tmp_path / "out"}[where]
    with pytest.raises(DownloadError):
        make(retries=1).download(origin.url + "a.bin", dest)
    assert not (tmp_path / "out").exists()
    origin.script("/a.bin", Serve())
    result = make().fetch(origin.url + "a.bin", dest)
    assert read(result.path) == BODY
    assert origin.requests("/a.bin")[-1].fields["range"] == "bytes=55904-"
    assert not drafts(tmp_path)


@pytest.mark.parametrize("where", ["cache", "path", "memory"])
@pytest.mark.parametrize("how", [Say(404), Say(500), Raw(b""), Serve(cut=1000, ranges=False, validators=False)])
def test_a_fallback_url_is_asked_where_the_first_one_fails(
    make: Make, origin: Origin, another: Origin, tmp_path: Path, where: str, how: Serve
) -> None:
    origin.put("/a.bin?x=1", BODY, how)
    another.put("/b.bin?x=1", BODY)
    dest = {"cache": None, "path": tmp_path / "out", "memory": False}[where]
    manager = make()
    result = manager.fetch(origin.url + "a.bin?x=1", dest, fallback_urls=[another.url + "b.bin"])
    assert result.sha256 == hashlib.sha256(BODY).hexdigest()
    assert result.resolved_url == another.url + "b.bin?x=1"
    assert result.url == origin.url + "a.bin?x=1"
    if where == "cache":
        assert manager.fetch(origin.url + "a.bin?x=1").verdict == "hit"


def test_credentials_for_the_first_url_are_not_sent_to_a_fallback(make: Make, origin: Origin, another: Origin) -> None:
    origin.put("/a.bin", BODY, Say(503))
    another.put("/a.bin", BODY)
    first, second = (one.url.replace("//", f"//{who}:pw@") for one, who in ((origin, "one"), (another, "two")))
    make().fetch(first + "a.bin", fallback_urls=[second + "a.bin"], headers={"Cookie": "c=1"})
    assert origin.requests()[0].fields["cookie"] == "c=1"
    fields = another.requests()[0].fields
    assert "cookie" not in fields
    assert fields["authorization"] != origin.requests()[0].fields["authorization"]


def test_a_file_with_another_digest_than_is_wanted_is_not_taken(make: Make, origin: Origin, another: Origin) -> None:
    origin.put("/a.bin", b"x" + BODY[1:])
    another.put("/a.bin", BODY)
    manager, digest = make(retries=1), hashlib.sha256(BODY).hexdigest()
    with pytest.raises(DownloadError, match="digest"):
        manager.download(origin.url + "a.bin", sha256=digest)
    with pytest.raises(DownloadError, match="digest"):
        manager.download(origin.url + "a.bin", dest=False, sha256=digest)
    result = manager.fetch(origin.url + "a.bin", sha256=digest.upper(), fallback_urls=[another.url + "a.bin"])
    assert read(result.path) == BODY


def test_a_cached_file_with_another_digest_is_downloaded_anew(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/a.bin", b"old")
    manager.download(origin.url + "a.bin")
    origin.put("/a.bin", b"new")
    result = manager.fetch(origin.url + "a.bin", sha256=hashlib.sha256(b"new").hexdigest())
    assert read(result.path) == b"new"
    assert manager.fetch(origin.url + "a.bin", sha256=hashlib.sha256(b"old").hexdigest()).verdict == "hit"


@pytest.mark.parametrize("where", ["cache", "path", "memory"])
@pytest.mark.parametrize("how", [Serve(), Serve(chunked=True)])
def test_a_file_that_is_larger_than_it_may_be_is_not_taken(
    make: Make, origin: Origin, tmp_path: Path, where: str, how: Serve
) -> None:
    origin.put("/a.bin", BODY, how)
    dest = {"cache": None, "path": tmp_path / "out", "memory": False}[where]
    manager = make()
    with pytest.raises(DownloadError, match="max_size") as caught:
        manager.download(origin.url + "a.bin", dest, max_size=len(BODY) - 1)
    assert not caught.value.retryable
    assert len(origin.requests()) == 1
    assert manager.fetch(origin.url + "a.bin", dest, max_size=len(BODY)).ok
    assert not drafts(tmp_path)


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [(Say(404), 404), (Say(418), 418), (Say(500), 500), (Say(204, b""), 204), (Hang(), None), (Raw(b""), None)],
)
def test_an_http_error_is_an_error_and_never_a_later_hit(
    make: Make, origin: Origin, tmp_path: Path, behaviour: Say, status: int | None
) -> None:
    origin.put("/a.bin", BODY, behaviour)
    manager = make(retries=1, timeout=0.2 if isinstance(behaviour, Hang) else 60)
    for dest in (None, False, tmp_path / "out"):
        with pytest.raises(DownloadError) as caught:
            manager.download(origin.url + "a.bin", dest)
        assert caught.value.status == status
        assert caught.value.retryable == (status in (500, None))
        assert caught.value.url == origin.url + "a.bin"
        result = manager.fetch(origin.url + "a.bin", dest, check=False)
        assert (result.ok, result.status, result.path, result.buffer) == (False, status, None, None)
        assert result.error is not None
        assert manager.download(origin.url + "a.bin", dest, check=False) is None
    assert not (tmp_path / "out").exists()
    assert manager.cache is not None
    assert not manager.cache.search(include_removed=True)
    origin.script("/a.bin", Serve())
    assert read(manager.download(origin.url + "a.bin")) == BODY


@pytest.mark.parametrize("where", ["cache", "path", "memory"])
def test_what_may_pass_is_tried_again_and_what_is_refused_is_not(
    make: Make, origin: Origin, tmp_path: Path, where: str
) -> None:
    origin.put("/a.bin", BODY, Say(503, fields=(("Retry-After", "0"),)), Say(500, fields=(("Retry-After", "0"),)), Serve())
    origin.put("/b.bin", BODY, Say(404), Serve())
    dest = {"cache": None, "path": tmp_path / "out", "memory": False}[where]
    manager = make(retries=3)
    assert manager.fetch(origin.url + "a.bin", dest).ok
    with pytest.raises(DownloadError):
        manager.fetch(origin.url + "b.bin", dest)
    assert (len(origin.requests("/a.bin")), len(origin.requests("/b.bin"))) == (3, 1)


def test_a_body_whose_end_cannot_be_told_is_not_taken(make: Make, origin: Origin) -> None:
    origin.put("/a.bin", BODY, Serve(length=False))
    with pytest.raises(DownloadError, match="its end could not be told"):
        make(retries=1).download(origin.url + "a.bin")


def test_an_empty_file_is_a_file(manager: DownloadManager, origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.txt", b"")
    assert read(manager.download(origin.url + "a.txt")) == b""
    assert read(manager.download(origin.url + "a.txt", tmp_path / "out")) == b""


def test_a_page_in_the_place_of_an_archive_is_not_taken(make: Make, origin: Origin) -> None:
    origin.put("/a.tar.gz", b"<!DOCTYPE html><title>Log in</title>", content_type="text/html")
    with pytest.raises(DownloadError, match=r"in the place of a \.gz file"):
        make().download(origin.url + "a.tar.gz")


# --- codings


@pytest.mark.parametrize("where", ["cache", "path", "memory"])
def test_a_coding_that_nobody_asked_for_is_taken_off(make: Make, origin: Origin, tmp_path: Path, where: str) -> None:
    data = packed(BODY)
    coded = (("Content-Encoding", "gzip"),)
    origin.put("/a.txt", data, Serve(cut=len(data) // 2, fields=coded), Serve(fields=coded), etag=None)
    dest = {"cache": None, "path": tmp_path / "out", "memory": False}[where]
    manager = make()
    result = manager.fetch(origin.url + "a.txt", dest)
    assert (result.size, result.sha256) == (len(BODY), hashlib.sha256(BODY).hexdigest())
    assert not any("range" in one.fields for one in origin.requests())
    if where != "memory":
        assert manager.fetch(origin.url + "a.txt", dest, refresh="check").verdict == "confirmed"


def test_a_compressed_file_stays_compressed_whatever_is_said_of_it(manager: DownloadManager, origin: Origin) -> None:
    data = origin.put("/a.tar.gz", packed(BODY), Serve(fields=(("Content-Encoding", "x-gzip"),)))
    assert read(manager.download(origin.url + "a.tar.gz")) == data


@pytest.mark.parametrize("body", [packed(BODY)[:-9], b"not gzip at all", packed(BODY) + b"more"])
def test_a_coding_that_is_broken_is_an_error(make: Make, origin: Origin, body: bytes) -> None:
    origin.put("/a.txt", body, Serve(fields=(("Content-Encoding", "gzip"),)))
    with pytest.raises(DownloadError, match="coding"):
        make(retries=1).download(origin.url + "a.txt")


# --- freshness


def test_a_server_is_asked_whether_there_is_another_version_only_where_that_is_wanted(
    manager: DownloadManager, origin: Origin, tmp_path: Path
) -> None:
    origin.put("/a.bin", b"one")
    for dest in (None, tmp_path / "out"):
        origin.put("/a.bin", b"one")
        first = manager.fetch(origin.url + "a.bin", dest, headers={"X-Token": "t"}, refresh="always")
        assert manager.fetch(origin.url + "a.bin", dest, headers={"X-Token": "t"}, refresh="check").verdict == "confirmed"
        asked = origin.requests()[-1].fields
        assert asked["if-none-match"] == origin.things["/a.bin"].etag
        assert asked["x-token"] == "t"
        origin.put("/a.bin", b"two")
        assert manager.fetch(origin.url + "a.bin", dest, headers={"X-Token": "t"}).verdict == "hit"
        second = manager.fetch(origin.url + "a.bin", dest, headers={"X-Token": "t"}, refresh="check")
        assert (second.verdict, read(second.path)) == ("downloaded", b"two")
        if dest is None:
            assert read(first.path) == b"one"
            assert first.item is not None
            assert second.item is not None
            assert (first.item.version, second.item.version) == (1, 2)


def test_the_same_bytes_again_are_no_new_version(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/a.bin", b"one", Serve(validators=False))
    one = manager.fetch(origin.url + "a.bin")
    two = manager.fetch(origin.url + "a.bin", refresh="always")
    assert two.verdict == "downloaded"
    assert one.item == two.item
    assert one.item is not None
    assert two.item is not None
    assert two.item.date > one.item.date


def test_dates_select_the_versions_that_count(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/a.bin", b"one")
    first = manager.fetch(origin.url + "a.bin").item
    assert first is not None
    assert manager.fetch(origin.url + "a.bin", newer_than="2020-01-01").verdict == "hit"
    assert manager.fetch(origin.url + "a.bin", newer_than=first.date).verdict == "confirmed"
    origin.put("/a.bin", b"two")
    second = manager.fetch(origin.url + "a.bin", newer_than=manager.fetch(origin.url + "a.bin").item.date)  # type: ignore[union-attr]
    assert read(second.path) == b"two"
    assert second.item is not None
    old = manager.fetch(origin.url + "a.bin", older_than=second.item.date)
    assert old.path == first.path
    with pytest.raises(ArgumentError, match="newer_than"):
        manager.fetch(origin.url + "a.bin", newer_than="yesterday")


@pytest.mark.parametrize("trouble", [Say(500), Raw(b""), Serve(cut=0), Hang()])
def test_the_old_version_is_what_there_is_while_no_server_can_be_asked(make: Make, origin: Origin, trouble: Say) -> None:
    origin.put("/a.bin", BODY)
    manager = make(retries=1, timeout=4)
    first = manager.fetch(origin.url + "a.bin")
    origin.put("/a.bin", BODY[1:], trouble)
    second = manager.fetch(origin.url + "a.bin", refresh="check")
    assert (second.verdict, second.path, second.ok) == ("stale", first.path, True)
    assert second.reason
    with pytest.raises(DownloadError):
        manager.fetch(origin.url + "a.bin", refresh="always")
    assert manager.fetch(origin.url + "a.bin").path == first.path
    origin.script("/a.bin", Say(410))
    with pytest.raises(DownloadError) as caught:
        manager.fetch(origin.url + "a.bin", refresh="check")
    assert caught.value.status == 410


# --- what is found later


def test_a_file_that_was_damaged_or_removed_is_downloaded_again(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/a.bin", BODY)
    path = Path(str(manager.download(origin.url + "a.bin")))
    blob = path.resolve()
    blob.unlink()
    assert read(manager.download(origin.url + "a.bin")) == BODY
    blob = Path(str(manager.download(origin.url + "a.bin"))).resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"rot")
    again = manager.download(origin.url + "a.bin")
    assert read(again) == BODY
    assert len(origin.requests()) == 3


def test_an_item_that_was_made_by_hand_is_no_download(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/a.bin", BODY)
    assert manager.cache is not None
    manager.cache.create(origin.url + "a.bin", status=Status.READY)
    params = {"dl_params": {}}
    manager.cache.create(origin.url + "a.bin", params, status=Status.READY)
    assert read(manager.download(origin.url + "a.bin")) == BODY
    assert manager.fetch(origin.url + "a.bin").verdict == "hit"


def test_query_body_and_headers_make_other_files(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/a?x=1", b"1")
    origin.put("/a?x=2", b"2")
    url = origin.url + "a"
    assert manager.fetch(url, query={"x": 1}).verdict == "downloaded"
    assert manager.fetch(url + "?x=1").verdict == "hit"
    assert manager.fetch(url + "?x=2").verdict == "downloaded"
    assert manager.fetch(url + "?x=1", headers={"X-A": "1"}).verdict == "downloaded"
    assert manager.fetch(Descriptor(url, query={"x": "1"}, headers=["x-a: 1"])).verdict == "hit"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"post": {"ids": "P" * 300_000}}, {"post": {"ids": "P" * 300_001}}),
        ({"multipart": {"ids": "P" * 300_000}}, {"multipart": {"ids": "P" * 300_001}}),
        ({"json": {"id": 1 << 70}}, {"json": {"id": 1 + (1 << 70)}}),
        (
            {"json": reduce(lambda inner, _: [inner], range(40), 1)},
            {"json": reduce(lambda inner, _: [inner], range(40), 2)},
        ),
        ({"post": {"a": "x" * 10_000}}, {"post": json.dumps({"a": "x" * 10_000})}),
        ({"fallback_urls": None}, {"headers": {"X-A": "1"}}),
    ],
    ids=["form", "parts", "number", "nested", "text", "none"],
)
def test_whatever_can_be_sent_can_be_kept(
    manager: DownloadManager, origin: Origin, one: dict[str, Any], other: dict[str, Any]
) -> None:
    origin.put("/a", b"1")
    items = [manager.fetch(origin.url + "a", **terms).item for terms in (one, other, one)]
    assert items[0] == items[2] != items[1]
    assert len(origin.requests()) == 2


def test_what_is_recorded_says_how_the_file_came_here(make: Make, origin: Origin) -> None:
    disposition = "attachment; filename*=UTF-8''..%2Fd%C3%A4ta.csv"
    origin.put("/a?x=1", BODY, Serve(fields=(("content-disposition", disposition), ("Set-Cookie", "s=1"))))
    origin.put("/start?x=1", b"", Say(302, fields=(("Location", "/a?x=1"),)))
    manager = make(headers={"X-Mine": "yes"}, user_agent="mine/1")
    result = manager.fetch(origin.url.replace("//", "//me:secret@") + "start", query={"x": 1}, label="kept")
    item = result.item
    assert item is not None
    assert result.filename == item.filename == "d\u00e4ta.csv"
    assert result.path is not None
    assert result.path.endswith(".csv")
    assert item.label == "kept"
    assert item.status == Status.READY
    assert item.uri == origin.url + "start"
    attrs = item.attrs
    assert attrs["url"] == origin.url + "start?x=1"
    assert attrs["resolved_url"] == result.resolved_url == origin.url + "a?x=1"
    assert (attrs["http_code"], attrs["size"], attrs["sha256"]) == (200, len(BODY), hashlib.sha256(BODY).hexdigest())
    assert attrs["etag"] == origin.things["/a?x=1"].etag
    assert attrs["last_modified"] == origin.things["/a?x=1"].modified
    assert attrs["resp_headers"]["content-type"] == "application/octet-stream"  # type: ignore[index]
    assert "set-cookie" not in attrs["resp_headers"]  # type: ignore[operator]
    assert attrs["download_started"] <= attrs["download_finished"]  # type: ignore[operator]
    assert attrs["descriptor"] == {"url": origin.url + "start?x=1", "headers": {"X-Mine": "yes"}}
    assert "secret" not in json.dumps([attrs, item.params], default=str)
    assert origin.requests()[-1].fields["user-agent"] == "mine/1"
    assert manager.cache is not None
    assert manager.cache.search(attrs={"http_code": 200, "size>=": 1000, "content-type": "application/octet-stream"}) == [
        item
    ]


# --- options


def test_options_come_from_a_mapping_or_a_file_and_arguments_come_first(tmp_path: Path) -> None:
    config = {"retries": 7, "timeout": 3}
    (tmp_path / "a.json").write_text(json.dumps({**config, "path": str(tmp_path / "cache")}))
    (tmp_path / "b.toml").write_text("retries = 7\ntimeout = 3\n")
    with DownloadManager(config=config, retries=2) as one:
        assert (one.options.retries, one.options.timeout, one.cache) == (2, 3, None)
    assert config == {"retries": 7, "timeout": 3}
    with DownloadManager(config=tmp_path / "a.json") as two, DownloadManager(config=str(tmp_path / "b.toml")) as three:
        assert two.options.retries == three.options.retries == 7
        assert two.cache is not None
        assert two.cache.dir == str(tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"backend": "httpx"}, "known are builtin, requests, curl"),
        ({"config": {"retrys": 3}}, "did you mean 'retries'"),
        ({"config": "none.json"}, "none.json"),
        ({"config": {"timeout": -1}}, "timeout=-1"),
        ({"refresh": "sometimes"}, "refresh='sometimes' is none of never, check, always"),
        ({"retries": 0}, "retries=0"),
        ({"max_size": "1M"}, "max_size='1M'"),
        ({"headers": "X-A: 1"}, "headers='X-A: 1'"),
        ({"user_agent": "a\nb"}, "User-Agent"),
        ({"cainfo": "/" + "x" * 300}, "is not a file"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        DownloadManager(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "terms",
    [
        {"dest": 7},
        {"retrys": 1},
        {"refresh": "maybe"},
        {"retries": "many"},
        {"retries": 0},
        {"sha256": "abc"},
        {"max_size": 0},
        {"overwrite": "no"},
        {"fallback_urls": "http://mirror.example/"},
        {"fallback_urls": ["mirror"]},
        {"fallback_urls": [None]},
        {"progress": "bar"},
        {"query": {"a": object()}},
    ],
)
def test_terms_that_cannot_be_met_are_refused(manager: DownloadManager, origin: Origin, terms: dict[str, object]) -> None:
    with pytest.raises((ArgumentError, ConfigError)):
        manager.fetch(origin.url + "a", **terms)  # type: ignore[arg-type]
    assert not origin.requests()


def test_a_descriptor_is_taken_as_it_is(manager: DownloadManager, origin: Origin) -> None:
    origin.put("/a", b"1")
    assert manager.fetch(Descriptor(origin.url + "a", timeout=3)).ok
    with pytest.raises(ArgumentError, match="headers is given beside a Descriptor"):
        manager.fetch(Descriptor(origin.url + "a"), headers={"X-A": "1"})


@pytest.mark.parametrize("where", ["cache", "path", "memory"])
def test_a_function_is_told_how_far_it_is(make: Make, origin: Origin, tmp_path: Path, where: str) -> None:
    origin.put("/a.bin", BODY * 20, Serve(pace=20_000_000))
    dest = {"cache": None, "path": tmp_path / "out", "memory": False}[where]
    told: list[tuple[int, int | None]] = []
    make().fetch(origin.url + "a.bin", dest, progress=lambda have, size: told.append((have, size)))
    assert told == sorted(told)
    assert told[-1][1] == len(BODY) * 20


@pytest.mark.parametrize("where", ["cache", "path"])
def test_a_function_that_downloads_what_it_is_told_of_is_refused(
    make: Make, origin: Origin, tmp_path: Path, where: str
) -> None:
    origin.put("/a.bin", BODY * 20)
    origin.put("/b.bin", b"b")
    dest, url, manager = {"cache": None, "path": tmp_path / "out"}[where], origin.url + "a.bin", make()

    def again(have: int, size: int | None) -> None:
        manager.fetch(url, dest)

    with pytest.raises(ArgumentError, match="would wait for itself"):
        manager.fetch(url, dest, progress=again)
    assert manager.fetch(url, dest, progress=lambda *_: manager.fetch(origin.url + "b.bin")).ok
    assert manager.fetch(url, False, refresh="always", progress=lambda *_: manager.fetch(url, dest)).size == len(BODY) * 20


def test_without_a_terminal_nothing_is_shown(
    make: Make, origin: Origin, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    origin.put("/a.bin", BODY)
    origin.put("/b.bin", BODY, Say(500))
    make(progress=True).fetch(origin.url + "a.bin")
    make(retries=1).fetch(origin.url + "b.bin", check=False)
    assert capfd.readouterr() == ("", "")


def test_the_import_is_light_and_leaves_nothing_behind(tmp_path: Path) -> None:
    program = "import sys, package_cache; package_cache.DownloadManager(backend='requests'); print(*sys.modules)"
    pytest.importorskip("requests")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"requests", "pycurl", "tqdm", "urllib3", "gunicorn", "yaml"}
    assert not list(tmp_path.iterdir())
    assert not done.stderr


# --- many at once


def test_eight_threads_that_want_the_same_file_make_one_request(make: Make, origin: Origin) -> None:
    gate = Gate()
    origin.put("/a.bin", BODY, Serve(before=gate))
    manager = make()
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(manager.fetch(origin.url + "a.bin"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert gate.reached.wait(30)
    gate.open()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert {one.path for one in found} == {found[0].path}  # type: ignore[attr-defined]
    assert len(origin.requests()) == 1


def test_two_threads_that_want_the_same_file_at_the_same_path_make_one_request(
    manager: DownloadManager, origin: Origin, tmp_path: Path
) -> None:
    gate, target = Gate(), tmp_path / "out"
    origin.put("/a.bin", BODY, Serve(gate=gate, gate_at=50_000))
    found: list[str] = []

    def fetch() -> None:
        found.append(manager.fetch(origin.url + "a.bin", target).verdict)

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    threads[0].start()
    assert gate.reached.wait(30)
    threads[1].start()
    gate.open()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["downloaded", "hit"]
    assert target.read_bytes() == BODY
    assert len(origin.requests()) == 1


_TWO_THREADS = """\
import sys, threading
from pathlib import Path
from package_cache import DownloadManager

url, target, cache = sys.argv[1:]
looked, over, found = threading.Event(), threading.Event(), []

def hold(event, arguments):
    if event == "open" and threading.current_thread().name == "second" and str(arguments[0]).endswith(".head"):
        looked.set()
        over.wait(30)

def fetch():
    found.append(manager.fetch(url, target).verdict)

sys.addaudithook(hold)
with DownloadManager(Path(cache), proxies={}) as manager:
    second = threading.Thread(target=fetch, name="second")
    second.start()
    assert looked.wait(30)
    fetch()
    over.set()
    second.join()
print(*found)
"""


def test_who_takes_the_place_of_a_download_the_moment_it_is_over_looks_at_what_is_there(
    origin: Origin, tmp_path: Path
) -> None:
    """Two threads found nothing at a path; the first is done with it before the second one locks it."""
    origin.put("/a.bin", BODY)
    words = [origin.url + "a.bin", str(tmp_path / "out"), str(tmp_path / "cache")]
    ran = subprocess.run(
        [sys.executable, "-c", _TWO_THREADS, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stdout, ran.stderr) == ("downloaded hit\n", "")
    assert len(origin.requests()) == 1


def test_what_came_to_a_path_while_another_download_was_waited_for_is_kept_if_it_is_not_to_be_overwritten(
    make: Make, origin: Origin, tmp_path: Path
) -> None:
    gate, target, found = Gate(), tmp_path / "out", []
    origin.put("/a.bin", BODY, Serve(gate=gate, gate_at=50_000))
    manager = make(path=None)

    def fetch() -> None:
        found.append(manager.fetch(origin.url + "a.bin", target, overwrite=False).verdict)

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    threads[0].start()
    assert gate.reached.wait(30)
    threads[1].start()
    gate.open()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["downloaded", "kept"]
    assert len(origin.requests()) == 1


def test_what_was_at_a_path_is_what_there_is_while_no_server_can_be_asked(
    make: Make, origin: Origin, tmp_path: Path
) -> None:
    origin.put("/a.bin", BODY)
    manager, target = make(retries=1), tmp_path / "out"
    manager.fetch(origin.url + "a.bin", target)
    origin.put("/a.bin", BODY[1:], Say(503))
    assert manager.fetch(origin.url + "a.bin", target, refresh="check").verdict == "stale"
    assert target.read_bytes() == BODY
    with pytest.raises(DownloadError):
        manager.fetch(origin.url + "a.bin", target, refresh="always")
    with pytest.raises(DownloadError):
        manager.fetch(origin.url + "a.bin", target, refresh="check", sha256=hashlib.sha256(BODY[1:]).hexdigest())


def test_what_is_at_a_path_is_not_confirmed_if_another_file_is_wanted(
    manager: DownloadManager, origin: Origin, tmp_path: Path
) -> None:
    origin.put("/a.bin", BODY)
    target, digest = tmp_path / "out", hashlib.sha256(BODY).hexdigest()
    manager.fetch(origin.url + "a.bin", target)
    assert manager.fetch(origin.url + "a.bin", target, refresh="check", sha256=digest).verdict == "confirmed"
    with pytest.raises(DownloadError, match="another digest"):
        manager.fetch(origin.url + "a.bin", target, refresh="check", sha256="0" * 64, retries=1)
    assert target.read_bytes() == BODY


def test_one_url_that_may_be_there_later_is_enough_to_try_again(make: Make, origin: Origin, another: Origin) -> None:
    origin.put("/a.bin", BODY, Say(404))
    another.put("/a.bin", BODY, Say(503, fields=(("Retry-After", "0"),)), Serve())
    result = make(retries=2).fetch(origin.url + "a.bin", fallback_urls=[another.url + "a.bin"])
    assert [one.status for one in result.attempts] == [404, 503, 404, 200]


def test_a_bar_is_drawn_on_a_terminal(origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", BODY * 20, Serve(pace=1_500_000))
    terminal, end = os.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    program = "import sys; from package_cache import DownloadManager; DownloadManager(proxies={}).download(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", program, origin.url + "a.bin"], stderr=end)
    os.close(end)
    drawn = b""
    try:
        while data := os.read(terminal, 4096):
            drawn += data
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    assert process.wait(60) == 0
    assert b"a.bin:" in drawn
    assert b"%|" in drawn


def test_a_forked_child_downloads_for_itself(make: Make, origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", BODY)
    origin.put("/b.bin", BODY[1:])
    manager = make()
    manager.download(origin.url + "a.bin")
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            code = 0 if read(manager.download(origin.url + "b.bin")) == BODY[1:] else 1
        except BaseException:
            code = 2
        os._exit(code)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert manager.fetch(origin.url + "b.bin").verdict == "hit"
