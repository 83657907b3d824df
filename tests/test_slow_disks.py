"""A slow disk: what is verified is served before it is stored, and a server that is told to end stores it first."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import pytest
from origin import Gate, Origin, Serve, until
from product import Proxy, Response, blobs, parts

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


class Disk:
    """A disk that takes as long over each `fsync` of a download, and each transaction, as it is `held`."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"PYTHONPATH": str(folder)}
        self._hold, self._reached = folder / "hold", folder / "reached"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SLOW.format(hold=str(self._hold), reached=str(self._reached)))

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
    """From the second such file on: of the first, small as it is, they know only that somebody downloads it."""
    first, index = origin.put("/first-1.bin", b"f" * 2000), origin.put("/dists/stable/Packages", b"a package\n" * 200)
    slow, other = (start(origin.url, environment=disk.environment) for _ in range(2))
    disk.hold()
    assert slow.get("/first-1.bin").body == first
    disk.wait()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.get, "/first-1.bin")
        until(lambda: waiting.running())
        for _ in range(2):  # each of them waits for a part of a second
            assert slow.get("/dists/stable/Packages").body == index
        disk.go_on()
        assert waiting.result(30).body == first
    until(lambda: not parts(slow.cache))
    disk.hold()
    new = origin.put("/dists/stable/Packages", b"another package\n" * 200)
    assert slow.get("/dists/stable/Packages").body == new
    disk.wait()
    assert get(other, "/dists/stable/Packages").body == new
    disk.go_on()


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
