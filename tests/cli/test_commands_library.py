"""The commands of the library: what is downloaded, added, found, shown and removed from the shell."""

import bz2
import fcntl
import gzip
import hashlib
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from forks import Forks
from origin import Gate, Origin, Say, Serve, until
from product import surroundings

from package_cache import Cache
from package_cache.model import Status

TABLE = b"a\tb\n1\t2\n"
PACKED = gzip.compress(TABLE, mtime=0)
PROGRAM = (sys.executable, "-m", "package_cache")
BODY = bytes(range(256)) * 8000


def command(cache: Path | None, *words: str) -> list[str]:
    where = [] if cache is None else ["--cache", str(cache)]
    return [*PROGRAM, *words, *where]


def environment(**more: str) -> dict[str, str]:
    return surroundings(no_proxy="127.0.0.1", **more)


_shells: list[Forks] = []


@pytest.fixture(scope="module", autouse=True)
def keep_shell(shell: Forks) -> Iterator[None]:
    _shells.append(shell)
    yield
    _shells.pop()


def run(cache: Path | None, *words: str, user: int = 0, **more: str) -> "subprocess.CompletedProcess[bytes]":
    """A command, which is expected to end by itself."""
    return _shells[-1].run(command(cache, *words)[len(PROGRAM) :], environment(**more), user)


def done(cache: Path | None, *words: str, **more: str) -> str:
    """What a command that succeeded said."""
    return poured(cache, *words, **more).decode()


def poured(cache: Path | None, *words: str, **more: str) -> bytes:
    result = run(cache, *words, **more)
    assert (result.returncode, result.stderr) == (0, b""), result
    return result.stdout


def failed(code: int, cache: Path | None, *words: str, user: int = 0) -> str:
    """The one line in which a command said what is wrong."""
    result = run(cache, *words, user=user)
    assert (result.returncode, result.stdout) == (code, b""), result
    text = result.stderr.decode()
    assert text.startswith("package-cache: "), text
    assert len(text.splitlines()) == 1, text
    return text.removeprefix("package-cache: ").strip()


