"""A slow disk: what is verified is served before it is stored, and a server that is told to end stores it first."""

import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import pytest
from origin import Gate, Origin, Serve, until
from product import Proxy, Response, blobs, npm_config, parts

Start = Callable[..., Proxy]

_SLOW = """\
import fcntl, os, time
fsync, flock = os.fsync, fcntl.flock
def wait(descriptor):
    place = os.readlink(f"/proc/self/fd/{{descriptor}}")
    while place.endswith((".part", "registry-v1.lock")) or "/blobs-v1" in place:
        if not os.path.exists({hold!r}):
            return
        open({reached!r}, "w").close()
        time.sleep(0.005)
def slow(descriptor):
    wait(descriptor)
    fsync(descriptor)
def late(descriptor, how):
    wait(descriptor)
    flock(descriptor, how)
os.fsync, fcntl.flock = slow, late
"""


_LATE = """\
import os, stat, time
fsync = os.fsync
def late(descriptor):
    while stat.S_ISDIR(os.fstat(descriptor).st_mode) and "/blobs-v1/" in os.readlink(f"/proc/self/fd/{{descriptor}}"):
        if not os.path.exists({hold!r}):
            break
        open({reached!r}, "w").close()
        time.sleep(0.005)
    fsync(descriptor)
os.fsync = late
"""
"""Of use once a part has its place among the blobs."""


_FULL = """\
import errno, os, time
open_ = os.open
def late(path, flags, *rest, **more):
    while flags & os.O_CREAT and str(path).endswith(".part"):
        if not os.path.exists({hold!r}):
            {then}
            break
        open({reached!r}, "w").close()
        time.sleep(0.005)
    return open_(path, flags, *rest, **more)
os.open = late
"""


class Disk:
    """A disk that takes as long over each `fsync` of a download, and each transaction, as it is `held`."""

    def __init__(self, folder: Path, text: str = _SLOW, then: str = "") -> None:
        self.environment = {"PYTHONPATH": str(folder)}
        self._hold, self._reached = folder / "hold", folder / "reached"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(text.format(hold=str(self._hold), reached=str(self._reached), then=then))

    def hold(self) -> None:
        self._reached.unlink(missing_ok=True)
        self._hold.touch()

    def wait(self) -> None:
        """Until something waits for the disk."""
        until(self._reached.exists)

    def go_on(self) -> None:
        self._hold.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "disk")


def get(proxy: Proxy, path: str, method: str = "GET") -> Response:
    """An answer that is there in good time: not when the disk is, and not when somebody gives up."""
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(proxy.get, path, method=method).result(20)
        except TimeoutError:
            proxy.kill()
            raise


@pytest.mark.parametrize("then", ["pass", "raise OSError(errno.EIO, 'no')"], ids=["slow", "broken"])
def test_the_first_bytes_of_a_large_file_do_not_wait_for_the_disk(
    origin: Origin, start: Start, tmp_path: Path, then: str
) -> None:
    disk = Disk(tmp_path / "disk", _FULL, then)
    body = origin.put("/a-1.tar", random.Random(4).randbytes(1_000_000))
    proxy = start(origin.url, environment=disk.environment)
    disk.hold()
    with socket.create_connection(proxy.address, timeout=20) as client:
        client.sendall(b"GET /a-1.tar HTTP/1.1\r\nHost: mirror.example\r\nConnection: close\r\n\r\n")
        got = b""
        while len(got.partition(b"\r\n\r\n")[2]) < 1000:
            got += client.recv(65536)
        disk.wait()
        disk.go_on()
        while block := client.recv(65536):
            got += block
    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.partition(b"\r\n\r\n")[2] == body
    assert proxy.get("/a-1.tar").body == body


@pytest.mark.parametrize("path", ["/dists/stable/Packages", "/a-1.bin"])
def test_what_waits_for_its_commit_is_served_meanwhile(origin: Origin, start: Start, disk: Disk, path: str) -> None:
    body = origin.put(path, b"a package\n" * 200)
    proxy = start(origin.url, environment=disk.environment)
    disk.hold()
    assert proxy.get(path).body == body
    disk.wait()
    for _ in range(3):
        assert get(proxy, path).body == body
    assert int(get(proxy, path, "HEAD").fields["Content-Length"]) == len(body)
    assert [asked.method for asked in origin.requests()] in (["GET"], ["GET", "HEAD"])
    disk.go_on()
    until(lambda: not parts(proxy.cache) and blobs(proxy.cache))
    new = origin.put(path, b"another package\n" * 200)
    assert get(proxy, path).body == (body if path.endswith(".bin") else new)


def test_what_waits_for_its_commit_is_served_by_other_processes(origin: Origin, start: Start, disk: Disk) -> None:
    """Small as it is: they are let have it once the disk has taken more than a moment."""
    first, index = origin.put("/first-1.bin", b"f" * 2000), origin.put("/dists/stable/Packages", b"a package\n" * 200)
    slow, other = (start(origin.url, environment=disk.environment) for _ in range(2))
    disk.hold()
    assert slow.get("/first-1.bin").body == first
    disk.wait()
    assert get(other, "/first-1.bin").body == first
    for _ in range(2):  # each of them waits for a part of a second
        assert get(slow, "/dists/stable/Packages").body == index
    assert get(other, "/dists/stable/Packages").body == index
    disk.go_on()
    until(lambda: not parts(slow.cache))
    disk.hold()
    new = origin.put("/dists/stable/Packages", b"another package\n" * 200)
    assert slow.get("/dists/stable/Packages").body == new
    disk.wait()
    assert get(other, "/dists/stable/Packages").body == new
    disk.go_on()


