"""Tunnels: CONNECT to what is listed, and to nothing else; every byte in both directions, and both ends."""

import hashlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from origin import until
from product import Proxy
from raw import Client

from package_cache.config import TcpAddress
from package_cache.config.layers import layered
from package_cache.config.parsing import parse_end
from package_cache.errors import BadRequest, ConfigError, ForeignHost
from package_cache.rules.transfers.ways import end_of, may_reach
from package_cache.server.tunnels import AT_ONCE

Start = Callable[..., Proxy]
SOURCE = "http://127.0.0.1:9/"
server = pytest.mark.parametrize("server", ["wsgiref", "gunicorn"])


# --- Where to -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("mirror.example:443", "mirror.example", 443),
        ("Mirror.Example.:443", "mirror.example", 443),
        ("192.0.2.1:80", "192.0.2.1", 80),
        ("[2001:DB8:0::1]:443", "2001:db8::1", 443),
        ("a_b-c:65535", "a_b-c", 65535),
    ],
)
def test_the_end_of_a_tunnel_has_one_form(text: str, host: str, port: int) -> None:
    assert parse_end(text) == TcpAddress(host, port)
    assert layered({}, {"connect": f"{text} other.example:1"}).config.connect == (
        TcpAddress(host, port),
        parse_end("other.example:1"),
    )


WRONG = [
    "mirror.example",
    "mirror.example:",
    ":443",
    "mirror.example:0",
    "mirror.example:65536",
    "[::1:443",
    "[mirror]:443",
]
WRONG += [
    "http://mirror.example:443",
    "a@mirror.example:443",
    "mirror.example:443/",
    "2001:db8::1:443",
    "[1.2.3.4.5]:1",
    ".:1",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_end_of_a_tunnel_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        layered({}, {"connect": text})
    assert caught.value.problems[0].startswith("--connect: ")
    assert "the end of a tunnel looks like mirror.example:443" in caught.value.problems[0]
    with pytest.raises(BadRequest):
        end_of(text, frozenset())


def test_only_what_is_listed_with_its_port_may_be_asked_for() -> None:
    listed = frozenset({parse_end("mirror.example:443"), parse_end("[2001:db8::1]:443")})
    assert end_of("MIRROR.example.:443", listed) == parse_end("mirror.example:443")
    assert end_of("[2001:db8:0:0::1]:443", listed) == parse_end("[2001:db8::1]:443")
    for target in ("mirror.example:80", "a.mirror.example:443", "example:443", "[2001:db8::2]:443", "127.0.0.1:443"):
        with pytest.raises(ForeignHost, match="--connect"):
            end_of(target, listed)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:192.168.0.1", False),
        ("64:ff9b::a00:1", False),
        ("0.0.0.0", False),
    ],
)
def test_an_address_inside_is_reached_only_if_it_is_listed_itself(address: str, public: bool) -> None:
    assert may_reach(address, 443, frozenset()) is public
    host = address.partition("%")[0]
    text = f"[{host}]" if ":" in host else host
    assert may_reach(address, 443, frozenset({parse_end(f"{text}:443")}))
    assert may_reach(address, 443, frozenset({parse_end(f"{text}:444")})) is public


# --- Tunnels ------------------------------------------------------------------------------------------------------------


