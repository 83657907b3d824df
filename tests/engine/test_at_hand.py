"""Indexes that are at hand: a source is asked about them first, and the registry not at all; while fresh, nobody is."""

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from origin import Gate, Origin, Say, Serve, until
from product import Proxy, parts, stored
from raw import Client

from package_cache.model import Entry, Key
from package_cache.storage.registry import Registry

Start = Callable[..., Proxy]

INDEX = "/dists/a/Release"
KINDS = {"a row": b"what is there\n" * 40, "a file": bytes(300_000)}
HIT = "package-cache; hit"
CONFIRMED = "package-cache; fwd=stale; fwd-status=304"
LATER = "Wed, 03 Jan 2024 03:04:05 GMT"


@pytest.fixture(params=KINDS)
def body(request: pytest.FixtureRequest) -> bytes:
    return KINDS[request.param]


def at_hand(origin: Origin, proxy: Proxy, client: Client, body: bytes, path: str = INDEX) -> None:
    """Have an index stored, and come to hand."""
    if path not in stored(proxy.cache):
        assert client.get(path).body == body
        until(lambda: path in stored(proxy.cache) and not parts(proxy.cache))
    for _ in range(2):
        assert client.get(path).body == body


@contextlib.contextmanager
def secretly(cache: Path) -> Iterator[sqlite3.Connection]:
    """The database of the registry, to be changed so that nobody is told."""
    with contextlib.closing(sqlite3.connect(cache / "registry-v1.db", timeout=30)) as connection, connection:
        yield connection


def forget_rows(cache: Path) -> None:
    with secretly(cache) as connection:
        connection.execute("UPDATE entry SET status = 2")


@contextlib.contextmanager
def told(cache: Path, path: str = INDEX) -> Iterator[tuple[Registry, Entry]]:
    """The registry, as another process changes it, and what it has."""
    with contextlib.closing(Registry(cache / "registry-v1.db")) as registry:
        entry = registry.best(Key(path))
        assert entry is not None
        yield registry, entry


@contextlib.contextmanager
def client_of_each(proxy: Proxy) -> Iterator[list[Client]]:
    """A connection to each of two workers."""
    until(lambda: len(proxy.workers()) == 2)
    with contextlib.ExitStack() as stack:
        clients = []
        for stopped in proxy.workers():  # the other one accepts
            os.kill(stopped, signal.SIGSTOP)
            stack.callback(os.kill, stopped, signal.SIGCONT)
            clients.append(stack.enter_context(Client(proxy.address)))
            assert clients[-1].get("/-/health").status == 200
            os.kill(stopped, signal.SIGCONT)
        yield clients


def timed(folder: Path, source: str, fresh: str) -> Path:
    path = folder / "config.toml"
    rule = f'[[repository.rule]]\nmatch = "**"\nfresh = "{fresh}"\n'
    path.write_text(f'[[repository]]\nname = "x"\nprefix = "/x/"\nsources = ["{source}"]\n{rule}')
    return path


def test_an_index_is_confirmed_without_a_look_at_the_registry(origin: Origin, start: Start, body: bytes) -> None:
    origin.put(INDEX, body)
    tag = origin.things[INDEX].etag
    proxy = start(origin.url)
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body)
        forget_rows(proxy.cache)
        before = len(origin.requests())
        for number in range(1, 4):
            answer = client.get(INDEX)
            assert (answer.status, answer.body, answer.get("cache-status")) == (200, body, CONFIRMED)
            assert client.get(INDEX, f"If-None-Match: {tag}").status == 304
            assert client.get(INDEX, "Range: bytes=1-5").body == body[1:6]
            assert len(origin.requests()) == before + 3 * number
    assert all(one.fields["if-none-match"] == tag for one in origin.requests()[1:])


def test_what_a_confirmation_says_is_told_each_time(origin: Origin, start: Start, body: bytes) -> None:
    origin.put(INDEX, body)
    proxy = start(origin.url)
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body)
        for number in (7, 8, 8, 9):
            made = ("Age", "5000") if number == 9 else ("X-No", "no")
            fields = (("Cache-Control", f"max-age={number}"), ("Content-Language", "de"), made)
            origin.script(INDEX, Serve(fields=fields))
            answer = client.get(INDEX)
            assert (answer.body, answer.get("cache-control"), answer.get("content-language")) == (
                body,
                f"max-age={number}",
                None,
            )
            assert (int(answer.get("age") or 0) > 1000) == (number == 9)
            assert client.get(INDEX, "Range: bytes=0-3").get("cache-control") == f"max-age={number}"


def test_a_changed_index_that_two_workers_have_at_hand_is_seen_by_both_at_once(
    origin: Origin, start: Start, body: bytes
) -> None:
    origin.put(INDEX, body)
    proxy = start(origin.url, host="gunicorn", arguments=["--workers", "2"])
    with client_of_each(proxy) as clients:
        for client in clients:
            at_hand(origin, proxy, client, body)
        for number in range(4):
            body = origin.put(INDEX, body[:-1] + b"%d" % number)
            for client in (clients[number % 2], clients[1 - number % 2], *clients):
                assert client.get(INDEX).body == body


def test_who_asks_for_a_changed_index_meanwhile_gets_the_new_one(origin: Origin, start: Start, body: bytes) -> None:
    origin.put(INDEX, body)
    proxy = start(origin.url)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy.address)) for _ in range(8)]
        for client in clients:
            at_hand(origin, proxy, client, body)
        gate, before = Gate(), len(origin.requests())
        body = origin.put(INDEX, body[1:], Serve(before=gate), modified=LATER)
        for client in clients:
            client.ask(INDEX)
        assert gate.reached.wait(30)
        for _ in range(2):
            assert proxy.get("/-/health").status == 200
        gate.open()
        for client in clients:
            assert client.answer().body == body
        assert len(origin.requests()) == before + 1


