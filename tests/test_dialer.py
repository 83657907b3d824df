"""How a connection is made: names that nobody answers for, and addresses that say nothing."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from package_cache.errors import ForeignHost, UpstreamError, UpstreamTimeout
from package_cache.upstream.dialer import MOMENT, Address, Dialer

NAME = "mirror.example"
Silence = Callable[[str, int], None]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


@pytest.fixture
def silence() -> Iterator[Silence]:
    """Makes addresses of this machine that answer nothing, as a host behind a firewall does."""
    with ExitStack() as stack:

        def make(host: str, port: int) -> None:
            # What comes once the queue of those that nobody accepts is full is not answered at all.
            stack.enter_context(socket.create_server((host, port), backlog=0))
            for _ in range(8):
                one = stack.enter_context(socket.socket())
                one.settimeout(0.1)
                try:
                    one.connect((host, port))
                except TimeoutError:
                    return
            pytest.skip("the queue of a listener is never full here")

        yield make


def address(host: str, port: int) -> Address:
    return socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port)


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def dialer(port: int, *hosts: str, limit: float = 5.0) -> Dialer:
    return Dialer(limit, lambda _host, _port: [address(host, port) for host in hosts])


def test_silent_addresses_hold_the_good_one_up_for_a_moment_once(listener: socket.socket, silence: Silence) -> None:
    port = port_of(listener)
    for number in range(2, 6):
        silence(f"127.0.0.{number}", port)
    one = dialer(port, *(f"127.0.0.{number}" for number in range(2, 6)), "127.0.0.1")
    took = []
    for _ in range(2):
        begun = time.monotonic()
        with one.connect(NAME, port) as connected:
            assert connected.getpeername() == ("127.0.0.1", port)
            assert connected.gettimeout() == 5.0
        took.append(time.monotonic() - begun)
    assert took[1] < took[0] / 2 < 2.0


def test_an_address_that_refuses_does_not_hold_the_next_one_up(listener: socket.socket) -> None:
    port = port_of(listener)
    begun = time.monotonic()
    dialer(port, *(f"127.0.0.{number}" for number in range(2, 12)), "127.0.0.1").connect(NAME, port).close()
    assert time.monotonic() - begun < 2.0


def test_all_addresses_together_have_one_limit(silence: Silence) -> None:
    with socket.create_server(("127.0.0.9", 0)) as other:
        port = port_of(other)
    for number in range(2, 6):
        silence(f"127.0.0.{number}", port)
    begun = time.monotonic()
    with pytest.raises(UpstreamTimeout, match="did not accept"):
        dialer(port, *(f"127.0.0.{number}" for number in range(2, 6)), limit=0.6).connect(NAME, port)
    assert 0.6 <= time.monotonic() - begun < 2.0


def test_families_take_turns() -> None:
    six = (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 9))
    order = Dialer(1)._in_order([six, six, six, address("127.0.0.1", 9)], (NAME, 9))
    assert [one[0] for one in order] == [socket.AF_INET6, socket.AF_INET, socket.AF_INET6, socket.AF_INET6]


def test_a_family_that_the_system_does_not_have_is_passed_over(listener: socket.socket) -> None:
    port = port_of(listener)
    unknown = (12345, socket.SOCK_STREAM, 0, "", ("::1", port))
    Dialer(5, lambda _host, _port: [unknown, address("127.0.0.1", port)]).connect(NAME, port).close()


def test_where_all_refuse_the_reason_is_told(listener: socket.socket) -> None:
    port = port_of(listener)
    listener.close()
    with pytest.raises(UpstreamError, match="cannot be reached: Connection refused"):
        dialer(port, "127.0.0.1", "127.0.0.2").connect(NAME, port)


def test_addresses_that_are_not_allowed_are_not_asked(listener: socket.socket) -> None:
    port = port_of(listener)

    def none(found: Sequence[Address]) -> Sequence[Address]:
        assert found
        raise ForeignHost("not there")

    with pytest.raises(ForeignHost):
        dialer(port, "127.0.0.1").connect(NAME, port, allowed=none)
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a" * 64 + ".example", "127.0.0.1%x%y", ""])
def test_a_name_that_is_none_is_told(host: str) -> None:
    with pytest.raises(UpstreamError):
        Dialer(5).connect(host, 9)


class Names:
    """Names that nobody answers for until `answered` is set; counts how often they were asked."""

    def __init__(self, port: int) -> None:
        self.answered = threading.Event()
        self.asked = 0
        self._port = port

    def __call__(self, _host: str, _port: int) -> Sequence[Address]:
        self.asked += 1
        if not self.answered.wait(30):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [address("127.0.0.1", self._port)]


def test_a_name_that_nobody_answers_for_costs_the_limit_once_and_is_asked_for_once(listener: socket.socket) -> None:
    names = Names(port_of(listener))
    one = Dialer(2 * MOMENT, names)
    took = []
    for _ in range(3):
        begun = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            one.connect(NAME, names._port)
        took.append(time.monotonic() - begun)
    assert took[0] >= 2 * MOMENT
    assert took[1] < 2 * MOMENT > took[2]
    assert names.asked == 1
    names.answered.set()
    one.connect(NAME, names._port).close()
    one.connect(NAME, names._port).close()


def test_an_address_is_connected_to_while_nobody_answers_for_names(listener: socket.socket) -> None:
    Dialer(5).connect("127.0.0.1", port_of(listener)).close()
