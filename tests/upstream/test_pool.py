"""Connections to sources that belong to an event loop: how they are made, kept, given away and given up."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from threading import Event

import pytest
from eventful import Turning
from origin import Flood, Hang, Origin, Raw, Say, Serve

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError, UpstreamLie, UpstreamTimeout
from package_cache.rules.transfers.requests import RawRequest, SupportsRead, raw_request
from package_cache.rules.transfers.ways import Origin as Place
from package_cache.rules.transfers.ways import Way
from package_cache.upstream import dialling
from package_cache.upstream.dialling import Dial, Names
from package_cache.upstream.pool import Begun, Cut, Outcome, Pool, Whole

SMALL = 65536
LIMITS = Timeouts(connect=5.0, head=4.0, stall=3.0)


@pytest.fixture
def events() -> Iterator[Turning]:
    one = Turning()
    yield one
    one.close()


@pytest.fixture
def pool(events: Turning) -> Iterator[Pool]:
    one = Pool(events, LIMITS, SMALL)
    yield one
    one.close()
    assert events.registered == 0


def wire(origin: Origin, path: str, method: str = "GET", content: SupportsRead | None = None) -> RawRequest:
    return raw_request(method, origin.url.rstrip("/") + path, (), Way(Place.of(origin.url)), content)


def asked(pool: Pool, events: Turning, origin: Origin, *paths: str) -> list[Outcome]:
    """What comes of asking for these at once."""
    said: dict[int, Outcome] = {}
    for at, path in enumerate(paths):
        pool.ask(wire(origin, path), partial(said.__setitem__, at))
    events.turn_until(lambda: len(said) == len(paths), lambda: pool.sweep(time.monotonic()))
    return [said[at] for at in range(len(paths))]


def test_a_small_body_is_told_whole_over_a_connection_that_is_kept(pool: Pool, events: Turning, origin: Origin) -> None:
    body = origin.put("/a", b"x" * SMALL)
    chunked = origin.put("/b", b"y" * 999, Serve(chunked=True))
    for path, right in (("/a", body), ("/b", chunked), ("/a", body)):
        (one,) = asked(pool, events, origin, path)
        assert isinstance(one, Whole)
        assert one.body == right
    assert origin.accepted == 1


@pytest.mark.parametrize("how", [Serve(), Serve(chunked=True)], ids=["length", "chunked"])
def test_a_body_of_a_byte_more_than_is_small_leaves_with_its_connection(
    pool: Pool, events: Turning, origin: Origin, how: Serve
) -> None:
    body = origin.put("/a", b"x" * (SMALL + 1), how)
    for _ in range(5):
        (one,) = asked(pool, events, origin, "/a")
        assert isinstance(one, Begun)
        assert b"".join(iter(one.taken.read, b"")) == body
        one.taken.close()


def test_many_are_asked_at_once(events: Turning, origin: Origin) -> None:
    pool = Pool(events, Timeouts(connect=20.0, head=20.0, stall=20.0), SMALL)
    paths = [f"/{number}" for number in range(50)]
    for path in paths:
        origin.put(path, path.encode())
    said = asked(pool, events, origin, *paths)
    pool.close()
    assert [one.body for one in said if isinstance(one, Whole)] == [path.encode() for path in paths]


@pytest.mark.parametrize(
    "how", [Serve(), Serve(chunked=True), Serve(length=False)], ids=["length", "chunked", "to the end of the connection"]
)
def test_a_large_body_leaves_with_its_connection(pool: Pool, events: Turning, origin: Origin, how: Serve) -> None:
    body = origin.put("/a", bytes(range(256)) * 1000, how)
    (one,) = asked(pool, events, origin, "/a")
    assert isinstance(one, Begun)
    assert b"".join(iter(one.taken.read, b"")) == body
    one.taken.close()
    events.turn_until(lambda: events.registered == bool(how.length))
    origin.put("/b", b"")
    assert isinstance(asked(pool, events, origin, "/b")[0], Whole)
    assert origin.accepted == (1 if how.length else 2)


def test_a_connection_that_was_closed_while_it_was_kept_is_made_again(pool: Pool, events: Turning, origin: Origin) -> None:
    origin.put("/a", b"", Serve(leave=True))
    for _ in range(3):
        assert isinstance(asked(pool, events, origin, "/a")[0], Whole)
    assert len(origin.requests()) == 3


@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (b"", UpstreamError, "closed the connection without an answer"),
        (b"HTTP/1.1 200", UpstreamError, "ended within a head"),
        (b"SSH-2.0-x\r\n", UpstreamLie, "does not answer in HTTP/1"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", UpstreamLie, "switched to a protocol"),
        (b"HTTP/1.1 103 Early\r\n\r\n" * 9, UpstreamLie, "interim answers"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000, UpstreamLie, "head of more than"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", UpstreamLie, "more than it declared"),
        (b"HTTP/1.1 500 Broken\r\nContent-Length: 3\r\n\r\nab", UpstreamError, "before the end of its body"),
    ],
)
def test_what_is_no_answer_is_told(
    pool: Pool, events: Turning, origin: Origin, data: bytes, kind: type[UpstreamError], why: str
) -> None:
    origin.put("/a", b"", Raw(data))
    (one,) = asked(pool, events, origin, "/a")
    assert type(one) is kind
    assert why in str(one)


def test_what_came_of_a_file_before_a_break_is_told(pool: Pool, events: Turning, origin: Origin) -> None:
    origin.put("/a", b"", Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"))
    (one,) = asked(pool, events, origin, "/a")
    assert isinstance(one, Cut)
    assert one.body == b"ab"
    assert "before the end of its body" in str(one.error)


def test_interim_answers_are_passed_over(pool: Pool, events: Turning, origin: Origin) -> None:
    origin.put("/a", b"", Raw(b"HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"))
    (one,) = asked(pool, events, origin, "/a")
    assert isinstance(one, Whole)
    assert (one.head.status, one.body) == (200, b"a")


def test_a_client_whose_requests_a_source_does_not_answer_keeps_no_other_from_it(events: Turning, origin: Origin) -> None:
    pool = Pool(events, Timeouts(connect=60.0, head=60.0, stall=60.0), SMALL)
    origin.put("/silent", b"", Hang())
    body = origin.put("/a", b"a")
    given_up: list[Outcome] = []
    for _ in range(400):
        pool.ask(wire(origin, "/silent"), given_up.append, client="one")
    said: list[Outcome] = []
    pool.ask(wire(origin, "/a"), said.append, client="two")
    events.turn_until(lambda: bool(said))
    assert isinstance(said[0], Whole)
    assert said[0].body == body
    assert not given_up
    pool.close()


def test_what_waits_for_a_connection_is_given_up(pool: Pool, events: Turning, origin: Origin) -> None:
    origin.put("/silent", b"", Hang())
    assert {type(one) for one in asked(pool, events, origin, *["/silent"] * 300)} == {UpstreamTimeout}


def test_silence_is_given_up(pool: Pool, events: Turning, origin: Origin) -> None:
    origin.put("/a", b"", Hang())
    (one,) = asked(pool, events, origin, "/a")
    assert isinstance(one, UpstreamTimeout)
    assert "fell silent" in str(one)


def test_a_slow_body_leaves_with_its_connection_however_small(pool: Pool, events: Turning, origin: Origin) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"
    origin.put("/a", b"", Flood(head, b"ab", pause=0.1, most=20))
    (one,) = asked(pool, events, origin, "/a")
    assert isinstance(one, Begun)
    assert b"".join(iter(one.taken.read, b"")) == b"ab" * 20
    one.taken.close()


def test_who_speaks_unasked_is_dropped(pool: Pool, events: Turning, origin: Origin) -> None:
    origin.put("/a", b"", Say(404, b""))
    assert isinstance(asked(pool, events, origin, "/a")[0], Whole)
    origin.put("/b", b"", Flood(b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", pause=0.2, most=1))
    (one,) = asked(pool, events, origin, "/b")
    assert isinstance(one, Whole)
    events.turn_until(lambda: events.registered == 0)


# New connections


Found = list[tuple[int, int, int, str, tuple[str, int]]]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Found]], None]:
    """Have names resolve to what a function says."""

    def take(say: Callable[[], Found]) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: say())

    return take


def silent(stack: ExitStack, host: str) -> tuple[str, int]:
    """An address that lets every new connection wait: the queue of its listener is full."""
    listener = stack.enter_context(socket.socket())
    listener.bind((host, 0))
    listener.listen(0)
    for _ in range(4):
        one = stack.enter_context(socket.socket())
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
    address: tuple[str, int] = listener.getsockname()
    return address


def dialled(events: Turning, names: Names, seconds: float) -> tuple[socket.socket | UpstreamError, float]:
    """What comes of dialling a name, and after how many seconds."""
    ends: list[socket.socket | UpstreamError] = []
    begun = time.monotonic()
    Dial(events, names, "mirror.example", 80, seconds, ends.append)
    events.turn_until(lambda: ends)
    assert events.registered == 0
    return ends[0], time.monotonic() - begun


def entry(address: tuple[str, int]) -> tuple[int, int, int, str, tuple[str, int]]:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)


def test_silent_addresses_before_a_good_one_cost_a_moment_and_only_once(
    events: Turning,
    resolve: Callable[[Callable[[], Found]], None],
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ExitStack() as stack:
        dead = [silent(stack, f"127.0.0.{number}") for number in range(2, 5)]
        resolve(lambda: [*(entry(one) for one in dead), entry(origin.server_address)])
        names = Names(events, time.monotonic)
        one, seconds = dialled(events, names, 20.0)
        assert isinstance(one, socket.socket)
        assert one.getpeername() == origin.server_address
        assert seconds > 0.5  # the others had their moment
        one.close()
        monkeypatch.setattr(dialling, "_STAGGER", 100.0)  # the second time it is the first
        again, _ = dialled(events, names, 20.0)
        assert isinstance(again, socket.socket)
        again.close()
        assert events.threads == 1


def test_one_limit_holds_over_all_addresses(events: Turning, resolve: Callable[[Callable[[], Found]], None]) -> None:
    with ExitStack() as stack:
        dead = [silent(stack, f"127.0.0.{number}") for number in range(2, 5)]
        resolve(lambda: [entry(one) for one in dead])
        one, _ = dialled(events, Names(events, time.monotonic), 0.6)
    assert isinstance(one, UpstreamTimeout)
    assert "did not accept the connection in time" in str(one)


def test_a_name_that_does_not_resolve_is_told_and_remembered(
    events: Turning, resolve: Callable[[Callable[[], Found]], None]
) -> None:
    def fail() -> Found:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    resolve(fail)
    names = Names(events, time.monotonic)
    for _ in range(2):
        one, _ = dialled(events, names, 5.0)
        assert "its name does not resolve" in str(one)
    assert events.threads == 1


def test_a_silent_resolver_costs_one_thread_and_no_more_than_the_limit(
    events: Turning, resolve: Callable[[Callable[[], Found]], None]
) -> None:
    let = Event()

    def wait() -> Found:
        let.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    resolve(wait)
    names = Names(events, time.monotonic)
    try:
        for _ in range(3):
            one, _ = dialled(events, names, 0.1)
            assert isinstance(one, UpstreamTimeout)
        assert events.threads == 1
    finally:
        let.set()


def test_who_refuses_everywhere_is_told_at_once(events: Turning, resolve: Callable[[Callable[[], Found]], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address: tuple[str, int] = listener.getsockname()
    resolve(lambda: [entry(address), entry(address), entry(("127.0.0.2", address[1]))])
    one, _ = dialled(events, Names(events, time.monotonic), 20.0)
    assert "cannot be reached: Connection refused" in str(one)
