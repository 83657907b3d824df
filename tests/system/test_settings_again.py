"""SIGHUP: logs are opened anew and settings read again, and nobody who is being served notices."""

import fcntl
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from forks import Forks
from origin import Gate, Origin, Serve, until
from product import Proxy, Spawn, stored
from raw import Client

Start = Callable[..., Proxy]
Run = Callable[..., "Changing"]

BODY = b"body" * 100
LARGE = os.urandom(1_000_000)
PATIENT = {"STALL_TIMEOUT": "100"}
server = pytest.mark.parametrize("server", ["wsgiref", "gunicorn"])

LISTS = {"SOURCE", "LISTEN", "ALLOW", "CONNECT"}


def toml(settings: Mapping[str, str]) -> str:
    """A file of configuration."""
    lines = ["", "[timeouts]"]
    for name, text in settings.items():
        key = name.lower().replace("_", "-")
        if name.endswith("_TIMEOUT"):
            lines.append(f'{key.removesuffix("-timeout")} = "{text}"')
        else:
            lines.insert(0, f"{key} = {json.dumps(text.split() if name in LISTS else text)}")
    return "".join(f"{line}\n" for line in lines)


AGAIN = "INFO the settings were read again"
"""What is no warning: somebody wanted it."""


class Changing(Proxy):
    """A product whose settings can be changed."""

    def __init__(
        self, folder: Path, server: str, variables: Mapping[str, str], settings: Mapping[str, str], spawn: Spawn
    ) -> None:
        self.cache = folder / "cache"
        self.host = server
        self.file = folder / "config.toml"
        self.settings = {"CACHE": str(self.cache), "SERVER": server, "LISTEN": "127.0.0.1:0", **settings}
        self.write()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PACKAGE_CACHE_")}
        self.process = spawn(["package_cache", "--config", str(self.file)], kept | variables)
        self.log: list[str] = []
        self.places: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        assert self._ready.wait(30)
        assert self.places, "".join(self.log)

    def write(self, **changes: str | None) -> None:
        """Change settings in the file; None takes one out."""
        self.settings = {name: value for name, value in (self.settings | changes).items() if value is not None}
        fresh = self.file.with_suffix(".new")
        fresh.write_text(toml(self.settings) + self.more)
        fresh.rename(self.file)

    def change(self, **changes: str | None) -> None:
        """Change settings and have them hold."""
        before, workers = self.said(AGAIN), self.workers()
        self.write(**changes)
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.said(AGAIN) > before)
        if workers:  # those that were there take no connection any more
            until(lambda: not set(workers) & set(self.workers()) or self.held)
        else:
            until(lambda: self.status() is not None)

    more = ""
    """What the file says of repositories."""
    held = False
    """Whether old workers have something to do for longer."""

    def said(self, text: str) -> int:
        return sum(text in line for line in self.log)

    def status(self) -> int:
        return self.get("/-/health").status


@pytest.fixture
def run(forks: Forks, tmp_path: Path) -> Iterator[Run]:
    """Starts a product: `run(server, SETTING="value", ...)`."""
    running: list[Changing] = []

    def _run(server: str, variables: Mapping[str, str] | None = None, **settings: str) -> Changing:
        running.append(Changing(tmp_path, server, variables or {}, settings, forks.spawn))
        return running[-1]

    yield _run
    for one in running:
        if one.process.poll() is None:
            one.kill()


# --- Logs ---------------------------------------------------------------------------------------------------------------


class Asking:
    """Clients that ask and ask, and count what they were answered."""

    def __init__(self, proxy: Proxy) -> None:
        self.answers = 0
        self.faults: list[str] = []
        self._proxy = proxy
        self._guard = threading.Lock()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def go_on(self) -> None:
        """Wait for some more answers."""
        before = self.answers
        until(lambda: self.answers > before + 20 or self.faults)
        assert not self.faults

    def _run(self) -> None:
        try:
            while not self._done.is_set():
                with Client(self._proxy.address) as client:
                    while not self._done.is_set():
                        answer = client.get("/file-1.tar")
                        assert (answer.status, answer.body) == (200, BODY)
                        with self._guard:
                            self.answers += 1
                        if answer.get("connection") == "close":
                            break
        except Exception as error:
            self.faults.append(repr(error))


