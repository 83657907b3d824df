"""`package-cache fsck` finds what is wrong in both directions, mends it by digest, and goes on after an interruption."""

import json
import os
import pty
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from forks import Forks, run
from origin import Gate, Origin, Serve, until
from product import Proxy, blobs, parts
from stock import BODIES, Stock, blob_of, fill, make, names, rot, serves_all, shorten

from package_cache.model import Key
from package_cache.storage.inventory import Inventory
from package_cache.storage.registry import Registry

A, B, *_ = BODIES

pytestmark = pytest.mark.usefixtures("shell")


@pytest.fixture(scope="module")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    stock = make(tmp_path_factory.mktemp("whole") / "cache", forks)
    yield stock
    stock.origin.stop()


@pytest.fixture
def stock(whole: Stock, tmp_path: Path) -> Stock:
    """A copy that a test may damage."""
    return Stock(whole.origin, whole.copy(tmp_path / "cache"))


def command(cache: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "package_cache", "fsck", "--cache", str(cache), *arguments]


def fsck(cache: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    ended = run("fsck", "--cache", str(cache), *arguments)
    assert "Traceback" not in ended.stderr
    return ended


def report(stock: Stock, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and problems."""
    ended = fsck(stock.cache, "--json", "--source", stock.origin.url, *arguments)
    found = json.loads(ended.stdout)
    assert found["whole"]
    return ended.returncode, found["problems"]


def edit(cache: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(cache / "registry-v1.db")) as connection, connection:
        connection.execute(statement, values)


def test_a_sound_cache_is_clean(stock: Stock) -> None:
    ended = fsck(stock.cache)
    size = sum(map(len, BODIES.values()))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"checked {len(BODIES)} files, {size} bytes: no problems\n"


def remove(cache: Path) -> None:
    blob_of(cache, BODIES[A]).unlink()


def cut_short(cache: Path) -> None:
    shorten(blob_of(cache, BODIES[A]), 10)


def spoil(cache: Path) -> None:
    rot(blob_of(cache, BODIES[A]))


@pytest.mark.parametrize(("damage", "kind"), [(remove, "missing"), (cut_short, "damaged"), (spoil, "damaged")])
def test_a_damaged_file_is_found_and_fetched_again(stock: Stock, damage: Callable[[Path], None], kind: str) -> None:
    name = blob_of(stock.cache, BODIES[A]).name
    damage(stock.cache)
    before = len(stock.origin.requests(A))
    for _ in range(2):
        code, [problem] = report(stock)
        assert (code, problem["kind"], problem["name"], problem["keys"]) == (1, kind, name, [A])
        assert problem["mended"] is None
    code, [problem] = report(stock, "--repair")
    assert (code, problem["kind"], problem["name"], problem["mended"]) == (0, kind, name, "fetched again")
    assert len(stock.origin.requests(A)) == before + 1
    assert blob_of(stock.cache, BODIES[A]).read_bytes() == BODIES[A]
    assert report(stock) == (0, [])
    assert names(stock.cache) == len(BODIES)


def test_a_source_that_has_other_bytes_now_is_named_and_not_believed(stock: Stock) -> None:
    other = Origin()
    try:
        other.put(A, random.Random(9).randbytes(len(BODIES[A])))
        spoil(stock.cache)
        ended = fsck(stock.cache, "--repair", "--source", other.url)
        assert ended.returncode == 1
        assert "other bytes" in ended.stdout
        assert A in ended.stdout
        assert names(stock.cache) == len(BODIES) - 1
        assert len(blobs(stock.cache)) == len(BODIES) - 1
        assert parts(stock.cache) == []
    finally:
        other.stop()


def test_a_file_that_no_source_has_any_more_stays_out_of_service(stock: Stock, origin: Origin) -> None:
    spoil(stock.cache)
    ended = fsck(stock.cache, "--repair", "--source", origin.url)
    assert ended.returncode == 1
    assert "not fetched again" in ended.stdout
    assert names(stock.cache) == len(BODIES) - 1


def test_what_could_not_be_fetched_is_fetched_when_the_source_has_it_again(stock: Stock, origin: Origin) -> None:
    spoil(stock.cache)
    assert fsck(stock.cache, "--repair", "--source", origin.url).returncode == 1
    code, [problem] = report(stock)
    assert (code, problem["kind"], problem["keys"], problem["mended"]) == (1, "lost", [A], None)
    code, [problem] = report(stock, "--repair")
    assert (code, problem["kind"], problem["mended"]) == (0, "lost", "fetched again")
    assert report(stock) == (0, [])
    assert names(stock.cache) == len(BODIES)


def test_what_came_anew_meanwhile_is_not_lost(stock: Stock, origin: Origin, start: Callable[..., Proxy]) -> None:
    spoil(stock.cache)
    assert fsck(stock.cache, "--repair", "--source", origin.url).returncode == 1
    newer = origin.put(A, random.Random(8).randbytes(5000))
    proxy = start(origin.url, cache=stock.cache)
    assert proxy.get(A).body == newer
    until(lambda: names(stock.cache) == len(BODIES))
    proxy.stop()
    assert report(stock) == (0, [])


def test_a_damaged_file_in_the_trash_is_removed_and_not_brought_back(stock: Stock) -> None:
    registry = Registry(stock.cache / "registry-v1.db")
    assert Inventory(registry.database).discard(Key(A))
    registry.close()
    spoil(stock.cache)
    before = len(stock.origin.requests(A))
    code, [problem] = report(stock, "--repair")
    assert (code, problem["keys"], problem["mended"]) == (0, [A], "removed for good")
    assert len(stock.origin.requests(A)) == before
    assert report(stock) == (0, [])
    assert names(stock.cache) == len(BODIES) - 1


def test_every_name_of_a_mended_file_is_served_again(stock: Stock, start: Callable[..., Proxy]) -> None:
    registry = Registry(stock.cache / "registry-v1.db")
    entry = registry.best(Key(A))
    assert entry is not None
    registry.commit(Key("/gone-from-the-source-1.tar"), entry.digest, entry.representation)
    registry.close()
    spoil(stock.cache)
    code, [problem] = report(stock, "--repair")
    assert (code, problem["keys"], problem["mended"]) == (0, [A, "/gone-from-the-source-1.tar"], "fetched again")
    assert start(stock.origin.url, cache=stock.cache).get("/gone-from-the-source-1.tar").body == BODIES[A]


def test_wrong_totals_are_found_and_counted_anew(stock: Stock) -> None:
    edit(stock.cache, "UPDATE total SET bytes = 7")
    assert [problem["kind"] for problem in report(stock)[1]] == ["totals"]
    assert report(stock, "--repair")[0] == 0
    assert report(stock) == (0, [])


def test_a_ledger_that_lacks_lines_is_found_and_completed(stock: Stock) -> None:
    (stock.cache / "ledger-v1").unlink()
    assert [problem["kind"] for problem in report(stock)[1]] == ["ledger"]
    assert report(stock, "--repair")[0] == 0
    assert report(stock) == (0, [])


def test_an_index_of_the_registry_that_lies_is_found_and_the_registry_made_again(stock: Stock) -> None:
    edit(stock.cache, "PRAGMA writable_schema = ON")
    with closing(sqlite3.connect(stock.cache / "registry-v1.db")) as connection:
        [[page]] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entry_digest'")
    with (stock.cache / "registry-v1.db").open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(bytes(1000))
    code, problems = report(stock, "--repair")
    assert (code, problems[0]["kind"], problems[0]["mended"]) == (0, "registry", "made again")
    assert report(stock) == (0, [])
    assert names(stock.cache) == len(BODIES)


def test_downloads_that_nobody_goes_on_with_and_files_half_made_are_removed(stock: Stock) -> None:
    left = [stock.cache / "parts-v1" / f"{'a' * 64}.fill", stock.cache / "parts-v1" / f"{'a' * 64}.3.part"]
    left += [stock.cache / "ledger-v1.new", stock.cache / "registry-v1.db.new"]
    for path in left:
        path.write_bytes(b"")
        os.utime(path, (1e9, 1e9))
    young = stock.cache / "parts-v1" / f"{'b' * 64}.1.part"
    young.write_bytes(b"")
    code, problems = report(stock)
    assert (code, sorted(problem["kind"] for problem in problems)) == (1, ["leftover", "leftover", "part"])
    assert report(stock, "--repair")[0] == 0
    assert [path for path in (*left, young) if path.exists()] == [young]


def test_a_young_file_without_an_entry_is_left_alone(stock: Stock) -> None:
    edit(stock.cache, "DELETE FROM entry WHERE key = ?", A)
    edit(stock.cache, "DELETE FROM blob WHERE digest = ?", blob_of(stock.cache, BODIES[A]).name)
    edit(stock.cache, "UPDATE total SET entries = (SELECT count(*) FROM entry)")
    report(stock, "--repair")
    assert blob_of(stock.cache, BODIES[A]).exists()


def test_a_file_that_is_no_blob_is_named_and_left_alone(stock: Stock) -> None:
    path = blob_of(stock.cache, BODIES[A]).with_name("notes\x1b.txt")
    path.write_text("mine")
    ended = fsck(stock.cache, "--repair", "--source", stock.origin.url)
    assert ended.returncode == 1
    assert "foreign" in ended.stdout
    assert "\x1b" not in ended.stdout
    assert path.exists()


def test_it_mends_beside_the_running_service(origin: Origin, start: Callable[..., Proxy], host: str) -> None:
    proxy = start(origin.url, host=host)
    fill(origin, proxy)
    rot(blob_of(proxy.cache, BODIES[A]))
    gate = Gate()
    body = origin.put("/running-1.tar", random.Random(3).randbytes(500_000), Serve(gate=gate, gate_at=200_000))
    with proxy.connect() as client:
        client.sendall(b"GET /running-1.tar HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert gate.reached.wait(30)
        code, problems = report(Stock(origin, proxy.cache), "--repair")
        assert (code, [problem["kind"] for problem in problems]) == (0, ["damaged"])
        gate.open()
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.endswith(body)
    serves_all(proxy)
    assert len(origin.requests(A)) == 2


@pytest.fixture
def slow(stock: Stock) -> Stock:
    """A damaged cache whose mending waits for the source."""
    for body in BODIES.values():
        rot(blob_of(stock.cache, body))
    return stock


def test_it_goes_on_where_it_was_interrupted(slow: Stock) -> None:
    order = sorted(BODIES, key=lambda path: blob_of(slow.cache, BODIES[path]).name)
    gates = [Gate(), Gate()]
    source = Origin()
    try:
        for number, path in enumerate(order):
            source.put(path, BODIES[path], Serve(before=gates[0]) if number == 5 else Serve())
        arguments = command(slow.cache, "--repair", "--json", "--source", source.url)
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert gates[0].reached.wait(30)
            process.send_signal(signal.SIGINT)
            gates[0].open()
            out, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert not json.loads(out)["whole"]
        assert len(json.loads(out)["problems"]) == 5
        before = {path: len(source.requests(path)) for path in order[:5]}
        ended = fsck(slow.cache, "--repair", "--json", "--source", source.url)
        found = json.loads(ended.stdout)
        assert {path: len(source.requests(path)) for path in order[:5]} == before
        assert found["whole"]
        assert [problem["keys"][0] for problem in found["problems"]][:5] == order[:5]
        assert {problem["mended"] for problem in found["problems"]} == {"fetched again"}
        assert not (slow.cache / "fsck-v1").exists()
    finally:
        source.stop()


def test_a_check_with_other_options_begins_anew(stock: Stock) -> None:
    spoil(stock.cache)
    cursor = {"place": "f" * 64, "files": 12, "bytes": 1, "problems": [], "repair": False}
    (stock.cache / "fsck-v1").write_text(json.dumps(cursor))
    assert report(stock, "--repair")[1][0]["mended"] == "fetched again"
    (stock.cache / "fsck-v1").write_text("{")
    assert report(stock) == (0, [])


def test_progress_is_shown_on_a_terminal(stock: Stock) -> None:
    ours, theirs = pty.openpty()
    spoil(stock.cache)
    source = Origin()
    try:
        source.put(A, BODIES[A], Serve(pace=10_000))
        arguments = command(stock.cache, "--repair", "--source", source.url)
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
            os.close(theirs)
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert " % " in os.read(ours, 65536).decode()
        assert "\x1b" not in out
    finally:
        source.stop()
        os.close(ours)


@pytest.mark.parametrize("arguments", [("--repair",), ("--mend",), ("--source", "nothing"), ("--repair", "--source", "x:")])
def test_wrong_options_are_refused(stock: Stock, arguments: tuple[str, ...]) -> None:
    ended = fsck(stock.cache, *arguments)
    assert ended.returncode == 2
    assert arguments[0] in ended.stderr or "source" in ended.stderr


def test_a_directory_that_is_no_cache_is_left_as_it_is(tmp_path: Path) -> None:
    ended = fsck(tmp_path / "empty")
    assert ended.returncode == 1
    assert "no cache" in ended.stderr
    assert not (tmp_path / "empty").exists()


def test_two_do_not_run_at_once(stock: Stock) -> None:
    spoil(stock.cache)
    gate, source = Gate(), Origin()
    try:
        source.put(A, BODIES[A], Serve(before=gate))
        arguments = command(stock.cache, "--repair", "--source", source.url)
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert gate.reached.wait(30)
            ended = fsck(stock.cache)
            gate.open()
            assert process.wait(30) == 0
        assert ended.returncode == 1
        assert "another fsck" in ended.stderr
    finally:
        source.stop()
