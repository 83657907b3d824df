"""Older caches are taken over whole, as they are, without being touched; and again at no cost."""

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from older import OldItems, entries, old_documents, snapshot
from origin import Origin, until
from product import Proxy, blobs, files
from trees import imported, take_over

from package_cache import Cache, DownloadManager
from package_cache.library.core import Core
from package_cache.library.importing import Importer
from package_cache.library.trees import FileTree
from package_cache.rules.repositories.routes import Routes
from package_cache.storage.orphans import ORPHAN_SECONDS, orphaned_downloads
from package_cache.storage.parts.locks import NameLocks

KEY = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
THIRD = "00000000000000000000000000000000"


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()


# The tree of 0.2


def a_tree(root: Path) -> Path:
    for name, data in (("distfiles/a+b.tar.gz", b"one"), ("distfiles/sub dir/c.zip", b"two"), ("top-1.tar", b"one")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1_500_000_000, 1_577_836_800))
    return root


def test_a_tree_is_served_by_its_paths_with_its_dates(tmp_path: Path, start: Callable[..., Proxy], origin: Origin) -> None:
    tree, cache = a_tree(tmp_path / "old"), tmp_path / "cache"
    before = snapshot(tree)
    assert imported(tree, cache) == "a tree of files: 3 imported, 9 bytes\n"
    assert snapshot(tree) == before
    assert len(blobs(cache)) == 2
    proxy = start(origin.url, cache=cache)
    for path, body in (("/distfiles/a+b.tar.gz", b"one"), ("/distfiles/sub%20dir/c.zip", b"two"), ("/top-1.tar", b"one")):
        answer = proxy.get(path)
        assert (answer.status, answer.body) == (200, body)
        assert answer.fields["Last-Modified"] == "Wed, 01 Jan 2020 00:00:00 GMT"
    assert origin.requests() == []


def test_a_change_of_the_old_file_never_reaches_the_cache(tmp_path: Path) -> None:
    tree, cache = a_tree(tmp_path / "old"), tmp_path / "cache"
    imported(tree, cache)
    (tree / "top-1.tar").write_bytes(b"xxx")
    assert {path.read_bytes() for path in blobs(cache)} == {b"one", b"two"}
    assert all(path.stat().st_nlink == 1 and path.stat().st_mode & 0o777 == 0o444 for path in files(cache))


def test_a_part_of_a_tree_gets_its_prefix(tmp_path: Path) -> None:
    tree, cache = a_tree(tmp_path / "old"), tmp_path / "cache"
    imported(tree / "distfiles", cache, "--prefix", "/gentoo/distfiles/")
    assert [key for key, *_ in entries(cache)] == ["/gentoo/distfiles/a%2Bb.tar.gz", "/gentoo/distfiles/sub%20dir/c.zip"]