@server
def test_a_log_that_was_moved_away_is_opened_anew_and_no_line_is_lost(
    origin: Origin, start: Start, tmp_path: Path, server: str
) -> None:
    origin.put("/file-1.tar", BODY)
    log = tmp_path / "access.log"
    proxy = start(origin.url, host=server, arguments=["--access-log", str(log)])
    asked = 0
    with Asking(proxy) as clients:
        for number in range(4):
            clients.go_on()
            log.rename(tmp_path / f"access.log.{number}")
            proxy.process.send_signal(signal.SIGHUP)
            until(log.exists)
        clients.go_on()
    asked = clients.answers
    assert not clients.faults
    assert proxy.stop() == 0
    logs = [log, *(tmp_path / f"access.log.{number}" for number in range(4))]
    lines = [line for one in logs for line in one.read_text().splitlines()]
    assert all('"GET /file-1.tar HTTP/1.1" 200 400 ' in line for line in lines)
    assert len(lines) == asked
    assert "Traceback" not in "".join(proxy.log)


def test_a_connection_outlives_a_reload_of_the_bare_command(origin: Origin, start: Start, tmp_path: Path) -> None:
    origin.put("/file-1.tar", BODY)
    log = tmp_path / "access.log"
    proxy = start(origin.url, arguments=["--access-log", str(log)])
    with Client(proxy.address) as client:
        for number in range(3):
            for target in ("/file-1.tar", "http://127.0.0.1/file-1.tar"):
                answer = client.get(target)
                assert (answer.body, answer.get("connection")) == (BODY, "keep-alive")
            until(lambda: len(log.read_text().splitlines()) == 2)
            log.rename(tmp_path / f"away-{number}")
            proxy.process.send_signal(signal.SIGHUP)
            until(log.exists)
    assert len(origin.requests()) == 1


@server
def test_a_log_is_opened_anew_though_the_settings_are_bad(origin: Origin, run: Run, tmp_path: Path, server: str) -> None:
    log = tmp_path / "access.log"
    proxy = run(server, SOURCE=origin.url, ACCESS_LOG=str(log), WORKERS="1")
    assert proxy.status() == 200
    until(lambda: log.read_text())
    log.rename(tmp_path / "away")
    proxy.write(PORT="none")
    proxy.process.send_signal(signal.SIGHUP)
    until(log.exists)
    assert proxy.status() == 200
    until(lambda: len(log.read_text().splitlines()) == 1)
    assert len((tmp_path / "away").read_text().splitlines()) == 1


@server
def test_another_log_takes_what_comes_also_of_requests_that_run(
    origin: Origin, run: Run, tmp_path: Path, server: str
) -> None:
    gate = Gate()
    origin.put("/cold-1.tar", LARGE, Serve(gate=gate, gate_at=500_000))
    first, second = tmp_path / "first.log", tmp_path / "second.log"

    def lines_of_cold(log: Path) -> int:
        return sum("/cold-1.tar" in line for line in log.read_text().splitlines())

    proxy = run(server, SOURCE=origin.url, ACCESS_LOG=str(first), WORKERS="1", **PATIENT)
    assert proxy.status() == 200
    with Client(proxy.address) as plain, Client(proxy.address) as handed, ExitStack() as stack:
        stack.callback(gate.open)
        plain.ask("/cold-1.tar")
        handed.ask("http://127.0.0.1/cold-1.tar")
        heads = plain.head(), handed.head()
        proxy.held = True
        proxy.change(ACCESS_LOG=str(second), ACCESS_FORMAT="json")
        gate.open()
        for client, head in zip((plain, handed), heads, strict=True):
            assert client.rest(head).body == LARGE
    if server == "gunicorn":  # the worker that ends has the log that it began with
        until(lambda: lines_of_cold(first) == 2)
        assert lines_of_cold(second) == 0
        return
    until(lambda: lines_of_cold(second) == 2)
    assert lines_of_cold(first) == 0
    assert proxy.get("/-/health").status == 200
    until(lambda: json.loads(second.read_text().splitlines()[-1])["target"] == "/-/health")