def test_a_document_between_its_blob_and_its_commit_is_answered_to_whoever_asks(
    origin: Origin, start: Start, tmp_path: Path
) -> None:
    """Its part is gone by then, and what has its links replaced is read as a whole."""
    disk = Disk(tmp_path / "disk", _LATE)
    config = npm_config(origin.url, tmp_path)
    text = f'{{"dist": {{"tarball": "{origin.url}demo/-/demo-1.0.0.tgz"}}, "readme": "{"r" * 200_000}"}}'
    origin.put("/demo", text.encode(), content_type="application/json")
    slow, other = start(config=config, environment=disk.environment), start(config=config)
    disk.hold()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(slow.get, "/npm/demo", {"Host": "cache.example"})
        disk.wait()
        late = [pool.submit(proxy.get, "/npm/demo", {"Host": "cache.example"}) for proxy in (slow, other)]
        wait(late, timeout=0.5)  # so that they wait by then; it makes no difference to what is right
        disk.go_on()
        bodies = [got.result(30).body for got in (first, *late)]
    expected = text.replace(origin.url, "http://cache.example/npm/").encode()
    assert bodies == [expected] * 3


def test_what_another_process_stored_meanwhile_needs_no_place_in_the_line(origin: Origin, start: Start, disk: Disk) -> None:
    body, gate = origin.put("/a-1.bin", b"a" * 3000), Gate()
    origin.put("/busy-1.bin", b"b" * 3000, Serve(before=gate))
    slow, other = start(origin.url, environment=disk.environment), start(origin.url, arguments=["--downloads", "1"])
    disk.hold()
    assert slow.get("/a-1.bin").body == body
    disk.wait()
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(other.get, "/busy-1.bin")
        assert gate.reached.wait(30)
        waiting = pool.submit(other.get, "/a-1.bin")
        wait([waiting], timeout=0.4)  # so that it is there by then; it makes no difference to what is right
        disk.go_on()
        assert waiting.result(10).body == body
        assert not busy.done()
        gate.open()
        assert busy.result(30).whole
    assert len(origin.requests("/a-1.bin")) == 1


_SLOW_LOOKS = """\
import os, time
access = os.access
def slow(path, *how):
    if str(path).endswith(".fill") and os.path.exists({hold!r}):
        time.sleep(0.02)
    return access(path, *how)
os.access = slow
"""


def test_a_small_file_is_asked_for_beside_large_downloads_while_looks_are_slow(
    origin: Origin, start: Start, tmp_path: Path
) -> None:
    """The loop leaves looks to threads then; that is no reason to stand in the line of those who need one for long."""
    gate, hold = Gate(), tmp_path / "hold"
    (tmp_path / "sitecustomize.py").write_text(_SLOW_LOOKS.format(hold=str(hold)))
    large = origin.put("/large-1.bin", b"l" * 3_000_000, Serve(gate=gate, gate_at=2_000_000))
    small = [origin.put(f"/a-{number}.bin", b"a" * (1000 + number)) for number in range(8)]
    proxy = start(origin.url, arguments=["--downloads", "1"], environment={"PYTHONPATH": str(tmp_path)})
    hold.touch()
    for number in range(4):
        assert get(proxy, f"/a-{number}.bin").body == small[number]
    with ThreadPoolExecutor(1) as pool:
        downloading = pool.submit(proxy.get, "/large-1.bin")
        assert gate.reached.wait(30)
        for number in range(4, 8):
            assert get(proxy, f"/a-{number}.bin").body == small[number]
        gate.open()
        assert downloading.result(30).body == large


def refuses(proxy: Proxy) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(proxy.address, 5):
        return False
    return True


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_server_that_is_told_to_end_stores_first_what_came(origin: Origin, start: Start, disk: Disk, host: str) -> None:
    body = origin.put("/a-1.bin", b"a" * 3000)
    proxy = start(origin.url, host=host, environment=disk.environment)
    disk.hold()
    assert proxy.get("/a-1.bin").body == body
    disk.wait()
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(proxy.stop)
        until(lambda: refuses(proxy))
        disk.go_on()
        assert stopping.result() == 0
    assert [path.read_bytes() for path in blobs(proxy.cache)] == [body]
    assert start(origin.url).get("/a-1.bin").cache_status == "package-cache; hit"


def test_a_disk_that_takes_longer_than_the_grace_keeps_no_server_from_its_end(
    origin: Origin, start: Start, disk: Disk
) -> None:
    body = origin.put("/a-1.bin", b"a" * 3000)
    proxy = start(origin.url, environment=disk.environment | {"PACKAGE_CACHE_GRACEFUL_TIMEOUT": "1"})
    disk.hold()
    assert proxy.get("/a-1.bin").body == body
    disk.wait()
    assert proxy.stop() == 0
    assert start(origin.url).get("/a-1.bin").body == body
