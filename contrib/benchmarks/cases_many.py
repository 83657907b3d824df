"""The cases about very many small files: cold ones from an https source, stored ones that are in no memory, a storm."""

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import clients
import servers
from cases import SMALL, Case, ColdSmall, Turn, noise
from cases_crowd import probe
from peers import program
from processes import Unusable
from report import Goal, Metric, Sample
from servers import Server
from walker import quantile, storming, walk

_KEEPERS = ("gunicorn", "wsgiref", "nginx-cache")
"""Who can speak https to a source, and has its cache when it starts again."""
_LINES = 4
"""Connections that ask for the hot file, so that each process of a server has some."""


class ColdHttps(ColdSmall):
    """Many small files that are not cached, from the same source over https and without."""

    name = "cold-https"
    title = "{cold} cold files of 4 KiB, 16 connections, source with https"
    metrics = (
        Metric("plain", "files/s, http", 0, "ratio"),
        Metric("rate", "files/s, https", 0, "ratio"),
        Metric("share", "https / http", 2),
        Metric("cost_plain", "CPU us/file, http", 0, "ratio"),
        Metric("cost", "CPU us/file, https", 0, "ratio"),
        Metric("p99", "p99 ms, https", 2),
    )
    goals = (Goal("share", "cold files of 4 KiB: rate with an https source / with a plain one", least=0.9),)
    direct = False

    @contextlib.contextmanager
    def stage(self) -> Iterator[list[Server]]:
        self.certificate = _certify(self.folder)
        self.make()
        with (
            servers.origin(self.folder / "origin", self.files) as source,
            servers.origin(self.folder / "origin-https", self.files, self.certificate) as secure,
        ):
            self.secure = secure.address
            yield [source]

    def rows(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in _KEEPERS]

    @contextlib.contextmanager
    def start(
        self, names: Sequence[str], folder: Path, source: tuple[str, int]
    ) -> Iterator[tuple[list[Server], dict[str, str]]]:
        with (
            servers.running(names, folder / "http", source, self.files) as (plain, failed),
            servers.running(names, folder / "https", self.secure, self.files, self.certificate) as (secure, failed_too),
        ):
            self.plain = {server.name: server for server in plain}
            yield [server for server in secure if server.name in self.plain], failed | failed_too

    def sample(self, turn: Turn) -> Sample:
        pair = [self.plain[turn.server.name], turn.server]
        done = {
            server: super(ColdHttps, self).sample(Turn(server, "", turn.number)) for server in _turned(pair, turn.number)
        }
        plain, secure = done[pair[0]], done[pair[1]]
        values = {
            **secure.values,
            "plain": plain.values["rate"],
            "cost_plain": plain.values["cost"],
            "share": secure.values["rate"] / plain.values["rate"],
        }
        return Sample(
            values, [*(f"http: {fault}" for fault in plain.faults), *(f"https: {fault}" for fault in secure.faults)]
        )


def _turned(pair: Sequence[Server], number: int) -> Sequence[Server]:
    """Who is first in one round is last in the next."""
    return pair if number % 2 == 0 else pair[::-1]


