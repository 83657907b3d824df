"""Ways to a source: straight or through a proxy, plain or over TLS, and requests with content or without a body."""

import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from eventful import Turning
from origin import Flood, Origin, Raw, Say, Serve, until

from package_cache.config import Timeouts
from package_cache.errors import UpstreamError, UpstreamLie, UpstreamTimeout
from package_cache.rules.transfers.requests import SupportsRead, raw_request
from package_cache.rules.transfers.ways import Origin as Place
from package_cache.rules.transfers.ways import Proxy, Way
from package_cache.upstream.answers import Exchange
from package_cache.upstream.client import Client
from package_cache.upstream.opening import Trust
from package_cache.upstream.pool import Outcome, Pool, Whole

LARGE = bytes(range(256)) * 12_000
LIMITS = Timeouts(connect=5.0, head=5.0, stall=5.0)
LOGIN = "Basic bWU6cHc="


@pytest.fixture(scope="module")
def context(certificate: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate)
    return made


@pytest.fixture
def secure(context: ssl.SSLContext) -> Iterator[Origin]:
    one = Origin(context=context)
    yield one
    one.stop()


@pytest.fixture
def client(certificate: Path) -> Iterator[Client]:
    with closing(Client(LIMITS, Trust(certificate))) as one:
        yield one


