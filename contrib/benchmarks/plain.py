#!/usr/bin/env python3
"""Measures the product beside nginx, on loopback, in one run: hits, time to first byte, and a herd on one cold file.

    python contrib/benchmarks/plain.py [--quick] [hits] [first-byte] [herd]

Needs nginx, and wrk for the hits; runs the product of the checkout this file is in. Every load is bounded in count and in
time. Prints medians; figures of one run can be compared with each other, not with those of another machine or day.
"""

import argparse
import contextlib
import http.client
import multiprocessing
import os
import random
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
KIB = 1024
MIB = 1024 * KIB
TICKS = os.sysconf("SC_CLK_TCK")

SMALL = 4 * KIB
LARGE = 64 * MIB
THROTTLE = 32 * MIB
"""Bytes a second of the throttled mirror. nginx sends the first second's worth at once."""
HERD = 32
HERD_RATE = 50_000_000

NGINX = """\
daemon off;
{user}
worker_processes 2;
pid {prefix}/pid;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        root {root};
        location /throttled/ {{ limit_rate {throttle}; }}
    }}
}}
"""


@dataclass
class Server:
    """A running server: its name in the tables, where it is, and the process at the root of its tree."""

    name: str
    url: str
    process: "subprocess.Popen[bytes]"

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def cpu(self) -> float:
        """Seconds of CPU, user and system, of the process, its descendants, and those of them that ended."""
        parents: dict[int, list[int]] = {}
        spent: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    values = (entry / "stat").read_text().rpartition(")")[2].split()
                    parents.setdefault(int(values[1]), []).append(int(entry.name))
                    spent[int(entry.name)] = sum(int(value) for value in values[11:15])
        family, total = [self.process.pid], 0
        while family:
            pid = family.pop()
            total += spent.get(pid, 0)
            family += parents.get(pid, [])
        return total / TICKS


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that ends with the block, with everything it started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PACKAGE_CACHE_")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(look: Callable[[], str | None], process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + 30
    while (found := look()) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"a server did not start:\n{log.read_text()}")
        time.sleep(0.01)
    return found


@contextlib.contextmanager
def nginx(folder: Path, files: Path) -> Iterator[Server]:
    """nginx that serves a directory; below /throttled/ slowly."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("nginx is not installed: it is what this compares with")
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(user=user, prefix=folder, port=port, root=files, throttle=THROTTLE))
    log = folder / "log"
    command = [program, "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")]
    with running(command, log) as process:
        url = f"http://127.0.0.1:{port}/"

        def answers() -> str | None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return url
            return None

        yield Server("nginx", wait_for(answers, process, log), process)


@contextlib.contextmanager
def product(folder: Path, source: str, server: str) -> Iterator[Server]:
    """The product with an empty cache; two workers under Gunicorn."""
    folder.mkdir()
    log = folder / "log"
    command = [sys.executable, "-m", "package_cache", "--server", server, "--host", "127.0.0.1", "--port", "0"]
    command += ["--source", source, "--cache", str(folder / "cache")]
    if server == "gunicorn":
        command += ["--workers", "2"]
    with running(command, log) as process:

        def announced() -> str | None:
            found = re.search(r"serving .* at (http://\S+)", log.read_text())
            return found[1] if found else None

        yield Server(server, wait_for(announced, process, log), process)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns: the first to the left, the others to the right."""
    print(f"\n{title}")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
    sys.stdout.flush()


# Hits


@dataclass
class Hits:
    """What one server did in one way, over the runs."""

    rate: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    errors: int = 0


def wrk(server: Server, path: str, seconds: int, *, keep: bool) -> tuple[float, float, int]:
    """Requests a second, microseconds of the server's CPU a request, and failed requests."""
    command = ["wrk", "-t1", "-c64", f"-d{seconds}s", *([] if keep else ["-H", "Connection: close"]), server.url + path]
    before = server.cpu()
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    spent = server.cpu() - before
    requests = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
    rate = float(re.search(r"Requests/sec:\s*([\d.]+)", said)[1])  # type: ignore[index]
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    errors = int(refused[1]) if refused else 0
    # With a connection each, wrk counts as a read error the end of one that it has read to the end.
    errors += sum(int(broken[at]) for at in ((1, 2, 3, 4) if keep else (1, 3, 4))) if broken else 0
    return rate, 1e6 * spent / max(1, requests), errors


