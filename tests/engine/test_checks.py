"""What is stored is compared with its digest once more after each start of the machine, before or while it is served."""

import contextlib
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from origin import Gate, Origin, Serve, until
from product import Proxy, files, rows, stored

from package_cache.storage.blobs import STAMP_NS, BlobStore
from package_cache.storage.parts.part import Part

Start = Callable[..., Proxy]

TINY = random.Random(3).randbytes(3000)
SMALL, LARGE = random.Random(1).randbytes(70_000), random.Random(2).randbytes(3_000_000)
BEFORE = STAMP_NS + 500
"""A seal that was given before the machine was started."""


def flip(path: Path, at: int) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    path.chmod(mode)


def keep(start: Start, origin: Origin, body: bytes, host: str = "wsgiref") -> Path:
    """A stored file, whose server has ended."""
    origin.put("/a-1.tar", body)
    proxy = start(origin.url, host=host)
    assert proxy.get("/a-1.tar").body == body
    until(lambda: stored(proxy.cache) == ["/a-1.tar"])
    proxy.stop()
    [blob] = files(proxy.cache)
    return blob


def boot(blob: Path) -> None:
    """The machine was started anew since the file was stored."""
    os.utime(blob, ns=(BEFORE, BEFORE))


def test_a_small_file_that_rotted_while_the_machine_was_off_is_fetched_again(origin: Origin, start: Start) -> None:
    blob = keep(start, origin, SMALL)
    flip(blob, 40_000)
    boot(blob)
    proxy = start(origin.url)
    for _ in range(2):
        answer = proxy.get("/a-1.tar")
        assert (answer.status, answer.body) == (200, SMALL)
    assert len(origin.requests()) == 2
    assert any("has other bytes than its name says" in line for line in proxy.log)


def test_a_row_that_rotted_is_fetched_again_though_the_machine_was_never_off(
    origin: Origin, start: Start, host: str
) -> None:
    body = origin.put("/a-1.tar", TINY)
    proxy = start(origin.url, host=host)
    assert proxy.get("/a-1.tar").body == body
    until(lambda: stored(proxy.cache) == ["/a-1.tar"])
    proxy.stop()
    [row] = rows(proxy.cache)
    row.write_bytes(TINY[:-1] + b"?")
    proxy = start(origin.url, host=host)
    for _ in range(2):
        answer = proxy.get("/a-1.tar")
        assert (answer.status, answer.body) == (200, body)
    assert len(origin.requests()) == 2
    assert any("has other bytes than its name says" in line for line in proxy.log)
    until(lambda: [row.read_bytes() for row in rows(proxy.cache)] == [body])
    assert [path.read_bytes() for path in (proxy.cache / "quarantine-v1").iterdir()] == [TINY[:-1] + b"?"]


def test_a_large_file_that_rotted_while_the_machine_was_off_is_never_whole_and_then_fetched_again(
    origin: Origin, start: Start, host: str
) -> None:
    blob = keep(start, origin, LARGE, host)
    flip(blob, 1_000_000)
    boot(blob)
    proxy = start(origin.url, host=host)
    answer = proxy.get("/a-1.tar")
    assert (answer.status, answer.whole) == (200, False)
    assert len(answer.body) <= len(LARGE) - 65536
    until(lambda: stored(proxy.cache) == [])
    answer = proxy.get("/a-1.tar")
    assert (answer.status, answer.body, answer.whole) == (200, LARGE, True)
    assert len(list((proxy.cache / "quarantine-v1").iterdir())) == 1


@pytest.mark.parametrize("span", [(10, 1000), (2_000_000, 2_999_999)])
def test_no_range_of_a_large_file_that_rotted_is_whole_before_the_file_was_compared(
    origin: Origin, start: Start, span: tuple[int, int]
) -> None:
    blob = keep(start, origin, LARGE)
    flip(blob, 1_000_000)
    boot(blob)
    answer = start(origin.url).get("/a-1.tar", {"Range": f"bytes={span[0]}-{span[1]}"})
    assert (answer.status, answer.whole) == (206, False)


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_a_sound_file_is_compared_once_after_a_start_of_the_machine(origin: Origin, start: Start, body: bytes) -> None:
    blob = keep(start, origin, body)
    this = blob.stat().st_mtime_ns
    boot(blob)
    proxy = start(origin.url)
    answer = proxy.get("/a-1.tar")
    assert (answer.body, answer.whole, answer.cache_status) == (body, True, "package-cache; hit")
    until(lambda: blob.stat().st_mtime_ns == this)
    changed = blob.stat().st_ctime_ns
    for _ in range(2):
        assert proxy.get("/a-1.tar").body == body
    assert blob.stat().st_ctime_ns == changed
    assert len(origin.requests()) == 1


def test_ranges_of_a_sound_file_are_whole_though_it_is_compared_meanwhile(origin: Origin, start: Start, host: str) -> None:
    blob = keep(start, origin, LARGE, host)
    proxy = start(origin.url, host=host)
    for first, last in ((0, 2_999_999), (10, 1000), (2_999_993, 2_999_999)):
        boot(blob)
        answer = proxy.get("/a-1.tar", {"Range": f"bytes={first}-{last}"})
        assert (answer.status, answer.body, answer.whole) == (206, LARGE[first : last + 1], True)


def test_what_was_stored_or_compared_in_this_boot_is_not_read_through_again(tmp_path: Path) -> None:
    store, digest = BlobStore(tmp_path / "blobs-v1"), hashlib.sha256(SMALL).hexdigest()
    part = Part(tmp_path / "a.part", create=True)
    part.put(0, SMALL)
    store.finalize(part)
    store.publish(part, digest)
    part.close()
    path, size = store.path(digest), len(SMALL)
    for moment, checked in ((store.stamp_ns, True), (BEFORE, False), (STAMP_NS, False)):
        os.utime(path, ns=(moment, moment))
        file, is_checked = store.glance(digest, size)
        file.close()
        assert is_checked is checked
    store.open(digest, size).close()
    assert path.stat().st_mtime_ns == store.stamp_ns


def test_what_a_silent_source_is_asked_for_keeps_nobody_from_a_file_that_is_to_be_checked(
    origin: Origin, start: Start, tmp_path: Path
) -> None:
    """Whether it is a look at a head or a file that is not stored: such a file is looked at in a thread."""
    boot(keep(start, origin, SMALL))
    config = tmp_path / "config.toml"
    rule = '[[repository.rule]]\nmatch = "/passed/*"\nfresh = "never"\n'
    config.write_text(f'[[repository]]\nname = "x"\nprefix = "/"\nsources = ["{origin.url}"]\n{rule}')
    proxy, gate = start(config=config, environment={"PACKAGE_CACHE_HEAD_TIMEOUT": "120"}), Gate()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(proxy.connect())) for _ in range(150)]
        for at, client in enumerate(clients):
            method, path = ("HEAD", f"/pool/b-{at}.bin") if at % 10 == 0 else ("GET", f"/passed/{at}")
            origin.put(path, TINY, Serve(before=gate))
            client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert gate.reached.wait(30)
        assert proxy.get("/a-1.tar").body == SMALL
        gate.open()
        assert {client.recv(12) for client in clients} == {b"HTTP/1.1 200"}
