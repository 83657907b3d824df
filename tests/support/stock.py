"""A cache with some files in it, and the damage that disks, crashes and people do to one."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from forks import Forks
from origin import Origin, until
from product import Proxy, files

BODIES = {
    f"/distfiles/{name}-1.{number}.tar.xz": random.Random(number).randbytes(66_000 + 7000 * number)
    for number, name in enumerate("abcdefghijkl")
}
"""What the source has: files, none small enough to be a row. None of it is ever asked for again once it is stored."""


@dataclass(frozen=True)
class Stock:
    """A stored copy of all `BODIES`, and the source they came from."""

    origin: Origin
    cache: Path

    def copy(self, place: Path) -> Path:
        shutil.copytree(self.cache, place)
        return place


def names(cache: Path) -> int:
    """How many versions the registry can serve; none where there is no registry, and none is made."""
    path = cache / "registry-v1.db"
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
    except sqlite3.OperationalError:
        return 0
    with closing(connection):
        return int(connection.execute("SELECT count(*) FROM entry WHERE status = 3").fetchone()[0])


def fill(origin: Origin, proxy: Proxy, bodies: dict[str, bytes] = BODIES) -> None:
    """Have the product store all that there is."""
    for path, body in bodies.items():
        origin.put(path, body)
        assert proxy.get(path).body == body
    until(lambda: names(proxy.cache) == len(bodies))


def make(place: Path, forks: Forks, end: Callable[[Proxy], object] = Proxy.stop) -> Stock:
    """A stock whose server was ended by `end`."""
    origin = Origin()
    proxy = Proxy(place, [origin.url], spawn=forks.spawn)
    fill(origin, proxy)
    end(proxy)
    return Stock(origin, place)


def serves_all(proxy: Proxy, bodies: dict[str, bytes] = BODIES) -> None:
    for path, body in bodies.items():
        answer = proxy.get(path)
        assert (answer.status, answer.whole, answer.body) == (200, True, body), path


def blob_of(cache: Path, body: bytes) -> Path:
    [path] = [one for one in files(cache) if one.stat().st_size == len(body)]
    return path


def overwrite(path: Path, at: int, data: bytes) -> None:
    """Change bytes in place, as a disk would: neither the length nor the modification time tells."""
    status = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    path.chmod(status.st_mode)
    shutil.os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def shorten(path: Path, size: int) -> None:
    """Take the end away from a file, which its owner may have made read-only."""
    path.chmod(0o600)
    os.truncate(path, size)


def rot(path: Path, at: int = 500) -> None:
    """Flip one bit."""
    with path.open("rb") as file:
        file.seek(at)
        [byte] = file.read(1)
    overwrite(path, at, bytes([byte ^ 1]))
