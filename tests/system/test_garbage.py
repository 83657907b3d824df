"""What ends is let go of at once: nothing that is open waits for the garbage collector, which comes seldom."""

import os
import random
import shutil
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from origin import Origin, until
from product import SUPPORT, Proxy
from raw import Client

Start = Callable[..., Proxy]

SMALL, LARGE = random.Random(1).randbytes(5000), random.Random(2).randbytes(3_000_000)


def visit(proxy: Proxy, origin: Origin, number: int) -> None:
    """One client of each kind: who comes once or stays, asks for what is here or not, is refused, breaks off."""
    for path, body in ((f"/s-{number}.tar", SMALL), (f"/l-{number}.tar", LARGE), (f"/i-{number}/index.html", SMALL)):
        origin.put(path, body)
        with Client(proxy.address) as client:
            for _ in range(2):
                assert client.get(path).body == body
            assert client.get(path, "Range: bytes=5-9").body == body[5:10]
            assert client.get(path, method="HEAD").status == 200
            assert client.get(path, "Connection: close").body == body
        with Client(proxy.address) as client:
            client.ask(path)  # and away
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for text in (
        b"GET / nothing\r\n\r\n",
        b"GET /nowhere-%d.tar HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % number,
        b"GET",
    ):
        with Client(proxy.address) as client, suppress(OSError):
            client.send(text)
            client.socket.shutdown(socket.SHUT_WR)
            while client.socket.recv(65536):
                pass


def open_files(proxy: Proxy) -> int:
    return len(list(Path(f"/proc/{proxy.process.pid}/fd").iterdir()))


def test_nothing_that_is_open_waits_for_the_garbage_collector(origin: Origin, start: Start, tmp_path: Path) -> None:
    folder, report = tmp_path / "hoarding", tmp_path / "hoarded"
    folder.mkdir()
    shutil.copy(SUPPORT / "hoarding.py", folder / "sitecustomize.py")
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    proxy = start(origin.url, environment={"PYTHONPATH": path, "HOARDED": str(report)})

    def hoarded() -> Counter[str]:
        report.unlink(missing_ok=True)
        proxy.process.send_signal(signal.SIGWINCH)
        until(report.exists)
        return Counter(report.read_text().splitlines())

    visit(proxy, origin, 0)
    hoarded()  # what only the beginning leaves
    for number in range(1, 11):
        visit(proxy, origin, number)
    until(lambda: open_files(proxy) < 100)
    found = hoarded()
    kinds = ("socket.socket", "_io.FileIO", "ssl.", "package_cache.")
    assert not {kind: count for kind, count in found.items() if kind.startswith(kinds)}, found
    assert found["what the beginning made is looked at no more"] == 1
    assert found.total() < 500