def objects(cache: Path, *words: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in done(cache, *words, "--json").splitlines()]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with items that no test changes."""
    root = tmp_path_factory.mktemp("stock")
    with Cache(root) as cache:
        for rows in (50, 100, 200):
            with cache.writing("my/table", attrs={"rows": rows, "species": "human"}, ext="txt") as file:
                file.write(b"x" * rows)
        with cache.writing("my/packed", {"year": 2026}, {"when": datetime(2026, 1, 31, tzinfo=UTC), "b": b"\xff"}) as file:
            file.write(PACKED)
        with cache.writing("my/packed", {"year": 2025}, label="old") as file:
            file.write(bz2.compress(TABLE))
        cache.create("my/failed").failed()
        with cache.writing("other", attrs={"code": "100", "nan": float("nan")}) as file:
            file.write(gzip.compress(bytes(300_000), mtime=0))
    return root


# get


def test_get_prints_the_path_of_what_it_downloaded_and_asks_no_server_again(origin: Origin, cache: Path) -> None:
    origin.put("/table.tsv.gz?a=1&b=2+3", PACKED)
    url = origin.url + "table.tsv.gz"
    first = run(cache, "get", url + "?a=1", "--query", "b=2 3", "--label", "mine", "-v")
    path = first.stdout.decode().removesuffix("\n")
    assert Path(path).read_bytes() == PACKED
    assert path.endswith(".gz")
    assert "downloaded: it was not in the cache" in first.stderr.decode()
    assert done(cache, "get", url, "--query", "a=1", "--query", "b=2 3") == path + "\n"
    assert poured(cache, "get", url + "?a=1&b=2+3", "-o", "-") == PACKED
    assert len(origin.requests()) == 1
    with Cache(cache) as found:
        assert [item.attrs["url"] for item in found.search(label="mine")] == [url + "?a=1&b=2+3"]


def test_get_makes_the_cache_of_the_user_if_none_is_named(origin: Origin, tmp_path: Path) -> None:
    origin.put("/a", b"1")
    path = done(None, "get", origin.url + "a", XDG_CACHE_HOME=str(tmp_path / "caches"))
    assert Path(path.strip()).is_relative_to(tmp_path / "caches" / "package-cache")
    other = done(None, "get", origin.url + "a", PACKAGE_CACHE_CACHE=str(tmp_path / "other"))
    assert Path(other.strip()).is_relative_to(tmp_path / "other")


def test_get_replaces_a_file_in_one_step_and_only_by_all_of_it(origin: Origin, cache: Path, tmp_path: Path) -> None:
    origin.put("/a", BODY, Serve(cut=1000), Serve(cut=1000), Serve())
    target = tmp_path / "out"
    target.write_bytes(b"mine")
    origin.put("/none", b"", Say(404))
    assert failed(1, cache, "get", origin.url + "none", "-o", str(target)) == f"{origin.url}none answered 404"
    assert target.read_bytes() == b"mine"
    assert done(cache, "get", origin.url + "a", "-o", str(target)) == ""
    assert target.read_bytes() == BODY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]
    assert f"-> {target}" in done(cache, "ls")


def test_get_says_both_digests_if_they_differ_and_stores_nothing(origin: Origin, another: Origin, cache: Path) -> None:
    origin.put("/a", b"other")
    wanted, got = hashlib.sha256(TABLE).hexdigest(), hashlib.sha256(b"other").hexdigest()
    line = failed(1, cache, "get", origin.url + "a", "--sha256", wanted, "--retries", "1")
    assert wanted in line
    assert got in line
    assert objects(cache, "ls") == []
    another.put("/a", TABLE)
    path = done(cache, "get", origin.url + "a", "--sha256", wanted, "--mirror", another.url + "a").strip()
    assert Path(path).read_bytes() == TABLE


def test_get_asks_again_when_it_is_told_to(origin: Origin, cache: Path) -> None:
    origin.put("/a", b"1")
    url = origin.url + "a"
    path = done(cache, "get", url)
    assert done(cache, "get", url, "--refresh", "check") == path
    assert "if-none-match" in origin.requests()[1].fields
    origin.put("/a", b"2")
    assert poured(cache, "get", url, "--refresh", "always", "-o", "-") == b"2"
    origin.stop()
    result = run(cache, "get", url, "--refresh", "check", "-o", "-", "--retries", "1")
    assert (result.returncode, result.stdout) == (0, b"2")
    assert b"it is used as it was on" in result.stderr


def test_get_keeps_a_json_document_for_its_own_time(origin: Origin, cache: Path, tmp_path: Path) -> None:
    def document(age: float) -> bytes:
        return json.dumps({"metadata": {"timestamp": time.time() - age, "ttl": 100}, "data": age}).encode()

    url, words = origin.url + "a.json", ("--refresh", "json-metadata")
    old = origin.put("/a.json", document(1000))
    target = tmp_path / "out.json"
    done(cache, "get", url, *words, "-o", str(target))
    assert target.read_bytes() == old
    fresh = origin.put("/a.json", document(0))
    with Cache(cache) as found:
        found.update(uri_glob="*a.json", update={"date": "2026-01-01"})
    done(cache, "get", url, *words, "-o", str(target))
    assert target.read_bytes() == fresh
    origin.stop()
    assert poured(cache, "get", url, *words, "-o", "-") == fresh


class _Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = json.dumps([self.headers["Content-Type"], self.headers.get("X-A"), data]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_get_posts_forms_json_and_files(echo: str, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("P04637")

    def said(*words: str) -> list[str]:
        return json.loads(poured(cache, "get", echo, "-o", "-", *words))  # type: ignore[no-any-return]

    assert said("--post", "a=1", "--post", "b=x y", "--header", "X-A: 5") == [
        "application/x-www-form-urlencoded",
        "5",
        "a=1&b=x+y",
    ]
    assert said("--json", '{"genes": ["TP53"]}') == ["application/json", None, '{"genes": ["TP53"]}']
    content_type, _, data = said("--file", f"ids={tmp_path}/ids.txt", "--post", "from=uniprot")
    assert content_type.startswith("multipart/form-data")
    assert 'name="from"\r\n\r\nuniprot' in data
    assert 'filename="ids.txt"' in data
    assert "P04637" in data
    with Cache(cache) as found:
        assert len(found.search()) == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("ftp://mirror.example/a",), "url='ftp://mirror.example/a' cannot be downloaded: it does not begin with http"),
        (("http://a.example/", "--header", "nonsense"), "the header 'nonsense' has no colon"),
        (("http://a.example/", "--query", "a"), "--query: 'a' is not NAME=VALUE"),
        (("http://a.example/", "--json", "{a}"), "--json: '{a}' is not JSON"),
        (("http://a.example/", "--json", "null"), "--json: 'null' alone cannot be sent"),
        (("http://a.example/", "--json", "[]", "--post", "a=1"), "post and json are given: a request has one body"),
        (("http://a.example/", "--file", "a=/none/b"), "the file /none/b cannot be sent: No such file"),
        (("http://a.example/", "--sha256", "abc"), "sha256='abc' is not a SHA-256 in hex"),
        (("http://a.example/", "--retries", "no"), "--retries: 'no' is not a whole number above 0"),
        (("http://a.example/", "--timeout", "-1"), "--timeout: '-1' is not a number above 0"),
        (("http://a.example/", "--max-size", "x"), "--max-size: 'x' is not a size above 0"),
        (("http://a.example/", "-o", ""), "-o: the name of the file is empty"),
        (("http://a.example/", "--mirror", "b"), "url='b' cannot be downloaded"),
        (("http://a.example/", "--sha265", "b"), "--sha265: there is no such option; the nearest is --sha256"),
    ],
)
def test_get_says_in_a_line_what_cannot_be_asked_for(cache: Path, words: tuple[str, ...], line: str) -> None:
    assert line in failed(2, cache, "get", *words)


def test_get_says_in_a_line_where_nothing_can_be_written(origin: Origin, cache: Path, tmp_path: Path) -> None:
    origin.put("/a", b"12345")
    url = origin.url + "a"
    assert "there is no directory" in failed(1, cache, "get", url, "-o", str(tmp_path / "none" / "a"))
    assert "it is a directory" in failed(1, cache, "get", url, "-o", str(tmp_path))
    assert "has 5 bytes, and 4 are allowed" in failed(1, cache, "get", url, "--max-size", "4", "--retries", "1")
    (tmp_path / "file").write_bytes(b"")
    assert "is a file; give the directory of the cache" in failed(2, tmp_path / "file", "get", url)
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            command(cache, "get", url, "-o", "-"), stdout=full, stderr=subprocess.PIPE, env=environment(), check=False
        )
    assert (result.returncode, result.stderr) == (1, b"package-cache: cannot write the output: No space left on device\n")


def test_a_get_that_is_interrupted_or_killed_is_gone_on_with_by_the_next(origin: Origin, cache: Path) -> None:
    gates = Gate(), Gate()
    origin.put("/a", BODY, *(Serve(gate=gate, gate_at=1_000_000) for gate in gates), Serve())
    for number in (signal.SIGINT, signal.SIGKILL):
        with subprocess.Popen(
            command(cache, "get", origin.url + "a"), stderr=subprocess.PIPE, env=environment()
        ) as process:
            until(lambda: sum(part.stat().st_size for part in (cache / "parts-v1").glob("*.part")) >= 1_000_000)
            if number == signal.SIGKILL:
                until(lambda: gates[1].reached.is_set() or len(origin.requests()) == 2)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        if number == signal.SIGINT:
            assert (process.returncode, said) == (130, b"package-cache: interrupted\n")
    assert poured(cache, "get", origin.url + "a", "-o", "-") == BODY
    for gate in gates:
        gate.open()
    for asked in origin.requests()[1:]:
        assert int(asked.fields["range"][6:-1]) > 900_000


def test_a_bar_is_drawn_on_a_terminal_only(origin: Origin, cache: Path) -> None:
    for path in ("/a", "/b"):
        origin.put(path, BODY, Serve(pace=2_000_000))
    assert done(cache, "get", origin.url + "a")
    path, said = on_terminal(command(cache, "get", origin.url + "b"), "stderr")
    assert Path(path.strip()).read_bytes() == BODY
    assert "%|" in said


def on_terminal(words: Sequence[str], stream: str) -> tuple[str, str]:
    """What a command said to standard output, and to a terminal at that stream."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    streams = {"stdout": subprocess.PIPE, stream: theirs}
    with subprocess.Popen(words, **streams, env=environment()) as process:
        os.close(theirs)
        said = b""
        while data := _read(ours):
            said += data
        os.close(ours)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return (out or b"").decode(), said.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


