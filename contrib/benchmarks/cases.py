"""What a case is, and the cases about files that are cached already and about many small ones that are not."""

import contextlib
import os
import random
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import clients
import servers
from clients import GIB, KIB, MIB
from peers import program
from report import Goal, Metric, Sample
from servers import Server
from walker import walk


@dataclass(frozen=True)
class Scale:
    """How much is done: for a figure, or with `quick` for a look. Seconds and bytes."""

    runs: int
    seconds: int
    small: int
    large: int
    cold_large: int
    paced: int
    seconds_crowd: int
    registry: tuple[int, ...]
    cold: int
    stored: int
    storm: int
    after: int


FULL = Scale(
    runs=5,
    seconds=3,
    small=2000,
    large=GIB,
    cold_large=512 * MIB,
    paced=64 * MIB,
    seconds_crowd=5,
    registry=(1000, 100_000, 1_000_000),
    cold=4000,
    stored=50_000,
    storm=50_000,
    after=6000,
)
QUICK = Scale(
    runs=1,
    seconds=1,
    small=500,
    large=64 * MIB,
    cold_large=64 * MIB,
    paced=16 * MIB,
    seconds_crowd=1,
    registry=(1000, 20_000),
    cold=500,
    stored=2000,
    storm=10_000,
    after=1000,
)


@dataclass(frozen=True)
class Turn:
    """A server's turn in a round: the variant of the case, and the number of the round."""

    server: Server
    variant: str
    number: int


class Case:
    """One kind of load. The runner calls `stage` once, `warm` for each server, then `sample` in rounds."""

    name = ""
    title = ""
    metrics: Sequence[Metric] = ()
    goals: Sequence[Goal] = ()
    """What the product's figures are to be."""
    variants: Sequence[str] = ("",)
    static = False
    """Whether nginx with the files themselves takes part: it has no cold files."""
    direct = False
    """Whether the source itself is measured too."""
    fresh = False
    """Whether each round begins with empty caches."""
    alone = False
    """Whether nothing else runs while a server is measured."""

    def __init__(self, scale: Scale, folder: Path, runs: int) -> None:
        self.scale = scale
        self.folder = folder
        self.files = folder / "files"
        self.runs = runs
        self.files.mkdir(parents=True)

    def shown(self) -> Sequence[str]:
        """The variants that are measured at this scale."""
        return self.variants

    @contextlib.contextmanager
    def stage(self) -> Iterator[list[Server]]:
        """Make the files and run their source; the source, as a server to measure."""
        self.make()
        with servers.origin(self.folder / "origin", self.files) as source:
            yield [source]

    def make(self) -> None:
        """Make the files."""

    def rows(self, names: Sequence[str]) -> list[str]:
        """What is measured, of the servers that were asked for."""
        return [name for name in names if self.static or name != "nginx"]

    @contextlib.contextmanager
    def start(
        self, names: Sequence[str], folder: Path, source: tuple[str, int]
    ) -> Iterator[tuple[list[Server], dict[str, str]]]:
        """Some of the rows, as running servers; and why the others of them are not there."""
        with servers.running(names, folder, source, self.files) as found:
            yield found

    def warm(self, server: Server) -> list[str]:  # noqa: ARG002
        """Bring a server into the state that is measured; what it does wrong."""
        return []

    def sample(self, turn: Turn) -> Sample:
        """Measure once."""
        raise NotImplementedError


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


SMALL = 4 * KIB