def get(server: Server, path: str) -> bytes:
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    try:
        connection.request("GET", "/" + path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise SystemExit(f"{server.name} answered {response.status} for {path}")
        return body
    finally:
        connection.close()


def measure_hits(folder: Path, runs: int, seconds: int) -> None:
    if shutil.which("wrk") is None:
        print("\nhits: skipped, wrk is not installed")
        return
    files = folder / "files"
    files.mkdir()
    (files / "small.bin").write_bytes(random.Random(1).randbytes(SMALL))
    with contextlib.ExitStack() as stack:
        mirror = stack.enter_context(nginx(folder / "nginx", files))
        servers = [mirror]
        servers += [stack.enter_context(product(folder / name, mirror.url, name)) for name in ("wsgiref", "gunicorn")]
        for server in servers:
            for _ in range(8):
                if get(server, "small.bin") != (files / "small.bin").read_bytes():
                    raise SystemExit(f"{server.name} serves other bytes")
        results = {(server.name, keep): Hits() for keep in (True, False) for server in servers}
        for _ in range(runs):
            for (name, keep), hits in results.items():
                server = next(one for one in servers if one.name == name)
                rate, cost, errors = wrk(server, "small.bin", seconds, keep=keep)
                hits.rate.append(rate)
                hits.cost.append(cost)
                hits.errors += errors
    rows = []
    for (name, keep), hits in results.items():
        base = results["nginx", keep]
        ratios = [
            median([a / b for a, b in zip(mine, its, strict=True)])
            for mine, its in ((hits.rate, base.rate), (hits.cost, base.cost))
        ]
        figures = [f"{median(hits.rate):,.0f}", f"{median(hits.cost):.1f}", f"{ratios[0]:.2f}", f"{ratios[1]:.1f}"]
        rows.append([f"{name}, {'keep-alive' if keep else 'a connection each'}", *figures, str(hits.errors)])
    head = ["", "requests/s", "CPU us/request", "rate / nginx", "CPU / nginx", "errors"]
    table(f"Hits of 4 KiB: wrk -t1 -c64 -d{seconds}s, median of {runs}", head, rows)


# Time to first byte


def first_byte(server: Server, path: str, size: int) -> float:
    """Seconds from the connection attempt to the first byte of the body; the rest is read too, so that nothing lingers."""
    begun = time.perf_counter()
    with socket.create_connection(server.address, 60) as connection:
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while (end := head.find(b"\r\n\r\n")) < 0 or len(head) == end + 4:
            block = connection.recv(65536)
            if not block:
                raise SystemExit(f"{server.name} ended {path} without a body")
            head += block
        first = time.perf_counter() - begun
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{server.name} said {head[:60]!r} for {path}")
        received = len(head) - end - 4
        buffer = bytearray(MIB)
        while count := connection.recv_into(buffer):
            received += count
    if received != size:
        raise SystemExit(f"{server.name} sent {received} of {size} bytes of {path}")
    return first


def measure_first_byte(folder: Path, samples: int) -> None:
    files = folder / "files"
    for kind, size in (("throttled", LARGE), ("plain", MIB)):
        (files / kind).mkdir(parents=True)
        (files / kind / "file").write_bytes(random.Random(size).randbytes(size))
        for number in range(samples):
            os.link(files / kind / "file", files / kind / f"file-{number}.tar")
    rows = []
    with contextlib.ExitStack() as stack:
        mirror = stack.enter_context(nginx(folder / "nginx", files))
        servers = [mirror]
        servers += [stack.enter_context(product(folder / name, mirror.url, name)) for name in ("wsgiref", "gunicorn")]
        for kind, size, text in (
            ("throttled", LARGE, f"64 MiB at {THROTTLE // MIB} MiB/s"),
            ("plain", MIB, "1 MiB unthrottled"),
        ):
            times: dict[str, list[float]] = {server.name: [] for server in servers}
            for number in range(samples):
                for server in servers:
                    times[server.name].append(1000 * first_byte(server, f"{kind}/file-{number}.tar", size))
            direct = times["nginx"]
            for name, values in times.items():
                added = median([a - b for a, b in zip(values, direct, strict=True)])
                label = "direct" if name == "nginx" else name
                rows.append([f"{text}, {label}", f"{median(values):.2f}", f"{max(values):.2f}", f"{added:+.2f}"])
    table(f"First byte of a cold file, in ms, of {samples}", ["", "median", "max", "added, median"], rows)


# Herd


def serve_paced(listener: socket.socket, body: bytes, asked: Any) -> None:
    """An origin that sends `body` for every path at HERD_RATE. Runs until it is terminated."""

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while head := connection.recv(65536):
                if b"\r\n\r\n" not in head:
                    return
                with asked.get_lock():
                    asked.value += 1
                fields = f'Content-Length: {len(body)}\r\nETag: "herd"\r\nContent-Type: application/octet-stream\r\n'
                connection.sendall(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode())
                begun = time.perf_counter()
                for at in range(0, len(body), 64 * KIB):
                    ahead = at / HERD_RATE - (time.perf_counter() - begun)
                    if ahead > 0:
                        time.sleep(ahead)
                    connection.sendall(memoryview(body)[at : at + 64 * KIB])

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


@contextlib.contextmanager
def paced_origin(body: bytes) -> Iterator[tuple[str, Any]]:
    """Its URL, and a shared counter of the requests it got."""
    context = multiprocessing.get_context("fork")
    asked = context.Value("i", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = context.Process(target=serve_paced, args=(listener, body, asked), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/", asked
        finally:
            process.terminate()
            process.join()


@dataclass
class Client:
    """One of the herd. `first` and `last` are seconds from the start of all."""

    connection: socket.socket
    head: bytes = b""
    received: int = 0
    first: float = 0.0
    last: float = 0.0
    right: bool = True


def herd(address: tuple[str, int], path: str, body: bytes, count: int) -> list[Client]:
    """So many clients at once on one path, all in this thread. What arrives is compared with `body` as it arrives."""
    poller = selectors.DefaultSelector()
    clients = []
    begun = time.perf_counter()
    for _ in range(count):
        client = Client(socket.create_connection(address, 60))
        client.connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        client.connection.settimeout(0)
        poller.register(client.connection, selectors.EVENT_READ, client)
        clients.append(client)
    deadline = begun + 60
    while poller.get_map() and time.perf_counter() < deadline:
        for key, _ in poller.select(1.0):
            client = key.data
            if not receive(client, body, begun):
                poller.unregister(client.connection)
                client.connection.close()
    for client in clients:
        client.right = client.right and client.received == len(body)
        client.connection.close()
    poller.close()
    return clients


def receive(client: Client, body: bytes, begun: float) -> bool:
    """Take what is there; False at the end."""
    try:
        data = client.connection.recv(256 * KIB)
    except OSError:
        data = b""
    if data and not client.first:
        client.head += data
        head, found, data = client.head.partition(b"\r\n\r\n")
        if not found or not data:
            return True
        client.right = head.startswith(b"HTTP/1.1 200 ")
        client.first = time.perf_counter() - begun
    if not data:
        return False
    client.right = client.right and body.startswith(data, client.received)
    client.received += len(data)
    client.last = time.perf_counter() - begun
    return client.received < len(body)


def measure_herd(folder: Path, runs: int) -> None:
    folder.mkdir()
    body = random.Random(3).randbytes(LARGE)
    ideal = LARGE / HERD_RATE
    rows = []
    with paced_origin(body) as (source, asked), product(folder / "gunicorn", source, "gunicorn") as server:
        direct = urlsplit(source)
        for name, address, count in (
            ("direct, one client", (str(direct.hostname), int(direct.port or 0)), 1),
            (f"gunicorn, {HERD} clients", server.address, HERD),
        ):
            requests, slowest, firsts, worst, wrong = [], [], [], [], 0
            for run in range(runs):
                before = asked.value
                clients = herd(address, f"herd-{run}.tar", body, count)
                requests.append(asked.value - before)
                slowest.append(max(client.last for client in clients) / ideal)
                firsts.append(1000 * median([client.first for client in clients]))
                worst.append(1000 * max(client.first for client in clients))
                wrong += sum(not client.right for client in clients)
            asked_of = "/".join(str(number) for number in sorted(set(requests)))
            figures = [f"{median(slowest):.3f}", f"{median(firsts):.1f}", f"{median(worst):.1f}"]
            rows.append([name, asked_of, *figures, str(wrong)])
    head = ["", "origin requests", "slowest / ideal", "first byte ms", "worst first byte ms", "wrong bodies"]
    table(f"Herd on one cold file of 64 MiB at {HERD_RATE / 1e6:.0f} MB/s, two workers, median of {runs}", head, rows)


# All


def main() -> None:
    parts = ("hits", "first-byte", "herd")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, for a look")
    parser.add_argument("part", nargs="*", default=parts, help=f"of {', '.join(parts)} (default: all of them)")
    options = parser.parse_args()
    if unknown := set(options.part) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"load before the run: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="package-cache-benchmark-") as name:
        folder = Path(name)
        for part in options.part:
            if part == "hits":
                (folder / part).mkdir()
                measure_hits(folder / part, runs=2 if options.quick else 5, seconds=1 if options.quick else 3)
            elif part == "first-byte":
                measure_first_byte(folder / part, samples=5 if options.quick else 21)
            else:
                measure_herd(folder / part, runs=1 if options.quick else 5)
            shutil.rmtree(folder / part)


if __name__ == "__main__":
    main()
