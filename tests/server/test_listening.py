"""Where the command listens, on whose sockets, and when it says that it is ready."""

import errno
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from documentation import blocks, section
from forks import COMMAND, Child, Forks
from origin import Origin, until
from product import Proxy, children, surroundings
from raw import Client

from package_cache.compose import routes_of
from package_cache.config.layers import layered
from package_cache.errors import ForeignHost, NoRepository
from package_cache.server.sockets import prepare_listener

SOURCE = ("--source", "http://127.0.0.1:9/")
BODY = bytes(range(256)) * 4000

Start = Callable[..., Proxy]
servers = pytest.mark.parametrize("server", ["wsgiref", "gunicorn"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose name is short enough for the sockets in it."""
    path = Path("/tmp") / f"pc-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


class UnixClient(Client):
    """A connection over a unix socket, by its path or (bytes) by its name without a file."""

    def __init__(self, path: Path | bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path) if isinstance(path, Path) else path)
        self._held = b""


def client_of(place: str) -> Client:
    """A connection to a place as the command names it."""
    if place.startswith("unix:@"):
        return UnixClient(b"\0" + place[6:].encode())
    if place.startswith("unix:"):
        return UnixClient(Path(place.removeprefix("unix:")))
    parts = urlsplit(place)
    assert parts.hostname is not None
    assert parts.port is not None
    return Client((parts.hostname, parts.port))


def answers(place: str) -> bool:
    """Whether both the event loop and the threads behind it answer there; a worker that leaves ends a connection early."""

    def status(method: str) -> int:
        with client_of(place) as client:
            return client.get("/", method=method).status

    return [status(method) for method in ("GET", "PUT")] == [502, 405]


def needs_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no ::1: {error}")


class Running:
    """A process in a session of its own, whose standard error is a file."""

    def __init__(self, process: "subprocess.Popen[bytes] | Child", log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def places(self) -> list[str]:
        """Where it says it serves, once it does."""
        until(lambda: "(cache in " in self.log or self.process.poll() is not None)
        match = re.search(r"serving .* at (.+) \(cache in ", self.log)
        assert match, self.log
        return match[1].split(", ")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


Run = Callable[..., Running]


@pytest.fixture
def run(forks: Forks, tmp_path: Path) -> Iterator[Run]:
    """Runs the command: `run(*arguments, variables={}, sockets=[])`; with sockets, they are handed over as systemd does.

    It is a fork, but with `anew`: that can run itself again.
    """
    started: list[Running] = []

    def forked(words: list[str], said: Mapping[str, str], descriptors: Sequence[int] | None, log: int) -> Child:
        handed = dict(enumerate(descriptors or (), 3))
        if descriptors is not None:
            said = {"LISTEN_FDS": str(len(handed)), "LISTEN_FDNAMES": ":".join("x" * len(handed)), **said}
        return forks.fork([COMMAND, *words], surroundings(**said), {2: log, **handed}, session=True)

    def program(
        words: list[str], said: Mapping[str, str], descriptors: Sequence[int] | None, log: int
    ) -> "subprocess.Popen[bytes]":
        command, given = [sys.executable, "-m", COMMAND, *words], descriptors or ()
        if descriptors is not None:
            command = [sys.executable, "-c", HAND_OVER, ",".join(map(str, given)), *command]
        return subprocess.Popen(command, stderr=log, env=surroundings(**said), pass_fds=given, start_new_session=True)

    def _run(
        *arguments: str,
        variables: Mapping[str, str] | None = None,
        sockets: Sequence[socket.socket] | None = None,
        anew: bool = False,
    ) -> Running:
        words, said = [*SOURCE, "--cache", str(tmp_path / "cache"), *arguments], variables or {}
        descriptors = None if sockets is None else [one.fileno() for one in sockets]
        # An interpreter that is told something has to be a new one.
        start = program if anew or "PYTHONPATH" in said else forked
        log = tmp_path / f"log{len(started)}"
        with log.open("w") as file:
            started.append(Running(start(words, said, descriptors, file.fileno()), log))
        return started[-1]

    yield _run
    for one in started:
        one.process.kill()
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.process.wait()


# What systemd does between its fork and its exec (sd_listen_fds(3)). A variable that is set already is left as it is.
HAND_OVER = """\
import fcntl, os, sys
given = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 100) for one in sys.argv[1].split(",") if one]
for index, descriptor in enumerate(given):
    os.dup2(descriptor, 3 + index)
    os.close(descriptor)
said = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": "x:" * (len(given) - 1) + "x"}
os.execve(sys.argv[2], sys.argv[2:], said | os.environ)
"""


def tcp() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def unix(path: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.bind(str(path))
    one.listen()
    return one


@contextmanager
def ended(pid: int) -> Iterator[None]:
    """Wait until a process that is nobody's child here has ended, by what is done within."""
    descriptor = os.pidfd_open(pid)
    try:
        yield
        assert select.select([descriptor], [], [], 30)[0], f"process {pid} did not end"
    finally:
        os.close(descriptor)


# --- Where it listens ---------------------------------------------------------------------------------------------------


@servers
def test_it_listens_at_several_places_at_once(start: Start, folder: Path, server: str) -> None:
    needs_ipv6()
    listen = ["127.0.0.1:0", f"unix:{folder}/a", "[::1]:0", f"unix:{folder}/b"]
    proxy = start("http://127.0.0.1:9/", host=server, listen=listen)
    first, second, third, fourth = proxy.places
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*/", first)
    assert re.fullmatch(r"http://\[::1\]:[1-9]\d*/", third)
    assert (second, fourth) == (f"unix:{folder}/a", f"unix:{folder}/b")
    assert all(map(answers, proxy.places))
    assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)


def sockets_of(process: int) -> int:
    """How many sockets a process has open."""
    return sum(
        os.path.islink(one) and os.readlink(one).startswith("socket:") for one in Path(f"/proc/{process}/fd").iterdir()
    )


def test_connections_are_shared_out_to_the_workers(start: Start) -> None:
    """Each is there before the next one comes: the worker that waits closest to the kernel's hand must not get them all."""
    proxy = start("http://127.0.0.1:9/", host="gunicorn", arguments=["--workers", "2"])
    until(lambda: len(proxy.workers()) == 2 and all(map(hears, proxy.workers())))
    before = {worker: sockets_of(worker) for worker in proxy.workers()}

    def taken() -> list[int]:
        return [sockets_of(worker) - had for worker, had in before.items()]

    with ExitStack() as stack:
        for number in range(1, 33):
            stack.enter_context(proxy.connect()).sendall(b"G")  # who says nothing is not seen for a second
            until(lambda number=number: sum(taken()) >= number)  # type: ignore[misc]
        assert min(taken()) >= 8


def test_a_connection_shows_when_its_client_has_asked_or_was_silent_for_a_while() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        prepare_listener(listener)
        who_asks, _ = (stack.enter_context(socket.create_connection(listener.getsockname(), 20)) for _ in range(2))
        with pytest.raises(BlockingIOError):
            listener.accept()
        who_asks.sendall(b"GET ")
        assert select.select([listener], [], [], 20)[0]
        first, address = listener.accept()
        stack.enter_context(first)
        assert address == who_asks.getsockname()
        assert select.select([listener], [], [], 20)[0], "who says nothing has its time limits too"
        stack.enter_context(listener.accept()[0])


def test_a_listener_that_was_made_by_others_keeps_their_word_on_silent_clients() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 7)  # as systemd does, by DeferAcceptSec=
        theirs = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
        prepare_listener(listener)
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == theirs