@pytest.mark.parametrize("trouble", ["404", "500", "away"])
def test_where_a_source_says_something_else_of_an_index_at_hand_it_is_as_ever(
    origin: Origin, start: Start, body: bytes, trouble: str
) -> None:
    origin.put(INDEX, body)
    proxy = start(origin.url)
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body)
        if trouble == "away":
            origin.stop()
        else:
            origin.script(INDEX, Say(int(trouble)))
        for _ in range(3):
            answer = client.get(INDEX)
            if trouble == "404":
                assert answer.status == 404
            else:
                assert (answer.body, answer.get("cache-status")) == (body, "package-cache; fwd=stale")
        if trouble == "404":
            origin.script(INDEX, Serve())
            assert client.get(INDEX).body == body


def test_an_index_at_hand_that_was_taken_out_of_service_is_fetched_anew(origin: Origin, start: Start, body: bytes) -> None:
    origin.put(INDEX, body)
    proxy = start(origin.url)
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body)
        with told(proxy.cache) as (registry, entry):
            assert registry.condemn(entry.digest, body if len(body) < 65536 else None)
        before = len(origin.requests())
        assert client.get(INDEX).body == body
        assert "if-none-match" not in origin.requests()[before].fields


@pytest.mark.parametrize("fresh", ["1h", "http", "json-metadata"])
def test_what_is_fresh_is_a_hit_without_a_look_at_the_registry(
    origin: Origin, start: Start, tmp_path: Path, fresh: str
) -> None:
    body = b'{"metadata": {"timestamp": 4000000000, "ttl": 3600}}'
    origin.put("/index.json", body, Serve(fields=(("Cache-Control", "max-age=1000"),)), content_type="application/json")
    tag = origin.things["/index.json"].etag
    proxy = start(config=timed(tmp_path, origin.url, fresh))
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body, "/x/index.json")
        forget_rows(proxy.cache)
        for _ in range(3):
            answer = client.get("/x/index.json")
            assert (answer.body, answer.get("cache-status")) == (body, HIT)
            answer = client.get("/x/index.json", f"If-None-Match: {tag}")
            assert (answer.status, answer.get("cache-status")) == (304, HIT)
        assert len(origin.requests()) == 1


def test_what_was_fresh_is_asked_about_when_its_time_is_over(origin: Origin, start: Start, tmp_path: Path) -> None:
    body = origin.put("/index", b"first", Serve(fields=(("Cache-Control", "max-age=2"),)))
    proxy = start(config=timed(tmp_path, origin.url, "http"))
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body, "/x/index")
        seen = []
        until(lambda: seen.append(client.get("/x/index").get("cache-status")) or seen[-1] != HIT)
        assert seen[-1] == CONFIRMED
        assert client.get("/x/index").get("cache-status") == HIT
        assert len(origin.requests()) == 2


def test_what_another_process_says_of_how_fresh_it_is_counts_at_once(origin: Origin, start: Start, tmp_path: Path) -> None:
    body = origin.put("/index", b"first")
    proxy = start(config=timed(tmp_path, origin.url, "1h"))
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body, "/x/index")
        with told(proxy.cache, "/x/index") as (registry, entry):
            head = entry.representation
            assert registry.confirm(entry, replace(head, received=head.received - 4000))
        assert [client.get("/x/index").get("cache-status") for _ in range(2)] == [CONFIRMED, HIT]
    assert len(origin.requests()) == 2


@pytest.mark.parametrize("server", ["wsgiref", "gunicorn"])
def test_what_is_at_hand_is_as_fresh_as_the_settings_say_that_were_read_last(
    origin: Origin, start: Start, tmp_path: Path, server: str
) -> None:
    body = origin.put("/index", b"first")
    config = timed(tmp_path, origin.url, "1h")
    proxy = start(config=config, host=server)
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body, "/x/index")
        assert client.get("/x/index").get("cache-status") == HIT
    timed(tmp_path, origin.url, "revalidate")
    proxy.process.send_signal(signal.SIGHUP)
    until(lambda: [proxy.get("/x/index").cache_status for _ in range(8)] == [CONFIRMED] * 8)
    timed(tmp_path, origin.url, "1h")
    proxy.process.send_signal(signal.SIGHUP)
    until(lambda: [proxy.get("/x/index").cache_status for _ in range(8)] == [HIT] * 8)


def test_what_a_client_sends_while_a_source_is_asked_is_answered_in_turn(origin: Origin, start: Start, body: bytes) -> None:
    origin.put(INDEX, body)
    proxy = start(origin.url)
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body)
        gate = Gate()
        origin.script(INDEX, Serve(before=gate))
        client.ask(INDEX)
        assert gate.reached.wait(30)
        client.ask(INDEX, "Range: bytes=0-9")
        client.ask("/-/health")
        for _ in range(2):
            assert proxy.get("/-/health").status == 200
        gate.open()
        assert client.answer().body == body
        assert client.answer().body == body[:10]
        assert client.answer().status == 200


def test_a_client_that_leaves_while_a_source_is_asked_takes_the_answer_from_nobody(
    origin: Origin, start: Start, body: bytes
) -> None:
    origin.put(INDEX, body)
    proxy = start(origin.url)
    with Client(proxy.address) as client:
        at_hand(origin, proxy, client, body)
        gate = Gate()
        origin.script(INDEX, Serve(before=gate))
        with Client(proxy.address) as leaving:
            leaving.ask(INDEX)
            assert gate.reached.wait(30)
        client.ask(INDEX)
        for _ in range(2):
            assert proxy.get("/-/health").status == 200
        gate.open()
        assert client.answer().body == body
        assert client.get(INDEX).body == body
