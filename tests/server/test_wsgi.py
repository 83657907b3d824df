"""The WSGI callable by itself, and under servers that are not ours."""

import importlib.util
import logging
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote_to_bytes
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
from origin import Origin, Serve, until
from product import Proxy, Response
from raw import Answer, Client

from package_cache.compose import Server, create_app
from package_cache.errors import ConfigError, StoreError

BODY = random.Random(1).randbytes(300_000)
Start = Callable[..., Proxy]


@pytest.fixture
def application(origin: Origin, tmp_path: Path) -> Iterator[Server]:
    one = Server(sources=[origin.url], cache=tmp_path / "cache")
    yield one
    one.service.close()


@dataclass(frozen=True)
class Called:
    """What the callable did. `cut` says that the body ended in the error that makes a server drop the connection."""

    status: int
    fields: dict[str, str]
    body: bytes
    cut: bool
    result: Iterable[bytes]


def environ_of(method: str, target: str, fields: dict[str, str], **more: object) -> dict[str, Any]:
    """What a server hands over that keeps only the decoded path."""
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "mirror.example",
        "REMOTE_ADDR": "127.0.0.1",
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in fields.items()},
    }
    setup_testing_defaults(environ)
    return environ | more


def call(
    application: Any, target: str, fields: dict[str, str] | None = None, method: str = "GET", **more: object
) -> Called:
    """What a server does with one request."""
    answered: list[tuple[str, list[tuple[str, str]]]] = []
    body, cut = b"", False

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], None]:
        answered.append((status, headers))
        return lambda _: None

    result = application(environ_of(method, target, fields or {}, **more), start_response)
    try:
        for block in result:
            body += block
    except ConnectionResetError:
        cut = True
    finally:
        if hasattr(result, "close"):
            result.close()
    ((status, headers),) = answered
    return Called(int(status[:3]), {name.lower(): value for name, value in headers}, body, cut, result)


def store(application: Server, origin: Origin, path: str, body: bytes = BODY) -> None:
    """Have the callable fetch a file, so that it is a hit from then on."""
    origin.put(path, body)
    assert call(application, path).body == body
    until(lambda: call(application, path, method="HEAD").fields["cache-status"] == "package-cache; hit")


@pytest.mark.parametrize("wrapper", [None, FileWrapper], ids=["without a file wrapper", "with a file wrapper"])
def test_it_keeps_the_rules_of_wsgi(application: Server, origin: Origin, wrapper: type | None) -> None:
    origin.put("/file-1.tar", BODY, etag='"tag"')
    more = {"wsgi.file_wrapper": wrapper} if wrapper else {}

    def ask(target: str, method: str = "GET", **fields: str) -> Called:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return call(validator(application), target, named, method, **more)

    cold = ask("/file-1.tar", "HEAD")
    assert (cold.status, cold.body, cold.fields["content-length"]) == (200, b"", "300000")
    miss = ask("/file-1.tar")
    assert (miss.status, miss.body, miss.cut) == (200, BODY, False)
    until(lambda: ask("/file-1.tar", "HEAD").fields["cache-status"] == "package-cache; hit")
    hit = ask("/file-1.tar")
    assert (hit.status, hit.body, hit.fields["cache-status"]) == (200, BODY, "package-cache; hit")
    part = ask("/file-1.tar", Range="bytes=100000-299998")
    assert (part.status, part.body) == (206, BODY[100_000:299_999])
    known = ask("/file-1.tar", If_None_Match='"tag"')
    assert (known.status, known.body, known.cut) == (304, b"", False)
    assert ask("/none-1.tar").status == 404
    assert ask("/file-1.tar", "PUT").status == 405
    refused = ask("/../file-1.tar")
    assert (refused.status, refused.cut) == (400, False)
    assert refused.body.endswith(b"\n")


