"""The servers that are compared: each by its name, started on a free port of loopback, several at once."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import peers
import processes
from peers import Launch, Place
from processes import Unusable

_REST = 0.1
_REST_PATIENCE = 3.0


@dataclass(frozen=True)
class Server:
    """A running server: its name in the tables, where it is, and the process at the root of its tree."""

    name: str
    address: tuple[str, int]
    process: "subprocess.Popen[bytes] | None"
    """None for a source that is no server: its CPU and memory are not measured."""

    @property
    def url(self) -> str:
        """Where it is, with a final slash."""
        return f"http://{self.address[0]}:{self.address[1]}/"

    def cpu(self) -> float:
        """Seconds of CPU that it used so far, with all its processes."""
        return processes.cpu(self.process.pid) if self.process else 0.0

    def cpu_at_rest(self) -> float:
        """The same, once it has done what it put off until after its answers."""
        spent, deadline = self.cpu(), time.monotonic() + _REST_PATIENCE
        while time.monotonic() < deadline:
            time.sleep(_REST)
            before, spent = spent, self.cpu()
            if spent - before < _REST / 50:
                break
        return spent

    def memory(self) -> processes.Memory:
        """Its memory, with all its processes."""
        return processes.memory(self.process.pid) if self.process else processes.Memory(0, 0)


def ours(place: Place, server: str) -> Launch:
    """The product of this checkout with its defaults, and an access log."""
    command = [sys.executable, "-m", "package_cache", "--server", server, "--host", "127.0.0.1", "--port", str(place.port)]
    command += ["--source", place.url, "--cache", str(place.folder / "cache")]
    command += ["--access-log", str(place.folder / "access.log")]
    return Launch([*command, "--workers", "2"] if server == "gunicorn" else command, place.trust)


def ours_plain(place: Place) -> Launch:
    """The product's WSGI callable under a worker class of Gunicorn's own."""
    variables = {
        "PACKAGE_CACHE_SOURCE": place.url,
        "PACKAGE_CACHE_CACHE": str(place.folder / "cache"),
        "PACKAGE_CACHE_ACCESS_LOG": str(place.folder / "access.log"),
        **place.trust,
    }
    return Launch([*peers.gunicorn(place), "package_cache:create_app()"], variables)


KINDS: Mapping[str, tuple[str, Callable[[Place], Launch]]] = {
    "gunicorn": ("package-cache --server gunicorn --workers 2", lambda place: ours(place, "gunicorn")),
    "wsgiref": ("package-cache (the bare command)", lambda place: ours(place, "wsgiref")),
    "gthread": ("package-cache as plain WSGI, gunicorn gthread", ours_plain),
    "nginx": ("nginx, static files", peers.nginx_static),
    "nginx-cache": ("nginx, proxy_cache", peers.nginx_cache),
    "squid": ("Squid", peers.squid),
    "varnish": ("Varnish", peers.varnish),
    "0.2": ("package-cache 0.2's design", peers.download_first),
}
"""What each name in a table stands for, and how it is started."""

ALIASES = {
    "ours": ("gunicorn", "wsgiref", "gthread"),
    "peers": ("nginx", "nginx-cache", "squid", "varnish", "0.2"),
    "goals": ("gunicorn", "nginx", "nginx-cache"),
}
OURS = ALIASES["ours"]
NEEDS = {"nginx": "nginx", "nginx-cache": "nginx", "squid": "squid", "varnish": "varnishd"}


def missing(name: str) -> str | None:
    """Why a kind of server cannot be run here; None if it can."""
    try:
        if name in NEEDS:
            peers.program(NEEDS[name])
        if name == "varnish":
            peers.program("cc")
    except Unusable as reason:
        return str(reason)
    return None


@contextlib.contextmanager
def origin(folder: Path, files: Path, certificate: Path | None = None) -> Iterator[Server]:
    """The source of the caches: an nginx with a directory of files, over https if there is a certificate."""
    place = Place(folder, 0, ("127.0.0.1", 0), files, certificate)
    with _running({"direct": peers.nginx_origin}, place) as (servers, failed):
        for reason in failed.values():
            raise Unusable(f"the source of all caches cannot run: {reason}")
        yield servers[0]


@contextlib.contextmanager
def running(
    names: Sequence[str], folder: Path, source: tuple[str, int], files: Path, certificate: Path | None = None
) -> Iterator[tuple[list[Server], dict[str, str]]]:
    """Servers, ready, in the order of their names, with the caches that are in the folder, which are empty if it is new;
    and why the others are not there, by name."""
    place = Place(folder, 0, source, files, certificate)
    with _running({name: KINDS[name][1] for name in names}, place) as found:
        yield found


@contextlib.contextmanager
def _running(
    kinds: Mapping[str, Callable[[Place], Launch]], common: Place
) -> Iterator[tuple[list[Server], dict[str, str]]]:
    ports = processes.free_ports(len(kinds))
    failed: dict[str, str] = {}
    servers: list[Server] = []
    with contextlib.ExitStack() as stack:
        begun: list[tuple[Server, subprocess.Popen[bytes]]] = []
        for (name, kind), port in zip(kinds.items(), ports, strict=True):
            place = replace(common, folder=common.folder / name, port=port)
            place.folder.mkdir(parents=True, exist_ok=True)
            try:
                begun.append(_start(stack, name, kind(place), place))
            except Unusable as reason:
                failed[name] = str(reason)
        for server, process in begun:
            try:
                processes.wait_until_answers(server.address, process, common.folder / server.name / "log")
                servers.append(server)
            except Unusable as reason:
                failed[server.name] = str(reason)
        yield servers, failed


def _start(
    stack: contextlib.ExitStack, name: str, launch: Launch, place: Place
) -> "tuple[Server, subprocess.Popen[bytes]]":
    with processes.uninterrupted():
        process = processes.start(launch.command, place.folder / "log", launch.variables)
        stack.callback(processes.stop, process)
    return Server(name, ("127.0.0.1", place.port), process), process


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    return processes.free_ports(1)[0]


@contextlib.contextmanager
def one(name: str, place: Place) -> Iterator[tuple[Server, float]]:
    """One server in a folder that is there, and the seconds from its start to its first answer."""
    with contextlib.ExitStack() as stack:
        launch = KINDS[name][1](place)
        begun = time.perf_counter()
        server, process = _start(stack, name, launch, place)
        processes.wait_until_answers(server.address, process, place.folder / "log")
        yield server, time.perf_counter() - begun
