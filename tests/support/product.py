"""The product as a subprocess, under each of its hosts, and a client that tells a cut body from a whole one."""

import contextlib
import hashlib
import http.client
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from origin import until

from package_cache.storage.blobs import BlobStore
from package_cache.storage.registry import Registry

if TYPE_CHECKING:
    from forks import Child


def surroundings(**more: str) -> dict[str, str]:
    """The environment of whoever runs the tests, without settings, neither his nor those of a file of this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PACKAGE_CACHE_")}
    return kept | {"PACKAGE_CACHE_CONFIG": os.devnull} | more


SUPPORT = Path(__file__).parent
"""Where the helpers of tests are."""

HOSTS = ("wsgiref", "gunicorn", "gthread")
"""The bare command's server, `--server gunicorn`, and a plain Gunicorn with the WSGI callable."""


def as_program(file: str, *words: object) -> list[str]:
    """The command that runs a test module as a program, which finds the helpers as tests do."""
    found = f"import runpy, sys; sys.path[:0] = [{str(SUPPORT)!r}]; sys.argv[:] = sys.argv[1:]; "
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    return [sys.executable, "-c", found + run, file, *map(str, words)]


_READY = re.compile(r"serving .* at (\S+(?:, \S+)*) \(cache in ")
_LISTENING = re.compile(r"Listening at: (\S+)")


@dataclass(frozen=True)
class Response:
    """What a client got. `whole` says that the body ended as announced."""

    status: int
    fields: http.client.HTTPMessage
    body: bytes
    whole: bool

    @property
    def cache_status(self) -> str:
        return self.fields.get("Cache-Status", "")


Spawn = Callable[[Sequence[str], Mapping[str, str]], "subprocess.Popen[str] | Child"]


PYTHON = (sys.executable, "-m")


def launch(words: Sequence[str], environment: Mapping[str, str], within: Sequence[str] = PYTHON) -> "subprocess.Popen[str]":
    """Start a program of these words, the first of which is its name."""
    return subprocess.Popen([*within, *words], stderr=subprocess.PIPE, env=environment, text=True)


class Proxy:
    """A running package-cache. `url` ends with a slash; `places` are all where it listens.

    `config` is its file of configuration; `spawn` starts it, `Forks.spawn` much quicker than `launch`.
    """

    def __init__(
        self,
        cache: Path,
        sources: Sequence[str] = (),
        host: str = "wsgiref",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        listen: Sequence[str] = (),
        config: Path | None = None,
        spawn: Spawn = launch,
    ) -> None:
        self.cache = cache
        self.host = host
        variables = surroundings(PYTHONUNBUFFERED="1", **(environment or {}))
        if config is not None:
            variables["PACKAGE_CACHE_CONFIG"] = str(config)
        if host == "gthread":
            variables["PACKAGE_CACHE_CACHE"] = str(cache)
            if sources:
                variables["PACKAGE_CACHE_SOURCE"] = " ".join(sources)
            command = ["gunicorn", "package_cache:create_app()", "-b", "127.0.0.1:0", "-w", "2", "--threads", "40"]
            command += ["--no-control-socket", *arguments]
        else:
            options = [word for source in sources for word in ("--source", source)]
            places = [word for place in listen for word in ("--listen", place)] or ["--host", "127.0.0.1", "--port", "0"]
            command = ["package_cache", "--server", host, "--cache", str(cache)]
            command += [*places, *options, *arguments]
        self.process = spawn(command, variables)
        self.log: list[str] = []
        self.places: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._ready.wait(60) or not self.places:
            self.kill()
            raise AssertionError("the server did not start:\n" + "".join(self.log))

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        said = _LISTENING if self.host == "gthread" else _READY
        for line in self.process.stderr:
            self.log.append(line)
            match = said.search(line)
            if match and not self.places:
                self.places = match[1].split(", ")
                self._ready.set()
        self._ready.set()

    @property
    def url(self) -> str:
        return next(place for place in self.places if place.startswith("http")).rstrip("/") + "/"

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def get(self, target: str, fields: Mapping[str, str] | None = None, method: str = "GET") -> Response:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.putrequest(method, target, skip_host="Host" in (fields or {}), skip_accept_encoding=True)
            for name, value in (fields or {}).items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            try:
                body, whole = response.read(), True
            except (http.client.IncompleteRead, ConnectionError) as error:
                body, whole = getattr(error, "partial", b""), False
            return Response(response.status, response.headers, body, whole)
        finally:
            connection.close()

    def fetch(self, target: str, fields: Mapping[str, str] | None = None) -> Response:
        """A file that is stored by the time this returns.

        Clients have a file before it is stored, on a slow disk seconds before: until then it is served without a question
        to its source, and neither other processes nor the disk know it.
        """
        answer = self.get(target, fields)
        until(lambda: _holds(self.cache, target, hashlib.sha256(answer.body).hexdigest()))
        return answer

    def fetch_new(self, target: str, fields: Mapping[str, str] | None = None) -> Response:
        """As `fetch`, of a body that is not stored as it is served: the cache has one more version afterwards."""
        before = len(versions(self.cache))
        answer = self.get(target, fields)
        until(lambda: len(versions(self.cache)) > before)
        return answer

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(self.address, timeout=60)

    def unread(self) -> int:
        """How many connections were not accepted, and bytes of clients not read, so far; of TCP over IPv4."""
        lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        port = f":{self.address[1]:04X}"
        return sum(int(words[4].partition(":")[2], 16) for words in lines if words[1].endswith(port))

    def workers(self) -> list[int]:
        """The pids of the worker processes."""
        return children(self.process.pid)

    def kill(self) -> None:
        """SIGKILL to the process and its workers."""
        workers = self.workers()
        self.process.kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._end()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self._end()

    def _end(self) -> int:
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