class Far:
    """A server that has a function talk to each client."""

    def __init__(self, talk: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._talk = talk
        self.accepted = 0
        self.ended = 0
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def end(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                one = self._listener.accept()[0]
                self.accepted += 1
                threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one, suppress(OSError):
            self._talk(one)
        self.ended += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def echo(one: socket.socket) -> None:
    while data := one.recv(65536):
        one.sendall(data)


def say_what_came(one: socket.socket) -> None:
    """Wait for the client's end, then tell what it sent."""
    digest = hashlib.sha256()
    while data := one.recv(65536):
        digest.update(data)
    one.sendall(digest.digest())


@pytest.fixture
def far() -> Iterator[Callable[..., Far]]:
    running: list[Far] = []

    def _far(talk: Callable[[socket.socket], None] = echo) -> Far:
        running.append(Far(talk))
        return running[-1]

    yield _far
    for one in running:
        one.close()


def begin(start: Start, server: str, *ends: str, **environment: str) -> Proxy:
    arguments = [word for end in ends for word in ("--connect", end)]
    arguments += ["--workers", "1"] if server == "gunicorn" else []
    return start(SOURCE, host=server, arguments=arguments, environment=environment)


def tunnel(proxy: Proxy, end: str, early: bytes = b"", version: str = "HTTP/1.1") -> Client:
    client = Client(proxy.address)
    client.send(f"CONNECT {end} {version}\r\nHost: {end}\r\n\r\n".encode() + early)
    head = client.head()
    assert (head.status, head.fields) == (200, ())
    return client


def receive(client: Client, size: int = 1 << 40) -> bytes:
    """So many bytes, or all until the end."""
    return client._take(size)[0]


@server
def test_bytes_are_passed_both_ways_with_those_that_came_early(start: Start, far: Callable[..., Far], server: str) -> None:
    one = far()
    proxy = begin(start, server, one.end)
    for version in ("HTTP/1.1", "HTTP/1.0"):
        with tunnel(proxy, one.end, b"early", version) as client:
            assert receive(client, 5) == b"early"
            for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0\xff" * 3):
                client.send(data)
                assert receive(client, len(data)) == data
    until(lambda: one.ended == 2)
    assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)


@server
def test_much_is_passed_in_both_directions_at_once(start: Start, far: Callable[..., Far], server: str) -> None:
    one = far()
    data = os.urandom(16 << 20)
    with tunnel(begin(start, server, one.end), one.end) as client:
        sender = threading.Thread(target=lambda: (client.send(data), client.socket.shutdown(socket.SHUT_WR)))
        sender.start()
        back = receive(client)
        sender.join()
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()


@server
def test_the_end_of_one_direction_is_passed_on_and_the_other_goes_on(
    start: Start, far: Callable[..., Far], server: str
) -> None:
    def say_and_listen(one: socket.socket) -> None:
        one.sendall(b"greeting")
        one.shutdown(socket.SHUT_WR)
        heard.append(one.makefile("rb").read())

    heard: list[bytes] = []
    first, second = far(say_what_came), far(say_and_listen)
    proxy = begin(start, server, first.end, second.end)
    with tunnel(proxy, first.end) as client:
        client.send(b"question")
        client.socket.shutdown(socket.SHUT_WR)
        assert receive(client) == hashlib.sha256(b"question").digest()
    with tunnel(proxy, second.end) as client:
        assert receive(client) == b"greeting"
        client.send(b"late words")
    until(lambda: heard == [b"late words"])


@server
def test_a_side_that_goes_away_ends_the_tunnel(start: Start, far: Callable[..., Far], server: str) -> None:
    waiting = far(lambda one: one.recv(1))
    proxy = begin(start, server, waiting.end)
    client = tunnel(proxy, waiting.end)
    client.socket.close()
    until(lambda: waiting.ended == 1)
    with tunnel(proxy, waiting.end) as client:
        client.send(b"x")
        assert client.ended()


@server
def test_a_tunnel_in_which_nothing_moves_ends(start: Start, far: Callable[..., Far], server: str) -> None:
    one = far()
    proxy = begin(start, server, one.end, PACKAGE_CACHE_TUNNEL_TIMEOUT="0.5")
    with tunnel(proxy, one.end, b"x") as client:
        assert receive(client, 1) == b"x"
        assert client.ended()
    until(lambda: one.ended == 1)


@server
def test_a_quiet_tunnel_does_not_keep_a_server_that_is_to_end(start: Start, far: Callable[..., Far], server: str) -> None:
    one = far()
    proxy = begin(start, server, one.end)
    with tunnel(proxy, one.end, b"x") as client:
        assert receive(client, 1) == b"x"
        proxy.process.terminate()
        client.send(b"y")
        assert receive(client, 1) == b"y"
        assert proxy.stop() == 0
        assert client.ended()


@server
def test_each_tunnel_is_one_line_of_the_access_log(
    start: Start, far: Callable[..., Far], tmp_path: Path, server: str
) -> None:
    one, log = far(), tmp_path / "log"
    proxy = start(SOURCE, host=server, arguments=["--connect", one.end, "--access-log", str(log)])
    with tunnel(proxy, one.end, b"12345") as client:
        assert receive(client, 5) == b"12345"
    until(lambda: log.read_text())
    with Client(proxy.address) as client:
        assert client.get("other.example:443", method="CONNECT").status == 403
    until(lambda: log.read_text().count("\n") == 2)
    first, second = log.read_text().splitlines()
    assert re.search(rf'"CONNECT {one.end} HTTP/1.1" 200 5 "-" "-" tunnel 0 5 \d+\.\d+ {one.end}$', first)
    assert '"CONNECT other.example:443 HTTP/1.1" 403 ' in second


@server
def test_there_are_only_so_many_tunnels(start: Start, far: Callable[..., Far], server: str) -> None:
    one = far()
    proxy = begin(start, server, one.end)
    with ExitStack() as stack:
        for _ in range(AT_ONCE):
            stack.enter_context(tunnel(proxy, one.end))
        with Client(proxy.address) as client:
            answer = client.get(one.end, method="CONNECT")
            assert (answer.status, answer.get("retry-after") is not None) == (503, True)
            assert client.ended()
        assert proxy.get("/-/health").status == 200
    until(lambda: one.ended == AT_ONCE)
    with tunnel(proxy, one.end, b"x") as client:
        assert receive(client, 1) == b"x"


# --- Refusals -----------------------------------------------------------------------------------------------------------


def refused(proxy: Proxy, end: str, *lines: str) -> tuple[int, str]:
    """Status and text of the answer; bytes behind the request are read by nobody, and the connection ends."""
    with Client(proxy.address) as client:
        client.ask(end, *lines, method="CONNECT")
        client.send(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = client.answer()
        assert client.ended()
        return answer.status, answer.body.decode()


@server
def test_what_is_not_listed_is_never_connected_to(start: Start, far: Callable[..., Far], server: str) -> None:
    one, other = far(), far()
    proxy = begin(start, server, one.end, f"localhost:{other.port}", "no.such.host.invalid:443")
    status, text = refused(proxy, other.end)
    assert (status, f"no tunnel to {other.end}" in text, "--connect" in text) == (403, True, True)
    status, text = refused(proxy, f"localhost:{one.port}")
    assert status == 403
    status, text = refused(proxy, f"localhost:{other.port}")  # listed, but it leads to this machine
    assert (status, "is not a public address" in text) == (403, True)
    assert refused(proxy, "no.such.host.invalid:443")[0] == 502
    for target in ("localhost", "localhost:", "/", "*", "http://localhost:80/", "localhost:http", f"u@{one.end}"):
        assert refused(proxy, target)[0] == 400, target
    assert refused(proxy, one.end, "Content-Length: 36")[0] == 400
    assert one.accepted == other.accepted == 0


@server
def test_a_name_that_leads_inside_is_connected_to_where_the_address_is_listed_too(
    start: Start, far: Callable[..., Far], server: str
) -> None:
    one = far()
    with tunnel(begin(start, server, one.end, f"LocalHost:{one.port}"), f"localhost:{one.port}", b"x") as client:
        assert receive(client, 1) == b"x"


@server
def test_an_end_that_refuses_is_told(start: Start, server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        end = f"127.0.0.1:{taken.getsockname()[1]}"
    status, text = refused(begin(start, server, end), end)
    assert (status, text) == (502, f"{end} cannot be reached: Connection refused\n")


@server
def test_an_end_that_does_not_answer_is_told(start: Start, server: str) -> None:
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        end = f"127.0.0.1:{full.getsockname()[1]}"
        proxy = begin(start, server, end, PACKAGE_CACHE_CONNECT_TIMEOUT="0.5")
        assert refused(proxy, end) == (504, f"{end} does not answer\n")


def test_without_a_list_there_are_no_tunnels(start: Start, host: str) -> None:
    status, text = refused(start(SOURCE, host=host), "127.0.0.1:9")
    assert (status, "--connect says where tunnels may lead" in text) == (405, True)


def test_a_server_that_cannot_make_tunnels_says_so(start: Start) -> None:
    proxy = start(SOURCE, host="gthread", environment={"PACKAGE_CACHE_CONNECT": "127.0.0.1:9"})
    assert refused(proxy, "127.0.0.1:9")[0] == 501


@server
def test_who_may_not_ask_gets_no_tunnel(start: Start, far: Callable[..., Far], server: str) -> None:
    one = far()
    proxy = start(SOURCE, host=server, arguments=["--connect", one.end, "--allow", "10.0.0.0/8"])
    assert refused(proxy, one.end)[0] == 403
    assert one.accepted == 0