# add, ls, show


def test_what_is_added_is_found_by_its_attributes_with_their_types(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv.gz").write_bytes(PACKED)
    given = {
        "rows": 100,
        "share": 0.5,
        "name": "x=y",
        "text": "100",
        "tags": ["a", "b"],
        "deep": {"x": {"y": None}},
        "ok": True,
        "when": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "version": "1.2.3",
    }
    texts = ["rows=100", "share=0.5", "name=x=y", 'text="100"', 'tags=["a", "b"]', 'deep={"x": {"y": null}}', "ok=true"]
    texts += ["when=DATE:2026-01-31T12:00:00+00:00", "version=1.2.3"]
    words = [word for text in texts for word in ("--attr", text)]
    path = done(cache, "add", str(tmp_path / "a.tsv.gz"), "--uri", "my/a", "--label", "L", "--param", "n=1", *words).strip()
    assert path.endswith("-1.gz")
    with Cache(cache) as found:
        [item] = found.search("my/a", {"n": 1}, label="L")
        assert (item.path, item.attrs, item.filename) == (path, given, "a.tsv.gz")
        assert {name: type(value) for name, value in item.attrs.items()} == {name: type(one) for name, one in given.items()}
    done(cache, "add", str(tmp_path / "a.tsv.gz"), "--uri", "my/a", "--param", "n=1", "--ext", "bin")
    assert [one["version"] for one in objects(cache, "ls", "my/a")] == [2]
    assert (tmp_path / "a.tsv.gz").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--attr", "rows"), "--attr: 'rows' is not NAME=VALUE"),
        (("--attr", "a=1", "--attr", "a=2"), "--attr: a is given twice; a list is written a=[1, 2]"),
        (("--attr", "a=99999999999999999999"), "an int of more than 64 bits cannot be stored"),
        (("--attr", "a=DATE:soon"), "--attr: 'soon' is no date"),
        (("--attr", b"a=\xff".decode("utf-8", "surrogateescape")), "is not valid text"),
        (("--ext", "a/b"), "ext: 'a/b' cannot be the end of a file's name"),
    ],
)
def test_add_says_in_a_line_what_cannot_be_stored(cache: Path, words: tuple[str, ...], line: str) -> None:
    assert line in failed(2, cache, "add", __file__, "--uri", "u", *words)


