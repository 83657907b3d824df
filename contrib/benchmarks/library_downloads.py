"""Downloads from Python beside dlmachine: one file of 256 MiB, 1,000 of 4 KiB, the same again, and the import.

    python contrib/benchmarks/library_downloads.py

Each program runs in a process of its own, against a server on loopback, in turn; a figure is the median of the rounds.
dlmachine is installed in an environment of its own, in a temporary folder; `--peer PYTHON` names one that is there already.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEER = "dlmachine[curl]==0.0.3"
MIB = 1 << 20
SMALL = 4096

OURS = """
import json, sys, time
backend, url, folder, large, small, threads = sys.argv[1:]
begun = time.perf_counter()
from package_cache import DownloadManager
imported = time.perf_counter() - begun
manager = DownloadManager(path=folder + "/cache", backend=backend, progress=False, proxies={}, timeout=60)
def get(name, dest=None):
    manager.download(url + name, dest)
"""

THEIRS = """
import json, sys, time
backend, url, folder, large, small, threads = sys.argv[1:]
begun = time.perf_counter()
from dlmachine import DownloadManager
imported = time.perf_counter() - begun
manager = DownloadManager(path=folder + "/cache", backend=backend, config={"progress": False})
def get(name, dest=None):
    manager.download(url + name, dest=dest)
"""

MEASURE = """
def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
def many():
    for number in range(int(small)):
        get(f"small/{number}.txt")
found = {"import": imported}
found["large into the cache"] = timed(lambda: get(f"large/{large}.bin"))
found["large to a path"] = timed(lambda: get(f"large/{large}.bin?path", folder + "/out"))
found["memory"] = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
found["small into the cache"] = timed(many)
found["small, again"] = timed(many)
if int(threads) > 1:
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(int(threads)) as pool:
        work = lambda: list(pool.map(lambda number: get(f"small/t{number}.txt"), range(int(small))))
        found[f"small, {threads} threads"] = timed(work)
print(json.dumps(found))
"""


def _serve(listener: socket.socket, body: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_converse, args=(connection, body), daemon=True).start()


def _converse(connection: socket.socket, body: bytes) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(OSError):
        head = b""
        while data := connection.recv(65536):
            head += data
            while b"\r\n\r\n" in head:
                request, _, head = head.partition(b"\r\n\r\n")
                method, target, _ = request.split(b" ", 2)
                sent = body if target.startswith(b"/large/") else target.ljust(SMALL, b".")
                fields = b'Content-Length: %d\r\nETag: "%b"\r\n' % (len(sent), target[1:])
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + fields + b"\r\n")
                if method != b"HEAD":
                    connection.sendall(sent)


@contextlib.contextmanager
def server(size: int) -> Iterator[str]:
    """A server of `size` bytes at /large/, and of small files at /small/; its URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_serve, args=(listener, os.urandom(size)), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            process.kill()
            process.join()


def peer_in(folder: Path) -> Path:
    """A Python with dlmachine, in an environment of its own."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
    return python


def run(python: Path, program: str, backend: str, url: str, small: int, threads: int) -> dict[str, float]:
    """The seconds that each part took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-c", program + MEASURE, backend, url, folder, "one", str(small), str(threads)]
        variables = {**os.environ, **({"PYTHONPATH": str(ROOT)} if program is OURS else {"PYTHONPATH": ""})}
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{backend}: {done.stderr}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def rows_of(arguments: argparse.Namespace, peer: Path) -> dict[str, dict[str, float]]:
    """The medians, by program."""
    programs = {f"package-cache, {name}": (Path(sys.executable), OURS, name) for name in ("builtin", "requests", "curl")}
    programs |= {f"dlmachine, {name}": (peer, THEIRS, name) for name in ("requests", "curl")}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    with server(arguments.large * MIB) as url:
        for _ in range(arguments.runs):
            for name, (python, program, backend) in programs.items():
                threads = 8 if program is OURS else 1
                found[name].append(run(python, program, backend, url, arguments.small, threads))
    return {
        name: {part: statistics.median(one[part] for one in rounds) for part in rounds[0]} for name, rounds in found.items()
    }


def table(rows: dict[str, dict[str, float]], large: int, small: int) -> str:
    """The table in Markdown."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    lines = ["| | " + " | ".join(rows) + " |", "|---|" + "--:|" * len(rows)]
    for part in parts:
        cells = [_cell(part, row.get(part), large, small) for row in rows.values()]
        lines.append(f"| {_name(part)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(part: str) -> str:
    units = {"import": "ms", "memory": "MiB, at most"}
    return f"{part}: {units.get(part) or ('MB/s' if part.startswith('large') else 'files/s')}"


def _cell(part: str, value: float | None, large: int, small: int) -> str:
    if value is None:
        return ""
    if part == "import":
        return f"{value * 1000:,.0f}"
    if part == "memory":
        return f"{value / 1024:,.0f}"
    return f"{large * MIB / value / 1e6:,.0f}" if part.startswith("large") else f"{small / value:,.0f}"


def main() -> None:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help=f"a Python with {PEER}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--large", type=int, default=256, help="MiB of the large file")
    parser.add_argument("--small", type=int, default=1000, help="number of small files")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        print(table(rows_of(arguments, arguments.peer or peer_in(folder / "peer")), arguments.large, arguments.small))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