# --- Settings -----------------------------------------------------------------------------------------------------------


@server
def test_new_sources_are_asked_while_a_download_from_an_old_one_comes_to_its_end(
    origin: Origin, another: Origin, run: Run, server: str
) -> None:
    gate = Gate()
    origin.put("/cold-1.tar", LARGE, Serve(gate=gate, gate_at=500_000))
    another.put("/file-1.tar", BODY)
    proxy = run(server, SOURCE=origin.url, **PATIENT)
    assert proxy.get("/file-1.tar").status == 404
    with Client(proxy.address) as before, Client(proxy.address) as after, ExitStack() as stack:
        stack.callback(gate.open)
        before.ask("/cold-1.tar")
        assert gate.reached.wait(30)
        proxy.held = True
        proxy.change(SOURCE=another.url)
        until(lambda: proxy.get("/file-1.tar").body == BODY)
        after.ask("/cold-1.tar")  # joins what runs
        gate.open()
        assert [client.answer().body == LARGE for client in (before, after)] == [True, True]
    assert proxy.get("/cold-1.tar").body == LARGE  # the worker may have ended before it had stored what it had served
    assert len(origin.requests("/cold-1.tar")) == 1
    assert another.requests("/cold-1.tar") == []
    assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)


@server
def test_a_repository_comes_and_goes(origin: Origin, another: Origin, run: Run, server: str) -> None:
    another.put("/file-1.tar", BODY)
    proxy = run(server, SOURCE=origin.url)
    assert proxy.get("/other/file-1.tar").status == 404
    proxy.more = f'[[repository]]\nname = "other"\nprefix = "/other/"\nsources = ["{another.url}"]\n'
    proxy.change()
    until(lambda: proxy.get("/other/file-1.tar").body == BODY)
    proxy.more = ""
    proxy.change()
    assert proxy.get("/other/file-1.tar").body == BODY  # what is here stays
    names = (f"/new-{number}.tar" for number in count())

    def is_asked() -> bool:
        before = len(another.requests())
        assert proxy.get(f"/other{next(names)}").status == 404
        return len(another.requests()) > before

    until(lambda: not is_asked())


@server
def test_who_may_ask_changes_for_connections_that_stand(origin: Origin, run: Run, server: str) -> None:
    origin.put("/file-1.tar", BODY)
    proxy = run(server, SOURCE=origin.url)
    with Client(proxy.address) as client:
        assert client.get("/file-1.tar").status == 200
        proxy.change(ALLOW="10.0.0.0/8")
        if server == "wsgiref":
            assert client.get("/file-1.tar").status == 403
            assert client.ended()
    until(lambda: proxy.get("/file-1.tar").status == 403)
    proxy.change(ALLOW=None)
    until(lambda: proxy.get("/file-1.tar").status == 200)
    with Client(proxy.address) as client:
        assert client.get("/file-1.tar").body == BODY