@pytest.mark.parametrize("limit", [None, 60.0])
def test_how_long_content_may_take_is_no_limit_on_the_answer(application: Server, limit: float | None) -> None:
    broken = BytesIO()
    broken.close()
    for content, status in ((BytesIO(b"hello"), 405), (broken, 400)):
        with socket.socket() as connection:
            connection.settimeout(limit)
            more = {"CONTENT_LENGTH": "5", "gunicorn.socket": connection, "wsgi.input": content}
            assert call(application, "/file-1.tar", method="POST", **more).status == status
            assert connection.gettimeout() == limit


def test_it_needs_no_more_of_the_target_than_the_decoded_path(application: Server, origin: Origin) -> None:
    asked = {
        "/gtk+-3.tar": "/gtk%2B-3.tar",
        "/gtk%2B-3.tar": "/gtk%2B-3.tar",
        "/a%253a.tar": "/a%253a.tar",
        "/%C3%AF%20b.tar": "/%C3%AF%20b.tar",
        "/q-1.tar?v=1&w=%2B": "/q-1.tar?v=1&w=%2B",
        "/q-1.tar?": "/q-1.tar",
        "/folder/": "/folder/",
    }
    for target in asked.values():
        origin.put(target, target.encode())
    for spelling, target in asked.items():
        assert call(application, spelling).body == target.encode(), spelling
    count = len(origin.requests())
    for target in ("/../x", "/a/../../x", "/%2e%2e/x", "/a%0ab", "/a%00", "/%ff", "/a%5c..%5cb", "/q-1.tar?%0a"):
        assert call(application, target).status == 400, target
    assert len(origin.requests()) == count


def test_the_target_as_it_was_sent_comes_first_where_a_server_offers_it(application: Server, origin: Origin) -> None:
    origin.put("/a%2Fb.tar", b"one name")
    for name in ("RAW_URI", "REQUEST_URI"):
        assert call(application, "/a/b-1.tar", **{name: "/a%2Fb.tar"}).body == b"one name"


class Wrapper(FileWrapper):
    """A server's own file wrapper, seen from the server: it sends the descriptor itself."""

    filelike: Any

    def send(self, size: int) -> bytes:
        return os.pread(self.filelike.fileno(), size, self.filelike.tell())


def test_a_whole_hit_is_handed_over_as_a_file(application: Server, origin: Origin) -> None:
    store(application, origin, "/file-1.tar")
    environ = environ_of("GET", "/file-1.tar", {}) | {"wsgi.file_wrapper": Wrapper}
    result = application(environ, cast("Any", lambda *_: None))
    assert isinstance(result, Wrapper)
    assert result.send(1_000_000) == BODY
    result.close()
    with pytest.raises(ValueError, match="closed"):
        result.filelike.fileno()


def test_a_part_is_handed_over_as_a_file_only_to_servers_that_keep_to_its_length(
    application: Server, origin: Origin
) -> None:
    store(application, origin, "/file-1.tar")
    fields = {"Range": "bytes=1000-1999"}
    for software, wrapped in (("gunicorn/23.0.0", True), ("WSGIServer/0.2 CPython/3.11", False), ("", False)):
        more = {"wsgi.file_wrapper": Wrapper, "SERVER_SOFTWARE": software}
        called = call(application, "/file-1.tar", fields, **more)
        assert (called.status, called.body, called.cut) == (206, BODY[1000:2000], False)
        assert isinstance(called.result, Wrapper) == wrapped


def test_a_part_can_be_read_from_where_it_begins_by_a_server_without_sendfile(application: Server, origin: Origin) -> None:
    store(application, origin, "/file-1.tar")
    more = {"wsgi.file_wrapper": Wrapper, "SERVER_SOFTWARE": "gevent/26.9 Python/3.11"}
    result: Any = application(environ_of("GET", "/file-1.tar", {"Range": "bytes=1000-1999"}, **more), lambda *_: None)
    for _ in range(2):
        assert result.filelike.tell() in (1000, 2000)
        result.filelike.seek(1000)
        assert result.filelike.read(600) + result.filelike.read(600) + result.filelike.read() == BODY[1000:2000]
    result.close()