def test_add_wants_a_file_and_a_name(cache: Path) -> None:
    assert failed(2, cache, "add", "/none", "--uri", "u") == "path: /none is not a file"
    assert "--uri is empty" in failed(2, cache, "add", __file__, "--uri", "")
    result = run(cache, "add", __file__)
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"--uri" in result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"my/table 3", "my/packed 1", "my/failed 1", "other 1"}),
        (("my/*",), {"my/table 3", "my/packed 1", "my/failed 1"}),
        (("my/",), {"my/table 3", "my/packed 1", "my/failed 1"}),
        (("/*",), set()),
        (("--status", "ready", "my/*"), {"my/table 3", "my/packed 1"}),
        (("--status", "failed", "--status", "write"), {"my/failed 1"}),
        (("--label", "old"), {"my/packed 1"}),
        (("--attr", "rows>=100"), {"my/table 3"}),
        (("--attr", "rows >= 100", "--attr", "rows<200"), {"my/table 2"}),
        (("--attr", "rows=[50, 60]"), {"my/table 1"}),
        (("--attr", "species~hum*", "--attr", "rows!=200"), {"my/table 2"}),
        (("--attr", 'code="100"'), {"other 1"}),
        (("--attr", "code=100"), set()),
        (("--attr", "when>DATE:2026-01-01"), {"my/packed 1"}),
        (("--kind", "proxy"), set()),
        (("--trash",), set()),
    ],
)
def test_ls_lists_what_meets_all_that_is_asked(stock: Path, words: tuple[str, ...], expected: set[str]) -> None:
    result = run(stock, "ls", "--json", *words)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert {f"{one['uri']} {one['version']}" for one in found} == expected
    line = b"" if expected else b"package-cache: there is nothing to list\n"
    assert (result.returncode, result.stderr) == (0 if expected else 1, line)


def test_ls_says_in_a_line_what_is_no_condition(stock: Path) -> None:
    assert "it looks like 'rows>=100'" in failed(2, stock, "ls", "--attr", "rows")
    assert "status: 'done' is none" in failed(2, stock, "ls", "--status", "done").replace(
        "'done' is no", "status: 'done' is no"
    )
    assert "is equal or not, but neither more nor less" in failed(2, stock, "ls", "--attr", "ok>=true")


