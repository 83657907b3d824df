"""Plain trees of files, taken into a cache and out of one by the commands, within this process."""

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from package_cache.cli import commands

STAMP = 1_577_836_800

REPOSITORIES = """
[[repository]]
name = "gentoo"
prefix = "/gentoo"
preset = "gentoo"
sources = ["http://distfiles.gentoo.org/"]
[[repository]]
name = "debian"
hosts = ["deb.example"]
preset = "debian"
sources = ["http://mirror.example/"]
"""


@dataclass
class Run:
    returncode: int
    stdout: str
    stderr: str


def grown(root: Path, *names: str) -> Path:
    """A tree of files whose bytes are their names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (STAMP, STAMP))
    return root


def take_over(place: Path, cache: Path, *options: str) -> Run:
    return _run("import", str(place), "--cache", str(cache), *options)


def imported(place: Path, cache: Path, *options: str) -> str:
    """Take a place over, all of it; what was said."""
    run = take_over(place, cache, *options)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    return run.stdout


def export(cache: Path, *words: object) -> Run:
    return _run("export", "--cache", str(cache), *map(str, words))


def exported(cache: Path, *words: object) -> str:
    """Export all of it; what was said."""
    run = export(cache, *words)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout + run.stderr
    return run.stdout


def _run(*words: str) -> Run:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = commands.run([*words])
    return Run(code, out.getvalue(), err.getvalue())
