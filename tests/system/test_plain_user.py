"""What a plain user may do with files that are read-only, or of another user. Root has products be that user."""

import hashlib
import http.client
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty import Nursery, Plan
from forks import Forks
from origin import Gate, Origin, Serve, until
from plain import give, plain_ground, plain_user
from product import Proxy, files, stored, surroundings
from stage import ask

PATH = "/a-1.0.tar"
OTHER = "/small-1.0.tar"
BODY, SMALL = b"the body of a package" * 5000, b"that of another one"


@pytest.fixture
def ground() -> Iterator[Path]:
    with plain_ground() as place:
        yield place


def done(shell: Forks, *words: str | Path) -> str:
    """What a command of a plain user said, which succeeded."""
    ended = shell.run([str(word) for word in words], surroundings(), plain_user())
    assert (ended.returncode, ended.stderr) == (0, b""), ended
    return ended.stdout.decode()


def filled(start: Callable[..., Proxy], origin: Origin, cache: Path) -> Proxy:
    """A server whose cache has a file, and a row."""
    origin.put(PATH, BODY)
    origin.put(OTHER, SMALL)
    proxy = start(origin.url, cache=cache)
    assert (proxy.get(PATH).body, proxy.get(OTHER).body) == (BODY, SMALL)
    until(lambda: stored(cache) == sorted((PATH, OTHER)))
    return proxy


def test_a_read_only_file_of_ones_own_is_linked_and_not_copied(shell: Forks, ground: Path) -> None:
    file = ground / "tree" / "x-1.0.tar"
    file.parent.mkdir()
    file.write_bytes(b"body")
    file.chmod(0o444)
    give(ground)
    done(shell, "import", file.parent, "--link", "--cache", ground / "cache")
    assert (file.stat().st_nlink, file.stat().st_mode & 0o777) == (2, 0o444)


# What a killed server left


@pytest.fixture
def nursery(nursery: Nursery) -> Nursery:
    """Whose products a plain user runs."""
    return nursery.run_by(plain_user())


def test_a_verified_download_reaches_the_clients_of_another_server_when_its_own_dies_before_the_rename(
    nursery: Nursery, origin: Origin, ground: Path
) -> None:
    body, gate, cache = bytes(range(256)) * 40_000, Gate(), ground / "cache"
    origin.put(PATH, body, Serve(gate=gate, gate_at=1_000_000), Serve())
    plan = Plan(str(cache), str(ground / "report"), point="rename parts-v1/SHA.1.part", ordinal=1)
    doomed = nursery.start(cache, [origin.url], ground, plan)
    assert doomed.wait_until_it_serves()
    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(ask, doomed, PATH)
        assert gate.reached.wait(30)
        other = nursery.start(cache, [origin.url], ground)
        connection = http.client.HTTPConnection(*other.address, timeout=60)
        connection.request("GET", PATH)
        response = connection.getresponse()
        first = response.read(1)
        gate.open()
        until(lambda: not doomed.is_alive())  # clients have the bytes before they have their name
        # While its client still reads, the other server stores it for who asks once the dead one was silent long enough.
        until(lambda: other.get(PATH).body == body and stored(cache) == [PATH])
        assert first + response.read() == body
        connection.close()
        leading.result()
    assert len(origin.requests()) == 1
    for one in (doomed, other):
        one.kill()


def test_what_another_user_left_of_a_download_does_not_keep_it_from_being_stored(
    nursery: Nursery, origin: Origin, ground: Path
) -> None:
    origin.put(PATH, BODY)
    parts = ground / "cache" / "parts-v1"
    parts.mkdir(parents=True)
    give(ground)
    name = hashlib.sha256(PATH.encode()).hexdigest()
    for suffix in ("fill", "1.part"):
        (parts / f"{name}.{suffix}").write_bytes(b"theirs")
        (parts / f"{name}.{suffix}").chmod(0)
    proxy = nursery.start(ground / "cache", [origin.url], ground)
    assert proxy.get(PATH).body == BODY
    until(lambda: stored(proxy.cache) == [PATH])
    until(lambda: not list(parts.iterdir()))
    assert proxy.log_lines() == []
    proxy.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave a directory of its own")
