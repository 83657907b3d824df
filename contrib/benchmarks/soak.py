#!/usr/bin/env python3
"""A day of life in some minutes: the product under mixed load on loopback, with trouble all the time.

    python contrib/benchmarks/soak.py [--minutes 10] [--clients 12] [--seed N]

Clients take whole files, ranges, what a broken transfer lacks, slowly, and all at once; mirrors come, go, break off and
have new indexes; the cache is smaller than what is asked for, where the product can be told so; once a minute a worker or
the whole service is killed. Every body is compared with what was published. In the end it prints a report; the exit code is
1 if a byte was wrong or something leaked. Load, memory and disk are bounded. Runs the product of the checkout it is in.
"""

import argparse
import contextlib
import ctypes
import hashlib
import http.client
import http.server
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

SPAWNED = multiprocessing.get_context("spawn")
ROOT = Path(__file__).resolve().parents[2]
KIB, MIB = 1 << 10, 1 << 20
MIRRORS = 3
INDEXES = ("/distfiles/layout.conf", "/dists/stable/InRelease", "/simple/thing/")
MAX_SIZE = 48 * MIB
SETTLE = 150.0
"""Seconds that the service has to be quiet in, at the end: what was used in the last minute is not culled before."""
DAY = 480.0
"""Seconds in which every file has its hour: what nobody asks for any more makes room for what is asked for."""
HOUR = 0.1
"""The part of all files that are asked for at a time."""
SAMPLE = 2.0
SLOW = 400 * KIB
"""Bytes a second of a slow client."""


# What is published: files whose bytes follow from their names


def sizes(seed: int) -> dict[str, int]:
    """The package files by path, many small ones and a few large ones; about three times what the cache may hold."""
    dice = random.Random(seed)
    small = {f"/distfiles/small-{number}.tar.xz": dice.randrange(1, 60 * KIB) for number in range(400)}
    middle = {f"/distfiles/middle-{number}.tar.xz": dice.randrange(100 * KIB, 2 * MIB) for number in range(80)}
    large = {f"/distfiles/large-{number}.tar.xz": dice.randrange(5 * MIB, 12 * MIB) for number in range(6)}
    return small | middle | large


@lru_cache(maxsize=64)
def body_of(path: str, version: int, size: int) -> bytes:
    """The bytes of a version of a file; an archive begins as an xz file does."""
    magic = b"\xfd7zXZ\0"[:size] if path.endswith(".xz") else b""
    return magic + random.Random(f"{path} {version}").randbytes(size - len(magic))


def index_size(path: str) -> int:
    return 3 * KIB + 40 * KIB * INDEXES.index(path)


# The mirrors