def test_ls_is_a_table_for_people_and_json_for_programs(stock: Path) -> None:
    lines = done(stock, "ls", "my/table").splitlines()
    assert len(lines) == 1
    size, _, _, status, number, name = lines[0].split()
    assert (size, status, name) == ("200", "ready", "my/table")
    [one] = objects(stock, "ls", number)
    assert str(one["version_id"]).startswith(number.partition("-")[0])
    assert one["attrs"] == {"rows": 200, "species": "human"}
    assert Path(str(one["path"])).read_bytes() == b"x" * 200
    assert (one["kind"], one["status"], one["size"]) == ("item", "READY", 200)
    assert objects(stock, "ls", "other")[0]["attrs"] == {"code": "100", "nan": "nan"}
    _, text = on_terminal(command(stock, "ls", "my/table"), "stdout")
    assert text.split()[:7] == ["SIZE", "LAST", "USE", "STATUS", "ITEM", "NAME", "200"]


def test_show_tells_all_versions_of_all_that_is_called_so(stock: Path) -> None:
    text = done(stock, "show", "my/table")
    assert text.startswith("my/table\nkey ")
    assert [line for line in text.splitlines() if line.startswith("version")] == [
        f"version {version}: ready" for version in (3, 2, 1)
    ]
    assert "  rows: 50" in text
    several = objects(stock, "show", "my/packed")
    assert [one["params"] for one in several] == [{"year": 2026}, {"year": 2025}]
    [version] = several[0]["versions"]  # type: ignore[misc]
    assert version["attrs"] == {"when": "2026-01-31T00:00:00+00:00", "b": "/w=="}
    assert "version 1: failed" in done(stock, "show", "my/f*")
    [key] = [one["key"] for one in objects(stock, "show", "other")]
    for name in (f"{key}", f"{key}-1", f"{str(key)[:10]}", f"{str(key)[:10]}-1", "oth?r"):
        assert [one["uri"] for one in objects(stock, "show", name)] == ["other"]
    assert failed(1, stock, "show", "none") == "nothing is stored for none"
    assert failed(1, stock, "show", f"{key}-2") == f"nothing is stored for {key}-2"


# cat


def test_cat_writes_what_is_stored_decompressed(stock: Path) -> None:
    assert done(stock, "cat", "my/table") == "x" * 200
    assert len(done(stock, "cat", f"{objects(stock, 'ls', 'my/table')[0]['key']}-1")) == 50
    line = failed(1, stock, "cat", "my/packed")
    assert line.startswith("my/packed names 2 items: ")
    for number in line.partition(": ")[2].partition(";")[0].split(", "):
        assert poured(stock, "cat", number) == TABLE
    assert gzip.decompress(poured(stock, "cat", "other", "--raw")) == bytes(300_000)
    result = run(stock, "cat", "other", "--max-size", "1000")
    assert result.returncode == 1
    assert b"other inflates to more than 1000 bytes; if you trust it, give --max-size, or --raw" in result.stderr
    assert failed(1, stock, "cat", "my/failed") == "nothing that can be read is stored for my/failed"
    assert failed(1, stock, "cat", "/none") == "nothing that can be read is stored for /none"
    assert "is not a size" in failed(2, stock, "cat", "other", "--max-size", "0")


def test_cat_downloads_a_url_that_is_not_there(origin: Origin, cache: Path) -> None:
    origin.put("/a.gz", PACKED)
    for _ in range(2):
        assert poured(cache, "cat", origin.url + "a.gz") == TABLE
    assert len(origin.requests()) == 1
    assert failed(1, cache, "cat", origin.url + "b") == f"{origin.url}b answered 404"
    assert not list((cache / "parts-v1").glob("*.part"))


def test_cat_ends_quietly_when_nobody_reads_on(stock: Path) -> None:
    words = " ".join(f"'{word}'" for word in command(stock, "cat", "other"))
    result = subprocess.run(
        ["bash", "-c", f"{words} | head -c 1; echo ${{PIPESTATUS[0]}}"], capture_output=True, check=False, env=environment()
    )
    assert (result.stdout, result.stderr) == (b"\x000\n", b"")


# rm, restore, purge, pin, why


