"""Machines that lack what most have: a root that can be written, threads, descriptors. The service goes on all the same."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from origin import Origin, Serve, until
from product import Proxy, launch, parts, stored
from raw import Client

Start = Callable[..., Proxy]


@pytest.fixture(params=["wsgiref", "gunicorn"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Everything that is mounted is made read-only, but for the cache, and for what is said.
READ_ONLY = """
cache="$1"; kept="$2"; shift 2
mount --bind "$cache" "$cache"
while read -r _ place _ options _; do
    case "$place" in "$cache"|"$kept"|/proc*|/sys*) continue ;; esac
    mount -o remount,bind,ro "$place" 2>/dev/null || mount -o "remount,bind,ro,$options" "$place" 2>/dev/null || :
done </proc/self/mounts
! touch /tmp/x /var/tmp/x 2>/dev/null || exit 99
exec "$@"
"""


@pytest.mark.parametrize("kept", ["/dev/shm", ""], ids=["with memory", "with nothing but the cache"])
def test_a_cache_that_can_be_written_is_enough(
    origin: Origin, start: Start, server: str, tmp_path: Path, kept: str
) -> None:
    apart = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    try_out = [*apart, "sh", "-c", "mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp"]
    if shutil.which("unshare") is None or subprocess.run(try_out, capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody have mounts of his own here")
    cache = tmp_path / "cache"
    cache.mkdir()
    body = origin.put("/a-1.tar", os.urandom(100_000))
    within = [*apart, "sh", "-c", READ_ONLY, "sh", str(cache), kept, sys.executable, "-m"]
    proxy = Proxy(cache, [origin.url], server, spawn=lambda words, variables: launch(words, variables, within))
    try:
        for _ in range(2):
            with Client(proxy.address, 30) as client:
                assert client.get("/a-1.tar").body == body
                assert client.get("/-/health").status == 200
        until(lambda: stored(cache) == ["/a-1.tar"])
    finally:
        assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)


WITHOUT_THREADS = """
import os, threading
begin = threading._start_new_thread
def refuse(*arguments):
    if os.path.exists(os.environ["NO_THREADS"]):
        raise RuntimeError("can't start new thread")
    return begin(*arguments)
threading._start_new_thread = refuse
"""


def on_start(folder: Path, code: str) -> dict[str, str]:
    """The environment in which an interpreter does this first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_a_system_that_gives_no_thread_ends_nothing(origin: Origin, start: Start, server: str, tmp_path: Path) -> None:
    """A small file needs none to be served; what does is told to come again."""
    origin.put("/large-1.tar", os.urandom(200_000))
    known, other = origin.put("/a-1.tar", os.urandom(9000)), origin.put("/b-1.tar", os.urandom(9000))
    none = tmp_path / "none"
    none.touch()
    environment = on_start(tmp_path / "early", WITHOUT_THREADS) | {"NO_THREADS": str(none)}
    arguments = ["--workers", "1", "--connect", "127.0.0.1:1"]
    proxy = start(origin.url, host=server, arguments=arguments, environment=environment)

    def asks(**more: str) -> list[tuple[int, str | None]]:
        answers = []
        targets = ("/large-1.tar", "/b-1.tar", "/a-1.tar", "127.0.0.1:1")
        for method, target in zip(("GET", "HEAD", "PUT", "CONNECT"), targets, strict=True):
            with Client(proxy.address, 30) as client:
                answer = client.get(target, method=method, **more)
                answers.append((answer.status, answer.get("retry-after")))
        return answers

    refused = [(503, "10"), (503, "10"), (405, None), (503, "10")]  # to say that something is not allowed takes no thread
    assert asks() == refused
    assert proxy.get("/a-1.tar").body == known
    assert asks(version="HTTP/1.0")[:3] == refused[:3]
    none.unlink()
    assert [status for status, _ in asks()] == [200, 200, 405, 502]
    assert proxy.get("/a-1.tar").body == known
    # Storing may rest for a while, since nobody could do it.
    until(lambda: proxy.get("/large-1.tar").whole and "/large-1.tar" in stored(proxy.cache))
    assert proxy.get("/large-1.tar").whole  # and is at hand from now on: where the disk is slow, a look takes a thread
    none.touch()
    for _ in range(3):
        assert proxy.get("/a-1.tar").body == known
        assert asks(version="HTTP/1.0")[0][0] == 200
    if server == "wsgiref":
        proxy.process.send_signal(signal.SIGHUP)
    none.unlink()
    assert proxy.get("/b-1.tar").body == other
    assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)
    assert "ended in a bug" not in "".join(proxy.log)


FORKED = """
import os, threading, time
from package_cache.engine.threads import Threads
threads, done = Threads("test"), threading.Event()
threads.run(done.set)
done.wait()
while not threads._idle:
    time.sleep(0.001)
child = os.fork()
if not child:
    done = threading.Event()
    threads.run(done.set)
    os._exit(0 if done.wait(10) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_has_threads_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_a_process_that_may_open_nothing_more_tells_clients_to_come_again(
    origin: Origin, start: Start, server: str
) -> None:
    for name in "abcd":  # the last one is a file of its own, which has to be opened
        origin.put(f"/{name}-1.tar", os.urandom(200_000 if name == "d" else 9000), Serve(leave=True))
    proxy = start(origin.url, host=server, arguments=["--workers", "1", "--connect", "127.0.0.1:1"])
    assert proxy.get("/d-1.tar").whole
    until(lambda: not parts(proxy.cache))
    proxy.stop()
    proxy = start(origin.url, host=server, arguments=["--workers", "1", "--connect", "127.0.0.1:1"])
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy.address, 60)) for _ in range(8)]
        for client in clients:  # each has its connection, and what there is to be opened once is open
            assert client.get("/a-1.tar").body == origin.things["/a-1.tar"].body
        until(lambda: "/a-1.tar" in stored(proxy.cache))
        for client in clients:  # it is at hand when the last one has it
            assert client.get("/a-1.tar").body == origin.things["/a-1.tar"].body
        assert clients[0].get("/a-1.tar", method="PUT").status == 405
        pid = (proxy.workers() or [proxy.process.pid])[0]
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        for number, (method, target) in enumerate(
            [("GET", "/b-1.tar"), ("HEAD", "/c-1.tar"), ("GET", "/d-1.tar"), ("CONNECT", "127.0.0.1:1")], start=1
        ):
            answer = clients[number].get(target, method=method)
            assert (target, answer.status, answer.get("retry-after") is not None) == (target, 503, True)
        assert clients[5].get("/a-1.tar").body == origin.things["/a-1.tar"].body
        assert clients[6].get("/a-1.tar", method="PUT").status == 405
        with Client(proxy.address, 60) as late:
            late.ask("/a-1.tar")
            assert late.is_open(0.3)
            late.socket.settimeout(60)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            assert late.answer().body == origin.things["/a-1.tar"].body
        for name in "bcd":
            until(lambda name=name: proxy.get(f"/{name}-1.tar").body == origin.things[f"/{name}-1.tar"].body)  # type: ignore[misc]
    assert proxy.stop() == 0
    said = "".join(proxy.log)
    assert "Traceback" not in said
    assert "bug" not in said
    assert said.count("passed on without being stored") == 1  # since not even its lock can be opened
    assert said.count("cannot accept a connection") == 1