@servers
def test_without_a_host_it_listens_on_all_addresses_and_knows_clients_of_both_families(
    start: Start, tmp_path: Path, server: str
) -> None:
    needs_ipv6()
    log = tmp_path / "access"
    for place in (":0", "*:0"):
        proxy = start("http://127.0.0.1:9/", host=server, listen=[place], arguments=["--access-log", str(log)])
        (place,) = proxy.places
        port = urlsplit(place).port
        assert place == f"http://[::]:{port}/"
        assert answers(f"http://127.0.0.1:{port}/")
        assert answers(f"http://[::1]:{port}/")
        until(lambda: len(log.read_text().splitlines()) == 4)
        assert sorted(line.split()[0] for line in log.read_text().splitlines()) == ["127.0.0.1"] * 2 + ["::1"] * 2
        proxy.stop()
        log.unlink()


@servers
def test_a_unix_socket_serves_what_tcp_does(
    origin: Origin, start: Start, folder: Path, tmp_path: Path, server: str
) -> None:
    origin.put("/file-1.tar", BODY, etag='"tag"')
    log = tmp_path / "access"
    proxy = start(origin.url, host=server, listen=[f"unix:{folder}/s"], arguments=["--access-log", str(log)])
    with UnixClient(folder / "s") as client:
        assert client.get("/file-1.tar").body == BODY
        until(lambda: client.get("/file-1.tar", method="HEAD").get("cache-status") == "package-cache; hit")
        assert client.get("/file-1.tar").body == BODY
        assert client.get("/file-1.tar", "Range: bytes=500000-").body == BODY[500_000:]
        assert client.get("/file-1.tar", 'If-None-Match: "tag"').status == 304
        assert client.get("/file-1.tar", "Expect: 100-continue").status in (100, 200)
    for request, status in (
        ("GET http://localhost/file-1.tar HTTP/1.1\r\nHost: localhost", 200),
        ("GET http://elsewhere.example/file-1.tar HTTP/1.1\r\nHost: elsewhere.example", 403),
        ("GET /file-1.tar HTTP/1.0", 200),
        ("GET /../file-1.tar HTTP/1.1\r\nHost: x", 400),
        ("PUT /file-1.tar HTTP/1.1\r\nHost: x", 405),
        ("nonsense", 400),
        ("PUT /file-1.tar HTTP/1.1\r\nHost: x\r\nSCRIPT_NAME: /other", 405),
    ):
        with UnixClient(folder / "s") as client:
            client.send(f"{request}\r\n\r\n".encode())
            assert client.answer().status == status, request
    until(lambda: log.read_text().count(" 405 ") == 2 and log.read_text().count(" 403 ") == 1)
    assert {line.split()[0] for line in log.read_text().splitlines()} == {"unix:"}
    assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)


@servers
def test_everybody_may_connect_to_a_unix_socket_and_its_file_goes_with_the_server(
    start: Start, folder: Path, server: str
) -> None:
    path = folder / "s"
    mask = os.umask(0o077)
    try:
        proxy = start("http://127.0.0.1:9/", host=server, listen=[f"unix:{path}"])
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert proxy.stop() == 0
    assert not path.exists()


@servers
def test_what_took_the_place_of_a_unix_socket_is_left_alone(start: Start, folder: Path, server: str) -> None:
    path = folder / "s"
    proxy = start("http://127.0.0.1:9/", host=server, listen=[f"unix:{path}"])
    path.unlink()
    with unix(path):
        assert proxy.stop() == 0
        assert path.exists()


def test_neither_a_reload_nor_the_end_of_a_worker_removes_a_socket(run: Run, told: "Notifications", folder: Path) -> None:
    path = folder / "s"
    one = run("--server", "gunicorn", "--listen", f"unix:{path}", "--listen", "127.0.0.1:0", variables=told.variables)
    assert told.next() == "READY=1"
    one.process.send_signal(signal.SIGHUP)
    assert told.next().startswith("RELOADING=1")
    assert told.next() == "READY=1"
    until(lambda: len(children(one.pid)) == 2)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL):
        before = set(children(one.pid))
        os.kill(min(before), number)
        until(lambda before=before: len(after := set(children(one.pid)) - before) == 1 and all(map(hears, after)))  # type: ignore[misc]
    assert all(map(answers, one.places()))
    assert one.end() == 0
    assert not path.exists()