class Hits(Case):
    """Small files from the cache, by wrk."""

    name = "hits"
    title = "Hits of 4 KiB, {variant}: wrk -t1 -c64, {seconds} s"
    metrics: Sequence[Metric] = (
        Metric("rate", "requests/s", 0, "ratio"),
        Metric("cost", "CPU us/request", 1, "ratio", "nginx"),
        Metric("p50", "p50 ms", 2),
        Metric("p99", "p99 ms", 2),
    )
    goals: Sequence[Goal] = (
        Goal("cost", "hits, keep-alive: CPU / nginx", "nginx", most=1.15, variant="{small} files, keep-alive"),
        Goal(
            "rate",
            "hits, a connection each: rate / nginx-cache",
            "nginx-cache",
            least=1.0,
            variant="{small} files, a connection each",
        ),
    )
    variants: Sequence[str] = (
        "one file, keep-alive",
        "{small} files, keep-alive",
        "one file, a connection each",
        "{small} files, a connection each",
    )
    static = True
    pattern = "hits/package-1.%d.tar"

    def make(self) -> None:
        program("wrk")
        (self.files / "hits").mkdir()
        for number in range(self.scale.small):
            (self.files / (self.pattern % number)).write_bytes(noise(number, SMALL))
        self.script = self.folder / "rotation.lua"
        self.script.write_text(clients.rotation(self.pattern, self.scale.small))

    def shown(self) -> Sequence[str]:
        return self.variants if self.scale is FULL else [one for one in self.variants if "{small}" in one]

    def warm(self, server: Server) -> list[str]:
        paths = [self.pattern % number for number in range(self.scale.small)]
        bodies = [noise(number, SMALL) for number in range(self.scale.small)]
        wrong: list[str] = []
        for _ in range(2):
            wrong += walk(server.address, paths, 16).wrong(bodies)
        # Each worker has its own open files: one pass in this process may leave another without them.
        clients.wrk(server, self.script, 1, keep=True)
        return wrong

    def sample(self, turn: Turn) -> Sample:
        target = self.script if turn.variant.startswith("{small}") else self.pattern % 1
        load = clients.wrk(turn.server, target, self.scale.seconds, keep="keep-alive" in turn.variant)
        return Sample({"rate": load.rate, "cost": 1e6 * load.cost, "p50": load.p50, "p99": load.p99}, load.faults)


class Clients(Hits):
    """What the clients of these cases can do at most, and so what no server here can be shown to do better."""

    name = "client"
    title = "The clients themselves: files of 4 KiB from nginx, {small} files, by {variant}"
    metrics = (*Hits.metrics, Metric("own", "CPU us/request of the client", 1))
    goals = ()
    variants = ("wrk -c64", "walker.py, 64 connections", "walker.py, 16 connections")

    def rows(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name == "nginx"]

    def shown(self) -> Sequence[str]:
        return self.variants

    def sample(self, turn: Turn) -> Sample:
        if turn.variant.startswith("wrk"):
            begun = _children()
            load = clients.wrk(turn.server, self.script, self.scale.seconds, keep=True)
            own = (_children() - begun) / max(1, load.requests)
            values = {"rate": load.rate, "cost": 1e6 * load.cost, "p50": load.p50, "p99": load.p99}
            return Sample({**values, "own": 1e6 * own}, load.faults)
        times = 10
        paths = [self.pattern % number for number in range(self.scale.small)] * times
        before, begun = turn.server.cpu(), time.process_time()
        done = walk(turn.server.address, paths, int(turn.variant.split()[1]))
        own, spent = time.process_time() - begun, turn.server.cpu() - before
        values = {
            "rate": len(paths) / done.seconds,
            "cost": 1e6 * spent / len(paths),
            "p50": done.quantile(0.5),
            "p99": done.quantile(0.99),
            "own": 1e6 * own / len(paths),
        }
        bodies = [noise(number, SMALL) for number in range(self.scale.small)]
        return Sample(values, done.wrong(bodies * times))