def test_items_are_removed_in_two_steps(cache: Path) -> None:
    with Cache(cache) as items:
        for text in (b"one", b"twotwo"):
            with items.writing("my/a") as file:
                file.write(text)
        with items.writing("my/b") as file:
            file.write(b"three")
        path = items.best("my/b").path  # type: ignore[union-attr]
    assert done(cache, "rm", "my/a", "--version", "1") == "put into the trash: my/a version 1, 3\n"
    assert failed(1, cache, "rm", "my/a", "--version", "1") == "nothing of version 1 for my/a"
    assert [one["version"] for one in objects(cache, "ls", "--trash")] == [1]
    assert done(cache, "restore", "my/a") == "restored: my/a version 1, 3\n"
    assert failed(1, cache, "restore", "my/a") == "nothing is in the trash for my/a"
    assert done(cache, "rm", "my/*").count("\n") == 3
    assert objects(cache, "ls") == []
    assert done(cache, "restore", "my/b") == "restored: my/b version 1, 5\n"
    assert Path(path).read_bytes() == b"three"
    assert done(cache, "purge", "--older", "1h") == "purged: 0 versions, 0 freed\n"
    assert done(cache, "purge", "--all", "--kind", "proxy") == "purged: 0 versions, 0 freed\n"
    assert done(cache, "purge", "my/a") == "purged: 2 versions, 9 freed\n"
    done(cache, "rm", "my/b")
    assert done(cache, "purge", "--all") == "purged: 1 version, 5 freed\n"
    with Cache(cache) as items:
        assert len(items) == 0
    assert not list((cache / "blobs-v1").rglob("?" * 64))


def test_what_is_pinned_cannot_be_removed_and_is_not_culled(cache: Path) -> None:
    with Cache(cache) as items:
        for uri in ("my/a", "my/b"):
            with items.writing(uri) as file:
                file.write(uri.encode() * 1000)
    assert done(cache, "pin", "my/a") == "pinned: my/a\n"
    assert done(cache, "pin", "my/a") == "pinned already: my/a\n"
    assert failed(1, cache, "pin", "my/none") == "nothing is stored for my/none"
    assert failed(1, cache, "rm", "my/*") == "my/a is pinned; unpin it first"
    with Cache(cache) as items:
        items.remove("my/b", disk=True, keep_record=False)
    assert " pinned " in done(cache, "ls")
    assert done(cache, "unpin", "my/a") == "unpinned: my/a\n"
    assert failed(1, cache, "unpin", "my/a") == "my/a is not pinned; ls shows what is"


def test_a_name_of_both_kinds_is_shown_and_is_not_changed_unless_one_is_meant(
    origin: Origin, start: "object", tmp_path: Path
) -> None:
    origin.put("/a-1.tar", BODY)
    proxy = start(origin.url)  # type: ignore[operator]
    assert proxy.get("/a-1.tar").status == 200
    url, cache = origin.url + "a-1.tar", proxy.cache
    done(cache, "get", url)
    until(lambda: len(objects(cache, "ls")) == 2)
    assert [one["kind"] for one in objects(cache, "ls")] == ["proxy", "item"]
    assert [one["kind"] for one in objects(cache, "show", url)] == ["proxy", "item"]
    assert poured(cache, "cat", "/a-1.tar") == BODY
    for name in ("rm", "pin"):
        line = failed(1, cache, name, url)
        assert line == (
            f"{url} is /a-1.tar of the proxy and the name of items of the library; say which: --kind proxy or --kind item"
        )
    assert done(cache, "rm", url, "--kind", "item").startswith(f"put into the trash: {url} version 1")
    assert done(cache, "rm", url).startswith("put into the trash: /a-1.tar version 1")
    assert [one["kind"] for one in objects(cache, "ls", "--trash")] == ["proxy", "item"]
    assert done(cache, "restore", "/a-1.tar") == "restored: /a-1.tar version 1, 2.0M\n"
    assert done(cache, "purge", "--all").startswith("purged: 1 version, ")
    assert proxy.get("/a-1.tar").cache_status == "package-cache; hit"


def test_why_is_for_what_clients_of_the_proxy_ask(stock: Path) -> None:
    assert failed(1, stock, "why", "my/table").startswith("why tells what a client of the proxy would get; my/table is in")
    assert "is not what a client would ask for" in failed(2, stock, "why", "none")