def hears(worker: int) -> bool:
    """Whether a worker has its own signal handlers; until then it has those of the arbiter, and signals are lost."""
    with suppress(OSError):
        caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{worker}/status").read_text())
        return caught is not None and not int(caught[1], 16) & 1 << signal.SIGHUP - 1
    return False


@servers
def test_a_socket_that_a_killed_server_left_is_replaced(start: Start, folder: Path, server: str) -> None:
    listen = [f"unix:{folder}/s"]
    proxy = start("http://127.0.0.1:9/", host=server, listen=listen)
    proxy.kill()
    assert (folder / "s").exists()
    until(lambda: not reachable(folder / "s"))
    proxy = start("http://127.0.0.1:9/", host=server, listen=listen)
    assert answers(proxy.places[0])
    assert proxy.stop() == 0
    assert not (folder / "s").exists()


def reachable(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) != errno.ECONNREFUSED


def assert_cannot_serve(one: Running, line: str) -> None:
    assert one.process.wait(30) == 1
    assert re.fullmatch(f"package-cache: {line}\n", one.log), one.log


@servers
def test_a_socket_in_use_is_told_and_left_alone(run: Run, folder: Path, server: str) -> None:
    path = folder / "s"
    said = f"cannot listen on unix:{path}: already in use by a running process.*--listen"
    with unix(path) as listener:
        assert_cannot_serve(run("--server", server, "--listen", f"unix:{path}"), said)
        listener.settimeout(0)
        listener.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for one in waiting:  # until no more can wait: the process lives, and is late
            one.settimeout(0)
            one.connect_ex(str(path))
        assert waiting[-1].connect_ex(str(path)) == errno.EAGAIN
        assert_cannot_serve(run("--server", server, "--listen", f"unix:{path}"), said)
        for one in waiting:
            one.close()
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "link to nothing"])
def test_what_is_no_socket_is_never_removed(run: Run, folder: Path, kind: str) -> None:
    path, other = folder / "s", folder / "other"
    match kind:
        case "file":
            path.write_text("mine")
        case "folder":
            path.mkdir()
        case "link":
            other.write_text("mine")
            path.symlink_to(other)
        case _:
            path.symlink_to(other)
    before = path.lstat()
    assert_cannot_serve(run("--listen", f"unix:{path}"), f"cannot listen on unix:{path}: .*no socket.*--listen")
    assert os.path.samestat(path.lstat(), before)


@servers
def test_where_one_place_cannot_be_had_the_others_are_given_back(run: Run, folder: Path, server: str) -> None:
    with tcp() as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        one = run("--server", server, "--listen", f"unix:{folder}/s", "--listen", place)
        assert_cannot_serve(one, f"cannot listen on {place.replace(':', ' port ')}: Address already in use.*--listen")
    assert list(folder.iterdir()) == []
    one = run("--server", server, "--listen", f"unix:{folder}/none/s")
    assert_cannot_serve(one, f"cannot listen on unix:{folder}/none/s: No such file or directory.*--listen")
    one = run("--server", server, "--host", "x" * 70)
    assert_cannot_serve(one, f"cannot listen on {'x' * 70} port 4000: .*--host or --port")


# --- On whose sockets ---------------------------------------------------------------------------------------------------


@servers
def test_it_serves_on_the_sockets_it_was_started_with(run: Run, folder: Path, server: str) -> None:
    with tcp() as first, unix(folder / "s") as second, tcp() as third, socket.socket(socket.AF_UNIX) as fourth:
        fourth.bind(f"\0{folder}")
        fourth.listen()
        one = run("--server", server, "--listen", f"unix:{folder}/t", sockets=[first, second, third, fourth])
        places = one.places()
        assert places == [
            f"http://127.0.0.1:{first.getsockname()[1]}/",
            f"unix:{folder}/s",
            f"http://127.0.0.1:{third.getsockname()[1]}/",
            f"unix:@{folder}",
        ]
        assert all(map(answers, places))
        assert not (folder / "t").exists()
        assert one.end() == 0
        assert (folder / "s").exists(), "it is not ours to remove"
        one = run("--server", server, sockets=[second])
        assert one.places() == [f"unix:{folder}/s"]
        assert answers(f"unix:{folder}/s")
        assert "Traceback" not in one.log


