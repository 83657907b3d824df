"""What clients are told where no source serves what they ask for: what the sources say, as far as that is for clients."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from origin import Gate, Origin, Say, Serve, until
from product import Proxy

TEXT = b"not found: module lookup disabled\n"


def says(status: int, *fields: tuple[str, str], body: bytes = TEXT) -> Say:
    return Say(status, body, (("Content-Type", "text/plain; charset=utf-8"), *fields))


STATUSES = [400, 401, 402, 403, 404, 405, 409, 410, 414, 418, 422, 429, 451, 500, 501, 502, 503, 504]


@contextmanager
def refused_port() -> Iterator[int]:
    """A port of this machine at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("path", ["/a-1.tar", "/simple/a/"], ids=["package", "index"])
def test_what_a_source_says_is_what_its_client_is_told(
    origin: Origin, start: Callable[..., Proxy], status: int, path: str
) -> None:
    origin.put(path, b"", says(status, ("X-Why", "because"), ("Set-Cookie", "a=b"), ("Connection", "close")))
    answer = start(origin.url).get(path)
    assert (answer.status, answer.body) == (status, TEXT)
    assert answer.fields["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.fields["X-Why"] == "because"
    assert "Set-Cookie" not in answer.fields
    assert f"fwd-status={status}" in answer.cache_status


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_challenge_reaches_the_client(origin: Origin, start: Callable[..., Proxy], host: str) -> None:
    challenge = 'Bearer realm="http://auth.example/token",service="registry.example",scope="repository:a:pull"'
    origin.put("/v2/a/manifests/latest", b"", says(401, ("WWW-Authenticate", challenge)))
    proxy = start(origin.url, host=host)
    for _ in range(2):
        answer = proxy.get("/v2/a/manifests/latest")
        assert (answer.status, answer.fields["WWW-Authenticate"], answer.body) == (401, challenge, TEXT)


def test_a_head_is_refused_without_a_body(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", b"", says(410))
    answer = start(origin.url).get("/a-1.tar", method="HEAD")
    assert (answer.status, answer.body) == (410, b"")


def test_when_to_come_again_is_told(origin: Origin, start: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", b"", says(429, ("Retry-After", "7")))
    answer = start(origin.url).get("/a-1.tar")
    assert (answer.status, answer.fields["Retry-After"], answer.body) == (429, "7", TEXT)


@pytest.mark.parametrize(
    ("first", "other", "told"),
    [(404, 410, 404), (410, 404, 410), (403, 404, 404), (401, 403, 401), (404, 500, 500), (500, 404, 500), (403, 451, 403)],
)
def test_of_two_sources_one_is_chosen(
    origin: Origin, another: Origin, start: Callable[..., Proxy], first: int, other: int, told: int
) -> None:
    origin.put("/a-1.tar", b"", says(first, body=b"%d\n" % first))
    another.put("/a-1.tar", b"", says(other, body=b"%d\n" % other))
    answer = start(origin.url, another.url).get("/a-1.tar")
    assert (answer.status, answer.body) == (told, b"%d\n" % told)


def test_what_all_that_can_be_asked_do_not_have_is_absent(origin: Origin, start: Callable[..., Proxy]) -> None:
    """Some clients go on to another path then, and fail where they are told that a gateway has failed."""
    origin.put("/a-1.tar", b"", says(404))
    with refused_port() as port:
        answer = start(f"http://127.0.0.1:{port}/", origin.url).get("/a-1.tar")
    assert (answer.status, answer.body) == (404, TEXT)


def test_an_index_that_is_here_is_served_though_a_lesser_source_lacks_it(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    """The one that has it cannot be asked at present."""
    origin.put("/simple/a/", b"here\n")
    another.put("/simple/a/", b"", says(404))
    proxy = start(origin.url, another.url)
    assert proxy.fetch("/simple/a/").body == b"here\n"
    origin.stop()
    answer = proxy.get("/simple/a/")
    assert (answer.status, answer.body) == (200, b"here\n")


def test_a_source_that_has_the_file_and_breaks_off_is_not_outvoted(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    origin.put("/a-1.tar", bytes(200_000), Serve(cut=0))
    another.put("/a-1.tar", b"", says(404))
    assert start(origin.url, another.url).get("/a-1.tar").status == 502


def test_a_text_that_is_too_long_is_left_out(origin: Origin, start: Callable[..., Proxy]) -> None:
    for name, size in (("a", 100_000), ("b", 17_000)):
        origin.put(f"/{name}-1.tar", b"", says(403, body=bytes(size)))
    proxy = start(origin.url)
    for name in "ab":
        answer = proxy.get(f"/{name}-1.tar")
        assert answer.status == 403
        assert len(answer.body) < 1000


def test_clients_of_another_process_are_told_the_same(origin: Origin, start: Callable[..., Proxy]) -> None:
    gate = Gate()
    origin.put("/a-1.tar", b"", Say(403, TEXT, (("X-Why", "because"),), gate))
    proxy = start(origin.url, host="gunicorn")
    begun = threading.Barrier(13)

    def ask(_: int) -> tuple[int, bytes, str]:
        begun.wait(30)
        answer = proxy.get("/a-1.tar")
        return answer.status, answer.body, answer.fields["X-Why"]

    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, number) for number in range(12)]
        begun.wait(30)
        until(gate.reached.is_set)
        gate.open()
        assert {one.result(60) for one in asked} == {(403, TEXT, "because")}


def test_an_error_is_never_stored(origin: Origin, start: Callable[..., Proxy]) -> None:
    body = b"a file\n"
    origin.put("/a-1.tar", body, says(403), Serve())
    proxy = start(origin.url)
    assert proxy.get("/a-1.tar").status == 403
    answer = proxy.get("/a-1.tar")
    assert (answer.status, answer.body) == (200, body)