@pytest.mark.parametrize("wrapper", [None, Wrapper], ids=["without a file wrapper", "with a file wrapper"])
@pytest.mark.parametrize("fields", [{}, {"Range": "bytes=0-99"}], ids=["whole", "part"])
def test_each_request_is_logged_once_with_what_was_sent(
    application: Server, origin: Origin, caplog: pytest.LogCaptureFixture, wrapper: type | None, fields: dict[str, str]
) -> None:
    store(application, origin, "/file-1.tar")
    more = {"wsgi.file_wrapper": wrapper} if wrapper else {}
    with caplog.at_level(logging.INFO, "package_cache.access"):
        called = call(application, "/file-1.tar", fields, **more)
    (message,) = [record.getMessage() for record in caplog.records]
    assert f'"GET /file-1.tar HTTP/1.1" {called.status} {len(called.body)} ' in message
    assert f" hit {len(called.body)} 0 " in message


def open_blobs() -> int:
    names = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum("/blobs-v1/" in os.readlink(name) for name in names if name.is_symlink())


def test_a_body_that_nobody_reads_to_its_end_holds_nothing(application: Server, origin: Origin) -> None:
    store(application, origin, "/file-1.tar")
    until(lambda: open_blobs() == 0)  # the download has let go of it
    for more in ({}, {"wsgi.file_wrapper": Wrapper}):
        environ = environ_of("GET", "/file-1.tar", {}) | more
        result: Any = application(environ, cast("Any", lambda *_: None))
        next(iter(result))
        assert open_blobs() == 1
        result.close()
        assert open_blobs() == 0


