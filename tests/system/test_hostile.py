"""Hostile requests, under every way to run the product: refused or bounded, and the server alive and quick for others."""

import os
import random
import re
import resource
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from forks import Forks
from hostile import AS_THEY_STAND, CASES, CHUNKED, FILE, FIVE, FOLLOWING, POST, SMUGGLED, Case, asking, head
from origin import Gate, Hang, Origin, Serve, until
from product import HOSTS, Proxy, children, stored
from raw import Answer, Client

BODY = random.Random(1).randbytes(1000)
PATIENCE = 20.0
"""Seconds that a client who does nothing wrong waits for an answer at most."""
LOOPS = ("wsgiref", "gunicorn")

Start = Callable[..., Proxy]


@dataclass
class Site:
    """A source, a product that has `FILE` already, and a client who does nothing wrong."""

    origin: Origin
    proxy: Proxy
    bystander: Client | None = None

    def part_with_bystander(self) -> None:
        """Have the next one connect anew."""
        if self.bystander is not None:
            self.bystander.socket.close()
        self.bystander = None

    def assert_serves(self) -> None:
        """Whoever asks for the file gets it: on a connection that has been there for long, and on a new one."""
        if self.bystander is None:
            self.bystander = Client(self.proxy.address, PATIENCE)
        assert self.bystander.get(FILE).body == BODY
        with Client(self.proxy.address, PATIENCE) as client:
            assert client.get(FILE).body == BODY


@pytest.fixture(scope="module", params=HOSTS)
def site(request: pytest.FixtureRequest, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    origin = Origin()
    for path in (FILE, "/smuggled-1.tar"):
        origin.put(path, BODY)
    # Else it would part with the one who looks on after two seconds.
    arguments = ["--keep-alive", "60"] if request.param == "gthread" else ["-v"]
    options = {"host": request.param, "arguments": arguments, "spawn": forks.spawn}
    proxy = Proxy(tmp_path_factory.mktemp("cache"), [origin.url], **options)
    assert proxy.get(FILE).body == BODY
    one = Site(origin, proxy)
    until(lambda: FILE in stored(proxy.cache))
    yield one
    one.part_with_bystander()
    proxy.kill()
    origin.stop()


def final(site: Site, client: Client, case: Case) -> Answer:
    """The answer that is not provisional. Nobody is asked for what is not read; Gunicorn asks (RFC 9110, 10.1.1)."""
    answer = client.answer(method_of(case))
    if answer.status != 100:
        return answer
    assert site.proxy.host == "gthread"
    assert b" HTTP/1.0\r\n" not in case.data  # RFC 9110, 15.2
    return client.answer(method_of(case))


def is_silent(client: Client, seconds: float) -> bool:
    """Whether nothing is said for so long, and the connection stands."""
    return not select.select([client.socket], [], [], seconds)[0]


def method_of(case: Case) -> str:
    return case.data.lstrip(b"\r\n").split(b" ")[0].decode("latin-1")


FIELDS = {
    *("age", "cache-status", "connection", "content-length", "content-type", "date", "server", "via", "allow"),
    *("accept-ranges", "content-range", "etag", "last-modified", "repr-digest", "x-content-type-options"),
    *("transfer-encoding", "retry-after"),
}
"""What an answer may say at all: nothing of it comes from the request."""


def assert_in_order(site: Site, case: Case, answer: Answer) -> None:
    assert answer.status in case.allowed(site.proxy.host), answer
    assert answer.whole
    assert len(answer.body) <= len(BODY)
    assert {name for name, _ in answer.fields} <= FIELDS
    if site.proxy.host != "gthread":
        assert answer.version in ("HTTP/1.0", "HTTP/1.1")  # RFC 9110, 6.2
        assert answer.get("date")  # RFC 9110, 6.6.1
    if answer.status == 200:
        assert answer.body == BODY
    if answer.status == 405:
        assert answer.get("allow") == "GET, HEAD"


@pytest.mark.parametrize("group", CASES, ids=lambda group: group[0].rule)
def test_a_request_gets_what_the_rfcs_demand_and_harms_nobody(site: Site, group: tuple[Case, ...]) -> None:
    wrong = {str(case): said for case in group if (said := complaint(site, case))}
    assert not wrong


def complaint(site: Site, case: Case) -> str:
    """What is wrong with how a request is dealt with; nothing, as a rule. Not a test each: there are too many."""
    try:
        assert_dealt_with(site, case)
    except (AssertionError, OSError) as error:
        site.part_with_bystander()
        return f"{case.rule}: {str(error)[:300]}"
    return ""


def assert_dealt_with(site: Site, case: Case) -> None:
    asked, ends = len(site.origin.requests()), case.must_end(site.proxy.host)
    with Client(site.proxy.address, PATIENCE) as client:
        with suppress(ConnectionError):
            client.send(case.data + (FOLLOWING if ends is False else SMUGGLED))
        answer = final(site, client, case)
        assert_in_order(site, case, answer)
        if ends:
            assert client.ended()
        elif ends is False:
            assert client.answer().body == BODY
        elif not client.ended():
            client.answer()  # or a source would be asked for it while the next request is looked at
    if ends is not None:
        assert len(site.origin.requests()) == asked
    site.assert_serves()


def test_a_request_in_two_pieces_is_waited_for_and_answered(site: Site) -> None:
    request = head(b"X: y")
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(site.proxy.address, PATIENCE)) for _ in range(1, len(request), 2)]
        for size, client in zip(range(1, len(request), 2), clients, strict=True):
            client.send(request[:size])
        site.assert_serves()
        for size, client in zip(range(1, len(request), 2), clients, strict=True):
            assert is_silent(client, 0.0)
            client.send(request[size:])
            assert client.answer().body == BODY