# whose the cache is


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_cache_of_another_user_is_refused_in_a_line_and_root_leaves_it_to_its_owner(origin: Origin) -> None:
    origin.put("/a.gz", PACKED)
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        cache, own = Path(public) / "cache", Path(public) / "own"
        own.mkdir()
        os.chown(own, 65534, 65534)
        done(cache, "get", origin.url + "a.gz")
        for words in (("get", origin.url + "a.gz"), ("add", __file__, "--uri", "u"), ("rm", "u")):
            line = failed(1, cache, *words, user=65534)
            assert line.startswith(f"cannot use {cache} as the cache: it belongs to root, and this user may not write it. ")
            assert "--cache PATH" in line
        shutil.rmtree(cache)
        cache.mkdir()
        os.chown(cache, 65534, 65534)
        done(cache, "get", origin.url + "a.gz")
        done(cache, "add", __file__, "--uri", "u")
        assert {path.lstat().st_uid for path in (cache, *cache.rglob("*"))} == {65534}
        target = Path(public) / "out"
        done(cache, "get", origin.url + "a.gz", "-o", str(target))
        assert target.stat().st_uid == 0
        assert failed(1, cache, "show", "none", user=65534) == "nothing is stored for none"


def test_a_command_that_only_looks_makes_no_cache(tmp_path: Path) -> None:
    for words in (("ls",), ("show", "a"), ("cat", "a"), ("rm", "a"), ("pin", "a")):
        assert failed(1, tmp_path / "none", *words).startswith(f"there is no cache in {tmp_path / 'none'}; ")
    assert not (tmp_path / "none").exists()


def test_what_fails_is_never_a_later_hit(origin: Origin, cache: Path) -> None:
    origin.put("/a", BODY, Serve(cut=1_000_000), Say(404))
    for _ in range(2):
        assert failed(1, cache, "get", origin.url + "a", "--retries", "1")
        assert run(cache, "ls", "--status", "ready").returncode == 1
    origin.script("/a", Serve())
    assert poured(cache, "get", origin.url + "a", "-o", "-") == BODY
    with Cache(cache) as items:
        assert [item.rstatus for item in items.search()] == [Status.READY]


def test_what_the_encoding_of_the_output_has_no_character_for_is_escaped(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done(cache, "add", __file__, "--uri", "my/\u6f22 \xfc")
    for encoding, name in (("ascii", "my/\\u6f22 \\xfc"), ("latin-1", "my/\\u6f22 \xfc"), ("utf-8", "my/\u6f22 \xfc")):
        result = subprocess.run(
            command(cache, "ls"), capture_output=True, timeout=60, check=True, env=surroundings(PYTHONIOENCODING=encoding)
        )
        assert result.stdout.decode(encoding).rstrip("\n").endswith(f"  {name}")


@pytest.mark.parametrize("name", ["n\xa0b", "n\udcffb", "n\nb"])
def test_a_program_is_given_the_path_as_it_is_whatever_is_in_it(tmp_path: Path, name: str) -> None:
    words = command(tmp_path / name, "add", __file__, "--uri", "my")
    result = subprocess.run(words, capture_output=True, timeout=60, check=True, env=surroundings())
    assert Path(os.fsdecode(result.stdout[:-1])).read_bytes() == Path(__file__).read_bytes()
    assert result.stdout.endswith(b"\n")


def test_what_an_error_quotes_does_not_steer_the_terminal(tmp_path: Path) -> None:
    result = run(tmp_path, "add", "no\x1b[31mfile\nat all", "--uri", "my")
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr == rb"package-cache: path: no\x1b[31mfile\nat all is not a file" + b"\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_cache_that_is_out_of_reach_is_told(tmp_path: Path, origin: Origin) -> None:
    tmp_path.chmod(0o700)
    for words in (("get", origin.url + "a.gz"), ("add", __file__, "--uri", "u"), ("ls",)):
        line = failed(1, tmp_path / "cache", *words, user=65534)
        assert line.startswith(("cannot use ", "cannot look into ")), line
        assert f" {tmp_path / 'cache'}" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_user_without_a_home_is_told_so(origin: Origin) -> None:
    homeless = {name: text for name, text in surroundings().items() if name != "HOME" and not name.startswith("XDG_")}
    del homeless["PACKAGE_CACHE_CONFIG"]
    for words in (["get", origin.url + "a.gz"], ["ls"], ["--source", origin.url, "--port", "0"]):
        result = _shells[-1].run(words, homeless, 54321)
        assert (result.returncode, result.stdout) == (1, b"")
        assert result.stderr.startswith(b"package-cache: this user has no home directory for a cache; "), result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert _shells[-1].run(["config", "check", "--source", origin.url], homeless, 54321).returncode == 0