def test_a_directory_of_another_user_among_those_of_the_cache_is_told_at_the_start(
    nursery: Nursery, origin: Origin, ground: Path
) -> None:
    folder = ground / "cache" / "blobs-v1" / "ab"
    folder.mkdir(parents=True)
    give(ground)
    os.chown(folder, 0, 0)
    proxy = nursery.start(ground / "cache", [origin.url], ground)
    assert proxy.wait_until_it_serves()
    [line] = proxy.log_lines()
    assert (
        f"nothing can be stored for now, only what is here is served without a source: cannot write to {folder}: " in line
    )
    proxy.kill()


# Another user's cache


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a plain user look at a cache of another one")
@pytest.mark.parametrize("serving", [True, False], ids=["while it is served", "while nobody uses it"])
def test_what_another_user_has_stored_can_be_read_and_nothing_is_left_there(
    shell: Forks, ground: Path, start: Callable[..., Proxy], origin: Origin, serving: bool
) -> None:
    (ground / "theirs").mkdir()
    cache, out = ground / "theirs" / "cache", ground / "out"
    proxy = filled(start, origin, cache)
    if not serving:
        proxy.stop()
    at = ("--cache", cache)
    assert PATH in done(shell, "ls", *at)
    assert "version 1" in done(shell, "show", PATH, *at)
    assert "is served from the cache" in done(shell, "why", PATH, *at)
    assert done(shell, "cat", PATH, *at) == BODY.decode()
    assert done(shell, "cat", OTHER, *at) == SMALL.decode()
    done(shell, "export", out, *at)
    assert [(out / path[1:]).read_bytes() for path in (PATH, OTHER)] == [BODY, SMALL]
    assert {path.lstat().st_uid for path in cache.rglob("*")} == {0}


# A cache that is only read


@pytest.fixture
def only_read(start: Callable[..., Proxy], origin: Origin, ground: Path) -> Iterator[Path]:
    """A cache with a file, in which nothing can be made."""
    cache = ground / "cache"
    filled(start, origin, cache).stop()
    os.utime(files(cache)[0], ns=(0, 0))
    give(cache)
    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield cache
    for folder in folders:
        folder.chmod(0o755)


def test_a_server_on_a_cache_that_is_only_read_serves_what_is_there_and_passes_on_the_rest(
    nursery: Nursery, only_read: Path, origin: Origin, ground: Path
) -> None:
    before = sorted(only_read.rglob("*"))
    proxy = nursery.start(only_read, [origin.url], ground)
    assert proxy.wait_until_it_serves(), proxy.log_lines()
    origin.put("/b-1.0.tar", b"another")
    for _ in range(2):
        assert (proxy.get(PATH).body, proxy.get(PATH).cache_status) == (BODY, "package-cache; hit")
        assert (proxy.get(OTHER).body, proxy.get(OTHER).cache_status) == (SMALL, "package-cache; hit")
        assert proxy.get("/b-1.0.tar").body == b"another"
    assert [asked.target for asked in origin.requests()] == [PATH, OTHER, "/b-1.0.tar", "/b-1.0.tar"]
    health = proxy.get("/-/health")
    assert (health.status, b"cannot write to " in health.body) == (503, True)
    assert len(proxy.log_lines()) == 2, proxy.log_lines()
    assert sorted(only_read.rglob("*")) == before
    proxy.kill()


def test_a_cache_that_is_only_read_is_changed_by_no_command(shell: Forks, only_read: Path) -> None:
    for words in (("rm", PATH), ("pin", PATH), ("gc",), ("add", __file__, "--uri", "u")):
        ended = shell.run([*words, "--cache", str(only_read)], surroundings(), plain_user())
        assert ended.returncode == 1
        assert b" as the cache: it belongs to " in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_a_registry_that_is_damaged_and_only_read_is_told_in_a_line(shell: Forks, only_read: Path) -> None:
    (only_read / "registry-v1.db").write_bytes(b"this is no registry")
    ended = shell.run(["ls", "--cache", str(only_read)], surroundings(), plain_user())
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1), ended
    assert os.fsencode(only_read) in ended.stderr
