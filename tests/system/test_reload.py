"""Reload and stop while clients are at work: nobody is turned away, and nothing that runs is lost."""

import http.client
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from origin import Gate, Origin, Serve, until
from product import Proxy, parts
from raw import Client

BODY = random.Random(7).randbytes(20_000)
LARGE = random.Random(9).randbytes(1_000_000)
OVERLAP = 4096
"""Bytes before the joint that a resumed download asks for again."""
PATIENT = {"PACKAGE_CACHE_STALL_TIMEOUT": "100"}
GAP = 1.0
"""Seconds within which a connection that was promised to persist must be usable."""

Start = Callable[..., Proxy]


class Crowd:
    """Clients that ask again and again until they are told to stop. `faults` is what went wrong for any of them."""

    def __init__(self, proxy: Proxy) -> None:
        self.faults: list[str] = []
        self.answers = [0] * 16
        self._proxy = proxy
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, self._come_anew if number < 8 else self._stay))
            for number in range(len(self.answers))
        ]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def wait_for_everyone(self) -> None:
        """Until each of them had an answer to something asked after this call."""
        before = list(self.answers)
        until(lambda: self.faults or all(now > one + 1 for now, one in zip(self.answers, before, strict=True)))
        assert not self.faults

    def _run(self, number: int, ask: Callable[[int, random.Random], None]) -> None:
        dice = random.Random(number)
        try:
            while not self._done.is_set():
                ask(number, dice)
        except Exception as error:
            self.faults.append(f"client {number}: {error!r}")

    def _come_anew(self, number: int, dice: random.Random) -> None:
        with Client(self._proxy.address) as client:
            self._ask(client, number, dice)
            time.sleep(dice.uniform(0, 0.02))

    def _stay(self, number: int, dice: random.Random) -> None:
        with Client(self._proxy.address) as client:
            while not self._done.is_set():
                if self._ask(client, number, dice):
                    return
                answered = time.monotonic()
                self._done.wait(dice.choice([0.0, 0.01, 0.1, 0.5]))
                if time.monotonic() - answered > GAP:  # the machine was busy with something else
                    return

    def _ask(self, client: Client, number: int, dice: random.Random) -> bool:
        """A request that the loop answers, or one that it hands over; whether the server ends the connection."""
        prefix = dice.choice(["", "http://127.0.0.1"])
        answer = client.get(f"{prefix}/file-1.tar")
        assert (answer.status, answer.whole, answer.body == BODY) == (200, True, True)
        self.answers[number] += 1
        return answer.get("connection") == "close"