def test_a_server_that_cannot_show_a_cut_gets_no_body_that_may_be_cut(application: Server, origin: Origin) -> None:
    """The standard library's simple server ends a body of unknown length by closing, whether it is whole or not."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    origin.put("/whole-1.tar", BODY, Serve(chunked=True))
    origin.put("/short-1.tar", BODY, Serve(chunked=True, cut=200_000))
    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            for target, status in (("/whole-1.tar", 200), ("/short-1.tar", 502)):
                with Client(("127.0.0.1", server.server_port)) as client:
                    answer = client.get(target)
                assert (answer.status, answer.whole) == (status, True)
                assert (answer.body == BODY) == (status == 200)
        finally:
            server.shutdown()
            thread.join()


WORKERS = [
    pytest.param(
        name,
        marks=() if module is None or importlib.util.find_spec(module) else pytest.mark.skip(f"{module} is not installed"),
    )
    for name, module in (("gthread", None), ("sync", None), ("gevent", "gevent"), ("tornado", "tornado"))
]


def launch(start: Start, origin: Origin, worker: str, *more: str) -> Proxy:
    threads = ["--threads", "40" if worker == "gthread" else "1"]
    return start(origin.url, host="gthread", arguments=["--worker-class", worker, *threads, *more])


@contextmanager
def asking(proxy: Proxy) -> Iterator[Callable[..., Answer]]:
    """Requests on connections of their own, as these workers close them at will."""

    def ask(target: str, *lines: str, method: str = "GET") -> Answer:
        with Client(proxy.address) as client:
            return client.get(target, *lines, method=method)

    yield ask


@pytest.mark.parametrize("worker", WORKERS)
def test_it_runs_under_any_worker_of_gunicorn(origin: Origin, start: Start, worker: str) -> None:
    origin.put("/file-1.tar", BODY, etag='"tag"')
    origin.put("/chunked-1.tar", BODY, Serve(chunked=True))
    with asking(launch(start, origin, worker)) as ask:
        assert ask("/file-1.tar", method="HEAD").get("content-length") == "300000"
        assert ask("/file-1.tar").body == BODY
        until(lambda: ask("/file-1.tar").get("cache-status") == "package-cache; hit")
        assert ask("/file-1.tar", "Range: bytes=200000-").body == BODY[200_000:]
        assert ask("/file-1.tar", 'If-None-Match: "tag"').status == 304
        assert ask("/none-1.tar").status == 404
        assert ask("/none-1.tar", method="HEAD").status == 404
        assert ask("/../file-1.tar").status == 400
        assert ask("/../file-1.tar", method="HEAD").status == 400
        assert ask("/file-1.tar", method="POST").status == 405
        answer = ask("/chunked-1.tar")
        assert (answer.body, answer.whole) == (BODY, True)


@pytest.mark.parametrize("worker", WORKERS[:-1])  # that one gathers a body before it sends any of it
def test_a_failed_transfer_is_cut_under_any_worker_of_gunicorn(origin: Origin, start: Start, worker: str) -> None:
    origin.put("/short-1.tar", BODY, Serve(cut=200_000))
    origin.put("/short-chunked-1.tar", BODY, Serve(chunked=True, cut=200_000))
    with asking(launch(start, origin, worker, "--workers", "3")) as ask, ThreadPoolExecutor(2) as pool:
        known, unknown = pool.map(ask, ["/short-1.tar", "/short-chunked-1.tar"])
        assert (known.status, known.get("content-length"), known.whole) == (200, "300000", False)
        assert (unknown.status, unknown.get("transfer-encoding"), unknown.whole) == (200, "chunked", False)
        assert ask("/none-1.tar").status == 404


def test_it_may_be_built_before_the_workers_are_forked(origin: Origin, start: Start) -> None:
    origin.put("/file-1.tar", BODY)
    proxy = launch(start, origin, "gthread", "--preload", "--workers", "3")
    with ThreadPoolExecutor(12) as pool:
        answers: list[Response] = list(pool.map(lambda _: proxy.get("/file-1.tar"), range(24)))
    assert all(answer.body == BODY for answer in answers)
    assert len(origin.requests()) == 1


def test_a_callable_starts_nothing_before_its_first_request(origin: Origin, tmp_path: Path) -> None:
    before = set(threading.enumerate())  # of which some may end meanwhile: they are of earlier tests
    application = Server(sources=iter([origin.url]), cache=str(tmp_path / "cache"))
    assert set(threading.enumerate()) <= before
    assert origin.requests() == []
    application.service.close()


def test_it_says_what_it_cannot_use(tmp_path: Path) -> None:
    for sources, problem in (
        ([], "no source given"),
        (["ftp://a/", "http://mirror.example/", "x"], "ftp://a/.*\n.*'x'"),
        ("http://mirror.example/", "list"),
    ):
        with pytest.raises(ConfigError, match=problem):
            Server(sources=sources, cache=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Server(sources=["http://mirror.example/"], cache=tmp_path / "file")


def test_it_is_configured_by_the_environment(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.put("/file-1.tar", BODY)
    monkeypatch.setenv("PACKAGE_CACHE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="PACKAGE_CACHE_SOURCE"):
        create_app()
    monkeypatch.setenv("PACKAGE_CACHE_SOURCE", origin.url)
    application = create_app()
    assert call(application, "/file-1.tar").body == BODY
    until(lambda: call(application, "/file-1.tar", method="HEAD").fields["cache-status"] == "package-cache; hit")
    application.service.close()
    monkeypatch.setenv("PACKAGE_CACHE_PROT", "1")
    with pytest.raises(ConfigError, match="PACKAGE_CACHE_PROT"):
        create_app()


IMPORT = """\
import logging, os, signal, sys, threading, warnings
import platformdirs, sqlite3  # what these do by themselves is not our doing

def audit(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        acts.append((event, arguments))
    if event.split(".")[0] in ("socket", "sqlite3", "subprocess") or event in ("os.mkdir", "os.fork", "os.putenv"):
        acts.append((event, arguments))

def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    log = logging.root.handlers[:], logging.root.level
    return log, handlers, threading.enumerate(), os.environ.copy(), warnings.filters[:]

acts, before = [], state()
sys.addaudithook(audit)
import package_cache
loggers = [name for name, one in logging.root.manager.loggerDict.items()
           if name.startswith("package_cache") and getattr(one, "handlers", None)]
print(acts, loggers, [name for name in ("gunicorn", "argparse") if name in sys.modules], before == state())
"""


def test_importing_it_does_nothing(tmp_path: Path) -> None:
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", "-c", IMPORT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=variables, cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("[] [] [] True\n", "")
    assert list(tmp_path.iterdir()) == []
