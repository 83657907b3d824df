"""Downloads by several processes, and by processes that are killed."""

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from origin import Gate, Origin, Serve, until

from package_cache.library.downloads.manager import DownloadManager
from package_cache.model import Status

BODY = random.Random(7).randbytes(4_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()

PROGRAM = r"""
import sys, threading
from package_cache.library.downloads.manager import DownloadManager
cache, url, threads, dest = sys.argv[1:]
manager = DownloadManager(cache or None, proxies={}, timeout=60)
def fetch():
    result = manager.fetch(url, dest or None)
    sys.stdout.write(f"got {result.path} {result.sha256}\n")
running = [threading.Thread(target=fetch) for _ in range(int(threads))]
print("ready", flush=True)
for one in running: one.start()
for one in running: one.join()
"""


class Downloader:
    """A process that downloads a URL in some threads."""

    def __init__(self, cache: Path | str, url: str, threads: int = 1, dest: Path | str = "") -> None:
        command = [sys.executable, "-c", PROGRAM, str(cache), url, str(threads), str(dest)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> list[list[str]]:
        """What the threads got."""
        said, _ = self.process.communicate(timeout=60)
        return [line.split()[1:] for line in said.splitlines()]


@pytest.fixture
def running() -> Iterator[list[Downloader]]:
    several: list[Downloader] = []
    yield several
    for one in several:
        one.process.kill()
        one.process.wait()
        assert one.process.stdout is not None
        one.process.stdout.close()


def part_size(cache: Path) -> int:
    return sum(path.stat().st_size for path in (cache / "parts-v1").glob("*.part"))


def test_eight_threads_and_two_processes_make_one_request(
    origin: Origin, tmp_path: Path, running: list[Downloader]
) -> None:
    gate = Gate()
    origin.put("/a.bin", BODY, Serve(gate=gate, gate_at=2_000_000))
    running += [Downloader(tmp_path, origin.url + "a.bin", threads) for threads in (4, 4)]
    assert gate.reached.wait(60)
    gate.open()
    found = [line for one in running for line in one.end()]
    assert len(found) == 8
    assert {digest for _, digest in found} == {DIGEST}
    assert len({path for path, _ in found}) == 1
    assert len(origin.requests()) == 1
    with DownloadManager(tmp_path) as manager:
        assert manager.cache is not None
        assert len(manager.cache.search()) == 1


def test_a_download_whose_process_is_killed_is_no_hit_and_is_gone_on_with(
    origin: Origin, tmp_path: Path, running: list[Downloader]
) -> None:
    gate = Gate()
    origin.put("/a.bin", BODY, Serve(gate=gate, gate_at=2_000_000), Serve())
    running.append(Downloader(tmp_path, origin.url + "a.bin"))
    until(lambda: part_size(tmp_path) >= 2_000_000)
    running[0].kill()
    gate.open()
    with DownloadManager(tmp_path, proxies={}) as manager:
        assert manager.cache is not None
        assert not manager.cache.search(include_removed=True)
        result = manager.fetch(origin.url + "a.bin")
        assert (result.verdict, result.sha256) == ("downloaded", DIGEST)
        assert Path(str(result.path)).read_bytes() == BODY
        assert [item.status for item in manager.cache.search()] == [Status.READY]
    assert int(origin.requests()[1].fields["range"][6:-1]) > 1_990_000


def test_a_download_to_a_path_whose_process_is_killed_is_gone_on_with(
    origin: Origin, tmp_path: Path, running: list[Downloader]
) -> None:
    gate, target = Gate(), tmp_path / "out"
    origin.put("/a.bin", BODY, Serve(gate=gate, gate_at=2_000_000), Serve())
    target.write_bytes(b"mine")
    running.append(Downloader("", origin.url + "a.bin", dest=target))
    until(lambda: any(path.stat().st_size >= 2_000_000 for path in tmp_path.glob(".out.*.part")))
    running[0].kill()
    gate.open()
    assert target.read_bytes() == b"mine"
    with DownloadManager(proxies={}) as manager:
        manager.download(origin.url + "a.bin", target)
    assert target.read_bytes() == BODY
    assert int(origin.requests()[1].fields["range"][6:-1]) > 1_990_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


LEAVES = r"""
import sys, threading
threading._register_atexit(lambda: print("left", flush=True))  # the first that is registered is called last
from package_cache.library.downloads.manager import DownloadManager
cache, url, dest = sys.argv[1:]
manager = DownloadManager(cache, proxies={}, timeout=60)
threading.Thread(target=lambda: print(manager.fetch(url, dest or None).sha256, flush=True)).start()
sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["", "out"], ids=["into the cache", "to a path"])
def test_a_thread_comes_to_the_end_of_a_large_download_though_the_main_thread_has_ended(
    origin: Origin, tmp_path: Path, name: str
) -> None:
    gate = Gate()
    body = origin.put("/a.bin", BODY * 3, Serve(gate=gate, gate_at=8_000_000))
    target = str(tmp_path / name) if name else ""
    command = [sys.executable, "-c", LEAVES, str(tmp_path / "cache"), origin.url + "a.bin", target]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            until(lambda: any(path.stat().st_size >= 8_000_000 for path in tmp_path.rglob("*.part")))
            process.stdin.close()
            assert process.stdout.readline() == "left\n"
        finally:
            gate.open()
        assert (process.stdout.read().strip(), process.stderr.read()) == (hashlib.sha256(body).hexdigest(), "")
    assert len(origin.requests()) == 1


def test_who_waits_for_a_process_that_is_killed_takes_over(
    origin: Origin, tmp_path: Path, running: list[Downloader]
) -> None:
    gate = Gate()
    origin.put("/a.bin", BODY, Serve(gate=gate, gate_at=2_000_000), Serve())
    running.append(Downloader(tmp_path, origin.url + "a.bin"))
    until(lambda: part_size(tmp_path) >= 2_000_000)
    running.append(Downloader(tmp_path, origin.url + "a.bin", threads=2))
    running[0].kill()
    found = running[1].end()
    gate.open()
    assert [digest for _, digest in found] == [DIGEST, DIGEST]
    assert len(origin.requests()) == 2
    assert "range" in origin.requests()[1].fields


INTERRUPTED = r"""
import sys, threading
from package_cache.library.downloads.manager import DownloadManager
manager, url = DownloadManager(sys.argv[1], proxies={}, timeout=60), sys.argv[2]
other = threading.Thread(target=lambda: print(manager.fetch(url, progress=waits).sha256, flush=True))
def waits(have, size): print("waits", flush=True)
def begin(have, size): other.ident or other.start()
try:
    manager.download(url, progress=begin)
except KeyboardInterrupt:
    print("interrupted", flush=True)
other.join()
"""


def test_an_interrupt_ends_a_download_at_once_and_another_thread_that_waits_goes_on_with_it(
    origin: Origin, tmp_path: Path
) -> None:
    gate = Gate()
    origin.put("/a.bin", BODY, Serve(gate=gate, gate_at=2_000_000), Serve())
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path), origin.url + "a.bin"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            until(lambda: part_size(tmp_path) >= 2_000_000)
            assert process.stdout.readline() == "waits\n"
            process.send_signal(signal.SIGINT)
            said = {line for line in process.stdout if line != "waits\n"}
        finally:
            gate.open()
            process.kill()
    assert said == {"interrupted\n", DIGEST + "\n"}
    assert len(origin.requests()) == 2
    assert int(origin.requests()[1].fields["range"][6:-1]) > 1_990_000


def test_processes_killed_at_any_time_leave_nothing_that_is_taken_for_the_file(
    origin: Origin, tmp_path: Path, running: list[Downloader]
) -> None:
    chance = random.Random(os.getpid())
    origin.put("/a.bin", BODY, Serve(pace=20_000_000))
    for _ in range(4):
        one = Downloader(tmp_path, origin.url + "a.bin", dest=tmp_path / "out" if chance.random() < 0.3 else "")
        running.append(one)
        try:
            one.process.wait(chance.uniform(0, 0.25))
        except subprocess.TimeoutExpired:
            one.kill()
        with DownloadManager(tmp_path) as manager:
            assert manager.cache is not None
            for item in manager.cache.search(include_removed=True):
                assert item.status == Status.READY
                if item.sha256 is not None:
                    assert Path(item.path).read_bytes() == BODY
    origin.script("/a.bin", Serve())
    with DownloadManager(tmp_path, proxies={}) as manager:
        assert Path(str(manager.download(origin.url + "a.bin"))).read_bytes() == BODY
