"""Downloads under attack: many waiters, many processes, leaders that fail and die. Whoever waits is told; nothing is left.

Each attack is made from a number, which a failure shows. Run as a program, this file is another process on the same cache.
"""

import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from origin import until
from product import as_program

from package_cache.engine.fills.leading import Leading, Store
from package_cache.engine.fills.places import Places
from package_cache.engine.fills.reader import Progress
from package_cache.engine.fills.running import Fills
from package_cache.engine.threads import Run, Threads
from package_cache.errors import StoreError
from package_cache.model import Key, Representation
from package_cache.storage.parts.leases import Failed, PartStore

SEEDS = [1, 2, 3]


# --- Places


@dataclass
class Count:
    """Counts what runs; more than may is a fault."""

    places: int
    guard: threading.Lock = field(default_factory=threading.Lock)
    running: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def taken(self, client: str) -> Iterator[None]:
        with self.guard:
            self.running[client] += 1
            if self.running.total() > self.places or self.running[client] > max(1, self.places * 3 // 4):
                self.faults.append(f"{self.running} of {self.places}")
        try:
            yield
        finally:
            with self.guard:
                self.running[client] -= 1


class Visitor:
    """A download whose clients come and go: whether somebody wants it may be another matter each time one looks."""

    def __init__(self, number: int, dice: random.Random, places: Count) -> None:
        self.client = dice.choice("aaab")
        self.fates: list[str] = []
        self._places = places
        self._dice = random.Random(number)
        self._seconds = dice.choice([0.0, 0.001, 0.004, 0.008])
        self._looks = dice.choice([[], [], [False], [True, False], [False, False]])

    def begin(self) -> None:
        self.fates.append("begun")
        with self._places.taken(self.client):
            time.sleep(self._seconds)

    @property
    def is_wanted(self) -> bool:
        return self._looks.pop() if self._looks else True

    def drop(self, *, forced: bool) -> bool:
        if not forced and self.is_wanted:
            time.sleep(self._seconds * 3)  # whatever runs may end meanwhile
            return False
        self.fates.append("dropped")
        return True

    def enter(self, line: Places, run: Run) -> None:
        def perhaps(job: Callable[[], None]) -> None:
            if self._dice.random() < 0.1:
                raise RuntimeError("no thread")
            run(job)

        try:
            line.enter(self, perhaps)
        except RuntimeError:
            self.fates.append("refused")


@pytest.mark.parametrize("seed", SEEDS)
def test_everybody_in_the_line_begins_or_is_dropped_and_no_place_is_lost(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("package_cache.engine.fills.places._LOOK_SECONDS", 0.002)
    dice = random.Random(seed)
    places = Count(dice.choice([1, 2, 5]))
    threads = Threads("race")
    line = Places(places.places, threads, patience=60)
    with ThreadPoolExecutor(8) as pool:
        for wave in range(60):
            visitors = [Visitor(100 * wave + number, dice, places) for number in range(dice.choice([2, 3, 4, 16]))]
            list(pool.map(lambda one: one.enter(line, threads.run), visitors))
            until(lambda among=visitors: all(one.fates for one in among), 10)
            until(lambda: places.running.total() == 0)
            assert {len(one.fates) for one in visitors} == {1}
    assert places.faults == []
    last = [Visitor(number, random.Random(number), places) for number in range(places.places)]
    for one in last:  # each of them has a place
        one.client = f"client {id(one)}"
        line.enter(one, threads.run)
    until(lambda: all(one.fates == ["begun"] for one in last))


# --- Fills of several processes


KEYS = [Key(f"/{number}.tar") for number in range(6)]
BODY = random.Random(0).randbytes(300_000)
HEAD = Representation((), len(BODY), "http://mirror.example/", 1.0)


class Ending:
    """Downloads that end in every way there is; two of a key at once, in any process, are a fault."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._dice = random.Random(seed)
        self._guard = threading.Lock()
        self.faults: list[str] = []

    def __call__(self, leading: Leading) -> Store | None:
        fill, lease = leading.fill, leading.lease
        with self._guard:
            way, pause = (
                self._dice.choice(["small", "large", "failed", "broken", "interrupted", "later"]),
                self._dice.random() / 500,
            )
        flag = self._folder / fill.key.strip("/")
        try:
            flag.mkdir()
        except FileExistsError:
            self.faults.append(f"two lead {fill.key}")
        try:
            leading.publish()
            time.sleep(pause)
            if way != "small":
                self._receive(leading, pause)
        finally:
            flag.rmdir()  # before the lease is given back
        if way == "broken":
            raise StoreError("the disk is full")
        if way == "interrupted":
            raise KeyboardInterrupt
        if way == "failed":
            lease.failed(Failed(502, "broke off"), keep=pause > 0.001)
        elif way == "later":
            return threading.Thread(target=leading.conclude, args=(None,)).start
        else:
            lease.done()
        leading.publish()
        return None

    @staticmethod
    def _receive(leading: Leading, pause: float) -> None:
        lease = leading.lease
        lease.begin(HEAD)
        lease.expose()
        assert lease.part is not None
        for at in range(lease.have, len(BODY), 100_000):
            assert lease.part.put(at, BODY[at : at + 100_000])
            leading.publish()
            time.sleep(pause)


class LeftError(Exception):
    """A visitor has waited for long enough."""


def visit(fills: Fills, lead: Ending, dice: random.Random) -> str:
    """Download a thing, or wait for who does, or leave before the end; the fault, if there is one."""
    key, patience, begun = dice.choice(KEYS), dice.choice([0.0, 0.002, 60.0, 60.0]), time.monotonic()

    def tell(progress: Progress) -> None:
        if time.monotonic() - begun > 30:
            raise AssertionError(f"a visitor of {key} was told nothing: {progress}")
        if time.monotonic() - begun > patience:
            raise LeftError

    try:
        fills.fetch(key, lead, tell)
    except (LeftError, KeyboardInterrupt):
        return ""
    except AssertionError as error:
        return str(error)
    return ""


def attack(folder: Path, seed: int, visits: int) -> list[str]:
    """What goes wrong while eight threads visit, in this process."""
    fills, lead, dice = Fills(PartStore(folder / "parts-v1")), Ending(folder, seed), random.Random(seed)
    with ThreadPoolExecutor(8) as pool:
        seeds = [dice.random() for _ in range(visits)]
        faults = list(pool.map(lambda one: visit(fills, lead, random.Random(one)), seeds))
    until(lambda: not fills.running)
    return [fault for fault in (*faults, *lead.faults) if fault]


def open_files(folder: Path) -> list[str]:
    """What this process has open of the cache, but for its locks."""
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return [link for link in links if link.startswith(str(folder)) and "/leases-v2/" not in link]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", SEEDS)
def test_everybody_is_told_how_a_download_ended_whoever_led_it(seed: int, tmp_path: Path) -> None:
    """Two processes of four, as far as the locks know: each has its own."""
    with ThreadPoolExecutor(2) as pool:
        faults = [pool.submit(attack, tmp_path, seed + number, 120) for number in (0, 100)]
        assert [fault for one in faults for fault in one.result()] == []
    assert open_files(tmp_path) == []
    for key in KEYS:  # nobody holds a lease any more
        lease = PartStore(tmp_path / "parts-v1").claim(key)
        assert lease is not None
        lease.failed(Failed(502, "over"), keep=False)
    assert list((tmp_path / "parts-v1").iterdir()) == []


def test_a_process_that_is_killed_takes_nobody_with_it(tmp_path: Path) -> None:
    words = as_program(__file__, tmp_path)
    dice = random.Random(4)
    victims = [subprocess.Popen([*words, str(seed)], stdout=subprocess.PIPE) for seed in range(3)]
    try:
        assert [victim.stdout.readline() for victim in victims if victim.stdout] == [b"here\n"] * 3
        with ThreadPoolExecutor(1) as pool:
            ours = pool.submit(attack, tmp_path / "cache", 5, 150)
            for victim in victims:
                time.sleep(dice.random() / 5)
                victim.kill()
            faults = [fault for fault in ours.result() if not fault.startswith("two lead")]
    finally:
        for victim in victims:
            victim.kill()
            victim.communicate()
    assert faults == []
    assert open_files(tmp_path) == []


if __name__ == "__main__":
    logging.disable()
    (Path(sys.argv[1]) / "cache").mkdir(exist_ok=True)
    print("here", flush=True)
    attack(Path(sys.argv[1]) / "cache", int(sys.argv[2]), 100_000)
