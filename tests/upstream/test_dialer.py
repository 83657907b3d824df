"""How threads connect: names that nobody answers for, addresses that say nothing, and loops that come and go."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from eventful import Turning
from origin import Origin, Serve

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError, UpstreamTimeout
from package_cache.rules.transfers.requests import RawRequest, raw_request
from package_cache.rules.transfers.ways import Origin as Place
from package_cache.rules.transfers.ways import Way
from package_cache.upstream import dialling
from package_cache.upstream.client import Client
from package_cache.upstream.dialling import Address, _in_turn

NAME = "mirror.example"
Silence = Callable[[str, int], None]
Found = tuple[int, int, int, str, tuple[str, int]]
Resolve = Callable[[Callable[[], list[Found]]], None]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Have names resolve to what a function says."""
    return lambda say: monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: say())


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    with ExitStack() as stack:

        def make(limit: float = 5.0) -> Client:
            return stack.enter_context(closing(Client(Timeouts(connect=limit, head=5.0, stall=5.0))))

        yield make


def address(host: str, port: int) -> Found:
    return socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port)


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def wire(origin: Origin, path: str) -> RawRequest:
    url = f"{origin.url}{path}"
    return raw_request("GET", url, (), Way(Place.of(url)))


def body(client: Client, origin: Origin, path: str) -> bytes:
    answer = client.ask(wire(origin, path))
    data = b"".join(iter(answer.read, b""))
    answer.close()
    return data


# Addresses


