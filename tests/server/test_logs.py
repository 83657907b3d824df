"""Logs that cannot be written, that nobody reads, or that are moved away: the service goes on, and no line is doubled."""

import fcntl
import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from origin import Origin, until
from product import Proxy, children, surroundings
from raw import Client

from package_cache.compose import build_application
from package_cache.config.layers import layered

Start = Callable[..., Proxy]
SMALL = 4096
"""The least that a pipe can hold."""


@pytest.fixture(params=["wsgiref", "gunicorn"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def serving(server: str, origin: Origin, cache: Path, stderr: int, *words: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """A server with this standard error, which says nothing of its port: it gets its socket from here."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        command = [sys.executable, "-c", STARTED, str(listener.fileno()), "--server", server, "--source", origin.url]
        command += (
            ["--cache", str(cache), "--workers", "1", *words] if server == "gunicorn" else ["--cache", str(cache), *words]
        )
        process = subprocess.Popen(command, stderr=stderr, env=surroundings(), pass_fds=[listener.fileno()])
        port = listener.getsockname()[1]
    try:
        yield port, process
    finally:
        family = [process.pid, *children(process.pid)]
        if process.poll() is None:
            for pid in family:
                os.kill(pid, signal.SIGKILL)
            process.wait()


STARTED = """
import os, sys
os.dup2(int(sys.argv.pop(1)), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
from package_cache.__main__ import run
sys.exit(run())
"""


def full_pipe() -> tuple[int, int]:
    """A pipe that has no room for one more byte."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALL)
    os.write(writer, b"x" * (SMALL - 1) + b"\n")
    return reader, writer


def broken_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.close(reader)
    return os.open(os.devnull, os.O_RDONLY), writer


def full_disk() -> tuple[int, int]:
    return os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)


def deaf_socket() -> tuple[int, int]:
    """What systemd gives a service, with nobody at its other end who reads."""
    reader, writer = socket.socketpair()
    writer.settimeout(0)
    try:
        while True:
            writer.send(b"x" * SMALL)
    except BlockingIOError:
        writer.settimeout(None)
    return reader.detach(), writer.detach()


@pytest.mark.parametrize("error", [full_pipe, broken_pipe, full_disk, deaf_socket], ids=lambda one: one.__name__)
def test_a_standard_error_that_takes_nothing_is_no_condition(
    origin: Origin, tmp_path: Path, server: str, error: Callable[[], tuple[int, int]]
) -> None:
    body = origin.put("/a-1.tar", os.urandom(1000))
    reader, writer = error()
    with (
        closing(os.fdopen(reader, "rb")),
        serving(server, origin, tmp_path, writer, "-v", "--access-log", "-") as (port, process),
    ):
        os.close(writer)
        for _ in range(2):
            with Client(("127.0.0.1", port), 20) as client:
                for _ in range(200):
                    assert client.get("/a-1.tar").body == body
                assert client.get("/a-1.tar", method="PUT").status == 405
                assert client.get("/none-1.tar").status == 404
        process.send_signal(signal.SIGHUP)
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.parametrize("error", [broken_pipe, full_disk], ids=lambda one: one.__name__)
@pytest.mark.parametrize(("words", "code"), [(["--source", "nonsense"], 2), (["--host", "192.0.2.1"], 1)])
def test_the_exit_code_tells_what_standard_error_cannot(
    tmp_path: Path, error: Callable[[], tuple[int, int]], words: list[str], code: int
) -> None:
    reader, writer = error()
    os.close(reader)
    command = [sys.executable, "-m", "package_cache", "--cache", str(tmp_path), "--source", "http://127.0.0.1:9/", *words]
    done = subprocess.run(command, stderr=writer, env=surroundings(), timeout=60, check=False)
    os.close(writer)
    assert done.returncode == code


def test_lines_that_nobody_took_are_counted_where_the_next_ones_are(origin: Origin, tmp_path: Path) -> None:
    reader, writer = full_pipe()
    with (
        closing(os.fdopen(reader, "rb", 0)) as stream,
        serving("wsgiref", origin, tmp_path, writer, "-v") as (port, process),
    ):
        os.close(writer)
        with Client(("127.0.0.1", port), 20) as client:
            for _ in range(30):
                assert client.get("/none-1.tar").status == 404
        held = stream.read(SMALL)
        assert held.endswith(b"x\n")
        with Client(("127.0.0.1", port), 20) as client:
            assert client.get("/last-1.tar").status == 404
        said = b""
        while b"/last-1.tar" not in said:
            assert select.select([stream], [], [], 30)[0]
            said += stream.read(SMALL)
        first = said.splitlines()[0]
        assert first.startswith(b"package-cache: ")
        assert first.endswith(b" lines were dropped here, as nobody took them")
        assert 30 <= int(first.split()[1]) <= 100
        process.terminate()
        assert process.wait(30) == 0


def test_an_access_log_that_is_a_pipe_may_have_its_reader_later(
    origin: Origin, start: Start, server: str, tmp_path: Path
) -> None:
    body, path = origin.put("/a-1.tar", os.urandom(100)), tmp_path / "pipe"
    os.mkfifo(path)
    proxy = start(origin.url, host=server, arguments=["--access-log", str(path)])
    with Client(proxy.address, 20) as client:
        for number in range(1500):  # more than the pipe holds
            assert client.get("/a-1.tar", f"User-Agent: number-{number}").body == body
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with closing(os.fdopen(reader, "rb", 0)) as stream:
        said = b""
        while b'"number-1499"' not in said:
            assert select.select([stream], [], [], 30)[0]
            said += stream.read(1 << 16) or b""
        names = [line.split(b'"')[-2] for line in said.splitlines()]
        assert names == [b"number-%d" % number for number in range(1500)]
    assert proxy.stop() == 0


def test_an_access_log_that_a_busy_reader_takes_loses_nothing(origin: Origin, tmp_path: Path) -> None:
    body = origin.put("/a-1.tar", os.urandom(100))
    reader, writer = os.pipe()
    with (
        closing(os.fdopen(reader, "rb")) as stream,
        serving("wsgiref", origin, tmp_path, writer, "--access-log", "-") as (port, process),
    ):
        os.close(writer)
        with Client(("127.0.0.1", port), 20) as client:
            for _ in range(30):
                for number in range(100):
                    client.ask("/a-1.tar", f"User-Agent: {'a' * 200}{number}")
                assert all(client.answer().body == body for _ in range(100))
        process.terminate()
        lines = stream.readlines()
        assert process.wait(30) == 0
    assert sum(b'"GET /a-1.tar' in line for line in lines) == 3000


def test_a_log_that_the_disk_has_no_room_for_is_told_once(origin: Origin, start: Start) -> None:
    origin.put("/a-1.tar", b"body")
    proxy = start(origin.url, arguments=["--access-log", "/dev/full"])
    for _ in range(3):
        assert proxy.get("/a-1.tar").body == b"body"
    until(lambda: "of the access log are lost: No space left on device" in "".join(proxy.log))
    assert proxy.stop() == 0
    assert "".join(proxy.log).count("are lost") == 1


def test_sigusr1_has_the_logs_opened_anew(origin: Origin, start: Start, server: str, tmp_path: Path) -> None:
    origin.put("/a-1.tar", b"body")
    path = tmp_path / "access"
    proxy = start(
        origin.url, host=server, arguments=["--access-log", str(path), *(["--workers", "2"] * (server == "gunicorn"))]
    )
    assert proxy.get("/a-1.tar").body == b"body"
    until(lambda: path.read_text().count("\n") == 1)
    for number in range(1, 4):
        moved = path.rename(tmp_path / f"access.{number}")
        proxy.process.send_signal(signal.SIGUSR1)
        until(path.exists)
        assert proxy.get("/a-1.tar").body == b"body"
        until(lambda: path.read_text().count("\n") == 1)
        assert moved.read_text().count("\n") == 1
    assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)


def test_sigusr1_ends_no_worker_that_begins(origin: Origin, start: Start) -> None:
    origin.put("/a-1.tar", b"body")
    proxy = start(origin.url, host="gunicorn", arguments=["--workers", "2"])
    for _ in range(3):
        known = proxy.workers()
        proxy.process.send_signal(signal.SIGHUP)
        while not set(proxy.workers()) - set(known):
            proxy.process.send_signal(signal.SIGUSR1)
        for _ in range(30):
            proxy.process.send_signal(signal.SIGUSR1)
        until(lambda known=known: len(proxy.workers()) == 2 and not set(proxy.workers()) & set(known))  # type: ignore[misc]
    assert proxy.get("/a-1.tar").body == b"body"
    assert proxy.stop() == 0
    assert "SIGUSR1" not in "".join(proxy.log)


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_small_body_that_a_client_did_not_take_is_logged_as_cut(
    origin: Origin, start: Start, server: str, tmp_path: Path
) -> None:
    body, path = origin.put("/a-1.tar", os.urandom(8000)), tmp_path / "access"
    options = ["--access-log", str(path), "--access-format", "json", "--workers", "1", "--threads", "4"]
    proxy = start(origin.url, host=server, arguments=options)
    assert [proxy.get("/a-1.tar").body for _ in range(2)] == [body] * 2
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(proxy.address)
        client.sendall(b"GET /a-1.tar HTTP/1.1\r\nHost: x\r\n\r\n" * 1500)
        known = -1
        while known != (known := len(records(path))):
            select.select([], [], [], 0.5)  # until the server gets no further
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: any(one["cut"] for one in records(path)))
    taken = records(path)
    cut = [one["bytes"] for one in taken if one["cut"]]
    assert len(cut) == 1
    assert isinstance(cut[0], int)
    assert 0 <= cut[0] < len(body)
    whole = [one["bytes"] for one in taken if not one["cut"] and one["status"] == 200]
    assert len(whole) > 10
    assert set(whole) == {len(body)}


def test_a_body_that_its_server_could_not_send_is_logged_as_cut(origin: Origin, tmp_path: Path) -> None:
    origin.put("/a-1.tar", os.urandom(9000))
    path = tmp_path / "access"
    config = layered({}, {"source": origin.url, "cache": str(tmp_path / "cache"), "access_log": str(path)}).config
    application = build_application(replace(config, access_format="json"))
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/a-1.tar", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "x"}
    for gone in (False, True):
        blocks = application(dict(environ), lambda *_: lambda _: None)
        sent = sum(len(block) for block in itertools.islice(blocks, 1 if gone else None))
        blocks.close()  # type: ignore[attr-defined]
        assert sent == 9000
    application.close()
    assert [(one["cut"], one["bytes"]) for one in records(path)] == [(False, 9000), (True, 0)]