def accepting(proxy: Proxy) -> set[int]:
    """The workers that wait for new connections: whose epoll has the listening socket."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    port = f":{proxy.address[1]:04X}"
    [inode] = [words[9] for words in lines if words[1].endswith(port) and words[3] == "0A"]
    return {pid for pid in proxy.workers() if _watches(Path(f"/proc/{pid}"), f"socket:[{inode}]")}


def _watches(process: Path, name: str) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        for information in (process / "fdinfo").iterdir():
            for descriptor in re.findall(r"^tfd: +(\d+)", information.read_text(), re.MULTILINE):
                if os.readlink(process / "fd" / descriptor) == name:
                    return True
    return False


class Download:
    """A client that reads a little at a time until it is to hurry; `body` is what it got in the end, if it is whole."""

    def __init__(self, proxy: Proxy, target: str) -> None:
        self.hurry = threading.Event()
        self.begun = threading.Event()
        self.body = b""
        self._proxy = proxy
        self._thread = threading.Thread(target=self._run, args=(target,))

    def __enter__(self) -> "Download":
        self._thread.start()
        assert self.begun.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> bytes:
        self.hurry.set()
        self._thread.join()
        return self.body

    def _run(self, target: str) -> None:
        with closing(http.client.HTTPConnection(*self._proxy.address, timeout=60)) as connection:
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            connection.request("GET", target)
            response = connection.getresponse()
            blocks = []
            with suppress(http.client.IncompleteRead, ConnectionError):
                while not self.hurry.is_set() and (block := response.read(8192)):
                    blocks.append(block)
                    self.begun.set()
                    self.hurry.wait(0.01)
                self.body = b"".join([*blocks, response.read()])


@contextmanager
def downloads(origin: Origin, proxy: Proxy, name: str) -> Iterator[Callable[[], None]]:
    """A hit that its client reads slowly, and a file that its source holds back; the function sees both to their end."""
    gate = Gate()
    cold = origin.put(f"/{name}-1.tar", random.Random(name).randbytes(1_000_000), Serve(gate=gate, gate_at=500_000))

    def finish() -> None:
        gate.open()
        assert waiting.finish() == cold
        assert slow.finish() == origin.things["/large-1.tar"].body
        assert len(origin.requests(f"/{name}-1.tar")) == 1

    with Download(proxy, "/large-1.tar") as slow, Download(proxy, f"/{name}-1.tar") as waiting, ExitStack() as stack:
        stack.callback(gate.open)
        assert gate.reached.wait(30)
        yield finish


def reload(proxy: Proxy) -> None:
    """Have new workers take over."""
    before = accepting(proxy)
    proxy.process.send_signal(signal.SIGHUP)
    until(lambda: len(now := accepting(proxy)) == 2 and not now & before)


@pytest.fixture
def proxy(origin: Origin, start: Start) -> Proxy:
    """Two workers, a small file and a large one."""
    origin.put("/file-1.tar", BODY)
    origin.put("/large-1.tar", random.Random(8).randbytes(24 << 20))
    one = start(origin.url, host="gunicorn", arguments=["--workers", "2"], environment=PATIENT)
    for target in ("/file-1.tar", "/large-1.tar"):
        one.get(target)
    until(lambda: not parts(one.cache) and len(accepting(one)) == 2)
    return one


def test_nobody_is_turned_away_by_a_reload(origin: Origin, proxy: Proxy) -> None:
    with Crowd(proxy) as crowd:
        for name in ("first", "second", "third"):
            with downloads(origin, proxy, name) as finish:
                crowd.wait_for_everyone()
                reload(proxy)
                crowd.wait_for_everyone()
                assert len(proxy.workers()) > 2, "the downloads hold the workers that run them"
                finish()
            until(lambda: set(proxy.workers()) == accepting(proxy))
    assert not crowd.faults
    for name in ("first", "second", "third"):  # a worker may have ended before it had stored what it had served
        assert proxy.get(f"/{name}-1.tar").body == origin.things[f"/{name}-1.tar"].body
        assert len(origin.requests(f"/{name}-1.tar")) == 1
    assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)


def test_a_reload_waits_for_no_download_that_an_earlier_one_left(origin: Origin, proxy: Proxy) -> None:
    with Crowd(proxy) as crowd, downloads(origin, proxy, "cold") as finish:
        for _ in range(3):
            reload(proxy)
            crowd.wait_for_everyone()
        finish()
        until(lambda: set(proxy.workers()) == accepting(proxy))
    assert not crowd.faults


def test_a_worker_that_dies_while_old_ones_come_to_their_end_is_replaced(origin: Origin, proxy: Proxy) -> None:
    with downloads(origin, proxy, "cold") as finish:
        reload(proxy)
        fresh = accepting(proxy)
        for pid in fresh:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(accepting(proxy) - fresh) == 2)
        assert proxy.get("/file-1.tar").body == BODY
        finish()


TOLD_TO_END_AT_BIRTH = """
import os, signal
def be_told():
    try:
        os.rename({flag!r}, {told!r})
    except FileNotFoundError:
        return
    with open({told!r}, "w") as file:
        file.write(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGTERM)
