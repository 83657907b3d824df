"""The case about indexes, which a cache has and of which it must ask each time whether they still hold."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import clients
import servers
from cases import FULL, SMALL, Case, Turn, noise
from clients import fetch
from peers import program
from report import Goal, Metric, Sample
from servers import Server
from walker import walk

_CONNECTIONS = 64
_NAMES = 200
_PATTERN = "index/%d/index.html"
_FEW = "16 names"
_MANY = f"{_NAMES} names"
_HELD = f"{_NAMES} names, of which the client asks whether it still has the right one"
_SINCE = 1_650_000_000


class Revalidated(Case):
    """Hits that the source must confirm. What it is asked is counted at the source, and so is what it says but 304."""

    name = "index"
    title = "Indexes of 4 KiB that a source confirms each time (304), {variant}: wrk -t1 -c64, {seconds} s"
    metrics = (
        Metric("rate", "requests/s", 0, "ratio"),
        Metric("cost", "CPU us/request", 1, "ratio"),
        Metric("p50", "p50 ms", 2),
        Metric("p99", "p99 ms", 2),
        Metric("asked", "source requests/request", 2),
    )
    goals = (
        Goal("rate", "indexes that are revalidated, 16 names: rate / nginx-cache", "nginx-cache", least=0.8, variant=_FEW),
        Goal("rate", "the same, 200 names", "nginx-cache", least=0.8, variant=_MANY),
    )
    variants = (_FEW, _MANY, _HELD)

    def shown(self) -> Sequence[str]:
        return self.variants if self.scale is FULL else [_FEW, _MANY]

    @contextlib.contextmanager
    def stage(self) -> Iterator[list[Server]]:
        program("wrk")
        self.changing: dict[str, int] = {}
        for number in range(_NAMES):
            _write(self.files / (_PATTERN % number), noise(number, SMALL))
        with servers.origin(self.folder / "origin", self.files) as source:
            self.source = source
            etag = _field(fetch_head(source, _PATTERN % 0), b"etag")
            self.scripts = {name: self.folder / f"{at}.lua" for at, name in enumerate(self.variants)}
            self.scripts[_FEW].write_text(clients.rotation(_PATTERN, 16))
            self.scripts[_MANY].write_text(clients.rotation(_PATTERN, _NAMES))
            self.scripts[_HELD].write_text(clients.rotation(_PATTERN, _NAMES, etag))
            yield [source]

    def warm(self, server: Server) -> list[str]:
        wrong = [fault for _ in range(2) for fault in self._bodies(server)]
        clients.wrk(server, self.scripts[_MANY], 1, keep=True)
        return wrong

    def sample(self, turn: Turn) -> Sample:
        before, whole = clients.requests_of(self.source.address), self._whole()
        load = clients.wrk(turn.server, self.scripts[turn.variant], self.scale.seconds, keep=True)
        asked, sent = clients.requests_of(self.source.address) - before - 1, self._whole() - whole
        faults = load.faults + self._bodies(turn.server) + self._follows(turn.server)
        if asked * _CONNECTIONS < load.requests:  # all that wait at the same time may have one answer
            faults.append(f"the source was asked {asked:,} times in {load.requests:,} requests")
        if sent:
            faults.append(f"the source sent {sent:,} whole answers")
        values = {"rate": load.rate, "cost": 1e6 * load.cost, "p50": load.p50, "p99": load.p99}
        return Sample(values | {"asked": asked / max(1, load.requests)}, faults)

    def _bodies(self, server: Server) -> list[str]:
        done = walk(server.address, [_PATTERN % number for number in range(_NAMES)], 16)
        return done.wrong([noise(number, SMALL) for number in range(_NAMES)])

    def _follows(self, server: Server) -> list[str]:
        """Whether a change at the source is seen by the next request, in each process."""
        path = f"changing/{server.name}/index.html"
        for _ in range(2):
            size = self.changing[server.name] = self.changing.get(server.name, SMALL) + 1
            body = noise(size, size)
            _write(self.files / path, body)
            if any(fetch(server.address, path, size).body != body for _ in range(8)):
                return ["what the source changed was served as it was before"]
        return []

    def _whole(self) -> int:
        """How many answers of the source about indexes were anything else than a 304 so far."""
        return len((self.folder / "origin" / "direct" / "whole.log").read_bytes().splitlines())


def _write(path: Path, body: bytes) -> None:
    """A file with a time of modification that says no more than its size does, put there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(body)
    os.utime(beside, (_SINCE, _SINCE))
    beside.replace(path)


def fetch_head(server: Server, path: str) -> bytes:
    """The head of the answer to a GET."""
    return walk(server.address, [path], 1).answers[0].partition(b"\r\n\r\n")[0] + b"\r\n"


def _field(head: bytes, name: bytes) -> str:
    found = re.search(rb"\r\n" + name + rb": *([^\r]*)\r\n", head, re.IGNORECASE)
    return found[1].decode() if found else ""
