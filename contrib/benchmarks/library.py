"""Measures the library beside the packages that it takes the place of, each in an environment of its own.

    python contrib/benchmarks/library.py [--quick] [--cases items,search,import] [--runs N] [--markdown FILE]

Installs the originals with pip into a temporary folder, which is removed in the end. Each round runs both, one after the
other; a figure is the median of the rounds. `--directory` is where the caches are; the disk is a part of what is measured.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from report import Table

ROOT = Path(__file__).parents[2]
RUNS = Path(__file__).with_name("library_runs.py")
ORIGINALS = ("cachedir==0.1.3",)

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """What is measured: how many things, for how many seconds at most, and the name and title of each figure."""

    title: str
    count: int
    quick: int
    rows: Mapping[str, str]


CASES = {
    "items": Case(
        "create, write, ready and best of {count} items", 10_000, 100, {"ms": "ms an item", "done": "items in time"}
    ),
    "search": Case(
        "search by attributes over {count} items",
        100_000,
        2_000,
        {
            "one": "one number, 1 item: ms",
            "ten": "numbers from one on, 10 items: ms",
            "both": "a word and a range, 10 items: ms",
            "thousand": "a word, 1 % of the items: ms",
            "numbers": "by_attrs, 10 numbers: ms",
        },
    ),
    "import": Case("import, and the name Cache", 0, 0, {"import": "ms"}),
}


def interpreter(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of a new environment with these packages. Ends the program if they cannot be installed."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *packages], check=False, capture_output=True, text=True
    )
    if run.returncode:
        raise SystemExit(f"cannot install {' '.join(packages)}:\n{run.stderr}")
    return python


def measure(python: Path, which: str, case: str, count: int, options: argparse.Namespace) -> Figures:
    """One run. Ends the program if it fails."""
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        command = [str(python), str(RUNS), which, case, folder, str(count), str(options.seconds)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT) if which == "new" else ""}
        run = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if run.returncode:
            raise SystemExit(f"{which} {case}: {run.stderr[-2000:]}")
        figures: Figures = json.loads(run.stdout.splitlines()[-1])
        return figures


def tabulate(case: Case, count: int, rounds: Mapping[str, Sequence[Figures]]) -> Table:
    """A row for each figure: both, and how often the new one goes into the old one."""
    rows = []
    for name, title in case.rows.items():
        old, new = (statistics.median(one[name] for one in rounds[which]) for which in ("cachedir", "new"))
        ratio = "" if name == "done" else f"{old / new:.1f}"
        rows.append((title, *(f"{value:.0f}" if value >= 100 else f"{value:.2f}" for value in (new, old)), ratio))
    return Table(case.title.format(count=f"{count:,}"), ("", "package-cache", "cachedir 0.1.3", "times as fast"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few items, for a look")
    parser.add_argument("--cases", default=",".join(CASES), help=f"some of {','.join(CASES)}")
    parser.add_argument("--runs", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--seconds", type=float, default=120, help="longest time for making items (default: 120)")
    parser.add_argument("--directory", type=Path, help="where the caches are (default: the temporary directory)")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file, too")
    parser.add_argument("--original", type=Path, help="a Python with the originals, which are then not installed")
    options = parser.parse_args()
    unknown = set(options.cases.split(",")) - CASES.keys()
    if unknown:
        parser.error(f"--cases: no such case: {', '.join(sorted(unknown))}")
    folder = Path(tempfile.mkdtemp())
    try:
        old = options.original or interpreter(folder, ORIGINALS)
        tables = []
        for name in options.cases.split(","):
            case = CASES[name]
            count = case.quick if options.quick else case.count
            rounds: dict[str, list[Figures]] = {"new": [], "cachedir": []}
            for _ in range(options.runs):
                rounds["new"].append(measure(Path(sys.executable), "new", name, count, options))
                rounds["cachedir"].append(measure(old, "cachedir", name, count, options))
            tables.append(tabulate(case, count, rounds))
            print(tables[-1].text(), flush=True)
        if options.markdown:
            options.markdown.write_text("\n\n".join(table.markdown() for table in tables) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
