"""What is in a list is in the cache before a client asks for it: downloaded by the service, as much at once as was told."""

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from forks import run
from origin import Gate, Origin, Serve, until
from product import Proxy, Response, parts, stored

from package_cache.upstream.answers import Throttle

pytestmark = pytest.mark.usefixtures("shell")


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Warm:
    """`package-cache warm` for a list, as a process."""

    def __init__(self, cache: Path, text: str, *words: str, source: str | None = None, **streams: Any) -> None:
        listed = cache.parent / "list"
        listed.write_text(text)
        command = [sys.executable, "-m", "package_cache", "warm", str(listed), "--cache", str(cache), *words]
        command += ["--source", source] if source else []
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        self.process = subprocess.Popen(command, text=True, **streams)

    def end(self) -> tuple[int, list[str]]:
        """Its exit code and the lines of its report; those that say what is wrong with the options, if it did nothing."""
        out, err = self.process.communicate(timeout=60)
        assert "Traceback" not in (err or ""), err
        return self.process.returncode, (out or err or "").splitlines()


@contextmanager
def running(cache: Path, text: str, *words: str, **options: Any) -> Iterator[Warm]:
    one = Warm(cache, text, *words, **options)
    with one.process:
        try:
            yield one
        finally:
            if one.process.poll() is None:
                one.process.kill()


def warm(cache: Path, text: str, *words: str, source: str | None = None) -> tuple[int, list[str]]:
    """As `Warm.end`, of a command that nothing is done to meanwhile."""
    listed = cache.parent / "list"
    listed.write_text(text)
    ended = run("warm", str(listed), "--cache", str(cache), *words, *(["--source", source] if source else []))
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, (ended.stdout or ended.stderr).splitlines()


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# What is in the list


def test_what_is_listed_is_a_hit_afterwards(tmp_path: Path, start: Callable[..., Proxy], origin: Origin) -> None:
    cache, large = tmp_path / "cache", noise(300_000)
    for path, body in (
        ("/a-1.tar", b"a"),
        ("/x/b%2Bc-1.tar", b"b"),
        ("/%C3%A9%20x-1.tar", b"e"),
        ("/d-1.tar", large),
        ("/dists/x/InRelease", b"i"),
    ):
        origin.put(path, body)
    text = f"# a list\n/a-1.tar\n{origin.url}x/b+c-1.tar\n/é x-1.tar # the last\n\n/d-1.tar\r\n"
    text += "  /dists/x/InRelease\n/a-1.tar\n"
    assert warm(cache, text, source=origin.url) == (0, ["5 fetched, 293K, 0 here already"])
    proxy = start(origin.url, cache=cache)
    asked = len(origin.requests())
    assert proxy.get("/d-1.tar").body == large
    assert [proxy.get(path).body for path in ("/a-1.tar", "/x/b%2Bc-1.tar", "/%C3%A9%20x-1.tar")] == [b"a", b"b", b"e"]
    assert len(origin.requests()) == asked
    origin.stop()
    assert proxy.get("/dists/x/InRelease").body == b"i"


def test_what_is_here_is_not_fetched_again_and_indexes_are_confirmed(tmp_path: Path, origin: Origin) -> None:
    cache, text = tmp_path / "cache", "/a-1.tar\n/InRelease\n"
    origin.put("/a-1.tar", b"a")
    origin.put("/InRelease", b"old")
    warm(cache, text, source=origin.url)
    assert warm(cache, text, source=origin.url) == (0, ["0 fetched, 0, 2 here already"])
    origin.put("/InRelease", b"newer")
    assert warm(cache, text, source=origin.url) == (0, ["1 fetched, 5, 1 here already"])
    assert len(origin.requests("/a-1.tar")) == 1
    url = origin.url
    origin.stop()
    code, lines = warm(cache, text, source=url)
    assert (code, lines[-1]) == (1, "0 fetched, 0, 1 here already, 1 failed")
    assert lines[0].startswith("failed /InRelease: no source could be asked")


def test_what_cannot_be_had_is_named_and_the_rest_is_fetched(tmp_path: Path, origin: Origin) -> None:
    origin.put("/a-1.tar", b"a")
    origin.put("/page-1.xz", b"<html>log in</html>", content_type="text/html")
    text = "/none-1.tar\n/a-1.tar\nhttp://other.example/a-1.tar\na.tar\n/../x\n/page-1.xz\n"
    code, lines = warm(tmp_path / "cache", text, "--jobs", "1", source=origin.url)
    assert code == 1
    failed = dict(line.removeprefix("failed ").split(": ", 1) for line in lines[:-1])
    assert lines[-1] == "1 fetched, 1, 0 here already, 5 failed"
    assert "404" in failed["/none-1.tar"]
    assert "other.example" in failed["http://other.example/a-1.tar"]
    assert "begins with a slash" in failed["a.tar"]
    assert "climbs" in failed["/../x"]
    assert "page-1.xz" in failed["/page-1.xz"]


