"""The cases about small hits while others occupy the server: how long they take, and what memory the others cost."""

import socket
import time

import clients
import processes
from cases import SMALL, Case, Turn, noise, write_large
from clients import MIB
from crowd import Crowd, visiting
from report import Goal, Metric, Sample
from servers import Server
from walker import Address, head_of, quantile, walk

_PROBES = 1000
"""Small hits a second."""
_PATIENCE = 2.0
_SETTLE = 0.5


class SlowReaders(Case):
    """64 readers at 1 MB/s, 512 idle connections."""

    name = "slow"
    title = "A hit of 4 KiB each ms beside 64 readers at 1 MB/s and 512 idle connections"
    metrics = (
        Metric("p50", "p50 ms", 2, "ratio", "nginx"),
        Metric("p99", "p99 ms", 2, "ratio", "nginx"),
        Metric("max", "max ms", 1, worst=True),
        Metric("before", "PSS MiB before", 1),
        Metric("under", "PSS MiB", 1, "ratio", "nginx"),
        Metric("private", "private MiB", 1, "ratio", "nginx"),
        Metric("kernel", "kernel KiB/reader", 0, "ratio", "nginx"),
        Metric("readers", "readers served", 0),
        Metric("idle", "idle served", 0),
    )
    static = True
    alone = True  # memory that another Python shares would count for less
    readers, rate, idlers = 64, 1_000_000, 512

    large, small = "crowd/package-1.0.tar", "crowd/package-1.1.tar"

    def make(self) -> None:
        write_large(self.files / self.large, 64 * MIB)
        (self.files / self.small).write_bytes(noise(1, SMALL))

    def warm(self, server: Server) -> list[str]:
        right = clients.digest_of_file(self.files / self.large)
        same = [clients.digest(server.address, self.large) == right for _ in range(2)]
        same += [clients.fetch(server.address, self.small, SMALL).body == noise(1, SMALL) for _ in range(4)]
        return [] if all(same) else ["body wrong"]

    def sample(self, turn: Turn) -> Sample:
        server = turn.server
        time.sleep(_SETTLE)  # the kernel takes back what the one before used
        before, kernel = server.memory(), processes.socket_memory()
        crowd = Crowd(self.readers, self.rate, self.idlers, self.large, self.small)
        with visiting(server.address, crowd) as visit:
            time.sleep(_SETTLE)
            times, failed = probe(server.address, self.small, self.scale.seconds_crowd)
            under, held = server.memory(), processes.socket_memory() - kernel
            served = visit.leave()
            held -= served.held
        values = {
            "before": before.whole / MIB,
            "under": under.whole / MIB,
            "private": under.private / MIB,
            "kernel": held / 1024 / self.readers,
            "readers": served.readers,
            "idle": served.idle,
        }
        if len(times) > 1:
            values |= {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99), "max": times[-1]}
        faults = [f"{failed} probes failed"] if failed else []
        if served.readers < self.readers:
            faults.append(f"{self.readers - served.readers} readers not served")
        if served.idle < self.idlers:
            faults.append(f"{self.idlers - served.idle} idle connections not served")
        return Sample(values, faults)


class ManyIdle(SlowReaders):
    """The same with ten times as many, who are slower."""

    name = "idle"
    title = "The same beside 400 readers at 0.1 MB/s and 4,000 idle connections"
    readers, rate, idlers = 400, 100_000, 4000


class AfterMany(SlowReaders):
    """The readers and idle connections of `slow` at a server that has fetched many small files before, and served them."""

    name = "slow-after"
    title = "64 readers at 1 MB/s and 512 idle connections after {after} small files, which were cold and then hits"
    goals = (Goal("private", "64 slow readers after {after} small files: private MiB of all processes", most=45),)

    def paths(self) -> list[str]:
        return [f"after/package-1.{number}.tar" for number in range(self.scale.after)]

    def make(self) -> None:
        super().make()
        (self.files / "after").mkdir()
        for number, path in enumerate(self.paths()):
            (self.files / path).write_bytes(noise(number, SMALL))

    def warm(self, server: Server) -> list[str]:
        bodies = [noise(number, SMALL) for number in range(self.scale.after)]
        walks = [walk(server.address, self.paths(), connections) for connections in (16, 64, 64)]
        return [fault for done in walks for fault in done.wrong(bodies)] + super().warm(server)


def probe(address: Address, path: str, seconds: float, lines: int = 1) -> tuple[list[float], int]:
    """Ask for a small file each millisecond on kept connections in turn, one by default; milliseconds of each, sorted, and
    how many failed."""
    times: list[float] = []
    kept: list[socket.socket | None] = [None] * lines
    failed = 0
    begun = time.perf_counter()
    head = head_of(path)
    for number in range(int(seconds * _PROBES)):
        if (ahead := begun + number / _PROBES - time.perf_counter()) > 0:
            time.sleep(ahead)
        elif -ahead > seconds:
            break  # it was held up for so long that there is nothing more to learn
        start = time.perf_counter()
        connection = kept[number % lines]
        try:
            connection = connection or socket.create_connection(address, _PATIENCE)
            connection.sendall(head)
            whole = clients.receive_one(connection)
        except OSError:
            whole = None
        if whole is None:
            failed += 1
        else:
            times.append(1000 * (time.perf_counter() - start))
        if not whole and connection:
            connection.close()
            connection = None
        kept[number % lines] = connection
    for connection in filter(None, kept):
        connection.close()
    return sorted(times), failed
