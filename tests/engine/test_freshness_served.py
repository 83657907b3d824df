"""Freshness as clients see it: package files are kept, indexes are asked for each time, and served stale in need."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest
from forks import Forks
from origin import Behaviour, Gate, Hang, Origin, Raw, Say, Serve, until
from product import Proxy, Response, blobs, parts

from package_cache.model import Entry, Key
from package_cache.rules.http.fields import format_date
from package_cache.storage.registry import Registry

INDEXES = (
    "/dists/stable/InRelease",
    "/simple/foo/",
    "/x/repodata/repomd.xml",
    "/layout.conf",
    "/os/core.db",
    "/APKINDEX.tar.gz",
    "/a-1.tar?query",
)
NEWER = "Wed, 03 Jan 2024 03:04:05 GMT"
LIMITS = {"PACKAGE_CACHE_HEAD_TIMEOUT": "4", "PACKAGE_CACHE_STALL_TIMEOUT": "4"}


@pytest.fixture
def start(start: Callable[..., Proxy]) -> Callable[..., Proxy]:
    return start


def best(proxy: Proxy, key: str) -> Entry | None:
    """What the registry holds of a key."""
    registry = Registry(proxy.cache / "registry-v1.db")
    try:
        return registry.best(Key(key))
    finally:
        registry.close()


def test_a_package_file_is_never_asked_for_again(origin: Origin, start: Callable[..., Proxy], host: str) -> None:
    body = origin.put("/foo-1.0.dat", b"first", Serve(fields=(("Cache-Control", "no-store, max-age=0"),)))
    proxy = start(origin.url, host=host)
    assert proxy.get("/foo-1.0.dat").body == body
    origin.put("/foo-1.0.dat", b"other")
    for fields in ({}, {"Accept": "text/html"}, {"Range": "bytes=0-"}, {"Cache-Control": "max-age=60"}):
        answer = proxy.get("/foo-1.0.dat", fields)
        assert answer.body == body
        assert answer.cache_status == "package-cache; hit"
    assert len(origin.requests()) == 1


@pytest.mark.parametrize("path", INDEXES)
def test_an_index_is_asked_for_each_time(origin: Origin, start: Callable[..., Proxy], path: str) -> None:
    body = origin.put(path, b"\0first")
    proxy = start(origin.url)
    assert proxy.fetch(path).body == body
    for _ in range(2):
        answer = proxy.get(path)
        assert (answer.status, answer.body) == (200, body)
        assert answer.cache_status == "package-cache; fwd=stale; fwd-status=304"
    first, *later = origin.requests()
    assert not {"if-none-match", "if-modified-since"} & set(first.fields)
    assert len(later) == 2
    for asked in later:
        assert asked.fields["if-none-match"] == origin.things[path].etag
        assert asked.fields["if-modified-since"] == origin.things[path].modified
    body = origin.put(path, b"\0second", modified=NEWER)
    answer = proxy.fetch(path)
    assert (answer.status, answer.body) == (200, body)
    assert proxy.get(path).body == body


def test_both_workers_see_a_changed_index_at_once(origin: Origin, start: Callable[..., Proxy]) -> None:
    proxy = start(origin.url, host="gunicorn")
    confirmed = 0
    for number in range(20):
        body = origin.put("/layout.conf", b"%d" % number)
        assert proxy.fetch("/layout.conf").body == body
        answer = proxy.get("/layout.conf")
        assert answer.body == body
        confirmed += answer.cache_status.endswith("fwd-status=304")  # but while the same worker has not heard of the commit
    assert len(origin.requests()) == 20 + confirmed
    assert confirmed > 0


def test_a_date_alone_makes_an_index_conditional(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/layout.conf", b"first", etag=None)
    proxy = start(origin.url)
    for _ in range(2):
        assert proxy.fetch("/layout.conf").body == b"first"
    asked = origin.requests()[1]
    assert asked.fields["if-modified-since"] == origin.things["/layout.conf"].modified
    assert "if-none-match" not in asked.fields


def test_a_confirmation_renews_what_it_says_and_no_more(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/layout.conf", b"first", Serve(fields=(("Cache-Control", "max-age=1"), ("Content-Language", "en"))))
    proxy = start(origin.url)
    proxy.fetch("/layout.conf")
    origin.script("/layout.conf", Serve(fields=(("Cache-Control", "max-age=2"), ("Content-Language", "de"))))
    answer = proxy.get("/layout.conf")
    assert answer.fields["Cache-Control"] == "max-age=2"
    assert answer.fields["Content-Language"] == "en"
    assert answer.fields["Age"] == "0"


def test_a_confirmation_of_another_version_confirms_nothing(origin: Origin, start: Callable[..., Proxy]) -> None:
    """A source behind which several servers are may answer with the tag of what only one of them has."""
    origin.put("/layout.conf", b"first")
    proxy = start(origin.url)
    proxy.fetch("/layout.conf")
    origin.put("/layout.conf", b"second", Say(304, fields=(("ETag", '"other"'),)), Serve())
    assert proxy.get("/layout.conf").body == b"second"
    assert ["if-none-match" in asked.fields for asked in origin.requests()] == [False, True, False]


def test_what_a_proxy_on_the_way_made_over_is_stored(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/foo-1.0.dat", b"", Say(203, b"bytes"))
    proxy = start(origin.url)
    assert [proxy.get("/foo-1.0.dat").body for _ in range(2)] == [b"bytes"] * 2
    assert proxy.get("/foo-1.0.dat").cache_status == "package-cache; hit"
    assert len(origin.requests()) == 1


def test_an_answer_is_as_old_as_its_date_says(origin: Origin, start: Callable[..., Proxy]) -> None:
    made = format_date(time.time() - 100)
    origin.put("/foo-1.0.dat", b"", Raw(f"HTTP/1.1 200 OK\r\nDate: {made}\r\nContent-Length: 5\r\n\r\nfirst".encode()))
    proxy = start(origin.url)
    for _ in range(3):
        answer = proxy.get("/foo-1.0.dat")
        assert 100 <= int(answer.fields["Age"]) < 160
    assert answer.cache_status == "package-cache; hit"


def test_a_client_that_has_the_index_is_told_so(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/layout.conf", b"first")
    proxy = start(origin.url)
    etag = proxy.fetch("/layout.conf").fields["ETag"]
    assert proxy.get("/layout.conf", {"If-None-Match": etag}).status == 304
    origin.put("/layout.conf", b"second")
    answer = proxy.get("/layout.conf", {"If-None-Match": etag})
    assert (answer.status, answer.body) == (200, b"second")
    assert proxy.get("/layout.conf", {"If-None-Match": answer.fields["ETag"]}).status == 304


def test_a_range_of_a_changed_index_is_of_the_new_one(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/layout.conf", b"first")
    proxy = start(origin.url)
    etag = proxy.fetch("/layout.conf").fields["ETag"]
    origin.put("/layout.conf", b"a new one")
    answer = proxy.get("/layout.conf", {"Range": "bytes=0-4", "If-Range": etag})
    assert (answer.status, answer.body) == (200, b"a new one")
    assert proxy.get("/layout.conf", {"Range": "bytes=2-4"}).body == b"new"


# Sources that fail


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_an_index_is_served_as_it_was_while_its_source_is_down(
    origin: Origin, start: Callable[..., Proxy], host: str
) -> None:
    origin.put("/layout.conf", b"first")
    proxy = start(origin.url, host=host)
    proxy.fetch("/layout.conf")
    origin.stop()
    for _ in range(3):
        answer = proxy.get("/layout.conf")
        assert (answer.status, answer.body, answer.whole) == (200, b"first", True)
        assert answer.cache_status == "package-cache; fwd=stale"
    assert proxy.get("/layout.conf", {"Range": "bytes=1-2"}).body == b"ir"


NEW = b"a new index"
FAILURES: dict[str, Behaviour] = {
    "500": Say(500),
    "503": Say(503),
    "403": Say(403),
    "silence": Hang(),
    "no answer": Raw(b""),
    "a head only": Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    "cut": Serve(body=NEW, validators=False, cut=5),
    "stalled": Serve(body=NEW, validators=False, stall=5),
    "chunks without an end": Serve(body=NEW, validators=False, chunked=True, cut=len(NEW)),
    "neither length nor chunks": Serve(body=NEW, validators=False, length=False),
    "longer than declared": Serve(body=NEW, validators=False, declared=9),
}


@pytest.fixture(scope="module")
def failing(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Origin, dict[str, Response]]]:
    """What clients got of an index of each failing source, all asked for at the same time: giving up takes seconds."""
    origin = Origin()
    proxy = Proxy(tmp_path_factory.mktemp("failing"), [origin.url], environment=LIMITS, spawn=forks.spawn)
    try:
        places = {name: f"/{number}/layout.conf" for number, name in enumerate(FAILURES)}
        for name, path in places.items():
            origin.put(path, b"first")
            proxy.fetch(path)
            origin.script(path, FAILURES[name])
        with ThreadPoolExecutor(len(places)) as pool:
            yield proxy, origin, dict(zip(places, pool.map(proxy.get, places.values()), strict=True))
    finally:
        proxy.kill()
        origin.stop()


@pytest.mark.parametrize("name", FAILURES)
def test_an_index_is_served_as_it_was_where_its_source_fails(
    failing: tuple[Proxy, Origin, dict[str, Response]], name: str
) -> None:
    proxy, origin, answers = failing
    answer = answers[name]
    assert (answer.status, answer.body, answer.whole) == (200, b"first", True)
    assert answer.cache_status == "package-cache; fwd=stale"
    path = f"/{list(FAILURES).index(name)}/layout.conf"
    origin.put(path, b"second")
    # While a source is set aside, one request in a second finds out how it is; the others are answered at once.
    until(lambda: proxy.get(path).body == b"second")


def test_a_large_new_index_that_breaks_off_never_replaces_the_old_one(origin: Origin, start: Callable[..., Proxy]) -> None:
    old, new = bytes(300_000), b"x" * 300_000
    origin.put("/dists/Contents", old)
    proxy = start(origin.url)
    assert proxy.fetch("/dists/Contents").body == old
    origin.put("/dists/Contents", new, Serve(cut=200_000))
    answer = proxy.get("/dists/Contents")
    assert not answer.whole
    assert new.startswith(answer.body)
    entry = best(proxy, "/dists/Contents")
    assert entry is not None
    assert entry.version == 1
    assert len(blobs(proxy.cache)) == 1
    origin.script("/dists/Contents", Serve())
    until(lambda: proxy.get("/dists/Contents").body == new)  # the source was set aside


def test_an_index_that_is_gone_is_not_found(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/layout.conf", b"first")
    proxy = start(origin.url)
    proxy.fetch("/layout.conf")
    origin.script("/layout.conf", Say(404))
    assert proxy.get("/layout.conf").status == 404
    origin.script("/layout.conf", Serve())
    assert proxy.get("/layout.conf").body == b"first"


def test_an_index_comes_from_the_second_mirror_while_the_first_is_down(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    origin.put("/layout.conf", b"first")
    another.put("/layout.conf", b"second", modified=NEWER)
    proxy = start(origin.url, another.url)
    assert proxy.fetch("/layout.conf").body == b"first"
    origin.script("/layout.conf", Say(503))
    assert proxy.get("/layout.conf").body == b"second"


def test_a_mirror_that_lags_behind_does_not_bring_an_old_index_back(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    origin.put("/layout.conf", b"new", modified=NEWER)
    another.put("/layout.conf", b"old")
    proxy = start(origin.url, another.url)
    assert proxy.fetch("/layout.conf").body == b"new"
    origin.stop()
    answer = proxy.get("/layout.conf")
    assert (answer.body, answer.cache_status) == (b"new", "package-cache; fwd=stale")


# One request for many clients


def test_clients_of_a_changed_index_share_one_request(origin: Origin, start: Callable[..., Proxy]) -> None:
    old, new, gate = bytes(300_000), b"x" * 300_000, Gate()
    origin.put("/dists/Contents", old)
    proxy = start(origin.url, host="gunicorn")
    proxy.fetch("/dists/Contents")
    origin.put("/dists/Contents", new, Serve(gate=gate, gate_at=200_000))
    ready = threading.Barrier(13)

    def client(_: int) -> bytes:
        with proxy.connect() as connection:
            connection.sendall(b"GET /dists/Contents HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            reader = connection.makefile("rb")
            first = reader.read(100_000)
            ready.wait(60)
            return (first + reader.read()).partition(b"\r\n\r\n")[2]

    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(client, number) for number in range(12)]
        ready.wait(60)
        gate.open()
        assert {one.result() for one in running} == {new}
    assert len(origin.requests()) == 2


def test_clients_of_an_unchanged_index_share_one_request(origin: Origin, start: Callable[..., Proxy]) -> None:
    gate, count = Gate(), 16
    origin.put("/layout.conf", b"first", Serve(), Serve(before=gate), Serve())
    proxy = start(origin.url)
    proxy.fetch("/layout.conf")
    with ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(count)]
        for client in clients:
            client.sendall(b"GET /layout.conf HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert gate.reached.wait(30)
        until(lambda: not proxy.unread())
        gate.open()
        answers = [client.makefile("rb").read() for client in clients]
    assert {answer.partition(b"\r\n\r\n")[2] for answer in answers} == {b"first"}
    assert len(origin.requests()) == 2


# Versions and variants


def test_equal_bytes_make_no_new_version(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/layout.conf", b"first", etag=None, modified=None)
    proxy = start(origin.url)
    for _ in range(3):
        assert proxy.fetch("/layout.conf").body == b"first"
    until(lambda: not parts(proxy.cache))
    entry = best(proxy, "/layout.conf")
    assert entry is not None
    assert entry.version == 1
    assert len(origin.requests()) == 3
    origin.put("/layout.conf", b"other", etag=None, modified=None)
    proxy.get("/layout.conf")

    def version() -> int:
        entry = best(proxy, "/layout.conf")
        assert entry is not None
        return entry.version

    until(lambda: version() == 2)
    assert len(blobs(proxy.cache)) == 2


JSON = "application/vnd.pypi.simple.v1+json"


def test_variants_of_a_document_are_kept_apart(origin: Origin, start: Callable[..., Proxy]) -> None:
    html = Serve(body=b"<html>", validators=False, fields=(("Content-Type", "text/html"), ("Vary", "Accept")))
    json = Serve(body=b"{}", validators=False, fields=(("Content-Type", JSON), ("Vary", "Accept")))
    origin.put("/simple/foo/", b"", html, json, content_type=None)
    proxy = start(origin.url)
    wanted = {"text/html": (b"<html>", "text/html"), JSON: (b"{}", JSON)}
    for accept, (body, kind) in wanted.items():
        answer = proxy.fetch("/simple/foo/", {"Accept": accept})
        assert (answer.body, answer.fields["Content-Type"]) == (body, kind)
    assert [asked.fields["accept"] for asked in origin.requests()] == list(wanted)
    origin.stop()
    for accept, (body, kind) in wanted.items():
        answer = proxy.get("/simple/foo/", {"Accept": accept})
        assert (answer.body, answer.fields["Content-Type"]) == (body, kind)
        assert answer.cache_status == "package-cache; fwd=stale"


def test_a_package_file_has_no_variants(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/foo-1.0.dat", b"first")
    proxy = start(origin.url)
    for accept in ("text/html", "*/*", "application/octet-stream"):
        assert proxy.get("/foo-1.0.dat", {"Accept": accept}).body == b"first"
    assert len(origin.requests()) == 1


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "TEXT/HTML", "application/json", JSON])
def test_a_document_under_the_name_of_a_file_is_asked_for_each_time(
    origin: Origin, start: Callable[..., Proxy], kind: str
) -> None:
    origin.put("/foo-1.0.dat", b"please log in", content_type=kind)
    proxy = start(origin.url)
    for _ in range(2):
        assert proxy.fetch("/foo-1.0.dat").body == b"please log in"
    origin.put("/foo-1.0.dat", b"the file")
    assert proxy.fetch("/foo-1.0.dat").body == b"the file"
    until(lambda: proxy.get("/foo-1.0.dat").cache_status == "package-cache; hit")
    assert len(origin.requests()) == 3


def test_a_file_that_takes_the_place_of_a_document_is_a_hit_as_soon_as_its_bytes_are_here(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    origin.put("/foo-1.0.dat", b"please log in", content_type="text/html")
    proxy = start(origin.url)
    assert proxy.get("/foo-1.0.dat").body == b"please log in"
    until(lambda: best(proxy, "/foo-1.0.dat"))
    origin.put("/foo-1.0.dat", b"the file")
    with closing(sqlite3.connect(proxy.cache / "registry-v1.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # so that it is not stored yet
        assert proxy.get("/foo-1.0.dat").body == b"the file"
        answer = proxy.get("/foo-1.0.dat")
        assert (answer.body, answer.cache_status) == (b"the file", "package-cache; hit")
        connection.execute("ROLLBACK")
    assert len(origin.requests()) == 2
