"""Scenes of what the product does, and a stage on which each is played, to its end or to a death within."""

import hashlib
import http.client
import json
import random
import re
import shutil
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from faulty import Fork, Nursery, Plan
from origin import Gate, Origin, Serve, until
from plain import give
from product import Response, blobs, parts

from package_cache.engine.upkeep.verification import Sweep
from package_cache.storage.blobs import is_stamp
from package_cache.storage.cache_directory import open_cache_directory
from package_cache.storage.system import boot_id

HALF = 150_000
REPEATS = 2
"""How many of the steps that have one name are rows: how often a body is written depends on how it arrives."""

DAY = 86400.0


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


SMALL, LARGE, OTHER = noise(1000, 1), noise(300_000, 2), noise(250_000, 3)
OLD, NEW = noise(100_000, 4), noise(120_000, 5)


@dataclass(frozen=True)
class Scene:
    """Something the product does: `path` is asked for, whose source has `body`, on a cache that `prepare` made."""

    path: str
    body: bytes
    prepare: Callable[[Nursery, Path], None] | None = None
    from_start: bool = False

    @property
    def is_package(self) -> bool:
        return self.path.endswith(".tar")


@dataclass(frozen=True)
class Step:
    """One line of the report of a run; see `faulty.Steps`."""

    name: str
    ordinal: int
    call: str
    path: str
    to: str | None
    inode: int
    size: int
    kept: str


@dataclass
class Run:
    """What is left of one run."""

    cache: Path
    steps: list[Step]
    answer: Response | None


# How caches are prepared


def ask(proxy: Fork, path: str) -> Response | None:
    """What a client gets; None if the connection breaks before an answer."""
    try:
        return proxy.get(path)
    except (ConnectionError, http.client.HTTPException):
        return None


def store(nursery: Nursery, room: Path, path: str, body: bytes, **how: Any) -> None:
    """Download a file into a new cache, and end in good order."""
    origin = Origin()
    origin.put(path, body, **how)
    report = room / "report"
    proxy = nursery.start(room / "cache", [origin.url], room, Plan(str(room / "cache"), str(report)))
    assert proxy.get(path).body == body
    until(lambda: is_settled(report))
    proxy.stop()
    origin.stop()


def break_off(nursery: Nursery, room: Path) -> None:
    """Leave half of a download."""
    origin, gate = Origin(), Gate()
    origin.put("/a-1.tar", LARGE, Serve(gate=gate, gate_at=HALF))
    proxy = nursery.start(room / "cache", [origin.url], room)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask, proxy, "/a-1.tar")
        assert gate.reached.wait(30)
        until(lambda: [path.stat().st_size for path in parts(proxy.cache) if path.suffix == ".part"] == [HALF])
        proxy.kill()
        gate.open()
    origin.stop()


def die_before_storing(nursery: Nursery, room: Path, path: str = "/a-1.tar", body: bytes = LARGE) -> None:
    """Leave a download that is verified and not in the store."""
    origin = Origin()
    origin.put(path, body)
    name = "rename parts-v1/SHA.1.part"
    plan = Plan(str(room / "cache"), str(room / "prepared"), point=name, ordinal=1)
    proxy = nursery.start(room / "cache", [origin.url], room, plan)
    ask(proxy, path)
    until(lambda: not proxy.is_alive())
    proxy.kill()
    origin.stop()
    assert len(parts(room / "cache")) == 2


def store_index(nursery: Nursery, room: Path) -> None:
    store(nursery, room, "/layout.conf", OLD)


def spoil(nursery: Nursery, room: Path) -> None:
    """Leave a stored file whose bytes are not what they were."""
    store(nursery, room, "/a-1.tar", LARGE)
    [blob] = blobs(room / "cache")
    blob.chmod(0o600)
    blob.write_bytes(bytes(len(LARGE)))


def lose_registry(nursery: Nursery, room: Path) -> None:
    """Leave a stored file, and a registry that cannot be read."""
    store(nursery, room, "/a-1.tar", LARGE)
    (room / "cache" / "registry-v1.db").write_bytes(noise(10_000, 6))


SCENES = {
    "a start in an empty directory, and a download": Scene("/a-1.tar", SMALL, from_start=True),
    "a first download of a small file": Scene("/a-1.tar", SMALL),
    "a first download of a large file": Scene("/a-1.tar", LARGE),
    "a download that goes on": Scene("/a-1.tar", LARGE, break_off),
    "a download begun anew, since the file changed": Scene("/a-1.tar", OTHER, break_off),
    "storing what a killed process had verified": Scene("/a-1.tar", LARGE, die_before_storing),
    "an index that is confirmed": Scene("/layout.conf", OLD, store_index),
    "an index that has changed": Scene("/layout.conf", NEW, store_index),
    "a damaged file that is fetched again": Scene("/a-1.tar", LARGE, spoil),
}

LOST_REGISTRY = Scene("/a-1.tar", LARGE, lose_registry, from_start=True)


# One run


State = frozenset[tuple[str, int, int, bool, str]]


