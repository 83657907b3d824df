"""The cases about one cold file from a source at a steady pace: the first byte, a range, a herd, a late joiner."""

import contextlib
from collections.abc import Iterator

import origins
from cases import Case, Turn, noise
from clients import KIB, MIB, Herd, fetch
from report import Goal, Metric, Sample
from servers import Server
from walker import quantile

CLIENTS = 32


class Paced(Case):
    """What these cases have in common: each round asks for a name of its own, and gets the same bytes."""

    size = 0
    """Bytes of the file; 0: as the scale says."""

    @contextlib.contextmanager
    def stage(self) -> Iterator[list[Server]]:
        self.body = noise(3, self.size or self.scale.paced)
        with origins.paced(self.body) as self.source:
            yield [Server("direct", self.source.address, None)]

    @property
    def ideal(self) -> float:
        """Seconds that the source needs for the file."""
        return len(self.body) / origins.RATE


class FirstByte(Paced):
    """The first byte of a file that arrives slowly."""

    name = "first-byte"
    title = "First byte of a cold file, source at 50 MB/s"
    metrics = (
        Metric("median", "ms", 2, "added", "direct"),
        Metric("worst", "worst ms", 2, worst=True),
    )
    goals = (Goal("median", "first byte of a cold file: ms after the source's", "direct", most=1.0),)
    direct = True
    size = 4 * MIB
    times = 5

    def sample(self, turn: Turn) -> Sample:
        found, faults = [], []
        for time in range(self.times):
            got = fetch(turn.server.address, f"first/package-{turn.number}.{time}.tar", len(self.body))
            found.append(1000 * got.first)
            if got.body != self.body:
                faults.append("body wrong")
        return Sample({"median": sorted(found)[self.times // 2], "worst": max(found)}, faults)


class Range(Paced):
    """A range from the middle of a cold file."""

    name = "range"
    title = "64 KiB from the middle of a cold file of {paced} MiB, source at 50 MB/s"
    metrics = (Metric("last", "ms", 1, "ratio", "direct"),)
    goals = (Goal("last", "64 KiB from the middle of a cold file: ms / the source's", "direct", most=3.0),)
    direct = True

    def sample(self, turn: Turn) -> Sample:
        path, start, size = f"range/package-1.{turn.number}.tar", len(self.body) // 2, 64 * KIB
        got = fetch(turn.server.address, path, len(self.body), f"Range: bytes={start}-{start + size - 1}\r\n")
        values = {"last": 1000 * got.last}
        if b" 206 " in got.status:
            return Sample(values, [] if got.body == self.body[start : start + size] else ["bytes wrong"])
        return Sample(values, [f"the range is ignored: {got.status[9:12].decode()}"])


class Crowded(Paced):
    """Many clients at once on one cold file."""

    name = "herd"
    title = f"{CLIENTS} clients at once on a cold file of {{paced}} MiB, source at 50 MB/s"
    metrics = (
        Metric("asked", "source requests", 0, worst=True),
        Metric("slowest", "slowest / ideal", 3),
        Metric("first", "first byte p50 ms", 1),
        Metric("p99", "p99 ms", 1),
        Metric("worst", "worst ms", 1, worst=True),
        Metric("cost", "CPU s", 2, "ratio"),
    )
    goals = (
        Goal("asked", f"{CLIENTS} clients at once on a cold file: source requests", most=1),
        Goal("slowest", f"{CLIENTS} clients at once: slowest / ideal", most=1.01),
        Goal("p99", f"{CLIENTS} clients at once: first byte p99, ms", most=8),
    )

    def sample(self, turn: Turn) -> Sample:
        asked, spent = self.source.asked, turn.server.cpu()
        herd = Herd(turn.server.address, f"herd/package-1.{turn.number}.tar", self.body)
        herd.join(CLIENTS)
        herd.run()
        faults = herd.close()
        firsts = sorted(1000 * reader.first for reader in herd.readers)
        values = {
            "asked": self.source.asked - asked,
            "slowest": max(reader.last for reader in herd.readers) / self.ideal,
            "first": quantile(firsts, 0.5),
            "p99": quantile(firsts, 0.99),
            "worst": firsts[-1],
            "cost": turn.server.cpu() - spent,
        }
        return Sample(values, faults)


class Late(Paced):
    """A client that comes when half of the file is there."""

    name = "late"
    title = "A second client half way through a cold file of {paced} MiB, source at 50 MB/s"
    metrics = (
        Metric("half", "ms to the first half", 1, "ratio"),
        Metric("last", "ms to the end after the first client's", 1),
    )

    def sample(self, turn: Turn) -> Sample:
        herd = Herd(turn.server.address, f"late/package-1.{turn.number}.tar", self.body)
        herd.join(1)
        herd.run(until=len(self.body) // 2)
        herd.join(1)
        herd.run()
        faults = herd.close()
        early, late = herd.readers
        behind = late.begun + late.last - early.begun - early.last
        return Sample({"half": 1000 * late.half, "last": 1000 * behind}, faults)