def test_what_does_not_begin_as_a_request_is_refused_at_its_first_line(site: Site) -> None:
    """RFC 9112, 3: there is nothing to wait for, and a client that sent its all would wait in vain."""
    if site.proxy.host == "gthread":
        pytest.skip("Gunicorn's own parser waits for the rest")
    lines = {
        b"GET /file-1.tar": 400,
        b"GET /file-1.tar HTTP/-1.1": 400,
        b"GET /file-1.tar HTTP/2.0": 505,
        b"EHLO elsewhere": 400,
    }
    for line, status in lines.items():
        with Client(site.proxy.address, PATIENCE) as client:
            client.send(line + b"\r\n")
            assert client.answer().status == status
            assert client.ended()


@pytest.mark.parametrize("size", [1, 7], ids=["by the byte", "by seven bytes"])
def test_content_in_pieces_is_waited_for_and_read_to_its_end(site: Site, size: int) -> None:
    for data in (head(FIVE, start=POST) + b"hello", head(CHUNKED, start=POST) + b"5;a\r\nhello\r\n00\r\nX: y\r\n\r\n"):
        with Client(site.proxy.address, PATIENCE) as client:
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(data) - 1, size):
                assert is_silent(client, 0.0)
                client.send(data[at : min(at + size, len(data) - 1)])
            site.assert_serves()
            assert is_silent(client, 0.0)
            client.send(data[-1:])
            assert client.answer().status == 405
            assert client.ended()


@pytest.mark.parametrize("target", AS_THEY_STAND, ids=lambda target: target.decode())
def test_an_odd_name_is_asked_for_once_in_one_spelling(site: Site, target: bytes) -> None:
    """RFC 3986, 6.2.2: decoded once, and encoded again in one form. Nothing else of the request is passed on."""
    asked = len(site.origin.requests())
    with Client(site.proxy.address, PATIENCE) as client:
        client.send(b"GET " + target + b" HTTP/1.1\r\nHost: elsewhere.example\r\nCookie: a=b\r\nX-Evil: 1\r\n\r\n")
        assert client.answer().status == 404
    (request,) = site.origin.requests()[asked:]
    assert request.target == AS_THEY_STAND[target].decode()
    assert request.fields["host"] == f"127.0.0.1:{site.origin.port}"
    assert not {"cookie", "x-evil"} & set(request.fields)
    site.assert_serves()


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_other_methods_with_a_bad_target_are_answered_too(site: Site, method: str) -> None:
    with Client(site.proxy.address, PATIENCE) as client:
        client.ask("/../file-1.tar", method=method)
        assert client.answer(method).status == (400 if method == "HEAD" else 405)
        if method == "HEAD":
            assert client.ended()


def test_an_empty_line_behind_a_request_is_ignored(site: Site) -> None:
    with Client(site.proxy.address, PATIENCE) as client:
        for _ in range(3):
            client.send(FOLLOWING + b"\r\n")
            assert client.answer().body == BODY


def test_nothing_that_a_client_wrote_is_raw_in_the_log(site: Site) -> None:
    """Whatever was asked before: the log is of lines that can be printed."""
    with Client(site.proxy.address, PATIENCE) as client:
        client.send(b'GET /none-1.tar HTTP/1.1\r\nHost: a\r\nUser-Agent: \x9b2J\xff"\\\r\nAccept: json\x9b31m\r\n\r\n')
        assert client.answer().status == 404
    for line in list(site.proxy.log):
        assert line.endswith("\n")
        assert line[:-1].isprintable(), ascii(line)