def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path) -> None:
    tree, cache = a_tree(tmp_path / "old"), tmp_path / "cache"
    (tree / "empty").touch()
    (tree / "line\nbreak").write_bytes(b"x")
    (tree / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    run = take_over(tree, cache)
    assert run.returncode == 1
    assert run.stdout.endswith("a tree of files: 3 imported, 9 bytes, 3 refused\n")
    refused = dict(line.removeprefix("refused ").split(": ", 1) for line in run.stdout.splitlines()[:-1])
    assert "empty" in refused["empty"]
    assert "control character" in refused["line\\nbreak"]
    assert any("not UTF-8" in reason for reason in refused.values())


def test_what_the_cache_has_already_is_not_replaced_by_older_bytes(
    tmp_path: Path, start: Callable[..., Proxy], origin: Origin
) -> None:
    tree, cache = a_tree(tmp_path / "old"), tmp_path / "cache"
    origin.put("/top-1.tar", b"newer")
    proxy = start(origin.url, cache=cache)
    proxy.get("/top-1.tar")
    until(lambda: entries(cache))
    assert imported(tree, cache).endswith("2 imported, 6 bytes, 1 here already\n")
    assert proxy.get("/top-1.tar").body == b"newer"
    for path, body in (("/distfiles/a%2Bb.tar.gz", b"one"), ("/distfiles/sub%20dir/c.zip", b"two")):
        assert proxy.get(path).body == body


def test_a_running_cache_has_at_once_what_is_imported(tmp_path: Path, start: Callable[..., Proxy], origin: Origin) -> None:
    tree, cache = tmp_path / "old", tmp_path / "cache"
    tree.mkdir()
    for number in range(3):
        (tree / f"a-1.{number}.bin").write_bytes(b"%d" % number)
    origin.put("/top-1.tar", b"newer")
    proxy = start(origin.url, cache=cache)
    assert proxy.fetch("/top-1.tar").body == b"newer"
    imported(tree, cache)
    for number in range(3):
        answer = proxy.get(f"/a-1.{number}.bin")
        assert (answer.body, answer.cache_status) == (b"%d" % number, "package-cache; hit")


def test_an_import_into_the_tree_itself_leaves_the_cache_out(tmp_path: Path) -> None:
    tree = a_tree(tmp_path / "old")
    for said in ("3 imported, 9 bytes", "0 imported, 0 bytes, 3 here already"):
        assert said in imported(tree, tree / "distfiles" / "cache")


# The items of cachedir


def some_items(root: Path) -> Path:
    old = OldItems(root)
    typed = (
        *(("varchar", None, 0, "species", "human"), ("int", None, 0, "rows", 1200), ("int", None, 0, "rows", 1300)),
        *(("float", None, 0, "score", 2.0), ("datetime", None, 0, "when", "2021-07-06 07:08:09")),
        *(("text", None, 0, "list", '["x",2]'), ("int", "nest", 0, "a", 1), ("text", "nest", 0, "b", '{"c":2}')),
        *(("varchar", None, 1, "dataset", "demo"), ("int", None, 1, "version", 1), ("text", None, 1, "l", "[1,2]")),
        ("datetime", None, 1, "since", "2020-01-02 03:04:05"),
    )
    details: dict[str, Any] = {"ext": "tsv", "label": "lab", "filename": "d.tsv"}
    old.add(KEY, "http://mirror.example/d", b"first", *typed, **details, last_read="2024-06-01 10:00:00.5", read_count=7)
    old.add(KEY, "http://mirror.example/d", b"second", *typed[-4:], version=3, **details)
    old.add(OTHER, "demo://trash", b"trash", status=-1)
    old.add(OTHER, "demo://deleted", version=2, status=-2)
    old.add(OTHER, "demo://failed", b"error page", version=3, status=2)
    old.add(OTHER, "demo://record", version=4)
    old.add(OTHER, "demo://written", b"half", version=5, status=1, ext="txt")
    old.add(OTHER, "demo://nothing", version=6, status=0)
    return old.close()


PARAMS = {"dataset": "demo", "version": 1, "l": [1, 2], "since": datetime(2020, 1, 2, 3, 4, 5)}


def test_items_come_with_all_that_they_had(tmp_path: Path) -> None:
    place, cache = some_items(tmp_path / "old"), tmp_path / "cache"
    before = snapshot(place)
    assert imported(place, cache) == "a cache of cachedir: 8 imported, 16 bytes\n"
    assert snapshot(place) == before
    with Cache(cache) as found:
        one, two = found.search("http://mirror.example/d", PARAMS)
        assert (one.version, one.ext, one.label, one.filename) == (1, "tsv", "lab", "d.tsv")
        when = datetime(2021, 7, 6, 5, 8, 9, tzinfo=UTC)
        nest = {"a": 1, "b": {"c": 2}}
        assert one.attrs == {"species": "human", "rows": 1300, "score": 2.0, "when": when, "list": ["x", 2], "nest": nest}
        assert isinstance(one.attrs["score"], float)
        assert one.date == datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC)
        assert one.last_read == datetime(2024, 6, 1, 8, 0, 0, 500_000, tzinfo=UTC)
        assert one.read_count == 7
        assert (two.version, Path(two.path).read_bytes()) == (3, b"second")
        assert Path(one.path).read_bytes() == b"first"
        assert found.by_attrs({"rows>": 1200, "c": 2}) == {one.id}
        assert found.create("http://mirror.example/d", PARAMS).version == 4
        statuses = {item.uri: (item.status, item.version) for item in found.search(include_removed=True)}
        assert statuses == {
            "http://mirror.example/d": (0, 4),
            "demo://trash": (-1, 1),
            "demo://deleted": (-2, 2),
            "demo://failed": (2, 3),
            "demo://record": (3, 4),
            "demo://written": (1, 5),
            "demo://nothing": (0, 6),
        }