def test_inherited_sockets_are_not_passed_on(run: Run) -> None:
    with tcp() as first, tcp() as second:
        one = run(sockets=[first, second])
        one.places()
        for descriptor in (3, 4):
            (flags,) = re.findall(r"flags:\s+([0-7]+)", Path(f"/proc/{one.pid}/fdinfo/{descriptor}").read_text())
            assert int(flags, 8) & os.O_CLOEXEC


def test_sockets_of_another_process_are_not_taken(run: Run, folder: Path) -> None:
    with tcp() as one, tcp() as decoy:
        variables = {"LISTEN_PID": "1", "LISTEN_FDS": "nonsense"}
        for server in ("wsgiref", "gunicorn"):
            running = run(
                "--server", server, "--listen", f"unix:{folder}/{server}", sockets=[one, decoy], variables=variables
            )
            assert running.places() == [f"unix:{folder}/{server}"]


@servers
def test_a_descriptor_that_is_no_listening_socket_is_told_in_a_line(run: Run, tmp_path: Path, server: str) -> None:
    with tcp() as good, socket.socket() as silent, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for bad in (silent, datagrams):
            one = run("--server", server, sockets=[good, bad])
            assert_cannot_serve(one, "cannot listen on descriptor 4, .*LISTEN_FDS.*: it is no listening .*")
        one = run("--server", server, sockets=[good], variables={"LISTEN_FDS": "2"})
        assert_cannot_serve(one, "cannot listen on descriptor 4, .*LISTEN_FDS.*: Bad file descriptor")
        for number in ("x", "", "-1", "1.0"):
            one = run("--server", server, sockets=[good], variables={"LISTEN_FDS": number})
            assert_cannot_serve(one, f"LISTEN_FDS is '{number}'; .*number.*")


# --- When it is ready ---------------------------------------------------------------------------------------------------


class Notifications:
    """The end of sd_notify(3) that systemd has."""

    def __init__(self, address: str) -> None:
        self.variables = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def next(self) -> str:
        self._socket.settimeout(30)
        return self._socket.recv(4096).decode()

    def nothing(self) -> bool:
        self._socket.settimeout(0)
        try:
            return not self._socket.recv(4096)
        except BlockingIOError:
            return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["/notify", "@"], ids=["a file", "an abstract name"])
def told(request: pytest.FixtureRequest, folder: Path) -> Iterator[Notifications]:
    one = Notifications(f"@{folder}" if request.param == "@" else f"{folder}{request.param}")
    yield one
    one.close()


class Held:
    """An access log that whoever opens it waits for, until somebody has the pipe `gate` open to read."""

    CODE = """
import os
there = os.open
def opened(path, *more, **named):
    if str(path) == os.environ["HELD"]:
        os.close(there(os.environ["HELD"] + ".gate", os.O_WRONLY))
    return there(path, *more, **named)
os.open = opened
"""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.gate = folder / "log.gate"
        os.mkfifo(self.gate)
        (folder / "sitecustomize.py").write_text(self.CODE)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.variables = {"HELD": str(self.log), "PYTHONPATH": path}

    def open(self) -> int:
        return os.open(self.gate, os.O_RDONLY | os.O_NONBLOCK)


@pytest.fixture
def held(folder: Path) -> Held:
    return Held(folder)


