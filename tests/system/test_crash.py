"""What killed processes leave: nothing wrong is ever served of it, and what is right is used."""

import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from forks import Forks
from origin import Gate, Origin, Say, Serve, until
from product import Proxy, blobs, parts

OVERLAP = 4096
"""Bytes before the joint that are asked for again."""
HALF = 300_000


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


BODY, OTHER = noise(600_000, 1), noise(500_000, 2)


@contextmanager
def streaming(proxy: Proxy, target: str) -> Iterator[http.client.HTTPResponse]:
    """A response whose body the test reads bit by bit."""
    connection = http.client.HTTPConnection(*proxy.address, timeout=60)
    try:
        connection.request("GET", target)
        yield connection.getresponse()
    finally:
        connection.close()


def rest(response: http.client.HTTPResponse) -> bytes:
    """What still comes of a body, cut or not."""
    try:
        return response.read()
    except http.client.IncompleteRead as error:
        return error.partial
    except ConnectionError:
        return b""


def size_of_part(cache: Path) -> int:
    [part] = [path for path in parts(cache) if path.suffix == ".part"]
    return part.stat().st_size


def assert_sound(cache: Path) -> None:
    """Every blob is what its name says, and every version that can be served has its blob."""
    sizes = {}
    for path in blobs(cache):
        data = path.read_bytes()
        assert hashlib.sha256(data).hexdigest() == path.name
        sizes[path.name] = len(data)
    with closing(sqlite3.connect(cache / "registry-v1.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute(
            "SELECT entry.digest, blob.size, entry.representation FROM entry LEFT JOIN blob USING (digest) WHERE status = 3"
        ).fetchall()
    for digest, size, representation in rows:
        assert sizes[digest] == size == json.loads(representation)["size"]
    assert not [path for path in parts(cache) if path.suffix == ".part"]


def break_off(origin: Origin, start: Callable[..., Proxy], cache: Path, **options: object) -> int:
    """Kill a server in the middle of a download; how many bytes it has of it."""
    gate = Gate()
    origin.put("/a-1.tar", BODY, Serve(gate=gate, gate_at=HALF))
    proxy = start(origin.url, cache=cache, **options)
    with streaming(proxy, "/a-1.tar") as response:
        response.read(200_000)
        assert gate.reached.wait(30)
        until(lambda: size_of_part(cache) == HALF)
        proxy.kill()
    gate.open()
    origin.script("/a-1.tar", Serve())
    return HALF


# A server that is killed and started again


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_download_goes_on_where_the_killed_server_stopped(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path, host: str
) -> None:
    have = break_off(origin, start, tmp_path / "cache", host=host)
    proxy = start(origin.url, host=host)
    answer = proxy.get("/a-1.tar")
    assert (answer.status, answer.whole, answer.body) == (200, True, BODY)
    _, asked = origin.requests()
    assert asked.fields["range"] == f"bytes={have - OVERLAP}-"
    assert asked.fields["if-range"] == origin.things["/a-1.tar"].etag
    until(lambda: not parts(proxy.cache))
    assert_sound(proxy.cache)


def test_a_download_goes_on_where_the_server_was_told_to_end(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    gate = Gate()
    origin.put("/a-1.tar", BODY, Serve(gate=gate, gate_at=HALF), Serve())
    proxy = start(origin.url)
    with streaming(proxy, "/a-1.tar") as response:
        response.read(200_000)
        until(lambda: size_of_part(proxy.cache) == HALF)
        assert proxy.stop() == 0
    gate.open()
    assert start(origin.url).get("/a-1.tar").body == BODY
    assert origin.requests()[1].fields["range"] == f"bytes={HALF - OVERLAP}-"


def test_a_download_that_was_killed_goes_on_with_another_mirror(
    origin: Origin, another: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    break_off(origin, start, tmp_path / "cache")
    origin.script("/a-1.tar", Say(404))
    another.put("/a-1.tar", BODY)
    assert start(origin.url, another.url).get("/a-1.tar").body == BODY
    assert another.requests()[0].fields["range"] == f"bytes={HALF - OVERLAP}-"


@pytest.mark.parametrize("etag", ["auto", '"the same"'])
def test_a_file_that_changed_since_the_server_was_killed_is_fetched_anew(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path, etag: str
) -> None:
    break_off(origin, start, tmp_path / "cache")
    origin.things["/a-1.tar"].etag = etag
    origin.put("/a-1.tar", OTHER, etag=etag)
    proxy = start(origin.url)
    answer = proxy.get("/a-1.tar")
    assert (answer.status, answer.whole, answer.body) == (200, True, OTHER)
    until(lambda: not parts(proxy.cache))
    assert_sound(proxy.cache)


# What is found in the directory of parts


@dataclass(frozen=True)
class Left:
    """A cache with a broken download in it, and the source that has the file."""

    origin: Origin
    cache: Path


@pytest.fixture(scope="module")
def left(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    origin, cache = Origin(), tmp_path_factory.mktemp("left") / "cache"
    break_off(origin, lambda *sources, **options: Proxy(sources=sources, spawn=forks.spawn, **options), cache)
    yield Left(origin, cache)
    origin.stop()


def tear(journal: Path, part: Path) -> None:
    with journal.open("ab") as file:
        file.write(b'{"whole": "0')


def add_garbage(journal: Path, part: Path) -> None:
    with journal.open("ab") as file:
        file.write(b"\0\0\xff\n")


def add_what_no_format_knows(journal: Path, part: Path) -> None:
    with journal.open("ab") as file:
        file.write(b'{"later": 1}\n')


def be_of_another_boot(journal: Path, part: Path) -> None:
    text = journal.read_text()
    changed = re.sub(r'"claim": "[^"]+"', '"claim": "00000000-0000-0000-0000-000000000000"', text)
    assert changed != text
    journal.write_text(changed)


def be_all_garbage(journal: Path, part: Path) -> None:
    journal.write_bytes(noise(1000))


def be_empty(journal: Path, part: Path) -> None:
    journal.write_bytes(b"")


def lose_the_journal(journal: Path, part: Path) -> None:
    journal.unlink()


def lose_the_part(journal: Path, part: Path) -> None:
    part.unlink()


def shorten_the_part(journal: Path, part: Path) -> None:
    os.truncate(part, 200_000)


def empty_the_part(journal: Path, part: Path) -> None:
    os.truncate(part, 0)


def spoil_the_end_of_the_part(journal: Path, part: Path) -> None:
    with part.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"x")


def lengthen_the_part(journal: Path, part: Path) -> None:
    with part.open("ab") as file:
        file.write(bytes(len(BODY)))


DAMAGES: dict[Callable[[Path, Path], None], str | None] = {
    tear: f"bytes={HALF - OVERLAP}-",
    add_garbage: None,
    add_what_no_format_knows: None,
    be_of_another_boot: None,
    be_all_garbage: None,
    be_empty: None,
    lose_the_journal: None,
    lose_the_part: None,
    shorten_the_part: f"bytes={200_000 - OVERLAP}-",
    empty_the_part: None,
}
"""What happened to the files, and the range that is asked for then."""


def start_on_damaged(
    left: Left, start: Callable[..., Proxy], damage: Callable[[Path, Path], None], tmp_path: Path
) -> Proxy:
    """A server on a damaged copy of the cache."""
    cache = tmp_path / "cache"
    shutil.copytree(left.cache, cache)
    part, journal = sorted(parts(cache), key=lambda path: path.suffix, reverse=True)
    damage(journal, part)
    return start(left.origin.url, cache=cache)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_a_broken_download_is_used_as_far_as_it_can_be_trusted(
    left: Left, start: Callable[..., Proxy], tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    asked = len(left.origin.requests())
    proxy = start_on_damaged(left, start, damage, tmp_path)
    answer = proxy.get("/a-1.tar")
    assert (answer.status, answer.whole, answer.body) == (200, True, BODY)
    until(lambda: not parts(proxy.cache))
    assert_sound(proxy.cache)
    assert [one.fields.get("range") for one in left.origin.requests()[asked:]] == [DAMAGES[damage]]


@pytest.mark.parametrize("damage", [spoil_the_end_of_the_part, lengthen_the_part], ids=lambda one: one.__name__)
def test_bytes_that_are_not_of_the_file_are_found_out(
    left: Left, start: Callable[..., Proxy], tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    proxy = start_on_damaged(left, start, damage, tmp_path)
    answer = proxy.get("/a-1.tar")
    assert not answer.whole or answer.body == BODY
    until(lambda: not parts(proxy.cache))
    assert proxy.get("/a-1.tar").body == BODY
    assert_sound(proxy.cache)


def test_a_torn_line_is_mended_so_that_the_next_crash_is_survived_too(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    break_off(origin, start, tmp_path / "cache")
    journal = next(path for path in parts(tmp_path / "cache") if path.suffix == ".fill")
    for further in range(2):
        tear(journal, journal)
        gate = Gate()
        origin.script("/a-1.tar", Serve(gate=gate, gate_at=400_000 + further))
        proxy = start(origin.url)
        with streaming(proxy, "/a-1.tar") as response:
            response.read(HALF)
            until(lambda: size_of_part(tmp_path / "cache") >= 400_000)
            assert all(json.loads(line) for line in journal.read_bytes().splitlines())
            proxy.kill()
        gate.open()
    origin.script("/a-1.tar", Serve())
    assert start(origin.url).get("/a-1.tar").body == BODY
    assert all("range" in asked.fields for asked in origin.requests()[1:])


# Several processes, one of which is killed


def leader_among(pids: Iterable[int]) -> int:
    """The process that leads the only download: it alone has the part open to write."""
    [leader] = [pid for pid in pids if any(map(_is_written, Path(f"/proc/{pid}/fd").glob("*")))]
    return leader


def _is_written(descriptor: Path) -> bool:
    with suppress(FileNotFoundError):  # closed meanwhile
        information = (descriptor.parent.with_name("fdinfo") / descriptor.name).read_text()
        flags = int(re.findall(r"^flags:\s*(\d+)", information, re.MULTILINE)[0], 8)
        return os.readlink(descriptor).endswith(".part") and flags & os.O_ACCMODE == os.O_RDWR
    return False


def have_opened_the_registry(pids: list[int]) -> bool:
    """Whether all of these processes are ready to serve."""
    opened = [{os.path.realpath(path) for path in Path(f"/proc/{pid}/fd").iterdir()} for pid in pids]
    return all(any(name.endswith("registry-v1.db") for name in names) for names in opened)


def test_clients_of_the_other_worker_notice_nothing_when_the_leader_is_killed(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    gate = Gate()
    origin.put("/a-1.tar", BODY, Serve(gate=gate, gate_at=HALF), Serve())
    proxy = start(origin.url, host="gunicorn")
    until(lambda: len(proxy.workers()) == 2 and have_opened_the_registry(proxy.workers()))
    with ExitStack() as stack:
        clients = [stack.enter_context(streaming(proxy, "/a-1.tar")) for _ in range(12)]
        got = [client.read(HALF) for client in clients]
        until(lambda: size_of_part(proxy.cache) == HALF)
        leader = leader_among(proxy.workers())
        # Which worker accepts is the kernel's choice; while the leader is stopped, the other one does.
        os.kill(leader, signal.SIGSTOP)
        others = [stack.enter_context(streaming(proxy, "/a-1.tar")) for _ in range(12)]
        got += [client.read(HALF) for client in others]
        clients += others
        os.kill(leader, signal.SIGKILL)
        with ThreadPoolExecutor(len(clients)) as pool:
            bodies = [first + second for first, second in zip(got, pool.map(rest, clients), strict=True)]
        gate.open()
    assert all(BODY.startswith(body) for body in bodies)
    survivors = [body for body in bodies if len(body) == len(BODY)]
    assert len(others) <= len(survivors) < len(bodies)
    assert [asked.fields.get("range") for asked in origin.requests()] == [None, f"bytes={HALF - OVERLAP}-"]
    until(lambda: not parts(proxy.cache))
    assert_sound(proxy.cache)
    assert proxy.get("/a-1.tar").body == BODY


def test_two_servers_on_one_directory_share_a_download(origin: Origin, start: Callable[..., Proxy]) -> None:
    gate = Gate()
    origin.put("/a-1.tar", BODY, Serve(gate=gate, gate_at=HALF))
    servers = [start(origin.url), start(origin.url, host="gunicorn")]
    with ExitStack() as stack:
        clients = [stack.enter_context(streaming(server, "/a-1.tar")) for server in servers * 3]
        got = [client.read(HALF) for client in clients]
        assert not gate.opened.is_set()
        gate.open()
        assert all(first + client.read() == BODY for first, client in zip(got, clients, strict=True))
    assert len(origin.requests()) == 1
    for server in servers:
        answer = server.get("/a-1.tar")
        assert answer.body == BODY
    assert len(origin.requests()) == 1


def test_the_other_server_takes_a_download_over_whenever_the_leader_is_killed(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    places = (100_000, 200_000, 300_000, 400_000)
    gates = [Gate() for _ in places]
    origin.put("/a-1.tar", BODY, *(Serve(gate=gate, gate_at=at) for gate, at in zip(gates, places, strict=True)), Serve())
    servers = [start(origin.url) for _ in range(len(places) + 1)]
    with ExitStack() as stack:
        leading = stack.enter_context(streaming(servers[0], "/a-1.tar"))
        leading.read(1)
        clients = [stack.enter_context(streaming(server, "/a-1.tar")) for server in servers[1:]]
        got = [client.read(1) for client in clients]
        for gate, at in zip(gates, places, strict=True):
            assert gate.reached.wait(30)
            until(lambda at=at: size_of_part(servers[0].cache) == at)  # type: ignore[misc]
            leader = leader_among(server.process.pid for server in servers)
            next(server for server in servers if server.process.pid == leader).kill()
        alive = [at for at, server in enumerate(servers[1:]) if server.process.poll() is None]
        assert len(alive) == 1
        assert got[alive[0]] + clients[alive[0]].read() == BODY
        for gate in gates:
            gate.open()
    assert [asked.fields.get("range") for asked in origin.requests()[1:]] == [f"bytes={at - OVERLAP}-" for at in places]


DIE = """\
import os, signal, sys

def hook(event, arguments):
    if event == {event!r} and {place!r} in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
"""


@pytest.mark.parametrize(("event", "place"), [("os.rename", ".part"), ("open", "blobs-v1/")], ids=["before", "after"])
def test_a_verified_file_reaches_clients_elsewhere_though_its_leader_dies_at_the_rename(
    origin: Origin, start: Callable[..., Proxy], tmp_path: Path, event: str, place: str
) -> None:
    body, gate = noise(20_000_000), Gate()
    origin.put("/a-1.tar", body, Serve(gate=gate, gate_at=1_000_000), Serve())
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIE.format(event=event, place=place))
    doomed = start(origin.url, environment={"PYTHONPATH": str(tmp_path / "site")})
    other = start(origin.url)
    with streaming(doomed, "/a-1.tar") as leading, streaming(other, "/a-1.tar") as slow:
        leading.read(1)
        got = slow.read(1)
        gate.open()
        doomed.process.wait(30)
        doomed.kill()
        until(lambda: other.get("/a-1.tar").body == body and not parts(other.cache))
        assert got + rest(slow) == body
    assert_sound(other.cache)