def test_what_was_in_the_trash_can_be_restored_and_what_was_being_written_made_ready(tmp_path: Path) -> None:
    place, cache = some_items(tmp_path / "old"), tmp_path / "cache"
    imported(place, cache)
    with Cache(cache) as found:
        found.restore("demo://trash")
        trashed = found.best("demo://trash")
        assert trashed is not None
        assert Path(trashed.path).read_bytes() == b"trash"
        item = found.best_or_new("demo://written", wait=False, status="write")
        assert (item.version, Path(item.path).read_bytes()) == (5, b"half")
        item.ready()
        assert (item.status, item.size) == (3, 4)
        failed = found.by_key(found.search("demo://failed")[0].key, 3)
        assert failed is not None
        assert failed.size is None


def test_a_second_import_takes_nothing_and_brings_nothing_back(tmp_path: Path) -> None:
    place, cache = some_items(tmp_path / "old"), tmp_path / "cache"
    imported(place, cache)
    assert imported(place, cache) == "a cache of cachedir: 0 imported, 0 bytes, 8 here already\n"
    with Cache(cache) as found:
        found.remove("http://mirror.example/d", PARAMS, keep_record=False)
    assert imported(place, cache).endswith("0 imported, 0 bytes, 6 here already, 2 removed here since\n")
    assert len(entries(cache)) == 6


def test_items_that_make_no_sense_are_refused_and_the_others_are_taken(tmp_path: Path) -> None:
    old, cache = OldItems(tmp_path / "old"), tmp_path / "cache"
    old.add(KEY, None, b"x")
    old.add(KEY, "demo://status", b"x", version=2, status=9)
    old.add(OTHER, "demo://trashed", b"x", ("int", None, 0, "rows", 1), ("int", None, 0, "rows", 2), status=-1)
    old.add(OTHER, None, b"y")  # as cachedir made the next one: version 1 again, and its attributes with the other
    old.add(THIRD, "demo://long", b"x", ("text", None, 0, "big", json.dumps(["x" * 300_000])))
    run = take_over(old.close(), cache)
    assert run.returncode == 1
    assert run.stdout.endswith("1 imported, 1 bytes, 4 refused\n")
    assert "no uri" in run.stdout
    assert "status 9" in run.stdout
    assert "demo://trashed version 1: it was removed, and its version given to another item" in run.stdout
    assert "demo://long version 1: attrs: " in run.stdout
    with Cache(cache) as found:
        [item] = found.search("demo://trashed")
        assert (Path(item.path).read_bytes(), item.attrs, item.status) == (b"y", {"rows": 2}, 3)


def test_a_version_that_is_another_one_here_is_not_touched(tmp_path: Path) -> None:
    old, cache = OldItems(tmp_path / "old"), tmp_path / "cache"
    old.add(KEY, "demo://x", b"old bytes")
    with Cache(cache) as found, found.writing("demo://x") as file:
        file.write(b"new")
    run = take_over(old.close(), cache)
    assert run.returncode == 1
    assert "the cache has another version 1 of it, of 3 bytes" in run.stdout
    with Cache(cache) as found:
        [item] = found.search("demo://x")
        assert Path(item.path).read_bytes() == b"new"


def test_a_registry_in_the_cache_directory_itself_can_be_imported(tmp_path: Path) -> None:
    place = some_items(tmp_path / "old")
    assert "8 imported" in imported(place, place)
    assert "8 here already" in imported(place, place)


# The downloads of dlmachine


