"""What a server takes of the machine while it has little to do: modules, threads, and memory that nobody uses."""

import ctypes
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from origin import Origin
from product import Proxy

Start = Callable[..., Proxy]

SERVER = "import package_cache.cli.main, package_cache.cli.serving, package_cache.server.gunicorn"

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")

ARENAS = """
from pathlib import Path
from threading import Barrier, Thread
from package_cache.engine.upkeep import memory
if {share}:
    memory.share_arena()
together, kept = Barrier(8), []
def work():
    together.wait()
    kept.append([bytes(5000) for _ in range(100)])
    together.wait()
threads = [Thread(target=work) for _ in range(8)]
for one in threads: one.start()
for one in threads: one.join()
# Each but the first begins at a multiple of 64 MiB, and has what it does not use yet set aside behind it.
maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
print(sum(one[1] == "---p" and len(one) == 5 and int(one[0].split("-")[1], 16) % (64 << 20) == 0 for one in maps))
"""

TRIM = """
from pathlib import Path
from package_cache.engine.upkeep.memory import give_back
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
kept = [bytes(3000) for _ in range(20_000)]
full = resident()
del kept[:-1]  # the last one is above all the others
before = resident()
give_back()
print(full - before, full - resident())
"""


def told_by(program: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_a_server_loads_nothing_that_only_commands_the_library_or_an_option_need() -> None:
    loaded = set(told_by(f"{SERVER}\nimport sys\nprint(*sys.modules)"))
    assert "package_cache.server.loop" in loaded
    needless = {"tomllib", "configparser", "difflib", "asyncio", "multiprocessing", "subprocess", "unittest", "xml"}
    needless |= {
        "requests",
        "urllib3",
        "pycurl",
        "tqdm",
        "yaml",
        "jinja2",
        "prometheus_client",
        "http.client",
        "http.server",
    }
    needless |= {"package_cache.library", "package_cache.compat", "package_cache.upstream.with_requests"}
    assert loaded & needless == set()
    assert [one for one in loaded if one.startswith(("package_cache.cli.commands.", "package_cache.library."))] == []


@glibc
def test_threads_of_a_server_take_memory_from_one_arena() -> None:
    assert int(told_by(ARENAS.format(share=False))[0]) > 0
    assert told_by(ARENAS.format(share=True)) == ["0"]


@glibc
def test_memory_that_nobody_uses_any_more_is_given_back_to_the_system() -> None:
    kept, given = map(int, told_by(TRIM))
    assert kept < 2000 < 10_000 < given  # pages of 4 KiB, of 15,000


def test_where_nothing_can_be_asked_of_the_c_library_nothing_is() -> None:
    program = """
import sys
sys.modules["ctypes"] = None
from package_cache.engine.upkeep import memory
memory.share_arena()
memory.give_back()
print("done")
"""
    assert told_by(program) == ["done"]


@pytest.mark.parametrize("host", ["wsgiref", "gunicorn"])
def test_a_server_has_few_threads_and_connections_to_its_registry_after_a_rush(
    origin: Origin, start: Start, host: str
) -> None:
    names = [f"/f-1.{number}.tar" for number in range(200)]
    for name in names:
        origin.put(name, name.encode() * 100)
    proxy = start(origin.url, host=host, arguments=["--workers", "1"])
    with ThreadPoolExecutor(16) as pool:
        for _ in range(2):
            assert [one.status for one in pool.map(proxy.get, names)] == [200] * len(names)
    [process] = proxy.workers() if host == "gunicorn" else [proxy.process.pid]
    links = [link.readlink() for link in Path(f"/proc/{process}/fd").iterdir() if link.exists()]
    # One of the loop, which looks, and those that are lent.
    assert sum(link == proxy.cache / "registry-v1.db-wal" for link in links) <= 6
    assert len(list(Path(f"/proc/{process}/task").iterdir())) <= 24