os.register_at_fork(after_in_child=be_told)
"""


def test_a_worker_that_is_told_to_end_before_it_is_ready_does(origin: Origin, start: Start, tmp_path: Path) -> None:
    flag, told, folder = tmp_path / "flag", tmp_path / "told", tmp_path / "wrapped"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(TOLD_TO_END_AT_BIRTH.format(flag=str(flag), told=str(told)))
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    flag.touch()
    proxy = start(origin.url, host="gunicorn", arguments=["--workers", "1"], environment=environment)
    until(lambda: told.exists() and told.read_text())
    until(lambda: len(accepting(proxy)) == 1 and not accepting(proxy) & {int(told.read_text())})
    assert proxy.stop() == 0


def is_refused(proxy: Proxy) -> bool:
    with suppress(ConnectionRefusedError, ConnectionResetError), proxy.connect():
        return False
    return True


@pytest.mark.parametrize("again", [False, True], ids=["from the start", "after a reload"])
def test_a_stop_turns_new_clients_away_while_downloads_come_to_their_end(origin: Origin, proxy: Proxy, again: bool) -> None:
    with downloads(origin, proxy, "cold") as finish:
        if again:
            reload(proxy)
        proxy.process.terminate()
        until(lambda: is_refused(proxy))
        assert proxy.process.poll() is None
        finish()
        assert proxy.stop() == 0


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_connection_that_was_promised_to_persist_is_good_for_another_request(
    origin: Origin, start: Start, host: str
) -> None:
    gate = Gate()
    origin.put("/file-1.tar", BODY)
    origin.put("/cold-1.tar", LARGE, Serve(gate=gate, gate_at=500_000))
    proxy = start(origin.url, host=host, environment=PATIENT)
    proxy.get("/file-1.tar")
    with Client(proxy.address) as client:
        client.ask("/cold-1.tar")
        head = client.head()
        assert head.get("connection") == "keep-alive"
        assert gate.reached.wait(30)
        proxy.process.terminate()
        until(lambda: is_refused(proxy))
        gate.open()
        assert client.rest(head).body == LARGE
        answer = client.get("/file-1.tar")
        assert (answer.body, answer.get("connection")) == (BODY, "close")
        assert client.ended()
    assert proxy.stop() == 0


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_the_promise_holds_for_what_is_fetched_beside_a_download_too(origin: Origin, start: Start, host: str) -> None:
    whole, part = Gate(), Gate()
    origin.put("/file-1.tar", BODY)
    body = origin.put("/cold-1.tar", LARGE * 4, Serve(gate=whole, gate_at=100_000), Serve(gate=part, gate_at=3_200_000))
    proxy = start(origin.url, host=host, environment=PATIENT)
    proxy.get("/file-1.tar")
    with Client(proxy.address) as first, Client(proxy.address) as client:
        first.ask("/cold-1.tar")
        assert whole.reached.wait(30)
        client.ask("/cold-1.tar", "Range: bytes=3000000-3499999")
        assert part.reached.wait(30)
        head = client.head()
        assert head.get("connection") == "keep-alive"
        proxy.process.terminate()
        until(lambda: is_refused(proxy))
        part.open()
        assert client.rest(head).body == body[3_000_000:3_500_000]
        answer = client.get("/file-1.tar")
        assert (answer.body, answer.get("connection")) == (BODY, "close")
        assert client.ended()
        whole.open()
        assert first.answer().body == body
    assert proxy.stop() == 0


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_who_had_connected_before_a_stop_is_served(origin: Origin, start: Start, host: str) -> None:
    origin.put("/file-1.tar", BODY)
    proxy = start(origin.url, host=host, arguments=["--workers", "1"])
    assert proxy.get("/file-1.tar").body == BODY
    [pid] = proxy.workers() or [proxy.process.pid]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: has_stopped(pid))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy.address)) for _ in range(20)]
        for client in clients:
            client.ask("/file-1.tar")
        proxy.process.terminate()
        until(lambda: has_been_told_to_end(pid))
        os.kill(pid, signal.SIGCONT)
        assert all(client.answer().body == BODY for client in clients)
    assert proxy.stop() == 0


def has_stopped(pid: int) -> bool:
    """Whether each thread of a process has."""
    return all(" (stopped)" in (task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir())


def has_been_told_to_end(pid: int) -> bool:
    """Whether a stopped process has a SIGTERM waiting for it."""
    [pending] = re.findall(r"^ShdPnd:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(pending, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_stop_that_comes_to_its_limit_leaves_a_download_to_go_on_from(origin: Origin, start: Start, host: str) -> None:
    gate = Gate()
    origin.put("/cold-1.tar", LARGE, Serve(gate=gate, gate_at=500_000), Serve())
    limits = PATIENT | {"PACKAGE_CACHE_GRACEFUL_TIMEOUT": "1"}
    proxy = start(origin.url, host=host, arguments=["--workers", "1"], environment=limits)
    with Download(proxy, "/cold-1.tar") as client:
        assert gate.reached.wait(30)
        client.hurry.set()
        assert proxy.stop() == 0
        assert client.finish() == b""
    gate.open()
    assert start(origin.url, host=host).get("/cold-1.tar").body == LARGE
    assert [asked.fields.get("range") for asked in origin.requests()] == [None, f"bytes={500_000 - OVERLAP}-"]


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_stop_that_comes_to_its_limit_waits_for_no_client_that_takes_nothing(
    origin: Origin, start: Start, host: str
) -> None:
    origin.put("/large-1.tar", random.Random(8).randbytes(24 << 20))
    limits = {"PACKAGE_CACHE_GRACEFUL_TIMEOUT": "1"}
    proxy = start(origin.url, host=host, arguments=["--workers", "1"], environment=limits)
    proxy.get("/large-1.tar")
    with Client(proxy.address) as client:
        client.ask("http://127.0.0.1/large-1.tar")  # one that the loop hands over
        assert client.head().status == 200
        assert proxy.stop() == 0