def a_download(old: OldItems, key: str, url: str, data: bytes | None, *more: tuple[Any, ...], **asked: Any) -> None:
    recorded = {"baseurl": url.partition("?")[0], "url": url, "headers": asked.get("headers", [])}
    fields = {"ETag": '"x"', "Content-Type": {"0": "text/plain", "charset": "utf-8"}, "Content-Disposition": {"0": ""}}
    old.add(
        key,
        url.partition("?")[0],
        data,
        *(("text", "dl_params", 1, name, json.dumps(value)) for name, value in {"headers": [], **asked}.items()),
        *(("text", "dl_descriptor", 0, name, json.dumps(value)) for name, value in recorded.items() if name == "headers"),
        *(("varchar", "dl_descriptor", 0, name, value) for name, value in recorded.items() if name != "headers"),
        *(("varchar", "resp_headers", 0, name, value) for name, value in fields.items() if isinstance(value, str)),
        *(
            ("text", "resp_headers", 0, name, json.dumps(value))
            for name, value in fields.items()
            if isinstance(value, dict)
        ),
        ("varchar", None, 0, "url", url),
        ("varchar", None, 0, "sha256", hashlib.sha256(data or b"").hexdigest()),
        ("varchar", None, 0, "download_finished", "2024-05-06 07:08:09"),
        ("int", None, 0, "http_code", 200),
        ("int", None, 0, "size", 999),
        *more,
        status=3,
        ext="tsv",
    )


def test_downloads_are_found_by_the_same_calls_without_a_server(tmp_path: Path, origin: Origin) -> None:
    old, cache, base = OldItems(tmp_path / "old"), tmp_path / "cache", origin.url
    posted = ("varchar", None, 0, "download_method", "POST")
    secret = "Authorization: Bearer 123"
    kind = "Content-Type: application/json"
    a_download(old, "a" * 32, f"{base}plain.tsv", b"plain")
    a_download(old, "b" * 32, f"{base}asked?a=b&n=3", b"asked", query={"a": "b", "n": 3})
    a_download(old, "c" * 32, f"{base}form", b"form", posted, query={"a": "b"})
    a_download(old, "d" * 32, f"{base}json", b"json", posted, query={"a": {"x": [1]}}, headers=["X-A: b", kind])
    a_download(old, "e" * 32, f"{base}secret", b"secret", headers=[secret])
    assert "5 imported" in imported(old.close(), cache)
    with DownloadManager(path=cache) as manager:

        def body(path: str, **asked: Any) -> bytes:
            return Path(str(manager.download(base + path, **asked))).read_bytes()

        assert body("plain.tsv") == b"plain"
        assert body("asked", query={"n": 3, "a": "b"}) == b"asked"
        assert body("form", query={"a": "b"}, post=True) == b"form"
        assert body("json", query={"a": {"x": [1]}}, json=True, headers=["X-A: b"]) == b"json"
        assert body("secret", headers=[secret]) == b"secret"
        assert origin.requests() == []
        result = manager.fetch(f"{base}plain.tsv")
        assert (result.verdict, result.size, result.status) == ("hit", 5, 200)
        assert dict(result.headers) == {"etag": '"x"', "content-type": "text/plain; charset=utf-8"}
        assert result.item is not None
        assert result.item.attrs["download_finished"] == datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC)
        assert b"Bearer 123" not in (cache / "registry-v1.db").read_bytes()


def test_a_download_is_confirmed_by_its_etag(tmp_path: Path, origin: Origin) -> None:
    old, cache = OldItems(tmp_path / "old"), tmp_path / "cache"
    a_download(old, KEY, f"{origin.url}plain.tsv", b"plain")
    imported(old.close(), cache)
    origin.put("/plain.tsv", b"plain", etag='"x"')
    with DownloadManager(path=cache) as manager:
        assert manager.fetch(f"{origin.url}plain.tsv", refresh="check").verdict == "confirmed"


