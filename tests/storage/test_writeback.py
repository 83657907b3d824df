"""A large file is written back while more of it arrives; what a disk could not take is never used, though it tells once."""

import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from origin import Gate, Origin, Say, Serve

from package_cache.errors import DownloadError, StoreError
from package_cache.library.downloads.manager import DownloadManager
from package_cache.storage.parts.part import Part

BODY = random.Random(1).randbytes(1 << 20) * 40
LATE = 24 << 20
Sync = Callable[[int], None]


class Disk:
    """Counts what it is asked to take, and refuses the first of a kind once it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses = ""
        self.refused = threading.Event()
        self.taken = threading.Event()
        monkeypatch.setattr("package_cache.storage.parts.part._WRITE_BACK_BYTES", 16 << 20)  # a smaller file does then
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._instead(name, getattr(os, name)))

    def _instead(self, name: str, sync: Sync) -> Sync:
        def instead(descriptor: int) -> None:
            is_part = os.readlink(f"/proc/self/fd/{descriptor}").endswith(".part")
            if is_part and name == self.refuses:
                self.refuses = ""
                self.refused.set()
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)
            if is_part and name == "fdatasync":
                self.taken.set()

        return instead


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture(params=["into the cache", "to a path"])
def download(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], bytes]:
    """Downloads a URL, and gives its bytes."""
    target = tmp_path / "out" if request.param == "to a path" else None

    def _download(url: str) -> bytes:
        with DownloadManager(tmp_path / "cache", proxies={}, timeout=10, retries=1) as manager:
            return Path(str(manager.download(url, target))).read_bytes()

    return _download


def left(directory: Path) -> list[Path]:
    """What downloads that broke off left for the next."""
    return [*directory.rglob("*.part"), *directory.rglob(".*.part")]


def test_a_large_file_is_written_back_while_it_arrives(
    disk: Disk, download: Callable[[str], bytes], origin: Origin
) -> None:
    gate = Gate()
    origin.put("/a-1.bin", BODY, Serve(gate=gate, gate_at=LATE))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(download, origin.url + "a-1.bin")
        try:
            assert disk.taken.wait(30)
            assert not result.done()
        finally:
            gate.open()
        assert result.result(30) == BODY


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_what_the_disk_lost_is_not_used(
    disk: Disk, download: Callable[[str], bytes], origin: Origin, tmp_path: Path, call: str
) -> None:
    origin.put("/a-1.bin", BODY)
    disk.refuses = call
    with pytest.raises(StoreError, match="Input/output error"):
        download(origin.url + "a-1.bin")
    assert disk.refused.is_set()
    assert not left(tmp_path)
    assert not (tmp_path / "out").exists()
    assert download(origin.url + "a-1.bin") == BODY
    assert ["range" in asked.fields for asked in origin.requests("/a-1.bin")] == [False, False]


def test_nobody_goes_on_with_what_the_disk_lost(
    disk: Disk, download: Callable[[str], bytes], origin: Origin, tmp_path: Path
) -> None:
    """The source breaks off before anybody else could learn of it."""
    gate = Gate()
    origin.put("/a-1.bin", BODY, Serve(gate=gate, gate_at=LATE, cut=LATE), Say(404))
    disk.refuses = "fdatasync"
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(download, origin.url + "a-1.bin")
        try:
            assert disk.refused.wait(30)
        finally:
            gate.open()
        with pytest.raises((DownloadError, StoreError)):
            result.result(30)
    assert not left(tmp_path)
    origin.script("/a-1.bin", Serve())
    assert download(origin.url + "a-1.bin") == BODY


def test_where_the_system_gives_no_thread_all_is_written_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    part = Part(tmp_path / "a.part", create=True)
    for at in range(0, len(BODY), 1 << 20):
        assert part.put(at, BODY[at : at + (1 << 20)])
    part.sync()
    assert part.is_sound()
    part.close()
    assert hashlib.sha256((tmp_path / "a.part").read_bytes()).digest() == hashlib.sha256(BODY).digest()
