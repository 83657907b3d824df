"""Processes of a benchmark: started with a log, measured with all their descendants, and gone at the end."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20

_SCHEDULED = 2
"""CPUCLOCK_SCHED of the kernel: what the scheduler counts, in nanoseconds."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PATIENCE = 5.0
_SBIN = "/usr/sbin:/usr/local/sbin"


class Unusable(Exception):
    """A server cannot be measured on this machine; says why."""


def search_path() -> str:
    """Where programs are looked for: Debian keeps servers where a user's PATH does not lead."""
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def start(command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, so that Ctrl-C reaches this one alone; its output goes to `log`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PACKAGE_CACHE_")}
    environment |= {"PATH": search_path(), "PYTHONPATH": str(ROOT), **(variables or {})}
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the with-block: what was started in it would be known to nobody."""
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and everything it started: asked first, then killed."""
    members = family(process.pid)
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in members[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """The process and its living descendants."""
    children: dict[int, list[int]] = {}
    for number, values in _stats():
        children.setdefault(int(values[1]), []).append(number)
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def cpu(pid: int) -> float:
    """Seconds of CPU, user and system, of a process, its descendants, and those of them that ended."""
    ended = {number: sum(int(value) for value in values[13:15]) / _TICKS for number, values in _stats()}
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            # clock_getcpuclockid(3): /proc says it in hundredths, which is coarse for a burst that takes a second.
            total += time.clock_gettime((~member << 3) | _SCHEDULED) + ended.get(member, 0.0)
    return total


@dataclass(frozen=True)
class Memory:
    """Bytes of a process and its descendants; a page that several processes share counts for its share.

    `private` is what programs made for themselves, in contrast to files that are mapped: code and databases.
    """

    whole: int
    private: int


def memory(pid: int) -> Memory:
    """The memory of a process and its descendants."""
    sizes: dict[str, int] = {}
    for member in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()[1:]:
                name, size, _ = line.split()
                sizes[name] = sizes.get(name, 0) + 1024 * int(size)
    return Memory(sizes.get("Pss:", 0), sizes.get("Pss_Anon:", 0) + sizes.get("Pss_Shmem:", 0))


def socket_memory() -> int:
    """Bytes that the kernel holds in the buffers of all TCP connections of this network namespace."""
    words = Path("/proc/net/sockstat").read_text().partition("TCP:")[2].split()
    return int(words[words.index("mem") + 1]) * _PAGE


def free_ports(count: int) -> list[int]:
    """So many different ports of loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(socket.socket()) for _ in range(count)]
        for place in places:
            place.bind(("127.0.0.1", 0))
        return [int(place.getsockname()[1]) for place in places]


def wait_until_answers(
    address: tuple[str, int], process: "subprocess.Popen[bytes]", log: Path, seconds: float = 30
) -> None:
    """Return when a server answers requests. Raises Unusable with its log when it ended or says nothing."""
    deadline = time.monotonic() + seconds
    while not _answers(address):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip()[-1500:] if log.exists() else ""
            raise Unusable(f"it did not start: {said or 'it says nothing'}")
        time.sleep(0.002)


def _answers(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, 5) as connection:
        connection.sendall(b"GET /ready-1.0.tar HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return connection.recv(65536).startswith(b"HTTP/1.1 ")
    return False


def _stats() -> Iterator[tuple[int, list[str]]]:
    """The pid of each process, and what /proc/PID/stat says behind its name."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()