def test_downloads_that_are_damaged_or_lost_are_refused(tmp_path: Path) -> None:
    old, cache = OldItems(tmp_path / "old"), tmp_path / "cache"
    a_download(old, KEY, "http://mirror.example/cut", b"whole")
    (old.root / f"{KEY}-1.tsv").write_bytes(b"who")
    a_download(old, OTHER, "http://mirror.example/lost", None)
    run = take_over(old.close(), cache)
    assert run.returncode == 1
    assert "cut version 1: its bytes are not those that were downloaded" in run.stdout
    assert "lost version 1: it was downloaded, but its file is missing" in run.stdout
    assert (entries(cache), blobs(cache)) == ([], [])


def test_a_file_that_kept_its_first_name_is_found(tmp_path: Path) -> None:
    old, cache = OldItems(tmp_path / "old"), tmp_path / "cache"
    old.add(KEY, "demo://renamed", b"bytes", ext="json", on_disk=f"{KEY}-1")
    assert "1 imported, 5 bytes" in imported(old.close(), cache)


# The documents of UST-Download-Cache


def test_documents_are_here_until_their_time_has_passed(tmp_path: Path, origin: Origin) -> None:
    now = int(time.time())
    fresh = {"metadata": {"timestamp": now, "ttl": 3600}, "data": {"a": 1}}
    late = {"metadata": {"timestamp": now - 7200, "ttl": 3600}, "data": {"a": 2}}
    place = old_documents(
        tmp_path / "old",
        {f"{origin.url}fresh": fresh, f"{origin.url}late?x=1": late, f"{origin.url}bad": b"{}", "ftp://x": fresh},
    )
    for name in ("file-0", "file-1"):
        os.utime(place / name, (now - 7000, now - 7000))
    before, cache = snapshot(place), tmp_path / "cache"
    run = take_over(place, cache)
    assert run.returncode == 1
    assert "a directory of UST-Download-Cache: 2 imported" in run.stdout
    assert f"refused {origin.url}bad: its document cannot be used: it has no object named metadata" in run.stdout
    assert "refused ftp://x: " in run.stdout
    assert snapshot(place) == before
    assert "2 here already, 2 refused" in take_over(place, cache).stdout
    with DownloadManager(path=cache, retries=1) as manager:
        assert manager.get_json(f"{origin.url}fresh").data == {"a": 1}
        assert origin.requests() == []
        document = manager.get_json(f"{origin.url}late?x=1")
        assert [one.target for one in origin.requests()] == ["/late?x=1"]
        assert (document.data, document.stale) == ({"a": 2}, True)


# Recognising, progress, interruption


@pytest.mark.parametrize("name", ["cache.sqlite", "file_cache.json"])
def test_a_list_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / name).write_bytes(b"nonsense")
    run = take_over(tmp_path / "old", tmp_path / "cache")
    assert run.returncode == 1
    assert f"{tmp_path}/old/{name} is no " in run.stderr
    assert not (tmp_path / "cache").exists()


def test_a_directory_that_is_none_is_told_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    run = take_over(tmp_path / "old", tmp_path / "cache")
    assert run.returncode == 1
    assert all(word in run.stderr for word in ("cache.sqlite", "file_cache.json", "package-cache 0.2"))
    Cache(tmp_path / "cache").close()
    assert "is a cache of this version" in take_over(tmp_path / "cache", tmp_path / "other").stderr
    assert "is no directory" in take_over(tmp_path / "none", tmp_path / "other").stderr
    assert "cannot be looked at: File name too long" in take_over(tmp_path / ("a" * 300), tmp_path / "other").stderr
    place = some_items(tmp_path / "items")
    assert "a prefix is for the paths of a tree" in take_over(place, tmp_path / "cache", "--prefix", "/x").stderr


def test_the_report_is_one_json_object(tmp_path: Path) -> None:
    tree = a_tree(tmp_path / "old")
    (tree / "empty").touch()
    run = take_over(tree, tmp_path / "cache", "--json")
    report = json.loads(run.stdout)
    assert report.pop("refused")[0]["name"] == "empty"
    title = "a tree of files"
    assert report == {"whole": True, "kind": title, "imported": 3, "bytes": 9, "here": 0, "removed": 0, "skipped": []}


def more_than_a_group(root: Path) -> Path:
    """A tree of which 200 files are committed before the others."""
    root.mkdir()
    for number in range(205):
        (root / f"{number:03}.tar").write_bytes(b"%d" % number)
    return root


