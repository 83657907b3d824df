"""A real mirror: nginx in front of a directory in the layout of Gentoo's mirrors, on a port of its own.

Import `run_mirror` and `start_without_errors` into a test module to have the fixtures `mirror` and `serve`. A file with
"paced" in its name leaves the mirror at `PACE` bytes a second, so that a test can do something in the middle of it. Below
/pypi/simple/ and /npm/ the mirror chooses among the pages of a folder by the client's Accept, and says so in Vary.
"""

import hashlib
import http.client
import io
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from product import Proxy, versions

LAYOUT = "[structure]\n0=filename-hash BLAKE2B 8\n1=flat\n"
"""What the mirrors of Gentoo say in /distfiles/layout.conf."""

PACE = 2_000_000
_BLOCK = 1 << 20
_LONG_AGO = 1_700_000_000
"""When the files of a mirror were changed, in seconds of the epoch: longer ago than any client is."""

_CONFIGURATION = """\
daemon off;
{user}
worker_processes 1;
pid {prefix}/pid;
events {{ worker_connections 1024; }}
http {{
    log_format one escape=json '{{"method": "$request_method", "target": "$request_uri", "status": $status,'
        ' "sent": $body_bytes_sent, "range": "$http_range", "agent": "$http_user_agent"}}';
    access_log {prefix}/access.log one;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    default_type application/octet-stream;
    types {{ text/html html; text/plain txt; application/x-xz xz; application/x-tar tar; }}
    sendfile on;
    map $uri $pace {{ default 0; ~paced {pace}; }}
    limit_rate $pace;
    map $uri $usual {{ default html; ~\\.patch$ plain; ~^/npm/ full; }}
    map $http_accept $page {{
        default $usual;
        ~application/vnd\\.pypi\\.simple\\.v1\\+json simple;
        ~application/vnd\\.npm\\.install-v1\\+json install;
        ~application/json full;
        ~text/plain plain;
        ~text/x-diff diff;
    }}
    map $uri $vary {{ default Accept; ~\\.(whl|metadata|tgz)$ ""; }}
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location ~ ^/(pypi/simple|npm)/ {{
            types {{
                text/html html;
                application/vnd.pypi.simple.v1+json simple;
                application/vnd.npm.install-v1+json install;
                application/json full;
                text/plain plain;
                text/x-diff diff;
            }}
            add_header Vary $vary;
            try_files $uri ${{uri}}index.$page $uri/index.$page =404;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Seen:
    """One request in the access log of the mirror, written when its answer had been sent."""

    method: str
    target: str
    status: int
    sent: int
    range: str
    agent: str

    @property
    def path(self) -> str:
        """The target, decoded: programs differ in what they encode."""
        return unquote(self.target)


class Mirror:
    """nginx, its files and its access log, under `prefix`. `url` ends with a slash and stays when it is started again."""

    def __init__(self, prefix: Path) -> None:
        found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
        if found is None:
            pytest.skip("nginx is not installed")
        self._nginx = found
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._markers = itertools.count()
        self._published = 0
        # Bound, but not listening: keeps the port for this mirror while nginx is stopped.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self._port = int(self._place.getsockname()[1])
        self.root = prefix / "files"
        self.url = f"http://127.0.0.1:{self._port}/"
        (self.root / "distfiles").mkdir(parents=True)
        (self.root / "distfiles" / "layout.conf").write_text(LAYOUT)
        user = "user root;" if os.geteuid() == 0 else ""
        text = _CONFIGURATION.format(user=user, prefix=prefix, port=self._port, root=self.root, pace=PACE)
        (prefix / "nginx.conf").write_text(text)
        self.start()

    def put(self, path: str, data: bytes) -> str:
        """Offer a file at a path of the mirror; the path."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return "/" + path.lstrip("/")

    def publish(self) -> None:
        """Let what was changed by other programs be a second newer, at least, than all that was there before."""
        self._published += 60
        for file in self.root.rglob("*"):
            if file.is_file() and file.stat().st_mtime > _LONG_AGO + self._published:
                os.utime(file, (_LONG_AGO + self._published,) * 2)

    def put_distfile(self, name: str, data: bytes) -> str:
        """Offer a distfile where the layout wants it; its path."""
        return self.put(distfile_path(name), data)

    def start(self) -> None:
        """Run nginx until `stop`."""
        errors = self._prefix / "error.log"
        command = [self._nginx, "-p", str(self._prefix), "-c", str(self._prefix / "nginx.conf"), "-e", str(errors)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._process = process
        poll(lambda: self._answers() or process.poll() is not None)
        if process.poll() is not None:
            raise AssertionError(f"nginx did not start:\n{errors.read_text() if errors.exists() else ''}")

    def stop(self) -> None:
        """End nginx at once, with all its transfers. Connections are refused from now on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        """Stop, and remove what takes room."""
        self.stop()
        self._place.close()
        shutil.rmtree(self._prefix, ignore_errors=True)

    def seen(self) -> list[Seen]:
        """Every request so far whose answer has ended, oldest first."""
        if self._process is not None:
            # The one worker takes events in turn: what was answered before this request is in the log before it.
            marker = f"/marker-{next(self._markers)}"
            self._ask(marker)
            poll(lambda: any(one.target == marker for one in self._log()))
        return [one for one in self._log() if not one.target.startswith("/marker-")]

    def seen_of(self, path: str) -> list[Seen]:
        """The requests for one file."""
        return [one for one in self.seen() if one.path == path]

    def _log(self) -> list[Seen]:
        lines = (self._prefix / "access.log").read_text().splitlines(keepends=True)
        return [Seen(**json.loads(line)) for line in lines if line.endswith("\n")]

    def _answers(self) -> bool:
        try:
            self._ask("/marker-start")
        except OSError:
            return False
        return True

    def _ask(self, target: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", target)
            connection.getresponse().read()
        finally:
            connection.close()


@pytest.fixture(name="mirror")
def run_mirror(tmp_path: Path) -> Iterator[Mirror]:
    """A mirror with an empty distfiles directory."""
    (tmp_path / "mirror").mkdir()
    one = Mirror(tmp_path / "mirror")
    yield one
    one.close()


@pytest.fixture(name="serve")
def start_without_errors(start: Callable[..., Proxy]) -> Iterator[Callable[..., Proxy]]:
    """Starts products, as the fixture `start` does; nothing that clients do may be an error in their logs."""
    started: list[Proxy] = []

    def _serve(*sources: str, **options: object) -> Proxy:
        started.append(start(*sources, **options))
        return started[-1]

    yield _serve
    for proxy in started:
        if proxy.process.poll() is None:
            proxy.stop()
        assert not [line for line in proxy.log if " ERROR " in line or line.startswith("Traceback")], "".join(proxy.log)


def distfile_path(name: str) -> str:
    """Where `filename-hash BLAKE2B 8` puts a file: a directory named by the first byte of the digest of the name."""
    return f"/distfiles/{hashlib.blake2b(name.encode()).hexdigest()[:2]}/{name}"


@cache
def archive(size: int, seed: int = 0) -> bytes:
    """A real tar archive of about `size` bytes that do not compress; up to a megabyte it is xz'ed all the same."""
    source = random.Random(seed)
    left = max(0, size - 700)
    data = b"".join(source.randbytes(min(_BLOCK, left - at)) for at in range(0, left, _BLOCK))
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:xz" if size <= 1_000_000 else "w") as tar:
        for name, content in (("README", f"archive {seed}\n".encode()), ("data", data)):
            member = tarfile.TarInfo(f"thing-{seed}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return output.getvalue()


def url_of(base: str, path: str) -> str:
    """The URL of a path at a server whose URL ends with a slash."""
    return base + quote(path.lstrip("/"))


def poll(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition holds, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain")
        time.sleep(0.01)


def clean_environment(home: Path) -> dict[str, str]:
    """An environment in which a client finds no settings but its defaults: no proxies, no files of a user."""
    home.mkdir(parents=True, exist_ok=True)
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def settle(proxy: Proxy, mirror: Mirror) -> None:
    """Wait until the cache has stored all that the mirror gave it: clients have it before, and no source is asked anew."""
    given = {(one.target, one.sent) for one in mirror.seen() if (one.method, one.status) == ("GET", 200)}
    poll(lambda: len(versions(proxy.cache)) >= len(given))


def require(*tools: str) -> None:
    """Skip the test where a program is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