@server
def test_where_tunnels_may_lead_changes_and_those_that_stand_go_on(run: Run, server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        end = f"127.0.0.1:{listener.getsockname()[1]}"
        proxy = run(server, SOURCE="http://127.0.0.1:9/", CONNECT=end, WORKERS="1")
        with Client(proxy.address) as client:
            client.ask(end, method="CONNECT")
            assert client.head().status == 200
            with listener.accept()[0] as far:
                proxy.held = True
                proxy.change(CONNECT=None)
                until(lambda: answer_to_connect(proxy, end) == 405)
                far.sendall(b"x")
                assert client.socket.recv(1) == b"x"


def answer_to_connect(proxy: Proxy, end: str) -> int:
    with Client(proxy.address) as client:
        client.ask(end, method="CONNECT")
        return client.head().status


@server
def test_bad_settings_are_told_one_by_one_and_the_old_ones_hold(
    origin: Origin, run: Run, tmp_path: Path, server: str
) -> None:
    origin.put("/file-1.tar", BODY)
    proxy = run(server, SOURCE=origin.url)
    assert proxy.get("/file-1.tar").body == BODY
    workers = proxy.workers()

    def refused(problems: int, **changes: str) -> None:
        told = proxy.said("the settings stay as they were: ")
        proxy.write(**changes)
        proxy.process.send_signal(signal.SIGHUP)
        until(lambda: proxy.said("the settings stay as they were: ") == told + problems)
        assert proxy.workers() == workers
        assert proxy.get("/file-1.tar").body == BODY
        proxy.write(**dict.fromkeys(changes))

    refused(2, WORKERS="many", SOURC="x")
    refused(1, ACCESS_LOG=str(tmp_path / "no" / "log"))
    assert proxy.said(f"the settings stay as they were: {proxy.file}: workers: 'many' is not a count") == 1
    assert proxy.said(f"the settings stay as they were: {proxy.file}: sourc: there is no such setting") == 1
    assert proxy.said("the settings stay as they were: cannot write the access log ") == 1
    assert proxy.said("the settings were read again") == 0
    proxy.change(VERBOSE="1")
    assert "Traceback" not in "".join(proxy.log)


@server
def test_what_a_running_server_keeps_is_named_and_kept(origin: Origin, run: Run, tmp_path: Path, server: str) -> None:
    origin.put("/file-1.tar", BODY)
    proxy = run(server, SOURCE=origin.url)
    other = {"wsgiref": "gunicorn", "gunicorn": "wsgiref"}[server]
    for _ in range(2):  # as long as it is so
        proxy.change(CACHE=str(tmp_path / "other"), LISTEN="127.0.0.1:1", SERVER=other)
    for name in ("cache", "listen", "server"):
        assert proxy.said(f"{name} is another one now; that takes effect at the next restart") == 2
    assert proxy.get("/file-1.tar").body == BODY
    assert not (tmp_path / "other").exists()
    proxy.change(CACHE=str(proxy.cache), LISTEN="127.0.0.1:0", SERVER=server)
    assert proxy.said("takes effect at the next restart") == 6


@server
def test_bounds_and_limits_change(origin: Origin, run: Run, server: str) -> None:
    origin.put("/file-1.tar", LARGE)
    proxy = run(server, SOURCE=origin.url, MAX_SIZE="1K", WORKERS="1")
    assert proxy.get("/file-1.tar").body == LARGE
    assert stored(proxy.cache) == []
    proxy.change(MAX_SIZE="1G", THREADS="1", CONNECTIONS="5", VERBOSE="1", IDLE_TIMEOUT="0.1")
    # Who asks while the one application takes the place of the other may be answered by either.
    until(lambda: proxy.get("http://127.0.0.1/file-1.tar").body == LARGE and stored(proxy.cache) == ["/file-1.tar"])
    until(lambda: proxy.said("stored /file-1.tar") == 1)
    with Client(proxy.address) as client:
        assert client.get("/file-1.tar").body == LARGE
        assert client.ended()
    until(lambda: proxy.status() == 200)
    proxy.change(IDLE_TIMEOUT="60")
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(Client(proxy.address)).socket.sendall(b"G")  # who says nothing is not seen for a second
        assert stack.enter_context(Client(proxy.address)).get("/file-1.tar").status == 503


def test_the_number_of_workers_changes(origin: Origin, run: Run) -> None:
    proxy = run("gunicorn", SOURCE=origin.url, WORKERS="1")
    proxy.change(WORKERS="3")
    until(lambda: len(proxy.workers()) == 3)
    proxy.change(WORKERS="1")
    until(lambda: len(proxy.workers()) == 1)
    assert proxy.status() == 200


def test_settings_are_read_again_and_again_under_load(origin: Origin, run: Run) -> None:
    origin.put("/file-1.tar", BODY)
    for number in range(40):
        origin.put(f"/cold-{number}.tar", BODY)
    proxy = run("wsgiref", SOURCE=origin.url)
    with Asking(proxy) as clients:
        for number in range(40):
            clients.go_on()
            assert proxy.get(f"/cold-{number}.tar").body == BODY
            proxy.process.send_signal(signal.SIGHUP)
        until(lambda: proxy.said("the settings were read again") > 20)
        clients.go_on()
    assert not clients.faults
    assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)