@contextmanager
def waiting(tree: Path, cache: Path, **streams: Any) -> Iterator[tuple[subprocess.Popen[str], Callable[[], None]]]:
    """An import that has committed its first 200 files, and waits for the store; what lets it go on. Killed at the end."""
    Cache(cache).close()
    locks = NameLocks(cache / "leases-v2")
    name = f"blob:{hashlib.sha256(b'203').hexdigest()}"
    assert locks.take(name)
    command = [sys.executable, "-m", "package_cache", "import", str(tree), "--cache", str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **streams) as process:
        try:
            until(lambda: len(entries(cache)) == 200 and len(list((cache / "parts-v1").glob("*.part"))) == 5)
            yield process, lambda: locks.free(name)
        finally:
            locks.free(name)
            if process.poll() is None:
                process.kill()


def test_an_interrupted_import_goes_on_where_it_was(tmp_path: Path) -> None:
    tree, cache = more_than_a_group(tmp_path / "old"), tmp_path / "cache"
    with waiting(tree, cache) as (process, let_go):
        process.send_signal(signal.SIGINT)
        let_go()
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    count = len(entries(cache))
    assert count >= 200
    assert f"{count} imported" in said
    assert said.endswith("interrupted: run it again to resume\n")
    assert list((cache / "parts-v1").iterdir()) == []
    assert f"{205 - count} imported" in imported(tree, cache)


def test_what_was_copied_before_an_interruption_is_kept(tmp_path: Path) -> None:
    tree, cache = more_than_a_group(tmp_path / "old"), tmp_path / "cache"
    steps = iter(range(3))

    def step() -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    importer = Importer(Core(cache))
    with pytest.raises(KeyboardInterrupt):
        importer.run(FileTree(tree, cache, Routes(()), ""), step)
    assert importer.done.imported == len(entries(cache)) == 4


def test_a_killed_import_leaves_nothing_wrong_and_goes_on(tmp_path: Path) -> None:
    tree, cache = more_than_a_group(tmp_path / "old"), tmp_path / "cache"
    with waiting(tree, cache) as (process, _):
        process.kill()
        process.wait()
    assert "5 imported, 15 bytes, 200 here already" in imported(tree, cache)
    assert list((cache / "parts-v1").iterdir()) == []
    assert len(entries(cache)) == len(blobs(cache)) == 205
    fsck = [sys.executable, "-m", "package_cache", "fsck", "--cache", str(cache)]
    assert subprocess.run(fsck, capture_output=True, text=True, check=True).stdout.endswith("no problems\n")


def test_what_a_killed_import_left_is_swept(tmp_path: Path) -> None:
    tree, cache = more_than_a_group(tmp_path / "old"), tmp_path / "cache"
    with waiting(tree, cache) as (process, _):
        locks, tomorrow = NameLocks(cache / "leases-v2"), time.time() + 2 * ORPHAN_SECONDS
        assert list(orphaned_downloads(cache / "parts-v1", locks, tomorrow)) == []
        process.kill()
        process.wait()
        [left] = orphaned_downloads(cache / "parts-v1", locks, tomorrow)
        assert len(left.paths) == 5


def test_one_import_at_a_time(tmp_path: Path) -> None:
    tree, cache = more_than_a_group(tmp_path / "old"), tmp_path / "cache"
    with waiting(tree, cache):
        run = take_over(tree, cache)
    assert (run.returncode, run.stderr) == (1, "package-cache: another import is at work in this cache\n")


def test_how_far_it_is_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    tree = more_than_a_group(tmp_path / "old")
    inner, outer = pty.openpty()
    with waiting(tree, tmp_path / "cache", stderr=outer) as (process, let_go):
        os.close(outer)
        let_go()
        process.wait()
    said = b""
    with suppress(OSError):  # its other end is closed
        while block := os.read(inner, 4096):
            said += block
    os.close(inner)
    assert re.search(rb"\d+ %  \d+ imported, ", said)
    assert said.endswith(b"\r\x1b[K")