class Stage:
    """Plays a scene, to its end or to a death within, each time on a copy of the same cache."""

    def __init__(self, nursery: Nursery, scene: Scene, room: Path) -> None:
        self.nursery = nursery
        self.scene = scene
        self.room = room
        self.prepared = room / "prepared"
        self.prepared.mkdir(parents=True)
        if scene.prepare:
            give(self.prepared)
            scene.prepare(nursery, self.prepared)
        self._numbers = count()
        self._recovered: dict[State, list[dict[str, str]]] = {}

    def origin(self) -> Origin:
        origin = Origin()
        origin.put(self.scene.path, self.scene.body)
        return origin

    def play(self, point: str = "", ordinal: int = 0, deed: str = "kill") -> Run:
        """Once. Without a point, to the end."""
        room = self.room / f"run-{next(self._numbers)}"
        cache, armed, report, kept = room / "cache", room / "armed", room / "report", room / "kept"
        kept.mkdir(parents=True)
        if (self.prepared / "cache").exists():
            shutil.copytree(self.prepared / "cache", cache)
        give(room)
        when = "" if self.scene.from_start else str(armed)
        plan = Plan(str(cache), str(report), when, point, ordinal, deed, kept=str(kept))
        origin = self.origin()
        proxy = self.nursery.start(cache, [origin.url], room, plan)
        answer = None
        if proxy.wait_until_it_serves():
            armed.touch()
            answer = ask(proxy, self.scene.path)
            until(lambda: not proxy.is_alive() or (answer is not None and is_settled(report)))
        if any((step.name, step.ordinal) == (point, ordinal) for step in read_report(report)):
            until(lambda: not proxy.is_alive())
        else:
            assert proxy.is_alive()
        proxy.kill()
        origin.stop()
        if answer is not None:
            assert answer.status == 200
            assert answer.body == self.scene.body or (self.scene.body.startswith(answer.body) and not answer.whole)
        return Run(cache, read_report(report), answer)

    def recover(self, cache: Path) -> list[dict[str, str]]:
        """Start again: the file is right, twice, and nothing is left over; the fields of what was asked of the source."""
        origin = self.origin()
        report = cache.with_name("recovery")
        give(cache.parent)
        proxy = self.nursery.start(cache, [origin.url], cache.parent, Plan(str(cache), str(report)))
        for _ in range(2):
            answer = proxy.get(self.scene.path)
            assert (answer.status, answer.whole) == (200, True), (answer, proxy.log_lines())
            assert answer.body == self.scene.body
        until(lambda: is_settled(report))
        proxy.kill()
        origin.stop()
        assert_sound(cache)
        if parts(cache):
            sweep(cache)
            assert_sound(cache)
        assert not parts(cache)
        return [asked.fields for asked in origin.requests()]

    def recover_once(self, cache: Path) -> list[dict[str, str]]:
        """As `recover`, but that what was right once is not looked at again."""
        state = state_of(cache)
        if state not in self._recovered:
            self._recovered[state] = self.recover(cache)
        return self._recovered[state]


def sweep(cache: Path) -> None:
    """What the product does once a day, for what nobody went on with for a day."""
    stores = open_cache_directory(cache, "")
    with closing(stores.registry):
        Sweep(stores, lambda: time.time() + 2 * DAY).run(lambda: None)


def state_of(cache: Path) -> State:
    """All that a restart finds, but for times and ports: what is the same need not be looked at again."""
    found = []
    for path in cache.rglob("*"):
        if path.parent.name == "leases-v2":
            continue  # empty: locks die with their processes
        status = path.stat()
        size, text = status.st_size if path.is_file() else 0, b""
        if path.suffix == ".part":
            text = path.read_bytes()
        elif path.is_file() and _is_text(path):
            # Which boot of the machine it was written in decides what is trusted.
            text = path.read_bytes().replace(boot_id().encode(), b"BOOT")
            text = re.sub(rb"[0-9a-f.-]+", b"", text)
            size = len(text)  # numbers are now longer and now shorter
        name = re.sub(r"\d{8}T\d{6}", "", str(path.relative_to(cache)))
        name = re.sub(r"^(sources-v1)/[0-9a-f]{32}(\.\d+-\d+)?$", r"\1/NAME", name)
        found.append((name, size, status.st_mode, is_stamp(status.st_mtime_ns), hashlib.sha256(text).hexdigest()))
    return frozenset(found)


def _is_text(path: Path) -> bool:
    is_source = path.parent.name == "sources-v1"
    return is_source or (path.suffix in (".fill", "") and path.name not in ("generation-v2", "known-v1"))


def described(error: AssertionError) -> str:
    """What an assertion says, in one line, and where it stands; never empty."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return " ".join(f"{at.name}: {at.line}: {error}".split())[:500]


def read_report(report: Path) -> list[Step]:
    """The steps so far. A line that is still being written may be seen in part; it is left for the next time."""
    return [Step(**json.loads(line)) for line in _lines(report)]


def is_settled(report: Path) -> bool:
    """Whether every download that was begun is over: its lock is given back. Some locks are older than the report."""
    held: Counter[str] = Counter()
    for line in _lines(report):
        if '"call": "lock"' in line or '"call": "unlock"' in line:
            step = json.loads(line)
            held[step["to"]] += 1 if step["call"] == "lock" else -1
    return not any(count > 0 for count in held.values())


def _lines(report: Path) -> list[str]:
    return report.read_text().split("\n")[:-1] if report.exists() else []


def assert_sound(cache: Path) -> None:
    """Every file is what its name says, is referred to, and is what the registry says; nothing else is there."""
    sizes = {}
    for path in blobs(cache):
        data = path.read_bytes()
        assert hashlib.sha256(data).hexdigest() == path.name
        sizes[path.name] = len(data)
    with closing(sqlite3.connect(cache / "registry-v1.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        ready = connection.execute("SELECT digest, representation FROM entry WHERE status = 3").fetchall()
        recorded = dict(connection.execute("SELECT digest, size FROM blob").fetchall())
        totals = connection.execute("SELECT entries, blobs, bytes FROM total").fetchone()
    assert {digest: json.loads(text)["size"] for digest, text in ready} == sizes
    assert recorded == sizes
    assert totals == (len(ready), len(sizes), sum(sizes.values()))