@server
def test_systemd_is_told_of_it_whether_the_settings_are_good_or_bad(
    origin: Origin, run: Run, tmp_path: Path, server: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(30)
        manager.bind(str(tmp_path / "n"))
        proxy = run(server, {"NOTIFY_SOCKET": str(tmp_path / "n")}, SOURCE=origin.url)
        assert manager.recv(1000) == b"READY=1"
        for port in ("0", "none"):
            proxy.write(PORT=port, LISTEN=None)
            proxy.process.send_signal(signal.SIGHUP)
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=[0-9]+", manager.recv(1000))
            assert manager.recv(1000) == b"READY=1"
        assert proxy.status() == 200


def test_a_reload_does_not_end_a_server_that_has_only_just_begun(origin: Origin, start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "wrapped"
    folder.mkdir()
    told = "import os, signal, logging, logging.handlers\nlogging.basicConfig = lambda f=logging.basicConfig, **named: "
    (folder / "sitecustomize.py").write_text(told + "(os.kill(os.getpid(), signal.SIGHUP), f(**named))\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    proxy = start(origin.url, environment=environment)
    assert proxy.get("/-/health").status == 200


def test_the_bare_command_ends_with_its_terminal(tmp_path: Path) -> None:
    here, there = pty.openpty()
    command = [sys.executable, "-m", "package_cache", "--source", "http://127.0.0.1:9/", "--port", "0"]
    command += ["--cache", str(tmp_path / "cache")]
    take = partial(fcntl.ioctl, there, termios.TIOCSCTTY, 0)
    with subprocess.Popen(command, stdin=there, stdout=there, stderr=there, start_new_session=True, preexec_fn=take) as one:
        os.close(there)
        said = b""
        while b"(cache in " not in said:
            said += os.read(here, 1000)
        os.kill(one.pid, signal.SIGHUP)  # as long as it is there, that is a reload
        while b"the settings were read again" not in said:
            said += os.read(here, 1000)
        os.close(here)
        assert one.wait(30) == 0


@server
def test_a_smaller_bound_is_kept_at_once(origin: Origin, run: Run, server: str) -> None:
    for number in range(4):
        origin.put(f"/{number}.tar", os.urandom(50_000))
    proxy = run(server, SOURCE=origin.url, MAX_SIZE="10M")
    for number in range(4):
        assert proxy.get(f"/{number}.tar").status == 200
    until(lambda: len(stored(proxy.cache)) == 4)
    with closing(sqlite3.connect(proxy.cache / "registry-v1.db", timeout=30)) as connection, connection:
        connection.execute("UPDATE entry SET used = used - 1000")
    proxy.change(MAX_SIZE="120K")
    until(lambda: len(stored(proxy.cache)) == 2)


def test_a_range_that_is_asked_for_beside_a_download_comes_though_the_settings_change(origin: Origin, run: Run) -> None:
    first, beside = Gate(), Gate()
    body = origin.put("/big-1.tar", os.urandom(3_000_000), Serve(gate=first, gate_at=500_000), Serve(before=beside))
    one = run("wsgiref", SOURCE=origin.url, HEAD_TIMEOUT="100", **PATIENT)
    with Client(one.address) as downloading, Client(one.address) as ahead:
        downloading.ask("/big-1.tar")
        assert first.reached.wait(30)
        ahead.ask("/big-1.tar", "Range: bytes=2500000-2500099")
        assert beside.reached.wait(30)
        one.change(MAX_AGE="1d")
        time.sleep(2.5)  # what is no more in use is looked for each second
        beside.open()
        answer = ahead.answer()
        assert (answer.status, answer.body) == (206, body[2_500_000:2_500_100])
        first.open()
        assert downloading.answer().body == body