def _certify(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that signed itself, with its key beside it."""
    certificate = folder / "certificate.pem"
    made = subprocess.run(
        [
            *(program("openssl"), "req", "-x509", "-days", "2", "-nodes", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", str(certificate), "-keyout", f"{certificate}.key"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Unusable(f"openssl made no certificate: {made.stderr.strip()[-500:]}")
    return certificate


class Stored(Case):
    """Small files that are stored, at a server that has just started: each is looked up for the first time."""

    name = "stored"
    title = "{stored} stored files of 4 KiB after a restart, 64 connections, in random order, each asked for once"
    metrics = (
        Metric("rate", "requests/s", 0, "ratio"),
        Metric("cost", "CPU us/request", 1, "ratio"),
        Metric("p50", "p50 ms", 2),
        Metric("p99", "p99 ms", 2),
    )
    goals = (Goal("rate", "stored files that are not in memory: rate / nginx-cache", "nginx-cache", least=0.6),)
    fresh = True

    def make(self) -> None:
        self.bodies = [noise(number, SMALL) for number in range(self.scale.stored)]
        self.paths = [f"stored/{number % 100}/package-1.{number}.tar" for number in range(self.scale.stored)]
        _write_all(self.files, self.paths, self.bodies)
        self.filled: set[str] = set()

    def rows(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in _KEEPERS]

    @contextlib.contextmanager
    def start(
        self,
        names: Sequence[str],
        folder: Path,  # noqa: ARG002
        source: tuple[str, int],
    ) -> Iterator[tuple[list[Server], dict[str, str]]]:
        """The servers with the same caches in every round, which they fill before the first one."""
        self.source = source
        kept = self.folder / "kept"
        if new := [name for name in names if name not in self.filled]:
            with servers.running(new, kept, source, self.files) as (found, _):
                for server in found:
                    walk(server.address, self.paths, 16)
                    server.cpu_at_rest()
            self.filled.update(new)
            os.sync()
        with servers.running(names, kept, source, self.files) as running:
            yield running

    def sample(self, turn: Turn) -> Sample:
        order = random.Random(turn.number).sample(range(len(self.paths)), len(self.paths))
        asked, before = clients.requests_of(self.source), turn.server.cpu()
        done = walk(turn.server.address, [self.paths[number] for number in order], 64)
        spent = turn.server.cpu() - before
        values = {
            "rate": len(order) / done.seconds,
            "cost": 1e6 * spent / len(order),
            "p50": done.quantile(0.5),
            "p99": done.quantile(0.99),
        }
        faults = done.wrong([self.bodies[number] for number in order])
        asked = clients.requests_of(self.source) - asked - 1
        if asked > len(order) // 100:
            faults.append(f"{asked:,} were fetched again")
        return Sample(values, faults)


class HotInStorm(Case):
    """A file that is always in the cache, while others ask for files that are not."""

    name = "storm"
    title = f"A hit of 4 KiB each ms on {_LINES} connections, while 16 connections ask for cold files of 4 KiB"
    metrics = (
        Metric("p50", "p50 ms", 2, "ratio"),
        Metric("p99", "p99 ms", 2, "ratio"),
        Metric("max", "max ms", 1, worst=True),
        Metric("rate", "cold files/s", 0, "ratio"),
        Metric("cost", "CPU us/cold file", 0, "ratio"),
    )
    goals = (Goal("p99", "a hot file during a storm of cold ones: p99 / nginx-cache", "nginx-cache", most=1.2),)
    fresh = True
    hot = "hot/package-1.0.tar"

    def make(self) -> None:
        self.bodies = [noise(number, SMALL) for number in range(self.scale.storm)]
        self.paths = [f"storm/{number % 100}/package-1.{number}.tar" for number in range(self.scale.storm)]
        _write_all(self.files, [self.hot, *self.paths], [noise(1, SMALL), *self.bodies])

    def warm(self, server: Server) -> list[str]:
        return walk(server.address, [self.hot] * 100, 16).wrong([noise(1, SMALL)] * 100)

    def sample(self, turn: Turn) -> Sample:
        os.sync()
        address, before = turn.server.address, turn.server.cpu()
        with storming(address, self.paths, self.bodies, 16) as storm:
            times, failed = probe(address, self.hot, self.scale.seconds, _LINES)
            done = storm.end()
        spent = turn.server.cpu_at_rest() - before
        faults = [f"{failed} probes failed"] if failed else []
        faults += [f"cold: {fault}" for fault in done.faults]
        if not done.lasted:
            faults.append(f"the storm ended too early, after {done.files:,} files")
        values = {"rate": done.files / done.seconds, "cost": 1e6 * spent / max(1, done.files)}
        if times:
            values |= {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99), "max": times[-1]}
        return Sample(values, faults)


def _write_all(folder: Path, paths: Sequence[str], bodies: Sequence[bytes]) -> None:
    for parent in {(folder / path).parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for path, body in zip(paths, bodies, strict=True):
        (folder / path).write_bytes(body)