def children(pid: int) -> list[int]:
    """The pids of a process's own processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _parent(path) == pid]


def _parent(process: Path) -> int:
    """The pid of the parent of a process in /proc; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def open_files() -> set[tuple[str, str]]:
    """What this process has open: descriptors, with what each leads to. Those of earlier tests may be closed meanwhile."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the list itself
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


@dataclass(frozen=True)
class Row:
    """A stored body that is a row of the registry, for tests that would do the same to the path of a file."""

    cache: Path
    name: str

    def _do(self, statement: str, *values: object) -> list[tuple[bytes, ...]]:
        with contextlib.closing(sqlite3.connect(self.cache / "registry-v1.db", timeout=30)) as connection, connection:
            return connection.execute(f"{statement} WHERE digest = ?", (*values, self.name)).fetchall()

    def read_bytes(self) -> bytes:
        return self._do("SELECT body FROM small")[0][0]

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        self._do("UPDATE small SET body = ?", data)

    def unlink(self) -> None:
        self._do("DELETE FROM small")

    def chmod(self, mode: int) -> None:
        """Rows have no modes."""

    @property
    def size(self) -> int:
        return len(self.read_bytes())


def rows(cache: Path) -> list[Row]:
    """The stored bodies that are rows of the registry."""
    if not (cache / "registry-v1.db").exists():
        return []
    with contextlib.closing(sqlite3.connect(cache / "registry-v1.db", timeout=30)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'small'").fetchone():
            return []
        return [Row(cache, digest) for (digest,) in connection.execute("SELECT digest FROM small ORDER BY digest")]


def files(cache: Path) -> list[Path]:
    """The stored bodies that are files."""
    return [path for path in (cache / "blobs-v1").rglob("*") if path.is_file()]


def blobs(cache: Path) -> list[Path | Row]:
    """What is stored, each body once."""
    found = {body.name: body for body in (*rows(cache), *files(cache))}
    return list(found.values())


def as_file(cache: Path, body: bytes) -> Path:
    """Have a stored body be a file, as a former version stored small ones too; nobody uses the cache meanwhile."""
    with contextlib.closing(Registry(cache / "registry-v1.db")) as registry:
        store = BlobStore(cache / "blobs-v1", registry.database)
        return store.as_file(hashlib.sha256(body).hexdigest(), len(body))


def size_of(body: Path | Row) -> int:
    """The bytes of a stored body."""
    return body.size if isinstance(body, Row) else body.stat().st_size


def stored(cache: Path) -> list[str]:
    """The names that the registry has; a blob is there a moment before its name is."""
    with contextlib.closing(sqlite3.connect(cache / "registry-v1.db", timeout=30)) as connection:
        return [row[0] for row in connection.execute("SELECT DISTINCT key FROM entry WHERE status = 3 ORDER BY key")]


def versions(cache: Path) -> list[tuple[str, str]]:
    """The name and the digest of each version that the registry has, oldest first."""
    if not (cache / "registry-v1.db").exists():
        return []
    with contextlib.closing(sqlite3.connect(cache / "registry-v1.db", timeout=30)) as connection:
        return connection.execute("SELECT key, digest FROM entry WHERE status = 3 ORDER BY id").fetchall()


def _holds(cache: Path, target: str, digest: str) -> bool:
    path = unquote(urlsplit(target).path)
    return any(has == digest and path in unquote(key) for key, has in versions(cache))


def parts(cache: Path) -> list[Path]:
    """What running or broken downloads left."""
    return sorted((cache / "parts-v1").iterdir())


def npm_config(source: str, folder: Path, more: str = "") -> Path:
    """A file of configuration: a repository of npm, of which a document has its links replaced."""
    path = folder / "config.toml"
    path.write_text(f"""
        [[repository]]
        name = "npm"
        prefix = "/npm/"
        sources = ["{source}"]
        preset = "npm"
        {more}
    """)
    return path