class Mirror(http.server.BaseHTTPRequestHandler):
    """Answers as an honest mirror, but for one answer in so many, which breaks off."""

    protocol_version = "HTTP/1.1"
    files: dict[str, int]
    version: Any

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        if self.path in INDEXES:
            version = self.version.value
            data = body_of(self.path, version, index_size(self.path))
        elif self.path in self.files:
            version = 0
            data = body_of(self.path, 0, self.files[self.path])
        else:
            self.send_error(404)
            return
        tag = f'"{hashlib.md5(data[:64]).hexdigest()}-{version}"'
        if self.headers["If-None-Match"] == tag:
            self.head(304, tag, version, None)
            return
        start, status, place = 0, 200, None
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if wanted and self.headers["If-Range"] in (None, tag) and int(wanted[1]) < len(data):
            start, status = int(wanted[1]), 206
            stop = min(len(data), int(wanted[2]) + 1) if wanted[2] else len(data)
            place = f"bytes {start}-{stop - 1}/{len(data)}"
            data = data[start:stop]
        self.head(status, tag, version, len(data), place)
        if body:
            breaks = random.random() < 0.02
            with contextlib.suppress(OSError):
                self.wfile.write(data[: random.randrange(len(data) + 1)] if breaks else data)
            self.close_connection = breaks

    def head(self, status: int, tag: str, version: int, length: int | None, place: str | None = None) -> None:
        self.send_response(status)
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", f"Tue, 02 Jan 2024 {version // 60 % 24:02d}:{version % 60:02d}:00 GMT")
        self.send_header("Content-Type", "application/octet-stream")
        if length is not None:
            self.send_header("Content-Length", str(length))
        if place:
            self.send_header("Content-Range", place)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


class MirrorServer(http.server.ThreadingHTTPServer):
    """Listens as long as its process lives."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512

    def handle_error(self, *_: object) -> None:
        return


def run_mirror(port: int, files: dict[str, int], version: Any) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends when its parent does
    handler = type("Handler", (Mirror,), {"files": files, "version": version})
    MirrorServer(("127.0.0.1", port), handler).serve_forever()


@dataclass
class Mirrors:
    """Mirrors in processes of their own, which come and go."""

    files: dict[str, int]
    version: Any = field(default_factory=lambda: SPAWNED.Value("i", 0))
    ports: list[int] = field(default_factory=list)
    processes: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(MIRRORS):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports.append(probe.getsockname()[1])
            self.processes.append(None)
            self.come(number)

    def come(self, number: int) -> None:
        if self.processes[number] is None:
            process = SPAWNED.Process(target=run_mirror, args=(self.ports[number], self.files, self.version))
            process.start()
            self.processes[number] = process

    def go(self, number: int) -> None:
        process, self.processes[number] = self.processes[number], None
        if process is not None:
            process.kill()
            process.join()

    def change(self, number: int) -> None:
        """It goes if it is here, but for the last one; else it comes."""
        if self.processes[number] is None:
            self.come(number)
        elif sum(process is not None for process in self.processes) > 1:
            self.go(number)

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}/" for port in self.ports]


# The service


@dataclass
class Sample:
    """What the processes of the service had at one time, in sum."""

    moment: float
    memory: int
    descriptors: int
    threads: int
    deleted: int
    """Bytes of files that have no name any more and are still open."""
    stored: int
    """Bytes of files, by the registry."""


class Service:
    """The product under Gunicorn, which is killed and started again."""

    def __init__(self, cache: Path, log: Path, sources: Sequence[str]) -> None:
        self.cache = cache
        self.log = log
        self.sources = sources
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PACKAGE_CACHE_")}
        self.environment |= {"PACKAGE_CACHE_STALL_TIMEOUT": "2", "PYTHONPATH": str(ROOT)}
        self.bounded = "--max-size" in self.run("--help").stdout
        self.process: subprocess.Popen[bytes]
        self.start()

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "package_cache", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)

    def start(self) -> None:
        command = [sys.executable, "-m", "package_cache", "--server", "gunicorn", "--workers", "2"]
        command += ["--cache", str(self.cache), "--host", "127.0.0.1", "--port", str(self.port)]
        command += [word for source in self.sources for word in ("--source", source)]
        command += ["--max-size", str(MAX_SIZE)] if self.bounded else []
        begun = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 30
        while b"serving " not in self.log.read_bytes()[begun:]:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the service does not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def workers(self) -> list[int]:
        pids = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                        pids.append(int(entry.name))
        return sorted(pids)

    def kill_worker(self) -> None:
        workers = self.workers()
        if workers:
            os.kill(random.choice(workers), signal.SIGKILL)

    def kill(self) -> None:
        workers = self.workers()
        self.process.kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def sample(self) -> Sample:
        memory = descriptors = threads = deleted = 0
        for pid in [self.process.pid, *self.workers()]:
            with contextlib.suppress(OSError):
                place = Path(f"/proc/{pid}")
                memory += int(re.findall(r"^Pss: +(\d+) kB", (place / "smaps_rollup").read_text(), re.M)[0]) * KIB
                threads += len(list((place / "task").iterdir()))
                for link in (place / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        name = str(link.readlink())
                        descriptors += "/blobs-v1/" not in name and "/memfd:blob-" not in name
                        deleted += link.stat().st_size if name.endswith(" (deleted)") and "-v1/" in name else 0
        return Sample(time.monotonic(), memory, descriptors, threads, deleted, self.stored())

    def stored(self) -> int:
        with contextlib.closing(sqlite3.connect(self.cache / "registry-v1.db")) as connection:
            return int(connection.execute("SELECT bytes FROM total").fetchone()[0])


# The clients


@dataclass
class Tally:
    """What the clients saw. Safe for several threads: each adds under the guard."""

    guard: threading.Lock = field(default_factory=threading.Lock)
    requests: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    bytes: int = 0
    stale: int = 0
    hits: list[float] = field(default_factory=list)

    def note(self, kind: str, size: int = 0) -> None:
        with self.guard:
            self.requests[kind] += 1
            self.bytes += size

    def error(self, text: str) -> None:
        with self.guard:
            self.errors[text] += 1

    def find_wrong(self, text: str) -> None:
        with self.guard:
            self.wrong.append(text)


@dataclass
class Reply:
    """A body as far as it came."""

    status: int
    fields: http.client.HTTPMessage
    body: bytes
    whole: bool


class Clients:
    """So many clients, each in a thread, until they are told to end."""

    def __init__(self, service: Service, files: dict[str, int], version: Any, seed: int, number: int) -> None:
        self.tally = Tally()
        self.ended = threading.Event()
        self.herd: tuple[str, float] = ("", 0.0)
        self._port = service.port
        self._files = files
        self._names = random.Random(seed).sample(list(files), len(files))
        self._begun = time.monotonic()
        self._version = version
        self._threads = [
            threading.Thread(target=self._live, args=(random.Random(f"{seed} {one}"),), daemon=True)
            for one in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self.ended.set()
        for thread in self._threads:
            thread.join(60)

    def _live(self, dice: random.Random) -> None:
        ways = {self._whole: 40, self._range: 15, self._resume: 15, self._slow: 3, self._index: 20, self._look: 7}
        met = 0.0
        while not self.ended.is_set():
            path, moment = self.herd
            try:
                if moment > met:
                    met = moment
                    self._compare("herd", path, 0, self._ask(path))
                else:
                    dice.choices(list(ways), list(ways.values()))[0](dice)
            except (OSError, http.client.HTTPException) as error:
                self.tally.error(f"{type(error).__name__} {error}"[:60])
                self.ended.wait(0.05)
            self.ended.wait(dice.random() * 0.02)

    def _pick(self, dice: random.Random) -> str:
        """Of the files whose hour it is, some are asked for often, others seldom."""
        place = (time.monotonic() - self._begun) / DAY + HOUR * dice.random() ** 3
        return self._names[int(len(self._names) * place) % len(self._names)]

    def _ask(self, path: str, fields: dict[str, str] | None = None, *, pace: int = 0, leave: int = 0) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("GET", path, headers=fields or {})
            response = connection.getresponse()
            if leave:
                return Reply(response.status, response.headers, response.read(leave), whole=False)
            blocks: list[bytes] = []
            try:
                while block := response.read(64 * KIB):
                    blocks.append(block)
                    if pace:
                        self.ended.wait(len(block) / pace)
                whole = response.length in (None, 0)
            except (http.client.IncompleteRead, OSError) as error:
                blocks.append(getattr(error, "partial", b""))
                whole = False
            return Reply(response.status, response.headers, b"".join(blocks), whole)
        finally:
            connection.close()

    def _compare(self, kind: str, path: str, start: int, reply: Reply, stop: int | None = None) -> None:
        """Note an answer with the bytes of a package file from `start` on."""
        self.tally.note(kind, len(reply.body))
        if reply.status not in (200, 206):
            self.tally.error(f"status {reply.status}")
            return
        body = body_of(path, 0, self._files[path])
        expected = body if reply.status == 200 else body[start:stop]
        if reply.body != expected[: len(reply.body)] or (reply.whole and len(reply.body) != len(expected)):
            self.tally.find_wrong(f"{kind} {path} from {start}: {reply.status}, {len(reply.body)} bytes")
        if not reply.whole and kind != "left":
            self.tally.error("a broken transfer")

    def _whole(self, dice: random.Random) -> None:
        path, begun = self._pick(dice), time.monotonic()
        reply = self._ask(path)
        if "; hit" in reply.fields.get("Cache-Status", "") and len(reply.body) < 64 * KIB:
            with self.tally.guard:
                self.tally.hits.append(time.monotonic() - begun)
        self._compare("whole", path, 0, reply)

    def _range(self, dice: random.Random) -> None:
        path = self._pick(dice)
        start = dice.randrange(self._files[path])
        stop = min(self._files[path], start + 1 + dice.randrange(256 * KIB))
        self._compare("range", path, start, self._ask(path, {"Range": f"bytes={start}-{stop - 1}"}), stop)

    def _resume(self, dice: random.Random) -> None:
        path = self._pick(dice)
        first = self._ask(path, leave=1 + dice.randrange(self._files[path]))
        if first.status != 200:
            self.tally.error(f"status {first.status}")
            return
        self._compare("left", path, 0, Reply(200, first.fields, first.body, whole=len(first.body) == self._files[path]))
        have, tag = len(first.body), first.fields.get("ETag")
        if tag and have < self._files[path]:
            fields = {"Range": f"bytes={have}-", "If-Range": tag}
            self._compare("resumed", path, have, self._ask(path, fields))

    def _slow(self, dice: random.Random) -> None:
        path = self._pick(dice)
        self._compare("slow", path, 0, self._ask(path, pace=SLOW))

    def _look(self, dice: random.Random) -> None:
        path = self._pick(dice)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("HEAD", path)
            response = connection.getresponse()
            self.tally.note("look")
            if response.status == 200 and response.headers["Content-Length"] != str(self._files[path]):
                self.tally.find_wrong(f"look {path}: {response.headers['Content-Length']}")
        finally:
            connection.close()

    def _index(self, dice: random.Random) -> None:
        """An index must be one that was published; older than it was when it was asked for only in times of trouble."""
        path, before = dice.choice(INDEXES), self._version.value
        reply = self._ask(path)
        self.tally.note("index", len(reply.body))
        if reply.status != 200 or not reply.whole:
            self.tally.error(f"status {reply.status}" if reply.status != 200 else "a broken transfer")
            return
        for version in range(self._version.value, -1, -1):
            if reply.body == body_of(path, version, index_size(path)):
                with self.tally.guard:
                    self.tally.stale += version < before
                return
        self.tally.find_wrong(f"index {path}: {len(reply.body)} bytes of no version")


# Trouble, and what is left in the end


def live(
    service: Service, mirrors: Mirrors, clients: Clients, minutes: float, seed: int
) -> tuple[list[Sample], Counter[str]]:
    """Make trouble until the time is up; what the service had meanwhile, and what was done to it."""
    dice, samples, done = random.Random(seed), [], Counter[str]()
    begun = time.monotonic()
    every = min(60.0, minutes * 60 / 3)
    due = {"kill": begun + every, "mirror": begun + 3, "index": begun + 2, "herd": begun + 4, "sample": begun}
    while (now := time.monotonic()) < begun + minutes * 60:
        for what in [name for name, moment in due.items() if moment <= now]:
            done[what] += 1
            match what:
                case "kill":
                    due[what] = now + every
                    if done[what] % 2:
                        service.kill_worker()
                    else:
                        service.kill()
                        service.start()
                case "mirror":
                    due[what] = now + dice.uniform(2, 8)
                    number = dice.randrange(MIRRORS)
                    mirrors.change(number)
                case "index":
                    due[what] = now + dice.uniform(1, 5)
                    mirrors.version.value += 1
                case "herd":
                    due[what] = now + dice.uniform(5, 15)
                    clients.herd = (dice.choice(list(mirrors.files)), now)
                case _:
                    due["sample"] = now + SAMPLE
                    samples.append(service.sample())
        time.sleep(0.05)
    return samples, done


@dataclass
class Found:
    """What is on disk in the end."""

    stored: int
    recorded: int
    entries: int
    made: int
    leaks: list[str]
    wrong: list[str]


def look_at(cache: Path, bounded: bool) -> Found:
    """Compare the files with the registry, and each with its name."""
    leaks, wrong, there = [], [], {}
    for path in (cache / "blobs-v1").rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != path.name:
                    wrong.append(f"the blob {path.name} has other bytes than its name says")
            there[path.name] = path.stat().st_size
    with contextlib.closing(sqlite3.connect(cache / "registry-v1.db")) as connection:
        for digest, body in connection.execute("SELECT digest, body FROM small"):
            if hashlib.sha256(body).hexdigest() != digest:
                wrong.append(f"the row {digest} has other bytes than its name says")
            there[digest] = len(body)
        recorded = dict(connection.execute("SELECT digest, size FROM blob"))
        totals = connection.execute("SELECT blobs, bytes FROM total").fetchone()
        entries, made = connection.execute("SELECT count(*), max(id) FROM entry").fetchone()
    leaks += [f"the blob {name} ({there[name]} bytes) is in no registry" for name in sorted(set(there) - set(recorded))]
    leaks += [f"the blob {name} is in the registry and not there" for name in sorted(set(recorded) - set(there))]
    leaks += [f"{path.name} ({path.stat().st_size} bytes) is left" for path in (cache / "parts-v1").iterdir()]
    if totals != (len(recorded), sum(recorded.values())):
        leaks.append(f"the registry counts {totals}, and holds {len(recorded)} blobs of {sum(recorded.values())} bytes")
    if bounded and sum(there.values()) > MAX_SIZE:
        leaks.append(f"{sum(there.values())} bytes are stored, {MAX_SIZE} may be")
    return Found(sum(there.values()), sum(recorded.values()), entries, made, leaks, wrong)


def settle(service: Service, mirrors: Mirrors) -> Sample:
    """Let what runs come to its end; what the service has then."""
    for number in range(MIRRORS):
        mirrors.come(number)
    deadline = time.monotonic() + SETTLE
    while time.monotonic() < deadline and (
        list((service.cache / "parts-v1").glob("*")) or (service.bounded and service.stored() > MAX_SIZE)
    ):
        time.sleep(0.2)
    return service.sample()


def slope(samples: Sequence[Sample], name: str) -> float:
    """How much a figure grows a minute, by least squares, once the first third has passed."""
    late = samples[len(samples) // 3 :]
    if len(late) < 3:
        return 0.0
    times = [one.moment / 60 for one in late]
    return statistics.linear_regression(times, [getattr(one, name) for one in late]).slope


def grows(samples: Sequence[Sample], first: Sample, last: Sample) -> Iterator[str]:
    """What is much more in the end than it was before. Pools and caches fill at first, which is no leak."""
    if last.descriptors > first.descriptors + 100:
        yield f"{last.descriptors} descriptors besides blobs are open at rest, {first.descriptors} at the start"
    third = [one.memory for one in samples[len(samples) // 3 : len(samples) // 3 + 10]] or [last.memory]
    if last.memory > 1.5 * statistics.median(third) + 30 * MIB:
        yield f"{last.memory // MIB} MiB at rest, {int(statistics.median(third)) // MIB} MiB after a third of the time"
    if last.deleted > MAX_SIZE // 2:
        yield f"{last.deleted} bytes of deleted files are held open"


def report(
    clients: Clients, samples: Sequence[Sample], done: Counter[str], found: Found, last: Sample, leaks: list[str]
) -> None:
    tally = clients.tally
    print(f"requests          {sum(tally.requests.values())}: {dict(tally.requests.most_common())}")
    print(f"bytes             {tally.bytes}")
    print(f"trouble made      {dict(done)}")
    print(f"errors            {sum(tally.errors.values())}")
    for text, number in tally.errors.most_common(12):
        print(f"                  {number:6} {text}")
    print(f"older indexes     {tally.stale}")
    if len(tally.hits) > 2:
        cuts = statistics.quantiles(tally.hits, n=100)
        print(f"small hits        {len(tally.hits)}: median {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms")
    for name, unit in (("memory", MIB), ("descriptors", 1), ("threads", 1), ("deleted", MIB), ("stored", MIB)):
        values = [getattr(one, name) / unit for one in samples] or [0]
        rest, growth = getattr(last, name) / unit, slope(samples, name) / unit
        print(
            f"{name:17} median {statistics.median(values):.1f}, most {max(values):.1f}, at rest {rest:.1f},"
            f" {growth:+.2f} a minute"
        )
    print(f"in the end        {found.stored} bytes, {found.recorded} by the registry; {MAX_SIZE} may be, if bounded")
    print(f"entries           {found.made} made, {found.entries} left")
    print(f"wrong             {len(tally.wrong) + len(found.wrong)}")
    for text in (*tally.wrong[:20], *found.wrong[:20]):
        print(f"                  {text}")
    print(f"leaks             {len(leaks)}")
    for text in leaks[:20]:
        print(f"                  {text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--keep", action="store_true", help="leave the directory with the cache and the log")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="package-cache-soak-"))
    print(f"seed              {options.seed}, in {folder}", flush=True)
    files = sizes(options.seed)
    mirrors = Mirrors(files)
    service = None
    try:
        service = Service(folder / "cache", folder / "log", mirrors.urls)
        first = service.sample()
        clients = Clients(service, files, mirrors.version, options.seed, options.clients)
        samples, done = live(service, mirrors, clients, options.minutes, options.seed)
        clients.end()
        last = settle(service, mirrors)
        code = service.stop()
        found = look_at(service.cache, service.bounded)
        leaks = [*found.leaks, *grows(samples, first, last)]
        report(clients, samples, done, found, last, leaks)
        if not service.bounded:
            print("not bounded       this product knows no --max-size")
        if code:
            print(f"exit code         {code} at SIGTERM")
        return 1 if clients.tally.wrong or found.wrong or leaks or code else 0
    finally:
        if service is not None and service.process.poll() is None:
            service.kill()
        for number in range(MIRRORS):
            mirrors.go(number)
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
