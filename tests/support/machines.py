"""Machines of a network, each a directory of its own in which a package manager finds its settings, state and cache.

Nothing outside that directory is read as a setting or written to. What a machine is told is what the guide for
clients has its reader paste: `pasted` finds those lines.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from documentation import files, section
from mirror import Mirror, clean_environment
from product import Proxy

CACHE = "http://cache.example:4000/"
"""What the documents call the cache."""
SOURCE = "http://mirror.example/"
"""What they call the mirror."""
FILES = "http://files.mirror.example/"
"""What they call another host of the mirror, for files alone."""

SECURITY = "http://security.mirror.example/"
"""What they call the mirror of a security archive."""

Serve = Callable[..., Proxy]


@dataclass(frozen=True)
class Machine:
    """A directory, and the environment of what runs in it."""

    folder: Path
    seconds: float = 90.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, text: str) -> Path:
        """A file of that name with that text."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def run(self, *command: str | Path, fails: bool = False, **variables: str) -> str:
        """Run a program that must succeed, or, told so, fail; what it said."""
        done = subprocess.run(
            [str(word) for word in command],
            env=clean_environment(self.folder / "home") | variables,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=self.seconds,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{shlex.join(done.args)} ended {done.returncode}:\n{done.stdout}"
        return done.stdout


def pasted(heading: str, name: str) -> str:
    """The lines that the guide for clients has one paste into a file under a heading. They follow the file's name."""
    found = [text for file, text in files(section("clients", heading)) if file == name]
    assert len(found) == 1, f"the guide has {len(found)} blocks for {name} under {heading}"
    return found[0]


def told(text: str, proxy: Proxy, mirror: Mirror | None = None) -> str:
    """What the guide has one paste, with the real addresses."""
    at = f"{proxy.address[0]}:{proxy.address[1]}"
    text = (
        text.replace(CACHE, proxy.url).replace(CACHE.rstrip("/"), proxy.url.rstrip("/")).replace("cache.example:4000", at)
    )
    text = text.replace("cache.example", proxy.address[0])
    return text.replace(SOURCE, mirror.url) if mirror else text


def files_of(mirror: Mirror) -> str:
    """The URL of the mirror by another name of its host, which stands for another host."""
    return mirror.url.replace("127.0.0.1", "localhost")


def serve_pasted(serve: Serve, heading: str, mirror: Mirror, at: str = "", host: str = "wsgiref") -> Proxy:
    """The product, with the repository that the guide has under a heading. `at` is where the mirror has it for others."""
    file = mirror.root.with_name("config.toml")
    text = pasted(heading, "/etc/package-cache/config.toml").replace(f"{SOURCE}{at}", mirror.url)
    file.write_text(text.replace(FILES, files_of(mirror)).replace(SECURITY, f"{mirror.url}security/"))
    return serve(host=host, arguments=["--config", str(file), "--verbose"])


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()


def set_time_of(file: Path, like: Path) -> None:
    """Give a file the modification time of another one, as clients do with what they download."""
    os.utime(file, (like.stat().st_mtime,) * 2)


def statuses(mirror: Mirror, ending: str | Sequence[str]) -> list[tuple[str, int]]:
    """Name and status of each request of the mirror for a path with that ending."""
    ends = (ending,) if isinstance(ending, str) else tuple(ending)
    return [(one.path.rpartition("/")[2], one.status) for one in mirror.seen() if one.path.endswith(ends)]


def environment_of(package: str, version: str) -> Path:
    """A virtual environment with a package of the package index, made once and kept among the temporary files."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return kept(f"{package}-{version}-python{python}", lambda folder: _make_environment(folder, package, version))


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A directory that is made once and kept among the temporary files that outlive a run."""
    place = Path("/var/tmp") / f"package-cache-test-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.stat().st_uid != os.getuid() or place.is_symlink():
        pytest.skip(f"{place} belongs to somebody else")
    folder = place / name
    with _locked(place / f"lock-{name}"):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            (folder / "ready").touch()
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One at a time, over all processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_environment(folder: Path, package: str, version: str) -> None:
    install = ["install", "--quiet", "--retries", "1", "--timeout", "15", f"{package}=={version}"]
    for command in ([sys.executable, "-m", "venv", str(folder)], [str(folder / "bin" / "python"), "-m", "pip", *install]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{package} {version} cannot be had: {command[2]} took too long")
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            pytest.skip(f"{package} {version} cannot be had: {said[-1]}")
