"""`fsck`: check everything that is stored, and repair it. An interrupted check is resumed by the next run."""

import json
import signal
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from package_cache import compose
from package_cache.cli import arguments, output
from package_cache.cli.arguments import Command
from package_cache.cli.output import StatusLine, percentage
from package_cache.config import Config
from package_cache.engine.upkeep.verification import CheckProgress, Problem
from package_cache.errors import StoreError

_SAVE_SECONDS = 5.0
_LOCK = "upkeep:fsck"
"""No key begins like this."""


def _add(parser: ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="repair what is damaged; remove what nobody needs")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    arguments.add_source(parser)


def _run(options: Namespace, config: Config) -> int:
    with compose.checker(config, repair=options.repair) as (checker, stores):
        if not stores.blobs.locks.take(_LOCK):
            raise StoreError("another fsck is at work in this cache")
        cursor = _Cursor(stores.root / "fsck-v1", repair=options.repair)
        total = stores.registry.totals().bytes
        progress = cursor.progress
        status = StatusLine(lambda: f"{percentage(progress.bytes, total)}  {_text(progress)}")

        def step() -> None:
            cursor.save_now_and_then()
            status.step()

        whole = False
        try:
            checker.run(progress, step)
            whole = True
            cursor.remove()
        except KeyboardInterrupt:
            # Not again before this is saved.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            cursor.save()
        finally:
            status.clear()
        return output.report(
            {
                "files": progress.files,
                "bytes": progress.bytes,
                "problems": [asdict(problem) for problem in progress.problems],
            },
            _lines(progress),
            as_json=options.json,
            whole=whole,
            failed=any(problem.mended is None for problem in progress.problems),
        )


class _Cursor:
    """How far an interrupted check came, in a file. A check with other options begins again."""

    def __init__(self, path: Path, *, repair: bool) -> None:
        self._path = path
        self._repair = repair
        self._saved = time.monotonic()
        self.progress = self._load()

    def _load(self) -> CheckProgress:
        with suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads(self._path.read_bytes())
            problems = [Problem(**{**one, "keys": tuple(one["keys"])}) for one in data["problems"]]
            if data.pop("repair") is self._repair:
                return CheckProgress(str(data["place"]), int(data["files"]), int(data["bytes"]), problems)
        return CheckProgress()

    def save_now_and_then(self) -> None:
        """Save it, but only every few seconds. Raises StoreError."""
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self._saved = time.monotonic()
            self.save()

    def save(self) -> None:
        """Save it. Raises StoreError."""
        new = Path(f"{self._path}.new")
        try:
            new.write_text(json.dumps({**asdict(self.progress), "repair": self._repair}), encoding="ascii")
            new.rename(self._path)
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error

    def remove(self) -> None:
        """Remove the file: the check is complete, so there is nothing to resume."""
        self._path.unlink(missing_ok=True)


def _text(progress: CheckProgress) -> str:
    return f"{progress.files} files, {progress.bytes >> 20} MiB, {len(progress.problems)} problems"


def _lines(progress: CheckProgress) -> Iterator[str]:
    for problem in progress.problems:
        names = f" ({', '.join(problem.keys)})" if problem.keys else ""
        deed = f": {problem.mended}" if problem.mended else ""
        yield f"{problem.kind} {problem.name}{names}: {problem.detail}{deed}"
    kinds = Counter(problem.kind for problem in progress.problems)
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no problems"
    repaired = sum(problem.mended is not None for problem in progress.problems)
    deeds = f", {repaired} of them repaired" if repaired else ""
    yield f"checked {output.count(progress.files, 'file', 'files')}, {progress.bytes} bytes: {found}{deeds}"


FSCK = Command(
    """
Reads every stored file and compares it with its digest, and the registry with what is on the disk. With --repair, damaged
and missing files are fetched again from the sources: only the very same bytes count. What nobody needs is removed, except
files younger than an hour and downloads younger than a day. It may run beside the service. If it is interrupted, the next
run resumes it. Exit codes: 0 nothing is wrong any more, 1 something is, 130 interrupted.""",
    _add,
    _run,
    asks_sources=True,
)