@servers
def test_readiness_is_told_once_every_worker_answers_and_not_before(
    run: Run, told: Notifications, held: Held, server: str
) -> None:
    with tcp() as listener:
        place = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        variables = {**told.variables, **held.variables}
        one = run("--server", server, "--access-log", str(held.log), "-v", sockets=[listener], variables=variables)
        late = one.pid
        if server == "gunicorn":
            until(lambda: len(children(one.pid)) == 2)
            late = max(children(one.pid))
            os.kill(late, signal.SIGSTOP)
        else:
            until(lambda: "the cache holds" in one.log)
        assert told.nothing()
        assert "package-cache: serving" not in one.log
        reader = held.open()
        if server == "gunicorn":
            assert answers(place), "the other worker is up"
            looked(one)
            assert told.nothing()
            assert "package-cache: serving" not in one.log
            os.kill(late, signal.SIGCONT)
        assert told.next() == "READY=1"
        assert one.places() == [place]
        assert answers(place)
        one.process.terminate()
        assert told.next() == "STOPPING=1"
        assert one.process.wait(30) == 0
        assert told.nothing()
        os.close(reader)


def looked(one: Running) -> None:
    """Wait until an arbiter that logs each signal has dealt with all that came before."""
    count = one.log.count("signal: winch")
    one.process.send_signal(signal.SIGWINCH)
    until(lambda: one.log.count("signal: winch") > count)


def test_a_worker_that_ends_before_it_answers_neither_counts_nor_takes_the_socket_with_it(
    run: Run, told: Notifications, held: Held, folder: Path
) -> None:
    place = f"unix:{folder}/s"
    variables = {**told.variables, **held.variables}
    one = run("--server", "gunicorn", "--access-log", str(held.log), "--listen", place, "-v", variables=variables)
    until(lambda: len(children(one.pid)) == 2)
    late = max(children(one.pid))
    until(lambda: hears(late))
    os.kill(late, signal.SIGQUIT)
    until(lambda: len(children(one.pid)) == 2 and late not in children(one.pid))
    assert (folder / "s").exists()
    late = max(children(one.pid))
    os.kill(late, signal.SIGSTOP)
    reader = held.open()
    assert answers(place), "the other worker is up"
    os.close(reader)
    os.kill(late, signal.SIGKILL)
    until(lambda: len(children(one.pid)) == 2 and late not in children(one.pid))
    looked(one)
    assert told.nothing()
    reader = held.open()
    assert told.next() == "READY=1"
    os.close(reader)
    assert one.end() == 0
    assert "Traceback" not in one.log


@servers
def test_a_server_that_cannot_start_is_never_ready(run: Run, told: Notifications, tmp_path: Path, server: str) -> None:
    log = str(tmp_path / "none" / "log")
    one = run("--server", server, "--listen", "127.0.0.1:0", "--access-log", log, variables=told.variables)
    assert one.process.wait(30) == 1
    assert f"cannot write the access log {log}" in one.log
    assert "package-cache: serving" not in one.log
    if server == "gunicorn":
        assert told.next() == "STOPPING=1"
    assert told.nothing()


def test_a_reload_is_told_and_so_is_its_end(run: Run, told: Notifications) -> None:
    one = run("--server", "gunicorn", "--listen", "127.0.0.1:0", variables=told.variables)
    assert told.next() == "READY=1"
    for _ in range(2):
        before = time.monotonic_ns() // 1000
        one.process.send_signal(signal.SIGHUP)
        match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", told.next())
        assert match
        assert before <= int(match[1]) <= time.monotonic_ns() // 1000
        assert told.next() == "READY=1"
        assert answers(one.places()[0])
    assert one.log.count("serving") == 1


@servers
def test_nobody_to_tell_is_no_reason_not_to_serve(run: Run, folder: Path, server: str) -> None:
    variables = {"NOTIFY_SOCKET": f"{folder}/none"}
    one = run("--server", server, "--listen", f"unix:{folder}/s", variables=variables)
    assert answers(one.places()[0])
    until(lambda: "READY=1" in one.log)
    assert one.end() == 0
    assert "Traceback" not in one.log


# --- Another arbiter in the place of one that runs (SIGUSR2) ------------------------------------------------------------