def test_a_list_may_come_from_another_program(tmp_path: Path, origin: Origin) -> None:
    origin.put("/a-1.tar", b"a")
    command = [
        sys.executable,
        "-m",
        "package_cache",
        "warm",
        "-",
        "--cache",
        str(tmp_path / "c"),
        "--source",
        origin.url,
        "--json",
    ]
    done = subprocess.run(command, input="/a-1.tar\n/b-1.tar\n", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert [one["name"] for one in report.pop("failed")] == ["/b-1.tar"]
    assert report == {"whole": True, "fetched": 1, "bytes": 1, "here": 0}


def test_what_is_the_caches_own_is_no_file_that_is_here(tmp_path: Path, origin: Origin) -> None:
    code, lines = warm(tmp_path / "cache", "http://localhost:4000/-/health\n", source=origin.url)
    line = "failed http://localhost:4000/-/health: it is a page of this cache itself, and not a file"
    assert (code, lines) == (1, [line, "0 fetched, 0, 0 here already, 1 failed"])
    assert not origin.requests()


def test_documents_are_fetched_for_the_accept_of_a_client(
    tmp_path: Path, start: Callable[..., Proxy], origin: Origin
) -> None:
    origin.put("/simple/x/", b"{}", content_type="application/vnd.pypi.simple.v1+json")
    kind = "application/vnd.pypi.simple.v1+json"
    assert warm(tmp_path / "cache", "/simple/x/\n", "--accept", kind, source=origin.url)[0] == 0
    assert origin.requests()[0].fields["accept"] == kind
    proxy = start(origin.url, cache=tmp_path / "cache")
    origin.stop()
    assert proxy.get("/simple/x/", {"Accept": kind}).body == b"{}"


def test_repositories_of_the_configuration_are_known(tmp_path: Path, origin: Origin) -> None:
    origin.put("/debian/pool/a-1.tar", b"a")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[[repository]]\nname = "debian"\nprefix = "/deb"\npreset = "debian"\nsources = ["{origin.url}debian"]\n'
        f'[[repository]]\nname = "other"\nhosts = ["deb.example"]\nsources = ["{origin.url}debian"]\n'
    )
    text = f"/deb/pool/a-1.tar\n{origin.url}debian/pool/a-1.tar\nhttp://deb.example/pool/a-1.tar\n/-/other/pool/a-1.tar\n/nothing/x-1.tar\n"
    code, lines = warm(tmp_path / "cache", text, "--config", str(config), "--jobs", "1")
    assert (code, lines[-1]) == (1, "2 fetched, 2, 2 here already, 1 failed")
    assert lines[0].startswith("failed /nothing/x-1.tar: ")
    assert stored(tmp_path / "cache") == ["/-/other/pool/a-1.tar", "/deb/pool/a-1.tar"]