def test_silent_addresses_hold_the_good_one_up_for_a_moment_once(
    client: Callable[..., Client],
    resolve: Resolve,
    listener: socket.socket,
    silence: Silence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = port_of(listener)
    for number in range(2, 6):
        silence(f"127.0.0.{number}", port)
    resolve(lambda: [address(f"127.0.0.{number}", port) for number in (2, 3, 4, 5, 1)])
    one = client(60.0)
    for _ in range(2):
        with one.connect(NAME, port) as connected:
            assert connected.getpeername() == ("127.0.0.1", port)
            assert connected.gettimeout() == 60.0
        monkeypatch.setattr(dialling, "_STAGGER", 100.0)  # the second time it is the first


def test_an_address_that_refuses_does_not_hold_the_next_one_up(
    client: Callable[..., Client], resolve: Resolve, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = port_of(listener)
    resolve(lambda: [address(f"127.0.0.{number}", port) for number in (*range(2, 12), 1)])
    monkeypatch.setattr(dialling, "_STAGGER", 100.0)
    client(60.0).connect(NAME, port).close()


def test_all_addresses_together_have_one_limit(client: Callable[..., Client], resolve: Resolve, silence: Silence) -> None:
    with socket.create_server(("127.0.0.9", 0)) as other:
        port = port_of(other)
    for number in range(2, 6):
        silence(f"127.0.0.{number}", port)
    resolve(lambda: [address(f"127.0.0.{number}", port) for number in range(2, 6)])
    begun = time.monotonic()
    with pytest.raises(UpstreamTimeout, match="did not accept"):
        client(0.6).connect(NAME, port)
    assert time.monotonic() - begun >= 0.6


def test_families_take_turns() -> None:
    six: Address = (socket.AF_INET6, ("::1", 9))
    others: list[Address] = [(socket.AF_INET6, ("::1", port)) for port in (10, 11)]
    order = _in_turn([six, *others, (socket.AF_INET, ("127.0.0.1", 9))])
    assert [one[0] for one in order] == [socket.AF_INET6, socket.AF_INET, socket.AF_INET6, socket.AF_INET6]


def test_a_family_that_the_system_does_not_have_is_passed_over(
    client: Callable[..., Client], resolve: Resolve, listener: socket.socket
) -> None:
    port = port_of(listener)
    unknown = (12345, socket.SOCK_STREAM, 0, "", ("::1", port))
    resolve(lambda: [unknown, address("127.0.0.1", port)])
    client().connect(NAME, port).close()


def test_where_all_refuse_the_reason_is_told(
    client: Callable[..., Client], resolve: Resolve, listener: socket.socket
) -> None:
    port = port_of(listener)
    listener.close()
    resolve(lambda: [address("127.0.0.1", port), address("127.0.0.2", port)])
    with pytest.raises(UpstreamError, match="cannot be reached: Connection refused"):
        client().connect(NAME, port)


def test_addresses_that_are_not_allowed_are_not_asked(client: Callable[..., Client], listener: socket.socket) -> None:
    def none(found: tuple[Address, ...]) -> tuple[Address, ...]:
        assert found
        raise UpstreamError("is not allowed")

    with pytest.raises(UpstreamError, match="is not allowed"):
        client().connect("127.0.0.1", port_of(listener), none)
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("path", ["/a", "/large"])
def test_a_guarded_way_does_not_lead_to_an_address_that_is_not_public(
    client: Callable[..., Client], resolve: Resolve, origin: Origin, path: str
) -> None:
    resolve(lambda: [address("127.0.0.1", origin.port)])
    url = f"http://{NAME}:{origin.port}{path}"
    with pytest.raises(UpstreamError, match=r"redirects to mirror[.]example, which is not a public address"):
        client().ask(raw_request("GET", url, (), Way(Place.of(url), guarded=True)))
    assert not origin.accepted


# Names


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a" * 64 + ".example", "127.0.0.1%x%y", ""])
def test_a_name_that_is_none_is_told(client: Callable[..., Client], host: str) -> None:
    with pytest.raises(UpstreamError):
        client().connect(host, 9)


def test_a_name_that_nobody_answers_for_costs_the_limit_once_and_is_asked_for_once(
    client: Callable[..., Client], resolve: Resolve, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, asked, port = threading.Event(), [0], port_of(listener)

    def wait() -> list[Found]:
        asked[0] += 1
        if not answered.wait(30):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [address("127.0.0.1", port)]

    resolve(wait)
    monkeypatch.setattr(dialling, "MOMENT", 0.05)
    limit = 5.0
    one, took = client(limit), []
    for _ in range(3):
        begun = time.monotonic()
        with pytest.raises(UpstreamTimeout, match="nobody answers who its name could be asked of"):
            one.connect(NAME, port)
        took.append(time.monotonic() - begun)
    assert took[0] >= limit
    assert took[1] < limit > took[2]
    assert asked == [1]
    answered.set()
    one.connect(NAME, port).close()
    one.connect(NAME, port).close()


def test_an_address_is_connected_to_while_nobody_answers_for_names(
    client: Callable[..., Client], resolve: Resolve, listener: socket.socket
) -> None:
    resolve(lambda: pytest.fail("an address was looked up"))
    client().connect("127.0.0.1", port_of(listener)).close()


# Loops


def test_nothing_runs_before_the_first_request_and_nothing_after_close(
    client: Callable[..., Client], origin: Origin
) -> None:
    origin.put("/a", b"1")
    before = set(threading.enumerate())
    one = client()
    assert set(threading.enumerate()) <= before  # those of earlier tests may end meanwhile
    for _ in range(2):
        assert body(one, origin, "a") == b"1"
    started = [thread for thread in set(threading.enumerate()) - before if thread.name == "sources"]
    assert len(started) == 1
    one.close()
    assert not started[0].is_alive()
    assert origin.accepted == 1
    assert body(one, origin, "a") == b"1"  # closed is what was idle; it may be used again


def test_a_request_whose_loop_ends_is_asked_by_another_one(client: Callable[..., Client], origin: Origin) -> None:
    data = origin.put("/a", b"x" * 100_000, Serve())
    one, events = client(), Turning()
    pool = one.pool(events, Timeouts(), 65536)
    said: list[bytes] = []
    thread = threading.Thread(target=lambda: said.append(body(one, origin, "a")))
    thread.start()
    events.turn_until(lambda: one._waiting)
    pool.close()  # the thread has not been told anything
    assert events.registered == 0, "what was being made is closed too"
    events.close()
    thread.join(30)
    assert said == [data]


def test_a_forked_child_asks_over_connections_of_its_own(client: Callable[..., Client], origin: Origin) -> None:
    origin.put("/a", b"1")
    one = client()
    assert body(one, origin, "a") == b"1"
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if body(one, origin, "a") == b"1" else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert body(one, origin, "a") == b"1"
    assert origin.accepted == 2
