"""`package-cache fsck`: check everything that is stored, and mend it. Shows how far it is; goes on from there."""

import json
import signal
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from package_cache import compose
from package_cache.cli import arguments, output
from package_cache.cli.command import DONE, FAILED, INTERRUPTED, Command
from package_cache.cli.status import StatusLine, percentage
from package_cache.config import Config
from package_cache.engine.upkeep.check import Problem, Progress
from package_cache.errors import StoreError

_SAVE_SECONDS = 5.0
_LOCK = "upkeep:fsck"
"""No key begins like this."""


def _add(it: ArgumentParser) -> None:
    it.add_argument("--repair", action="store_true", help="mend what is damaged; remove what nobody needs")
    it.add_argument("--json", action="store_true", help="print the report as one JSON object")
    arguments.add_source(it)


def _run(options: Namespace, config: Config) -> int:
    with compose.checker(config, repair=options.repair) as (checker, stores):
        if not stores.blobs.locks.take(_LOCK):
            raise StoreError("another fsck is at work in this cache")
        cursor = _Cursor(stores.root / "fsck-v1", repair=options.repair)
        progress = cursor.load()
        steps = _Steps(progress, cursor, stores.registry.totals().bytes)
        whole = False
        try:
            checker.run(progress, steps.step)
            whole = True
            cursor.remove()
        except KeyboardInterrupt:
            # Not again before this is written down.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            cursor.save(progress)
        finally:
            steps.status.clear()
        _report(progress, as_json=options.json, whole=whole)
    if not whole:
        return INTERRUPTED
    return FAILED if any(problem.mended is None for problem in progress.problems) else DONE


class _Cursor:
    """Where an interrupted check is written down. One with other options begins anew."""

    def __init__(self, path: Path, *, repair: bool) -> None:
        self._path = path
        self._repair = repair

    def load(self) -> Progress:
        """How far the last check came, if it was interrupted."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads(self._path.read_bytes())
            problems = [Problem(**{**one, "keys": tuple(one["keys"])}) for one in data["problems"]]
            if data.pop("repair") is self._repair:
                return Progress(str(data["place"]), int(data["files"]), int(data["bytes"]), problems)
        return Progress()

    def save(self, progress: Progress) -> None:
        """Write down how far it is. Raises StoreError."""
        new = Path(f"{self._path}.new")
        try:
            new.write_text(json.dumps({**asdict(progress), "repair": self._repair}), encoding="ascii")
            new.rename(self._path)
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error

    def remove(self) -> None:
        """There is nothing to go on with."""
        self._path.unlink(missing_ok=True)


class _Steps:
    """What is done with each step of a check: shown, and written down now and then."""

    def __init__(self, progress: Progress, cursor: _Cursor, total: int) -> None:
        self._progress = progress
        self._cursor = cursor
        self._total = total
        self._saved = time.monotonic()
        self.status = StatusLine(self._text)

    def step(self) -> None:
        """Something was done."""
        now = time.monotonic()
        if now - self._saved > _SAVE_SECONDS:
            self._saved = now
            self._cursor.save(self._progress)
        self.status.step()

    def _text(self) -> str:
        it = self._progress
        share = percentage(it.bytes, self._total)
        return f"{share}  {it.files} files, {it.bytes >> 20} MiB, {len(it.problems)} problems"


def _report(progress: Progress, *, as_json: bool, whole: bool) -> None:
    if as_json:
        problems = [asdict(problem) for problem in progress.problems]
        output.document({"whole": whole, "files": progress.files, "bytes": progress.bytes, "problems": problems})
        return
    for problem in progress.problems:
        names = f" ({', '.join(problem.keys)})" if problem.keys else ""
        deed = f": {problem.mended}" if problem.mended else ""
        output.line(f"{problem.kind} {problem.name}{names}: {problem.detail}{deed}")
    kinds = Counter(problem.kind for problem in progress.problems)
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no problems"
    mended = sum(problem.mended is not None for problem in progress.problems)
    deeds = f", {mended} of them mended" if mended else ""
    files = output.count(progress.files, "file", "files")
    output.line(f"checked {files}, {progress.bytes} bytes: {found}{deeds}")
    if not whole:
        output.line("interrupted: run it again to go on from here")


FSCK = Command(
    """
Reads every stored file and compares it with its digest, and the registry with what is there. With --repair, damaged and
missing files are fetched again from the sources: only the very same bytes count. What nobody needs is removed, but for
files younger than an hour and downloads younger than a day. It may run beside the service. Interrupted, it goes on from
there when it is run again. Exit codes: 0 nothing is wrong any more, 1 something is, 130 interrupted.""",
    _add,
    _run,
    asks_sources=True,
)