def test_what_is_not_stored_is_a_failure(tmp_path: Path, origin: Origin) -> None:
    origin.put("/a-1.tar", noise(200_000))
    code, lines = warm(tmp_path / "cache", "/a-1.tar\n", "--max-size", "100K", source=origin.url)
    assert code == 1
    assert lines[0].startswith("failed /a-1.tar: ")
    assert stored(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--jobs", "0"), "--jobs: '0' is not a number from 1 to 64"),
        (("--jobs", "x"), "--jobs: 'x' is not a number from 1 to 64"),
        (("--rate", "fast"), "--rate: 'fast' is not a size above 0"),
        (("--rate", "10K", "--jobs", "4"), "--rate: 10K is too little for 4 at once; give at least 16.0K"),
        (("--source", "ftp://x/"), "ftp://x/"),
        ((), "no source given"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    code, lines = warm(tmp_path / "cache", "/x-1.tar\n", *words)
    assert code == 2
    assert said in lines[0]
    assert not (tmp_path / "cache").exists()


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run("warm", str(tmp_path / "none"), "--source", "http://mirror.example/")
    assert (done.returncode, done.stderr) == (
        2,
        f"package-cache: {tmp_path}/none cannot be read: No such file or directory\n",
    )


# How many at once, and how fast


def test_no_more_are_fetched_at_once_than_told(tmp_path: Path, origin: Origin) -> None:
    gates = [Gate() for _ in range(5)]
    for number, gate in enumerate(gates):
        origin.put(f"/{number}.tar", b"x", Serve(before=gate))
    with running(tmp_path / "cache", "".join(f"/{n}.tar\n" for n in range(5)), "--jobs", "2", source=origin.url) as one:
        for number, gate in enumerate(gates):
            assert gate.reached.wait(30)
            assert len(origin.requests()) <= number + 2
            if number + 1 < len(gates):
                assert gates[number + 1].reached.wait(30)
                assert len(origin.requests()) == number + 2
            gate.opened.set()
        assert one.end()[0] == 0


def test_all_together_come_no_faster_than_told(tmp_path: Path, origin: Origin) -> None:
    for number in range(3):
        origin.put(f"/{number}.tar", noise(200_000))
    begun = time.monotonic()
    text = "/0.tar\n/1.tar\n/2.tar\n"
    assert warm(tmp_path / "cache", text, "--rate", "200K", "--jobs", "3", source=origin.url) == (
        0,
        ["3 fetched, 586K, 0 here already"],
    )
    assert time.monotonic() - begun > 600_000 / (200 << 10)
    assert stored(tmp_path / "cache") == ["/0.tar", "/1.tar", "/2.tar"]


@pytest.mark.parametrize(("rate", "downloads", "block"), [(10 << 20, 4, 1 << 18), (64 << 10, 4, 4096), (4096, 1, 1024)])
def test_each_download_goes_on_several_times_a_second(rate: int, downloads: int, block: int) -> None:
    assert Throttle(rate, downloads).block == block


# Beside a server, and after an end


def test_what_a_client_downloads_is_downloaded_once(tmp_path: Path, start: Callable[..., Proxy], origin: Origin) -> None:
    body, gate = noise(400_000), Gate()
    origin.put("/a-1.tar", body, Serve(gate=gate, gate_at=200_000))
    # The command takes a while to start, and a source that is silent for so long is asked again.
    proxy, got = start(origin.url, environment={"PACKAGE_CACHE_STALL_TIMEOUT": "100"}), list[Response]()
    client = Thread(target=lambda: got.append(proxy.get("/a-1.tar")))
    client.start()
    assert gate.reached.wait(30)
    with running(tmp_path / "cache", "/a-1.tar\n", "-vv", source=origin.url) as one:
        until(lambda: follows(one.process.pid, tmp_path / "cache" / "parts-v1"))
        gate.opened.set()
        code, lines = one.end()
    client.join()
    # Which of the two it is: the rest may have come before the command, which has the file open, decided what that is.
    assert (code, lines[0]) in ((0, "1 fetched, 391K, 0 here already"), (0, "0 fetched, 0, 1 here already"))
    assert got[0].body == body
    assert len(origin.requests()) == 1


def follows(pid: int, folder: Path) -> bool:
    """Whether a process has a part in a folder open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if link.readlink().parent == folder and link.readlink().suffix == ".part":
                return True
    return False


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGKILL])
def test_what_was_ended_goes_on_where_it_was(tmp_path: Path, origin: Origin, with_signal: signal.Signals) -> None:
    cache, body, gate, text = tmp_path / "cache", noise(400_000), Gate(), "/a-1.tar\n/b-1.tar\n"
    origin.put("/a-1.tar", b"a")
    origin.put("/b-1.tar", body, Serve(gate=gate, gate_at=200_000))
    with running(cache, text, "--jobs", "1", source=origin.url) as one:
        assert gate.reached.wait(30)
        until(lambda: any(path.suffix == ".part" and path.stat().st_size == 200_000 for path in parts(cache)))
        one.process.send_signal(with_signal)
        code, lines = one.end()
    gate.opened.set()
    if with_signal == signal.SIGINT:
        assert (code, lines) == (130, ["1 fetched, 1, 0 here already", "interrupted: run it again to resume"])
    origin.script("/b-1.tar", Serve())
    assert warm(cache, text, source=origin.url) == (0, ["1 fetched, 391K, 1 here already"])
    assert re.fullmatch(r"bytes=19[0-9]{4}-", origin.requests("/b-1.tar")[-1].fields["range"])  # what is compared overlaps


@pytest.mark.parametrize("columns", [0, 20, 200])
def test_how_far_it_is_is_shown_on_a_line_of_the_terminal(tmp_path: Path, origin: Origin, columns: int) -> None:
    gate = Gate()
    origin.put("/a-1.tar", noise(400_000), Serve(gate=gate, gate_at=200_000))
    inner, outer = pty.openpty()
    termios.tcsetwinsize(outer, (24, columns))
    said = b""
    with running(tmp_path / "cache", "/a-1.tar\n/b-1.tar\n", "--jobs", "1", source=origin.url, stderr=outer) as one:
        os.close(outer)
        while (b"0 fetched, 1" if columns == 20 else b"195K") not in said:
            said += os.read(inner, 4096)
        gate.opened.set()
        assert one.end()[0] == 1
    with suppress(OSError):  # its other end is closed
        while block := os.read(inner, 4096):
            said += block
    os.close(inner)
    assert said.endswith(b"\r\x1b[K")
    lines = said.split(b"\r\x1b[K")
    if columns == 20:
        assert b"  0 %  0 fetched, 1" in lines
        assert max(map(len, lines)) < columns
    else:
        assert b"  0 %  0 fetched, 195K, 0 here already" in lines
