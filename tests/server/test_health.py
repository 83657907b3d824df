"""`/-/`, the paths of the cache itself: whether it can serve, told in a bounded time and to whom it may concern."""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from origin import Gate, Origin, Serve, until
from product import Proxy, blobs, parts, stored
from raw import Answer, Client

from package_cache.server.admission import is_local

Start = Callable[..., Proxy]

HEALTH = "/-/health"
SLOW = {"PACKAGE_CACHE_STALL_TIMEOUT": "100", "PACKAGE_CACHE_HEAD_TIMEOUT": "100"}


def begin(start: Start, origin: Origin, host: str) -> Proxy:
    """A product all of whose processes have opened the cache."""
    proxy = start(origin.url, host=host, arguments=["-w", "1"] if host == "gthread" else [])
    assert ask(proxy).status == 200
    return proxy


def ask(proxy: Proxy, target: str = HEALTH, method: str = "GET", version: str = "HTTP/1.1") -> Answer:
    with Client(proxy.address) as client:
        return client.get(target, method=method, version=version)


def test_a_service_that_can_serve_says_so(origin: Origin, start: Start, host: str) -> None:
    proxy = start(origin.url, host=host)
    answer = ask(proxy)
    assert (answer.status, answer.body, answer.whole) == (200, b"ok\n", True)
    assert (answer.get("content-type"), answer.get("cache-control")) == ("text/plain; charset=utf-8", "no-store")
    head = ask(proxy, method="HEAD")
    assert (head.status, head.get("content-length"), head.body) == (200, "3", b"")
    assert origin.requests() == []
    assert stored(proxy.cache) == []


@pytest.mark.parametrize(
    ("target", "version"),
    [
        (HEALTH, "HTTP/1.0"),
        (f"http://127.0.0.1{HEALTH}", "HTTP/1.1"),
        (f"http://127.0.0.1{HEALTH}", "HTTP/1.0"),
        ("/%2D/health", "HTTP/1.1"),
        ("/a/../-/health", "HTTP/1.1"),
        (f"{HEALTH}?verbose", "HTTP/1.1"),
    ],
)
def test_it_may_be_asked_in_any_way_that_a_path_can_be_written(
    origin: Origin, start: Start, target: str, version: str
) -> None:
    answer = ask(start(origin.url), target, version=version)
    assert (answer.status, answer.body) == (200, b"ok\n")
    assert origin.requests() == []


def test_every_other_path_of_the_cache_itself_is_nowhere(origin: Origin, start: Start, host: str) -> None:
    for path in ("/-/", "/-/ping", "/-/health/", "/-/healthy"):
        origin.put(path, b"from the source")
    origin.put("/x/-/x-1.0.tgz", b"\x1f\x8b a package")
    proxy = start(origin.url, host=host)
    for path in ("/-/", "/-/ping", "/-/health/", "/-/healthy", "/-/v1/search?text=x"):
        answer = ask(proxy, path)
        assert (answer.status, answer.get("cache-control")) == (404, "no-store")
        assert b"/-/health is the only one" in answer.body
    assert origin.requests() == []
    assert stored(proxy.cache) == []
    assert ask(proxy, "/x/-/x-1.0.tgz").body == b"\x1f\x8b a package"
    assert ask(proxy, HEALTH, method="POST").status == 405


def test_a_host_that_belongs_to_a_repository_has_such_paths_of_its_own(
    origin: Origin, start: Start, tmp_path: Path
) -> None:
    origin.put("/-/ping", b"{}", content_type="application/json")
    file = tmp_path / "config.toml"
    file.write_text(f'[[repository]]\nname = "npm"\nhosts = ["registry.example"]\nsources = ["{origin.url}"]\n')
    proxy = start(arguments=["--config", str(file)])
    for target, host in (("http://registry.example/-/ping", "registry.example"), ("/-/ping", "registry.example")):
        with Client(proxy.address) as client:
            client.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert client.answer().body == b"{}"
    assert ask(proxy, "/-/ping").status == 404
    assert ask(proxy).status == 200


def test_an_old_client_is_not_taken_for_a_new_one_by_a_path_that_only_begins_so(origin: Origin, start: Start) -> None:
    origin.put("/file-1.tar", b"body", Serve(length=False, chunked=True))
    answer = ask(start(origin.url), "/-/../file-1.tar", version="HTTP/1.0")
    assert (answer.status, answer.body, answer.get("transfer-encoding")) == (200, b"body", None)


@pytest.mark.parametrize("folder", ["blobs-v1", "parts-v1"])
def test_a_cache_that_cannot_be_written_is_told_until_it_can(
    origin: Origin, start: Start, host: str, tmp_path: Path, folder: str
) -> None:
    proxy = begin(start, origin, host)
    (proxy.cache / folder).rename(tmp_path / "away")
    answer = ask(proxy)
    assert (answer.status, answer.get("cache-control"), answer.get("retry-after")) == (503, "no-store", "10")
    assert b"cannot write to " in answer.body
    assert folder.encode() in answer.body
    (tmp_path / "away").rename(proxy.cache / folder)
    assert ask(proxy).status == 200


def test_a_registry_that_cannot_be_read_is_told_until_it_can(
    origin: Origin, start: Start, host: str, tmp_path: Path
) -> None:
    proxy = begin(start, origin, host)
    proxy.cache.rename(tmp_path / "away")
    answer = ask(proxy)
    assert answer.status == 503
    assert b"registry" in answer.body
    (tmp_path / "away").rename(proxy.cache)
    assert ask(proxy).status == 200


