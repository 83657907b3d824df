"""`package-cache health`: what it says of a server, and its exit codes."""

import socket
import threading
from pathlib import Path

import pytest
from forks import Forks, run
from origin import Origin, Say

from package_cache.cli.arguments import DONE, FAILED, WRONG_OPTIONS

pytestmark = pytest.mark.usefixtures("shell")


def test_a_server_that_can_serve_is_healthy(shell: Forks, origin: Origin) -> None:
    origin.put("/-/health", b"ready\n")
    ended = run("health", "--host", "127.0.0.1", "--port", str(origin.port))
    assert (ended.returncode, ended.stderr) == (DONE, "")
    assert ended.stdout == f"the server at 127.0.0.1:{origin.port} serves: 200 ready\n"


def test_a_server_that_cannot_serve_is_not(shell: Forks, origin: Origin) -> None:
    origin.put("/-/health", b"", Say(503, b"the disk is gone\nand more\n"))
    ended = run("health", "--host", "127.0.0.1", "--port", str(origin.port))
    assert (ended.returncode, ended.stdout) == (FAILED, "")
    assert f"127.0.0.1:{origin.port} cannot serve: 503 the disk is gone\n" in ended.stderr


def test_a_server_that_cannot_serve_is_alive_all_the_same(shell: Forks, origin: Origin) -> None:
    origin.put("/-/health", b"", Say(503, b"the disk is gone\n"))
    ended = run("health", "--alive", "--host", "127.0.0.1", "--port", str(origin.port))
    assert (ended.returncode, ended.stderr) == (DONE, "")
    assert "cannot serve: 503 the disk is gone" in ended.stdout
    origin.stop()
    assert run("health", "--alive", "--host", "127.0.0.1", "--port", str(origin.port)).returncode == FAILED


def test_a_server_that_may_not_answer_this_machine_is_healthy(shell: Forks, origin: Origin) -> None:
    origin.put("/-/health", b"", Say(403, b"no\n"))
    assert run("health", "--host", "127.0.0.1", "--port", str(origin.port)).returncode == DONE


def test_where_nobody_listens_nobody_is_healthy(shell: Forks, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ended = run("health", "--host", "127.0.0.1", "--port", str(port))
    assert (ended.returncode, ended.stdout) == (FAILED, "")
    assert f"no answer from 127.0.0.1:{port}: " in ended.stderr
    ended = run("health", "--listen", f"unix:{tmp_path}/none", "--wait", "0.2s")
    assert f"no answer from unix:{tmp_path}/none: " in ended.stderr


def test_it_waits_for_a_server_that_is_not_there_yet(shell: Forks, origin: Origin) -> None:
    script = [Say(503), Say(503), Say(200, b"ready\n")]
    origin.put("/-/health", b"", *script)
    ended = run("health", "--host", "127.0.0.1", "--port", str(origin.port), "--wait", "60s")
    assert ended.returncode == DONE
    assert len(origin.asked) == len(script)


def test_it_waits_no_longer_for_a_server_that_says_nothing(shell: Forks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ended = run("health", "--host", "127.0.0.1", "--port", str(silent.getsockname()[1]), "--wait", "0.3s")
    assert ended.returncode == FAILED
    assert "timed out" in ended.stderr


@pytest.mark.parametrize("wait", ["soon", "0s"])
def test_a_wrong_time_is_told(shell: Forks, wait: str) -> None:
    ended = run("health", "--wait", wait)
    assert ended.returncode == WRONG_OPTIONS
    assert ended.stderr.startswith(f"package-cache: --wait: {wait!r} is not a time above 0; ")


def test_it_takes_every_option_of_the_server_and_reads_the_same_environment(shell: Forks, origin: Origin) -> None:
    origin.put("/-/health", b"ready\n")
    options = ("--workers", "3", "--max-size", "5G", "--source", "http://mirror.example/", "-v", "--syslog", "--balance")
    ended = run("health", *options, PACKAGE_CACHE_LISTEN=f"127.0.0.1:{origin.port} unix:/none")
    assert (ended.returncode, ended.stderr) == (DONE, "")


def test_a_unix_socket_is_asked_by_its_path(shell: Forks, tmp_path: Path) -> None:
    place = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as connection:
                assert connection.recv(65536).startswith(b"GET /-/health HTTP/1.1\r\n")
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        ended = run("health", "--listen", f"unix:{place}")
        thread.join(30)
    assert (ended.returncode, ended.stdout) == (DONE, f"the server at unix:{place} serves: 200 ready\n")
