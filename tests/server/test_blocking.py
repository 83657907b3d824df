"""No client, no tunnel, no log and no signal makes the thread of the event loop wait for anybody."""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from origin import Gate, Origin, Serve, until
from product import SUPPORT, Proxy
from raw import Client

BODY = os.urandom(300_000)
Start = Callable[..., Proxy]


@pytest.fixture(params=["wsgiref", "gunicorn"])
def loop_host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def launch(origin: Origin, start: Start, loop_host: str, tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Starts the product in one process, in which a call that may wait fails in the event loop."""
    folder, report = tmp_path / "alarmed", tmp_path / "alarms"
    folder.mkdir()
    shutil.copy(SUPPORT / "alarmed.py", folder / "sitecustomize.py")

    def _launch(*arguments: str, listen: Sequence[str] = (), **variables: str) -> Proxy:
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        environment = {"PYTHONPATH": path, "ALARMED": str(report), **variables}
        words = ["--workers", "1", "--threads", "4", *arguments]
        return start(origin.url, host=loop_host, arguments=words, environment=environment, listen=listen)

    yield _launch
    assert report.read_text() == ""


@contextmanager
def deaf(path: Path) -> Iterator[Path]:
    """A socket for messages of which nobody takes any, and that has no room for one more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as two:
        one.bind(str(path))
        two.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                two.sendto(b"x", str(path))
        yield path


def own_address() -> str:
    """An address of this machine that is none of loopback's: who comes from those may always ask for its health."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))  # no packet is sent
        except OSError:
            pytest.skip("this machine has no network address beside loopback")
        return str(one.getsockname()[0])


def test_who_is_not_served_and_says_nothing_is_not_waited_for(origin: Origin, launch: Callable[..., Proxy]) -> None:
    body, own = origin.put("/a-1.tar", BODY), own_address()
    proxy = launch("--allow", "127.0.0.2", "--connections", "12", listen=["0.0.0.0:0"])
    with ExitStack() as stack:
        silent = [stack.enter_context(Client((own, proxy.address[1]), 20, source=own)) for _ in range(40)]
        with Client(("127.0.0.1", proxy.address[1]), 20, source="127.0.0.2") as client:
            assert client.get("/a-1.tar").body == body
        assert [client.answer().status for client in silent] == [403] * 40


def test_a_client_that_is_one_too_many_is_told_so_when_it_asks(origin: Origin, launch: Callable[..., Proxy]) -> None:
    origin.put("/a-1.tar", BODY)
    proxy = launch("--connections", "12")
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(Client(proxy.address, 20)).send(b"G")
        for _ in range(5):
            with Client(proxy.address, 20) as client:
                head = client.head()
                client.ask("/a-1.tar")  # as if it had not heard of it yet
                assert client.rest(head).whole
                assert client.ended()


def test_nothing_that_clients_do_is_waited_for(origin: Origin, launch: Callable[..., Proxy], tmp_path: Path) -> None:
    body = origin.put("/a-1.tar", BODY)
    proxy = launch(listen=["127.0.0.1:0", f"unix:{tmp_path / 'socket'}"])
    with Client(proxy.address) as client:
        for _ in range(2):
            assert client.get("/a-1.tar").body == body
        assert client.get("/a-1.tar", "Range: bytes=5-9").body == body[5:10]
        assert client.get("/none-1.tar").status == 404
        assert client.get("/a-1.tar", method="PUT").status == 405
        assert client.get("/a-1.tar", version="HTTP/1.0").body == body
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 9, b"A" * 70_000, b"GET / HTTP/1.1\r\n\n"):
        with Client(proxy.address) as client, suppress(ConnectionError):
            client.send(garbage)
            assert client.answer().status >= 400
            client.send(garbage)  # the connection lingers
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(str(tmp_path / "socket"))
        local.sendall(b"GET /a-1.tar HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with local.makefile("rb") as stream:
            assert stream.read().endswith(body)


def test_no_tunnel_is_waited_for(origin: Origin, launch: Callable[..., Proxy]) -> None:
    body = origin.put("/a-1.tar", BODY)
    with socket.create_server(("127.0.0.1", 0)) as far, socket.create_server(("127.0.0.1", 0)) as closed:
        ends = [f"127.0.0.1:{one.getsockname()[1]}" for one in (far, closed)]
        proxy = launch(*(word for end in ends for word in ("--connect", end)))
        closed.close()
        with Client(proxy.address) as client:
            client.ask(ends[0], method="CONNECT")
            assert client.head().status == 200
            assert proxy.get("/a-1.tar").body == body
            with far.accept()[0] as there:
                there.sendall(b"hello")
            assert client.ended() is False
        for target, status in ((ends[1], 502), ("127.0.0.1:9", 403)):
            with Client(proxy.address) as client:
                assert client.get(target, method="CONNECT").status == status


def test_nothing_that_ends_or_changes_the_service_is_waited_for(
    origin: Origin, launch: Callable[..., Proxy], tmp_path: Path
) -> None:
    gate = Gate()
    body = origin.put("/big-1.tar", BODY * 4, Serve(gate=gate, gate_at=400_000))
    origin.put("/a-1.tar", BODY)
    with deaf(tmp_path / "notify") as place:
        proxy = launch("--access-log", str(tmp_path / "access"), NOTIFY_SOCKET=str(place))
        assert proxy.get("/a-1.tar").body == BODY
        with Client(proxy.address) as client:
            client.ask("/big-1.tar")
            assert gate.reached.wait(30)
            proxy.process.send_signal(signal.SIGHUP)
            until(lambda: "the settings were read again" in "".join(proxy.log))
            assert proxy.get("/a-1.tar").body == BODY
            proxy.process.terminate()
            gate.open()
            assert client.answer().body == body
        until(lambda: proxy.process.poll() is not None)
        assert proxy.stop() == 0
