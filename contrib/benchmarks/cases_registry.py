"""The case about how much a cache holds: what a start, a hit and a look-up cost with few entries and with many."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import clients
import servers
from cases import SMALL, Case, Turn, noise
from peers import Place, program
from processes import ROOT, Unusable
from report import Metric, Sample
from servers import Server
from walker import walk

_SERVER = "gunicorn"
_FILES = 1000
"""Real files, and what is asked for in turn, whatever else there is."""
_PATTERN = "registry/package-1.%d.tar"


class Entries(Case):
    """A server of ours with caches made beforehand."""

    name = "registry"
    title = f"{_SERVER}: hits on {_FILES:,} files of 4 KiB, by the number of other entries in the registry"
    metrics = (
        Metric("start", "start s", 2, "ratio", "1,000"),
        Metric("first", "first time CPU us", 0, "ratio", "1,000"),
        Metric("rate", "requests/s", 0, "ratio", "1,000"),
        Metric("cost", "CPU us/request", 1, "ratio", "1,000"),
        Metric("look", "look-up us", 1, "ratio", "1,000"),
    )
    alone = True

    @contextlib.contextmanager
    def stage(self) -> Iterator[list[Server]]:
        program("wrk")
        self.paths = [_PATTERN % number for number in range(_FILES)]
        (self.files / "registry").mkdir()
        for number, path in enumerate(self.paths):
            (self.files / path).write_bytes(noise(number, SMALL))
        self.script = self.folder / "rotation.lua"
        self.script.write_text(clients.rotation(_PATTERN, _FILES))
        self.started: dict[str, float] = {}
        with servers.origin(self.folder / "origin", self.files) as source:
            self._make_caches(source.address)
            yield [source]

    def rows(self, names: Sequence[str]) -> list[str]:
        return [f"{count:,}" for count in self.scale.registry] if _SERVER in names else []

    @contextlib.contextmanager
    def start(
        self, names: Sequence[str], folder: Path, source: tuple[str, int]
    ) -> Iterator[tuple[list[Server], dict[str, str]]]:
        folder.mkdir(parents=True)
        os.sync()
        try:
            with servers.one(_SERVER, self._place(names[0], source)) as (server, seconds):
                self.started[names[0]] = seconds
                yield [Server(names[0], server.address, server.process)], {}
        except Unusable as reason:
            yield [], {names[0]: str(reason)}

    def sample(self, turn: Turn) -> Sample:
        server, name = turn.server, turn.server.name
        before = server.cpu()
        first = walk(server.address, self.paths, 16)
        spent = server.cpu() - before
        clients.wrk(server, self.script, 1, keep=True)
        load = clients.wrk(server, self.script, self.scale.seconds, keep=True)
        values = {
            "start": self.started[name],
            "first": 1e6 * spent / _FILES,
            "rate": load.rate,
            "cost": 1e6 * load.cost,
            "look": float(self._entries("look", self.folder / name / "cache", name)),
        }
        return Sample(values, load.faults + first.wrong([noise(number, SMALL) for number in range(_FILES)]))

    def _place(self, name: str, source: tuple[str, int]) -> Place:
        return Place(self.folder / name, servers.free_port(), source, self.files)

    def _make_caches(self, source: tuple[str, int]) -> None:
        """A cache for each number of entries: all have the real files, the rest is in the registry alone."""
        model = self.folder / "model"
        model.mkdir()
        with servers.one(_SERVER, self._place("model", source)) as (server, _):
            walk(server.address, self.paths, 16)
        for name in self.rows([_SERVER]):
            shutil.copytree(model, self.folder / name)
            self._entries("fill", self.folder / name / "cache", name)

    def _entries(self, what: str, cache: Path, name: str) -> str:
        program = Path(__file__).with_name("entries.py")
        done = subprocess.run(
            [sys.executable, str(program), what, str(cache), "/" + self.paths[0], name.replace(",", "")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unusable(f"entries.py: {done.stderr.strip()[-500:]}")
        return done.stdout