def _children() -> float:
    """Seconds of CPU of the programs that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class LargeHits(Case):
    """A large file from the cache."""

    name = "large-hits"
    title = "Hits of {large} MiB, {variant}"
    metrics = (Metric("speed", "MB/s", 0, "ratio", "nginx"), Metric("cost", "CPU s/GiB", 2, "ratio", "nginx"))
    variants = ("1 client", "4 clients")
    static = True
    path = "large/package-1.0.tar"

    def make(self) -> None:
        write_large(self.files / self.path, self.scale.large)

    def warm(self, server: Server) -> list[str]:
        right = clients.digest_of_file(self.files / self.path)
        return ["body wrong"] if any(clients.digest(server.address, self.path) != right for _ in range(2)) else []

    def sample(self, turn: Turn) -> Sample:
        before = turn.server.cpu()
        seconds, sizes = clients.drain_all(turn.server.address, self.path, int(turn.variant.partition(" ")[0]))
        spent = turn.server.cpu() - before
        whole = sizes.count(self.scale.large)
        faults = [] if whole == len(sizes) else [f"{len(sizes) - whole} of {len(sizes)} bodies short"]
        values = {"speed": sum(sizes) / seconds / 1e6, "cost": spent / max(1, sum(sizes)) * GIB}
        return Sample({} if faults else values, faults)


class ColdLarge(Case):
    """A large file that is not cached, from a source as fast as it can be."""

    name = "cold-large"
    title = "A cold file of {cold_large} MiB, source not throttled"
    metrics = (
        Metric("speed", "MB/s", 0, "ratio"),
        Metric("cost", "CPU s/GiB", 2, "ratio"),
    )
    goals = (Goal("speed", "a cold file of {cold_large} MiB: speed / nginx-cache", "nginx-cache", least=1.15),)
    direct = True
    fresh = True
    path = "cold/package-1.0.tar"

    def make(self) -> None:
        write_large(self.files / self.path, self.scale.cold_large)
        self.digest = clients.digest_of_file(self.files / self.path)

    def sample(self, turn: Turn) -> Sample:
        os.sync()
        before = turn.server.cpu()
        seconds, sizes = clients.drain_all(turn.server.address, self.path, 1)
        spent = turn.server.cpu() - before
        if sizes != [self.scale.cold_large]:
            return Sample({}, ["body short"])
        # The bytes are compared with the clock stopped, in what was stored.
        faults = [] if clients.digest(turn.server.address, self.path) == self.digest else ["stored body wrong"]
        return Sample({"speed": sizes[0] / seconds / 1e6, "cost": spent / sizes[0] * GIB}, faults)


class ColdSmall(Case):
    """Many small files that are not cached."""

    name = "cold-small"
    title = "{cold} cold files of 4 KiB, 16 connections, each asked for once"
    metrics: Sequence[Metric] = (
        Metric("rate", "files/s", 0, "ratio"),
        Metric("cost", "CPU us/file", 0, "ratio"),
        Metric("p50", "p50 ms", 2),
        Metric("p99", "p99 ms", 2),
    )
    goals: Sequence[Goal] = (
        Goal("rate", "cold files of 4 KiB: rate / nginx-cache", "nginx-cache", least=0.8),
        Goal("cost", "cold files of 4 KiB: CPU / nginx-cache", "nginx-cache", most=1.3),
    )
    direct = True

    def make(self) -> None:
        for run in range(self.runs):
            (self.files / f"cold-{run}").mkdir()
            for path, body in zip(self.paths(run), self.bodies(run), strict=True):
                (self.files / path).write_bytes(body)

    def paths(self, run: int) -> list[str]:
        return [f"cold-{run}/package-1.{number}.tar" for number in range(self.scale.cold)]

    def bodies(self, run: int) -> list[bytes]:
        return [noise(run * self.scale.cold + number, SMALL) for number in range(self.scale.cold)]

    def sample(self, turn: Turn) -> Sample:
        os.sync()  # what the server before left to be written is not this one's
        paths, bodies = self.paths(turn.number), self.bodies(turn.number)
        before = turn.server.cpu()
        done = walk(turn.server.address, paths, 16)
        spent = turn.server.cpu_at_rest() - before
        return Sample(
            {
                "rate": len(paths) / done.seconds,
                "cost": 1e6 * spent / len(paths),
                "p50": done.quantile(0.5),
                "p99": done.quantile(0.99),
            },
            done.wrong(bodies),
        )


def write_large(path: Path, size: int) -> None:
    """A file of that size that does not compress, without holes; it may repeat itself after 256 MiB."""
    path.parent.mkdir()
    blocks = [noise(number, 64 * MIB) for number in range(4)]
    with path.open("wb") as file:
        for number in range(size // (64 * MIB)):
            file.write(blocks[number % 4])