ACCESS = re.compile(r'\S+ \S+ INFO 127\.0\.0\.1 - - \[[^]]+\] "(\S+ [\x21-\x7e]+) HTTP/1.1" (\d{3}) \d+ "-" "[^"]*" .*\n')


@pytest.mark.parametrize("host", LOOPS)
def test_each_request_is_one_line_of_the_log_and_nothing_in_it_is_raw(origin: Origin, start: Start, host: str) -> None:
    for path in ("/file-1.tar", "/%C3%AF.tar", "/index/"):
        origin.put(path, BODY)
    proxy = start(origin.url, host=host, arguments=["-v", "--workers", "1"])
    requests = [
        (asking(b'/"quoted"\\n.tar'), 404),
        (asking(b"/%C3%AF.tar"), 200),
        (asking(b"/%1b[2J"), 400),
        (asking(b"/file-1.tar?%22"), 404),
        (asking(b"http://elsewhere.example/%0a"), 400),
        (head(b"Accept: json\x9b31m\x85", b"User-Agent: \x9b").replace(b"/file-1.tar", b"/index/"), 200),
        (head(b"X: \x1b[31mred"), 400),
        (head(*(b"X-%d: " % number + b"a" * 1000 for number in range(90))), 431),
        (b"GET /\x9b HTTP/1.1\r\n\r\n", 400),
        (b"\x1b[31m\r\n\r\n", 400),
        (b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ]
    for data, status in requests:
        with Client(proxy.address) as client:
            client.send(data)
            client.socket.shutdown(socket.SHUT_WR)
            assert client.answer().status == status
            assert client.ended()
    assert proxy.stop() == 0
    for line in proxy.log:
        assert line.endswith("\n")
        assert line[:-1].isprintable(), ascii(line)
    lines = [match for match in map(ACCESS.fullmatch, proxy.log) if match]
    assert [int(match[2]) for match in lines] == [status for _, status in requests], "".join(proxy.log)
    assert lines[0][1] == r"GET /\x22quoted\x22\\n.tar"


# -- connections


@pytest.fixture(params=LOOPS)
def launch(request: pytest.FixtureRequest, origin: Origin, start: Start) -> Callable[..., Proxy]:
    """Starts the product in one process, with `FILE`."""
    origin.put(FILE, BODY)

    def _launch(*arguments: str, **variables: str) -> Proxy:
        proxy = start(
            origin.url,
            host=request.param,
            arguments=["--workers", "1", *arguments],
            environment={f"PACKAGE_CACHE_{name.upper()}": value for name, value in variables.items()},
        )
        assert proxy.get(FILE).body == BODY
        return proxy

    return _launch


def worker(proxy: Proxy) -> int:
    """The process that serves."""
    return children(proxy.process.pid)[0] if proxy.host == "gunicorn" else proxy.process.pid


def descriptors(proxy: Proxy) -> int:
    return len(os.listdir(f"/proc/{worker(proxy)}/fd"))


def processor_seconds(proxy: Proxy) -> float:
    fields = Path(f"/proc/{worker(proxy)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_serves(proxy: Proxy) -> None:
    with Client(proxy.address, PATIENCE) as client:
        for _ in range(2):
            assert client.get(FILE).body == BODY


def reset(client: Client) -> None:
    """End a connection with a TCP reset."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def test_content_that_does_not_come_is_waited_for_so_long_and_no_longer(launch: Callable[..., Proxy]) -> None:
    """RFC 9110, 15.5.9; and RFC 9112, 8: a request that ends too early is not whole."""
    proxy = launch(request_timeout="4")
    begun = [
        head(fields, start=method + b" /file-1.tar HTTP/1.1") + content
        for method in (b"GET", b"POST")
        for fields, content in ((FIVE, b"hell"), (CHUNKED, b"5\r\nhello\r\n"), (CHUNKED, b""))
    ]
    with ExitStack() as stack:
        for status in (408, 400):
            clients = [stack.enter_context(Client(proxy.address, PATIENCE)) for _ in begun]
            for client, data in zip(clients, begun, strict=True):
                client.send(data)
                if status == 400:
                    client.socket.shutdown(socket.SHUT_WR)
            for client in clients:
                assert client.answer().status == status
                assert client.ended()
    assert_serves(proxy)


def test_resets_and_half_closed_connections_leave_nothing_behind(launch: Callable[..., Proxy], origin: Origin) -> None:
    large = origin.put("/large-1.tar", random.Random(2).randbytes(16 << 20))
    proxy = launch()
    assert proxy.get("/large-1.tar").body == large
    assert_serves(proxy)
    before = descriptors(proxy)
    for data in (b"", b"GET", FOLLOWING[:-2], FOLLOWING, FOLLOWING * 20, FOLLOWING.replace(FILE.encode(), b"/large-1.tar")):
        for _ in range(10):
            reset_one = Client(proxy.address, PATIENCE)
            reset_one.send(data)
            reset(reset_one)
            half = Client(proxy.address, PATIENCE)
            half.send(data)
            half.socket.shutdown(socket.SHUT_WR)
            if data.endswith(FOLLOWING):
                assert half.answer().body == BODY
            half.socket.close()
    with Client(proxy.address, PATIENCE) as client:
        client.ask("/large-1.tar")
        assert client.head().status == 200
        client.socket.recv(1000)
        reset(client)
    assert_serves(proxy)
    # Of 120 connections nothing is left; the registry may keep another connection of its own, which is three files.
    until(lambda: descriptors(proxy) <= before + 8)


def test_a_flood_of_connections_holds_nobody_up(launch: Callable[..., Proxy]) -> None:
    proxy = launch()
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            with ExitStack() as stack, suppress(OSError):
                for _ in range(50):
                    stack.enter_context(Client(proxy.address, PATIENCE))

    with ThreadPoolExecutor(2) as pool:
        floods = [pool.submit(flood) for _ in range(2)]
        try:
            for _ in range(20):
                assert_serves(proxy)
        finally:
            over.set()
        for one in floods:
            one.result()


def test_more_connections_than_there_is_room_for_are_told_so(launch: Callable[..., Proxy], origin: Origin) -> None:
    """RFC 9110, 15.6.4. Those whose request went to a thread count as well, and so do those without a request."""
    proxy = launch("--connections", "10", "--threads", "2")
    for data in (b"GET /slow-1.tar HTTP/1.0\r\n\r\n", b"GET /slow-2.tar HTTP/1.1\r\nHost: a\r\n\r\n", b""):
        gate = Gate()
        origin.put(data[4:15].decode(), BODY, Serve(before=gate))
        with ExitStack() as stack:
            take_every_place(proxy, 10, data, stack)
            for _ in range(50):
                assert turned_away(proxy)
            gate.open()
        until(lambda: not turned_away(proxy))
    assert_serves(proxy)


def take_every_place(proxy: Proxy, count: int, data: bytes, stack: ExitStack) -> None:
    """Have so many connections of ours be the only ones that are left; earlier ones may take a while to go."""
    clients: list[Client] = []

    def is_done() -> bool:
        while len(clients) < count:
            client = stack.enter_context(Client(proxy.address, PATIENCE))
            clients.append(client)
            with suppress(ConnectionError):
                client.send(data)
        full = turned_away(proxy)
        # Connections are accepted in order, so the others have been told by now, if they were not let in.
        silent = [client for client in clients if is_silent(client, 0.0)]
        all_in, clients[:] = len(silent) == count, silent
        return full and all_in

    until(is_done)


def turned_away(proxy: Proxy) -> bool:
    """Whether a new connection is told that there is no room."""
    with Client(proxy.address, PATIENCE) as client:
        with suppress(ConnectionError):
            client.send(FOLLOWING)
        answer = client.answer()
        if answer.status == 200:
            return False
        assert (answer.status, answer.get("retry-after"), answer.get("connection")) == (503, "10", "close")
        assert client.ended()
        return True


def test_a_process_without_descriptors_waits_for_one_without_a_hurry(launch: Callable[..., Proxy]) -> None:
    """Else the loop would turn as fast as it can, since a connection that cannot be accepted stays to be accepted."""
    proxy = launch("-v")
    until(lambda: any(f"stored {FILE}" in line for line in proxy.log))
    assert_serves(proxy)
    with Client(proxy.address, PATIENCE) as early:
        assert early.get(FILE).body == BODY
        pid = worker(proxy)
        used = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(used) + 3, hard))
        with ExitStack() as stack:
            late = [stack.enter_context(Client(proxy.address, PATIENCE)) for _ in range(max(used) - len(used) + 20)]
            until(lambda: any("cannot accept" in line for line in proxy.log))
            before = processor_seconds(proxy)
            assert is_silent(late[-1], 1.5)
            assert processor_seconds(proxy) - before < 0.5
            assert early.get(FILE).body == BODY
        assert_serves(proxy)
    assert sum("WARNING cannot accept" in line for line in proxy.log) == 1  # the others are for -v


# -- what a client can start


def cold(origin: Origin, count: int) -> tuple[dict[str, bytes], list[Gate]]:
    """Large files that are not here; the source begins each, and goes on once its gate is open."""
    bodies = {f"/cold-{number}.tar": random.Random(number).randbytes(300_000) for number in range(count)}
    gates = [Gate() for _ in bodies]
    for (path, body), gate in zip(bodies.items(), gates, strict=True):
        origin.put(path, body, Serve(gate=gate, gate_at=1000))
    return bodies, gates


def begun(proxy: Proxy) -> int:
    """How many downloads have a file."""
    return len(list((proxy.cache / "parts-v1").glob("*.part")))


def asked_for(origin: Origin) -> list[str]:
    return [one.target for one in origin.requests() if one.target.startswith("/cold-")]


def test_no_more_downloads_run_at_once_than_may_and_the_others_wait(launch: Callable[..., Proxy], origin: Origin) -> None:
    bodies, gates = cold(origin, 12)
    proxy = launch("--downloads", "4", stall_timeout="100")
    with ExitStack() as stack:
        clients = {path: stack.enter_context(Client(proxy.address, PATIENCE)) for path in bodies}
        for path, client in clients.items():
            client.ask(path)
        again = stack.enter_context(Client(proxy.address, PATIENCE))
        again.ask("/cold-11.tar")
        until(lambda: begun(proxy) == 3)  # one place is kept for other clients
        assert_serves(proxy)
        assert begun(proxy) == 3
        with Client(proxy.address, PATIENCE, "127.0.0.2") as another:
            large = origin.put("/cold-x-1.tar", random.Random(99).randbytes(100_000))
            assert another.get("/cold-x-1.tar").body == large
        for gate in gates:
            gate.open()
        for path, client in clients.items():
            assert client.answer().body == bodies[path]
        assert again.answer().body == bodies["/cold-11.tar"]
    assert Counter(asked_for(origin)).most_common(1)[0][1] == 1


def test_what_nobody_waits_for_any_more_is_not_begun(launch: Callable[..., Proxy], origin: Origin) -> None:
    bodies, gates = cold(origin, 6)
    proxy = launch("--downloads", "1", stall_timeout="100")
    with Client(proxy.address, PATIENCE) as first:
        first.ask("/cold-0.tar")
        until(lambda: begun(proxy) == 1)
        for number in range(1, 6):
            client = Client(proxy.address, PATIENCE)
            client.ask(f"/cold-{number}.tar")
            assert is_silent(client, 0.05)
            reset(client)
        assert_serves(proxy)
        for gate in gates:
            gate.open()
        assert first.answer().body == bodies["/cold-0.tar"]
        assert first.get("/cold-5.tar").body == bodies["/cold-5.tar"]
    until(lambda: {"/cold-0.tar", "/cold-5.tar"} <= set(stored(proxy.cache)))
    assert not {f"/cold-{number}.tar" for number in range(1, 5)} & set(stored(proxy.cache))


def test_heads_that_wait_for_a_source_hold_up_no_other_request(launch: Callable[..., Proxy], origin: Origin) -> None:
    """RFC 9110, 9.3.2: HEAD of what is not here is passed on. However many wait for a silent source, a GET need not."""
    stored = origin.put("/stored-1.tar", BODY * 2)
    for number in range(300):
        origin.put(f"/cold-{number}.tar", b"", Hang())
    proxy = launch(head_timeout="100")
    assert proxy.get("/stored-1.tar").body == stored
    with ExitStack() as stack:
        for number in range(300):
            stack.enter_context(Client(proxy.address, PATIENCE)).ask(f"/cold-{number}.tar", method="HEAD")
        until(lambda: len(asked_for(origin)) >= 100)
        assert_serves(proxy)
        with Client(proxy.address, PATIENCE) as client:
            assert client.get("/stored-1.tar").body == stored


def test_a_source_that_says_no_hundreds_of_times_leaves_nothing_behind(
    launch: Callable[..., Proxy], origin: Origin
) -> None:
    proxy = launch("-v")
    until(lambda: any(f"stored {FILE}" in line for line in proxy.log))
    open_by = []
    for turn in range(3):
        with Client(proxy.address, PATIENCE) as client:
            for number in range(200):
                assert client.get(f"/cold-{turn}-{number}.tar?{number}").status == 404
        assert_serves(proxy)
        # The first ones have it open what it keeps open: the ledger, files of locks, connections to the registry.
        until(lambda: not open_by or descriptors(proxy) <= open_by[0])
        open_by.append(descriptors(proxy))
    assert not list((proxy.cache / "parts-v1").glob("*.fill"))