def test_a_registry_that_was_removed_is_made_again_by_the_question(origin: Origin, start: Start, host: str) -> None:
    origin.put("/file-1.tar", bytes(70_000))
    proxy = begin(start, origin, host)
    proxy.get("/file-1.tar")
    until(lambda: stored(proxy.cache) == ["/file-1.tar"])
    (proxy.cache / "registry-v1.db").unlink()
    assert ask(proxy).status == 200
    assert stored(proxy.cache) == ["/file-1.tar"]


def as_json(proxy: Proxy) -> tuple[int, dict[str, object]]:
    with Client(proxy.address) as client:
        answer = client.get(HEALTH, "Accept: application/json")
    assert answer.get("content-type") == "application/json"
    found = json.loads(answer.body)
    assert isinstance(found, dict)
    return answer.status, found


def test_what_room_there_is_is_told_as_json(origin: Origin, start: Start, host: str) -> None:
    proxy = start(origin.url, host=host)
    status, found = as_json(proxy)
    assert (status, found["status"], found["reason"]) == (200, "ok", None)
    assert int(str(found["free_bytes"])) > 0
    assert found.keys() == {"status", "reason", "free_bytes", "free_inodes"}
    assert parts(proxy.cache) == blobs(proxy.cache) == []


def test_a_cache_whose_sources_are_all_down_is_not_well_and_with_one_of_them_it_can_serve(
    origin: Origin, another: Origin, start: Start
) -> None:
    another.put("/a-1.tar", b"a")
    proxy = start(origin.url, another.url)
    origin.stop()
    assert proxy.get("/a-1.tar").body == b"a"
    assert ask(proxy).body.startswith(b"degraded: not every source")
    status, found = as_json(proxy)
    assert (status, found["status"]) == (200, "degraded")
    assert str(found["reason"]).startswith(f"not every source answers: {origin.url.rstrip('/')} ")
    another.stop()
    assert proxy.get("/b-1.tar").status == 502
    assert ask(proxy).status == 503
    status, found = as_json(proxy)
    assert (status, found["status"]) == (503, "failed")
    assert str(found["reason"]).startswith("no source answers: ")


@contextmanager
def hanging(cache: Path) -> Iterator[None]:
    """The registry is gone, and who makes it again waits for a lock that does not come."""
    descriptor = os.open(cache / "registry-v1.lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (cache / "registry-v1.db").unlink()
        yield
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_a_store_that_hangs_and_all_who_wait_for_it_do_not_keep_the_answer_back(
    origin: Origin, start: Start, host: str, version: str
) -> None:
    proxy = start(origin.url, host=host, arguments=["--workers", "1"] if host == "gunicorn" else [])
    assert ask(proxy, version=version).status == 200
    with hanging(proxy.cache), ExitStack() as stack:
        for number in range(150):  # more than look into the registry at once
            stack.enter_context(Client(proxy.address)).ask(f"/file-{number}.tar")
        answers = [ask(proxy, version=version) for _ in range(3)]
        assert [one.status for one in answers] == [503] * 3
        assert all(b"the store has not answered for " in one.body for one in answers)
    until(lambda: ask(proxy, version=version).status == 200)


def test_a_download_that_stands_still_keeps_the_answer_back_from_nobody(origin: Origin, start: Start, host: str) -> None:
    gate = Gate()
    for number in range(20):
        origin.put(f"/file-{number}.tar", b"x" * 200_000, Serve(gate=gate, gate_at=100_000))
    proxy = start(origin.url, host=host, environment=SLOW)
    with ExitStack() as stack:
        stack.callback(gate.open)
        for number in range(20):
            stack.enter_context(Client(proxy.address)).ask(f"/file-{number}.tar")
        until(lambda: len(origin.requests()) == 20)
        assert ask(proxy).status == 200


# Who is answered


@pytest.mark.parametrize(
    ("local", "clients"),
    [
        (True, ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]),
        (False, ["192.168.0.1", "::ffff:192.168.0.1", "fe80::1%eth0", "unix:", ""]),
    ],
)
def test_a_client_is_on_this_machine_by_its_address(local: bool, clients: list[str]) -> None:
    assert [is_local(client) for client in clients] == [local] * len(clients)


def test_this_machine_may_always_ask_how_the_service_fares_and_nothing_else(
    origin: Origin, start: Start, host: str, tmp_path: Path
) -> None:
    origin.put("/file-1.tar", b"body")
    proxy = start(origin.url, host=host, environment={"PACKAGE_CACHE_ALLOW": "10.0.0.0/8"})
    for target in (HEALTH, f"http://127.0.0.1{HEALTH}"):
        assert ask(proxy, target).status == 200
    assert ask(proxy, HEALTH, version="HTTP/1.0").status == 200
    for target in ("/file-1.tar", "http://127.0.0.1/file-1.tar", "/-/../file-1.tar", "http://other.example/-/health"):
        answer = ask(proxy, target)
        assert (answer.status, b"--allow" in answer.body) == (403, True), target
    assert ask(proxy, "/file-1.tar", version="HTTP/1.0").status == 403
    assert origin.requests() == []


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_connection_that_was_used_to_ask_it_may_not_be_used_for_more(origin: Origin, start: Start, host: str) -> None:
    proxy = start(origin.url, host=host, arguments=["--allow", "10.0.0.0/8"])
    with Client(proxy.address) as client:
        for target in (HEALTH, f"http://127.0.0.1{HEALTH}", HEALTH):
            assert client.get(target).status == 200
        assert client.get("/file-1.tar").status == 403
        assert client.ended()


def own_address() -> str:
    """An address of this machine that is none of loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but those of loopback")
        return str(probe.getsockname()[0])


def test_other_networks_that_are_not_allowed_do_not_learn_it(origin: Origin, start: Start) -> None:
    address = own_address()
    proxy = start(origin.url, listen=[f"{address}:0"], arguments=["--allow", "127.0.0.0/8"])
    assert ask(proxy).status == 403