class Relay:
    """A proxy that makes tunnels to one place, whatever it is asked for, and keeps what it was asked."""

    def __init__(self, place: tuple[str, int], context: ssl.SSLContext | None, answer: bytes) -> None:
        self.heads: list[bytes] = []
        self._place, self._context, self._answer = place, context, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                threading.Thread(target=self._tunnel, args=(accepted,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            stack.enter_context(client)
            self._open.append(client)
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.heads.append(head)
            client.sendall(self._answer)
            server = stack.enter_context(socket.create_connection(self._place))
            self._open.append(server)
            back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
            back.start()
            self._pass(client, server)
            back.join(30)

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1000):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def relay() -> Iterator[Callable[..., Relay]]:
    with ExitStack() as stack:

        def make(
            origin: Origin, context: ssl.SSLContext | None = None, answer: bytes = b"HTTP/1.1 200 Connected\r\n\r\n"
        ) -> Relay:
            one = Relay(("127.0.0.1", origin.port), context, answer)
            stack.callback(one.stop)
            return one

        yield make


def ask(
    client: Client, url: str, way: Way | None = None, method: str = "GET", content: SupportsRead | None = None
) -> Exchange:
    return client.ask(raw_request(method, url, (("X-Said", "1"),), way or Way(Place.of(url)), content))


def body(answer: Exchange) -> bytes:
    data = b"".join(iter(answer.read, b""))
    answer.close()
    return data


# Methods


def test_the_answer_to_head_has_no_body_whatever_it_says(client: Client, origin: Origin) -> None:
    origin.put("/a", b"x" * 100, Serve())
    for _ in range(2):
        answer = ask(client, origin.url + "a", method="HEAD")
        assert dict(answer.fields)["Content-Length"] == "100"
        assert body(answer) == b""
    assert origin.accepted == 1
    assert origin.requests()[0].method == "HEAD"


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_content_is_sent_to_its_end(client: Client, origin: Origin, size: int) -> None:
    origin.put("/a", b"1", Say(200, b"told"))
    url, sent = origin.url + "a", bytes(range(250)) * (size // 250) + b"z" * (size % 250)
    for _ in range(2):
        wire = raw_request("POST", url, (("Content-Length", str(size)),), Way(Place.of(url)), io.BytesIO(sent))
        assert body(client.ask(wire)) == b"told"
    assert [request.content for request in origin.requests()] == [sent, sent]


def test_who_answers_before_all_content_came_is_heard(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            one, _ = listener.accept()
            with one:
                one.recv(1000)
                one.sendall(b"HTTP/1.1 413 Too much\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
                one.shutdown(socket.SHUT_WR)
                while one.recv(65536):
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        wire = raw_request("POST", url, (("Content-Length", "9000000"),), Way(Place.of(url)), io.BytesIO(b"x" * 9_000_000))
        answer = client.ask(wire)
        assert (answer.status, body(answer)) == (413, b"no!")
        thread.join(30)


def test_a_field_with_a_line_of_its_own_is_not_sent() -> None:
    url = "http://mirror.example/a"
    for name, value in (("A", "b\r\nC: d"), ("A", "b\nC: d"), ("A\r\nB", "c"), ("A", "b\0")):
        with pytest.raises(ValueError, match="control character"):
            raw_request("GET", url, ((name, value),), Way(Place.of(url)))
    with pytest.raises(ValueError, match="space"):
        raw_request("GET", url + " b", (), Way(Place.of(url)))


def test_a_file_is_told_of_with_its_head_and_an_error_once_it_is_whole(client: Client, origin: Origin) -> None:
    origin.put("/a", b"x" * 1000, Serve(stall=500))
    answer = ask(client, origin.url + "a")
    assert answer.status == 200
    have = b""
    while len(have) < 500:
        have += answer.read()
    answer.close()
    origin.put("/b", b"", Say(404, b"y" * 1000))
    for _ in range(3):
        error = ask(client, origin.url + "b")
        assert error.status == 404
        error.close()  # who does not read it costs no connection
    until(lambda: len(origin.requests()) == 4)
    assert origin.accepted == 2


def test_lines_between_chunks_do_not_come_for_ever(certificate: Path, origin: Origin) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with closing(Client(Timeouts(connect=5.0, head=5.0, stall=0.5))) as client:
        origin.put("/a", b"", Flood(head + b"3;", b"x", pause=0.1, most=50))
        answer = ask(client, origin.url + "a")
        with pytest.raises(UpstreamTimeout, match=r"a line between two chunks|fell silent"):
            body(answer)
        answer.close()


# TLS


def test_a_source_over_tls_is_asked_over_one_connection_and_in_one_session(
    client: Client, secure: Origin, context: ssl.SSLContext
) -> None:
    before = context.session_stats()["hits"]
    data = secure.put("/a", LARGE)
    secure.put("/b", b"", Serve(leave=True))
    for _ in range(2):
        assert body(ask(client, secure.url + "a")) == data
    assert secure.accepted == 1
    for _ in range(3):
        assert body(ask(client, secure.url + "b")) == b""
    assert secure.accepted > 1
    assert context.session_stats()["hits"] > before


def test_a_session_is_taken_once_from_a_connection(secure: Origin, certificate: Path) -> None:
    class Counting(Pool):
        noted = 0

        def note_session(self, way: Way, session: ssl.SSLSession | None) -> None:
            assert session is not None
            self.noted += 1
            super().note_session(way, session)

    with closing(Turning()) as events, closing(Counting(events, LIMITS, len(LARGE), Trust(certificate))) as pool:
        data, told = secure.put("/a", LARGE), list[Outcome]()
        for _ in range(3):
            told.clear()
            pool.ask(raw_request("GET", secure.url + "a", (), Way(Place.of(secure.url))), told.append)
            events.turn_until(lambda: told)
            assert isinstance(told[0], Whole)
            assert told[0].body == data
        assert (secure.accepted, pool.noted) == (1, 1)


def test_a_certificate_of_nobody_is_refused(secure: Origin) -> None:
    with closing(Client(LIMITS)) as client, pytest.raises(UpstreamError, match=r"failed the TLS handshake: .*certificate"):
        ask(client, secure.url + "a")


def test_a_greeting_that_nobody_returns_is_given_up(client: Client, origin: Origin) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        closing(Client(Timeouts(connect=0.5))) as hasty,
        pytest.raises(UpstreamTimeout, match="did not end the TLS handshake in time"),
    ):
        ask(hasty, f"https://127.0.0.1:{silent.getsockname()[1]}/a")
    # By chance a greeting has the end of a line in it, and is answered by who knows no TLS.
    with pytest.raises(UpstreamError, match=r"(failed|did not end) the TLS handshake"):
        ask(client, origin.url.replace("http:", "https:") + "a")


# Proxies


def test_a_proxy_is_asked_for_the_whole_url_and_told_a_login(client: Client, origin: Origin) -> None:
    origin.put("http://mirror.example:81/a?b=c", b"1")
    url = "http://me:pw@mirror.example:81/a?b=c"
    way = Way(Place.of(url), Proxy.of(origin.url.replace("//", "//me:pw@")))
    for _ in range(2):
        assert body(ask(client, url, way)) == b"1"
    request = origin.requests()[0]
    assert (request.fields["host"], request.fields["proxy-authorization"]) == ("mirror.example:81", LOGIN)
    assert origin.accepted == 1


@pytest.mark.parametrize("over_tls", [False, True], ids=["http proxy", "https proxy"])
def test_a_source_over_tls_is_reached_through_a_tunnel(
    client: Client, secure: Origin, relay: Callable[..., Relay], context: ssl.SSLContext, over_tls: bool
) -> None:
    between = relay(secure, context if over_tls else None)
    url, scheme = "https://mirror.example/a", "https" if over_tls else "http"
    data = secure.put("/a", LARGE)
    secure.put("/b", b"small")
    way = Way(Place.of(url), Proxy.of(f"{scheme}://me:pw@127.0.0.1:{between.port}"))
    for _ in range(3):
        assert body(ask(client, url, way)) == data
        assert body(ask(client, "https://mirror.example/b", way)) == b"small"
    sent = b"x" * 400_000
    secure.put("/c", b"", Say(200, b"told"))
    fields = (("Content-Length", str(len(sent))),)
    assert body(client.ask(raw_request("POST", "https://mirror.example/c", fields, way, io.BytesIO(sent)))) == b"told"
    assert secure.requests()[-1].content == sent
    assert "proxy-authorization" not in secure.requests()[0].fields
    assert secure.requests()[0].fields["host"] == "mirror.example"
    [head] = between.heads
    assert head.startswith(b"CONNECT mirror.example:443 HTTP/1.1\r\nHost: mirror.example:443\r\n")
    assert b"Proxy-Authorization: " + LOGIN.encode() in head


def test_a_proxy_over_tls_is_asked_for_the_whole_url(client: Client, secure: Origin) -> None:
    data = secure.put("http://mirror.example/a", LARGE)
    url = "http://mirror.example/a"
    for _ in range(2):
        assert body(ask(client, url, Way(Place.of(url), Proxy.of(secure.url)))) == data
    assert secure.accepted == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "the proxy answered 403 Forbidden"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "the proxy answered 200 OK"),
        (b"SSH-2.0-x\r\n\r\n", "the proxy does not answer in HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, "the proxy does not answer"),
    ],
)
def test_a_proxy_that_makes_no_tunnel_is_told(
    client: Client, secure: Origin, relay: Callable[..., Relay], answer: bytes, why: str
) -> None:
    between = relay(secure, answer=answer)
    url = "https://mirror.example/a"
    with pytest.raises(UpstreamError, match=f"cannot be reached: {why}"):
        ask(client, url, Way(Place.of(url), Proxy.of(f"http://127.0.0.1:{between.port}")))
    assert not secure.requests()


def test_an_answer_with_more_than_it_declares_is_a_lie_in_a_thread_too(client: Client, origin: Origin) -> None:
    origin.put("/a", b"", Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_001))
    answer = ask(client, origin.url + "a")
    with pytest.raises(UpstreamLie, match="more than it declared"):
        body(answer)
    answer.close()