def upgrade(one: Running, told: Notifications) -> int:
    """Start another arbiter in its place, and wait until both serve; its pid."""
    before = set(children(one.pid))
    one.process.send_signal(signal.SIGUSR2)
    assert told.next() == "READY=1"
    (successor,) = {pid for pid in children(one.pid) if pid not in before}
    return successor


@pytest.mark.parametrize("activated", [False, True], ids=["on its own sockets", "on sockets it was started with"])
def test_another_arbiter_can_take_its_place(run: Run, told: Notifications, folder: Path, activated: bool) -> None:
    path = folder / "s"
    with tcp() as first:
        given = [first, unix(path)] if activated else None
        listen = [] if activated else ["--listen", "127.0.0.1:0", "--listen", f"unix:{path}"]
        one = run("--server", "gunicorn", *listen, sockets=given, variables=told.variables, anew=True)
        places = one.places()
        assert told.next() == "READY=1"
        successor = upgrade(one, told)
        inherited = Path(f"/proc/{successor}/environ").read_text()
        assert not re.search("LISTEN_(PID|FDS|FDNAMES)=", inherited)
        assert one.end() == 0
        assert told.next() == f"MAINPID={successor}"
        assert all(map(answers, places))
        os.kill(successor, signal.SIGHUP)
        assert told.next().startswith("RELOADING=1\n")
        assert told.next() == "READY=1"
        assert all(map(answers, places))
        with ended(successor):
            os.kill(successor, signal.SIGTERM)
        assert told.next() == "STOPPING=1"
        assert path.exists() == activated
        assert re.findall("serving .* at (.*) [(]", one.log) == [", ".join(places)] * 2
        assert "Traceback" not in one.log
        for listener in given or ():
            listener.close()


def test_another_arbiter_that_leaves_again_takes_nothing_with_it(run: Run, told: Notifications, folder: Path) -> None:
    one = run("--server", "gunicorn", "--listen", f"unix:{folder}/s", variables=told.variables, anew=True)
    assert told.next() == "READY=1"
    successor = upgrade(one, told)
    os.kill(successor, signal.SIGTERM)
    until(lambda: successor not in children(one.pid))
    assert answers(f"unix:{folder}/s")
    assert told.nothing()
    assert one.end() == 0
    assert told.next() == "STOPPING=1"
    assert not (folder / "s").exists()


def test_every_name_it_listens_on_is_its_own(tmp_path: Path) -> None:
    """A client that takes it for a proxy names it in the request target."""
    config = layered({}, {"cache": str(tmp_path), "listen": "Cache.example:4000 [::1]:0 :0 unix:/run/a.sock"}).config
    routes = routes_of(config)
    for name in ("http://cache.example:4000/x", "http://[::1]:4711/x", "http://localhost/x"):
        with pytest.raises(NoRepository):
            routes.find(name, None)
    with pytest.raises(ForeignHost):
        routes.find("http://other.example/x", None)


FRONT = """\
daemon off;
user root;
pid {folder}/pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen unix:{folder}/front;
{location}
    }}
}}
"""


def test_nginx_in_front_of_a_unix_socket_takes_the_lines_of_the_guide(origin: Origin, start: Start, folder: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    [written] = [one for one in blocks(section("configuration", "Where it listens")) if one.startswith("location / {")]
    location = written.replace("/run/package-cache/http.sock", f"{folder}/http.sock")
    (folder / "nginx.conf").write_text(FRONT.format(folder=folder, location=location))
    origin.put("/file-1.tar", BODY)
    start(origin.url, listen=[f"unix:{folder}/http.sock"])
    command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "errors")]
    front = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        until((folder / "front").exists)
        for _ in range(2):
            with UnixClient(folder / "front") as client:
                client.send(b"GET /file-1.tar HTTP/1.1\r\nHost: mirror.example\r\nConnection: close\r\n\r\n")
                assert client.answer().body == BODY
    finally:
        front.terminate()
        front.wait()
    assert len(origin.requests()) == 1
