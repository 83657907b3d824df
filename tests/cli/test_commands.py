"""The commands beside serving, run while the cache is served and while it is not."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from forks import run as run_forked
from origin import Gate, Origin, Serve, until
from product import HOSTS, Proxy, blobs, size_of, stored, surroundings

import package_cache
from package_cache.cli.commands import COMMANDS

DAY = 86400.0
Start = Callable[..., Proxy]


pytestmark = pytest.mark.usefixtures("shell")


def run(cache: Path | None, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command, which is expected to end by itself, in a fork of a process that has imported it."""
    return run_forked(*words, *([] if cache is None else ["--cache", str(cache)]), **variables)


def run_anew(cache: Path | None, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command in an interpreter of its own."""
    where = [] if cache is None else ["--cache", str(cache)]
    return subprocess.run(
        [sys.executable, "-m", "package_cache", *words, *where],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=surroundings(),
    )


def done(cache: Path, *words: str) -> str:
    """What a command that succeeded said."""
    result = run(cache, *words)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def failed(code: int, result: "subprocess.CompletedProcess[str]") -> str:
    """The one line in which a command said what is wrong."""
    assert (result.returncode, result.stdout) == (code, ""), result
    assert result.stderr.startswith("package-cache: "), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr.removeprefix("package-cache: ").strip()


def told(cache: Path, *words: str) -> dict[str, object]:
    found = json.loads(done(cache, *words, "--json"))
    assert isinstance(found, dict)
    return found


def last_used(cache: Path, key: str, ago: float) -> None:
    """Have a file be used that many seconds ago, for the last time."""
    with closing(sqlite3.connect(cache / "registry-v1.db", timeout=30)) as connection, connection:
        rows = connection.execute("UPDATE entry SET used = ? WHERE key = ?", (time.time() - ago, key)).rowcount
    assert rows, key


@pytest.fixture
def proxy(origin: Origin, start: Start) -> Proxy:
    """A server with three files in its cache, by the number of days since their last use."""
    for days in (1, 2, 3):
        origin.put(f"/{days}.tar", bytes([days]) * days * 1000)
    origin.put("/index/", b"[]")
    proxy = start(origin.url, host="gunicorn")
    for days in (1, 2, 3):
        assert proxy.get(f"/{days}.tar").status == 200
        until(lambda days=days: f"/{days}.tar" in stored(proxy.cache))  # type: ignore[misc]
        last_used(proxy.cache, f"/{days}.tar", days * DAY)
    return proxy


# How commands are called


def test_help_of_the_server_names_every_command() -> None:
    result = run_anew(None, "--help")
    assert result.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_with_its_exit_codes(name: str) -> None:
    result = run(None, name, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: package-cache {name} ")
    assert "--cache" in result.stdout
    assert "exit codes: 0 done, 1 failed" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_and_version_can_be_asked_for_by_a_word() -> None:
    assert run(None, "help", "gc").stdout == run(None, "gc", "--help").stdout
    for words in (("help",), ("help", "serve"), ("serve", "--help")):
        assert run_anew(None, *words).stdout == run_anew(None, "--help").stdout
    assert run_anew(None, "version").stdout == run_anew(None, "--version").stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("gcc",), "'gcc' is not a command; the nearest is 'gc'"),
        (("remove",), "'remove' is not a command; it is called 'rm' here"),
        (("list",), "'list' is not a command; it is called 'ls' here"),
        (("status",), "'status' is not a command; it is called 'health' here"),
        (("http://mirror.example/",), "known are get, cat, "),
        (("--verbose", "gc"), "'gc' is a command: write it first, as in package-cache gc"),
        (("ls", "--jason"), "--jason: there is no such option; the nearest is --json"),
        (("gc", "--max-size", "2X"), "--max-size: '2X' is not a size above 0; a size is a number with K, M, G or T"),
        (("gc", "--max-size", "0"), "--max-size: '0' is not a size above 0"),
        (("gc", "--min-free", "110%"), "--min-free: '110%' is not a percentage"),
        (("gc", "--min-free", "much"), "--min-free: 'much' is neither a size above 0 nor a percentage"),
        (("gc", "--max-age", "7"), "--max-age: '7' is not a time above 0; it is a number with s, m, h, d, w or y"),
        (("ls", "--port", "1"), "--port: there is no such option"),
    ],
)
def test_a_wrong_command_or_option_is_named_in_a_line(words: tuple[str, ...], line: str) -> None:
    assert line in failed(2, run(None, *words, PACKAGE_CACHE_SOURCE="http://mirror.example/"))


def test_a_wrong_variable_is_named_in_a_line() -> None:
    assert failed(2, run(None, "ls", PACKAGE_CACHE_MAX_AGE="old")).startswith("PACKAGE_CACHE_MAX_AGE: 'old'")


def test_a_command_makes_no_cache_where_there_is_none(tmp_path: Path) -> None:
    for name in COMMANDS.keys() - {"get", "add", "import", "health", "config", "warm"}:
        words = [name, *(["--all"] if name == "purge" else [] if name in ("ls", "gc", "fsck", "info") else ["/a"])]
        line = failed(1, run(tmp_path / "none", *words))
        assert line == f"there is no cache in {tmp_path / 'none'}; --cache PATH (or PACKAGE_CACHE_CACHE) says where it is"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *((name, "/a b") for name in ("why", "rm", "restore", "pin", "unpin", "purge")),
        *(("show", path) for path in ("/../a", "/%zz", "/\x1b[2J")),
    ],
)
def test_a_path_that_no_client_would_ask_for_is_told_so(tmp_path: Path, name: str, path: str) -> None:
    assert f"{path!r} is not what a client would ask for: " in failed(2, run(tmp_path, name, path))


def test_who_reads_only_the_beginning_of_a_list_is_no_error(proxy: Proxy) -> None:
    command = f"'{sys.executable}' -m package_cache ls --cache '{proxy.cache}' | head -n 0; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr) == ("0\n", "")


@pytest.mark.parametrize("words", ["ls", "ls --json", "show /3.tar", "cat /3.tar", "fsck", "gc", "config init -"])
def test_a_closed_output_is_told_and_one_for_errors_is_not_needed(proxy: Proxy, words: str) -> None:
    command = f"'{sys.executable}' -m package_cache {words} --cache '{proxy.cache}'"
    closed = subprocess.run(["bash", "-c", f"{command} >&-"], capture_output=True, timeout=60, check=False)
    line = b"package-cache: cannot write the output: Bad file descriptor\n"
    assert (closed.returncode, closed.stderr) == (1, line)
    mute = subprocess.run(["bash", "-c", f"{command} 2>&-"], stdout=subprocess.PIPE, timeout=60, check=False)
    assert mute.returncode == 0
    assert mute.stdout


def test_a_closed_input_is_told(tmp_path: Path) -> None:
    words = f"warm - --source http://mirror.example/ --cache '{tmp_path}'"
    command = ["bash", "-c", f"'{sys.executable}' -m package_cache {words} <&-"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert failed(2, result) == "- cannot be read: Bad file descriptor"


@pytest.mark.parametrize(("words", "code"), [(("ls",), 130), (("config", "check"), 130), (("--port", "0"), 0)])
def test_who_interrupts_a_command_that_still_reads_its_settings_sees_no_traceback(
    tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    slow = tmp_path / "config.toml"
    os.mkfifo(slow)
    with (
        subprocess.Popen(
            [sys.executable, "-m", "package_cache", *words, "--config", str(slow)],
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings(),
        ) as process,
        slow.open("w", encoding="utf-8"),
    ):  # as soon as it is open there, too
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "package-cache: interrupted\n" if code else "")


@pytest.mark.parametrize("words", [("ls",), ("--port", "0")])
def test_who_interrupts_a_command_that_is_still_being_loaded_sees_no_traceback(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    slow = tmp_path / "gate"
    os.mkfifo(slow)
    (tmp_path / "platformdirs.py").write_text(f"open({str(slow)!r}).read()")
    with (
        subprocess.Popen(
            [sys.executable, "-m", "package_cache", *words],
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings(PYTHONPATH=f"{tmp_path}:{Path(package_cache.__file__).parents[1]}"),
        ) as process,
        slow.open("w", encoding="utf-8"),
    ):
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "package-cache: interrupted\n")


_AGAIN = """
import atexit, os, runpy, signal, sys, threading

def hook(_event, _arguments):
    global interrupted
    interrupted |= isinstance(sys.exc_info()[1], KeyboardInterrupt)
    if interrupted and os.getpid() == own and threading.current_thread() is threading.main_thread():
        signal.raise_signal(signal.SIGINT)

interrupted, own = False, os.getpid()
sys.addaudithook(hook)
atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv[0] = "package-cache"
runpy.run_module("package_cache", run_name="__main__", alter_sys=True)
"""
"""The command, which meets a SIGINT with everything that it does after the first one, and at its end."""


@pytest.mark.parametrize("words", ["get {url}", "get {url} -o out", "warm --source {url} list", "ls"])
def test_who_interrupts_a_command_twice_sees_no_traceback(origin: Origin, tmp_path: Path, words: str) -> None:
    gate = Gate()
    origin.put("/a-1.tar", b"a" * 2_000_000, Serve(gate=gate, gate_at=1_000_000))
    (tmp_path / "list").write_text("/a-1.tar\n")
    slow = tmp_path / "config.toml"
    if words == "ls":
        os.mkfifo(slow)
    else:
        slow.write_text("")
    url = origin.url if "warm" in words else f"{origin.url}a-1.tar"
    with (
        contextlib.ExitStack() as held,
        subprocess.Popen(
            [sys.executable, "-c", _AGAIN, *words.format(url=url).split(), "--cache", "cache", "--config", str(slow)],
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings(PYTHONPATH=str(Path(package_cache.__file__).parents[1])),
            cwd=tmp_path,
        ) as process,
    ):
        if words == "ls":
            held.enter_context(slow.open("w", encoding="utf-8"))  # as soon as it is open there, too
        else:
            assert gate.reached.wait(60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    gate.open()
    assert process.returncode == 130, errors
    assert errors in ("", "package-cache: interrupted\n")


@pytest.mark.parametrize("words", [("ls", "\udcff"), ("show", "\udcff"), ("rm", "\udcff"), ("export", "out", "\udcff")])
def test_what_is_no_text_is_told_so(proxy: Proxy, tmp_path: Path, words: tuple[str, ...]) -> None:
    words = tuple(str(tmp_path / word) if word == "out" else word for word in words)
    assert "'\\udcff' has bytes that are not UTF-8" in failed(2, run(proxy.cache, *words))


@pytest.mark.parametrize("name", ["import", "export"])
def test_a_directory_without_a_name_is_not_this_one(proxy: Proxy, name: str) -> None:
    assert failed(2, run(proxy.cache, name, "")) == "DIR is empty; . is this directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files in a cache of another user")
def test_what_root_does_leaves_no_file_that_the_server_cannot_use(proxy: Proxy) -> None:
    proxy.stop()
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        cache = Path(public) / "cache"
        shutil.copytree(proxy.cache, cache)
        shutil.rmtree(cache / "leases-v2", ignore_errors=True)
        for path in (cache, *cache.rglob("*")):
            os.chown(path, 65534, 65534)
        done(cache, "gc", "--max-size", "2000B")
        assert "by root on" in done(cache, "pin", "/1.tar") + done(cache, "why", "/1.tar")
        assert len(blobs(cache)) == 1
        assert {path.stat().st_uid for path in (cache, *cache.rglob("*"))} == {65534}
        assert list((cache / "leases-v2").iterdir())


# What they say


def test_ls_lists_names_sizes_and_last_uses(proxy: Proxy) -> None:
    lines = done(proxy.cache, "ls").splitlines()
    assert [line.split() for line in lines] == [
        [size, *time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(used)).split(), "ready", "-", key]
        for size, used, key in ((shown(entry), entry["used"], entry["key"]) for entry in entries(proxy))
    ]
    assert [entry["size"] for entry in entries(proxy)] == [1000, 2000, 3000]
    assert [line.split()[-1] for line in done(proxy.cache, "ls", "/[23].*").splitlines()] == ["/2.tar", "/3.tar"]
    assert failed(1, run(proxy.cache, "ls", "/none*")) == "there is nothing to list"


def test_ls_of_an_empty_cache_is_no_failure(tmp_path: Path) -> None:
    package_cache.Cache(tmp_path / "cache").close()
    assert done(tmp_path / "cache", "ls") == done(tmp_path / "cache", "ls", "--json") == ""
    assert failed(1, run(tmp_path / "cache", "ls", "/a*")) == "there is nothing to list"


def test_info_says_how_much_is_stored_and_what_the_sources_said(proxy: Proxy, origin: Origin) -> None:
    assert done(proxy.cache, "rm", "/1.tar")
    assert done(proxy.cache, "pin", "/2.tar")
    found = told(proxy.cache, "info", "--source", origin.url)
    used = [entry["used"] for entry in entries(proxy)]
    assert {name: found[name] for name in ("cache", "bytes", "blobs", "files", "items", "trash", "damaged", "pinned")} == {
        "cache": str(proxy.cache),
        "bytes": 6000,
        "blobs": 3,
        "files": 2,
        "items": 0,
        "trash": 1,
        "damaged": 0,
        "pinned": 1,
    }
    assert (found["first_use"], found["last_use"]) == (min(used), max(used))
    [(base, said)] = found["sources"].items()
    assert (base, said["said"]) == (origin.url.rstrip("/"), "answered 200")
    text = done(proxy.cache, "info", "--source", origin.url, "--max-size", "200G")
    for line in ("5.9K in 3 files", "2 versions of files of the proxy", "1 in the trash", "1 pinned", "at most 200G"):
        assert line in text


def entries(proxy: Proxy) -> list[dict[str, object]]:
    return [json.loads(line) for line in done(proxy.cache, "ls", "--json").splitlines()]


def shown(entry: dict[str, object]) -> str:
    return {1000: "1000", 2000: "2.0K", 3000: "2.9K"}[int(str(entry["size"]))]


def test_show_tells_every_version_of_an_index(origin: Origin, start: Start) -> None:
    proxy = start(origin.url)
    for body in (b"one", b"two"):
        origin.put("/index/", body)
        assert proxy.get("/index/").body == body
        until(lambda body=body: told_versions(proxy, "/index/")[:1] == [len(body)])  # type: ignore[misc]
    until(lambda: len(told_versions(proxy, "/index/")) == 2)
    text = done(proxy.cache, "show", "http://any.example/index/")
    assert "version 2: ready" in text
    assert "version 1: ready" in text
    assert f"source     {origin.url}index/" in text
    assert "no such" in failed(1, run(proxy.cache, "show", "/no such".replace(" ", "%20"))).replace("%20", " ")


def told_versions(proxy: Proxy, path: str) -> list[object]:
    result = run(proxy.cache, "show", path, "--json")
    return [version["size"] for version in json.loads(result.stdout)["versions"]] if result.returncode == 0 else []


def test_documents_are_found_by_the_accept_they_were_asked_for_with(origin: Origin, start: Start) -> None:
    origin.put("/simple/x/", b"{}")
    proxy = start(origin.url)
    assert proxy.get("/simple/x/", {"Accept": "application/json"}).status == 200
    until(lambda: stored(proxy.cache))
    line = failed(1, run(proxy.cache, "show", "/simple/x/"))
    assert line == "nothing is stored for /simple/x/; there is with --accept 'application/json'"
    assert "version 1: ready" in done(proxy.cache, "show", "/simple/x/", "--accept", "application/json")
    assert "version   none is stored; there is with --accept 'application/json'\n" in done(proxy.cache, "why", "/simple/x/")
    assert told(proxy.cache, "why", "/simple/x/")["variants"] == ["application/json"]
    same = told(proxy.cache, "why", "/simple/x/", "--accept", "application/json")
    assert (len(same["versions"]), same["variants"]) == (1, [])  # type: ignore[arg-type]


def test_several_names_and_patterns_are_removed_and_restored_or_none_of_them(origin: Origin, start: Start) -> None:
    names = ("/a/1.tar", "/a/2.tar", "/b/1.tar", "/c-1.tar")
    for name in names:
        origin.put(name, name.ljust(10).encode())
    proxy = start(origin.url)
    for name in names:
        assert proxy.get(name).status == 200
    until(lambda: len(stored(proxy.cache)) == len(names))
    for missing in ("/none-1.tar", "/none/*"):
        assert failed(1, run(proxy.cache, "rm", "/a/*", missing)).endswith(f"stored for {missing}")
    assert len(done(proxy.cache, "ls").splitlines()) == len(names)
    assert done(proxy.cache, "rm", "/a/*", "/b/1.tar", "/b/1.tar", "/a/1.tar").splitlines() == [
        f"put into the trash: {name} version 1, 10" for name in names[:3]
    ]
    assert done(proxy.cache, "rm", "/c[-]?.tar").startswith("put into the trash: /c-1.tar ")
    assert done(proxy.cache, "restore", "/*/1.tar", "/c-1.tar").splitlines() == [
        f"restored: {name} version 1, 10" for name in ("/a/1.tar", "/b/1.tar", "/c-1.tar")
    ]
    done(proxy.cache, "pin", "/b/1.tar")
    assert failed(1, run(proxy.cache, "rm", "/*")) == "/b/1.tar is pinned; unpin it first"
    assert len(done(proxy.cache, "ls").splitlines()) == 3


def test_why_explains_what_a_request_would_lead_to(proxy: Proxy, origin: Origin) -> None:
    source = ("--source", "http://127.0.0.1:9/", "--source", origin.url)
    text = done(proxy.cache, "why", "/1.tar", *source)
    assert "rule      immutable: its name has a version" in text
    assert "request   version 1 is served from the cache; no source is asked" in text
    lines = [line for line in text.splitlines() if line.startswith("source")]
    assert lines[0] == "source    http://127.0.0.1:9/1.tar: no stored version is from there"
    assert lines[1].startswith(f"source    {origin.url}1.tar: gave version 1 on ")
    text = done(proxy.cache, "why", "/index/", *source)
    assert "rule      revalidate: its name has no suffix" in text
    assert "request   the file is fetched from the first source that has it, and stored" in text
    assert "version   none is stored" in text
    assert "source    none is given here" in done(proxy.cache, "why", "/1.tar")
    done(proxy.cache, "pin", "/1.tar")
    pin = told(proxy.cache, "why", "/1.tar")["pin"]
    assert isinstance(pin, dict)
    assert abs(pin["since"] - time.time()) < 600
    assert f"pin       by {pin['who']} on " in done(proxy.cache, "why", "/1.tar")


def test_why_knows_a_running_download(origin: Origin, start: Start) -> None:
    gate = Gate()
    origin.put("/large-1.tar", bytes(1_000_000), Serve(gate=gate, gate_at=600_000))
    proxy = start(origin.url, environment={"PACKAGE_CACHE_STALL_TIMEOUT": "100"})
    with proxy.connect() as client:
        client.sendall(b"GET /large-1.tar HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(10)
        until(lambda: "is running: 586K of 977K are here" in str(told(proxy.cache, "why", "/large-1.tar")["download"]))
        assert told(proxy.cache, "why", "/large-1.tar")["request"] == "the client gets what the running download brings"
        gate.open()
        until(lambda: told(proxy.cache, "why", "/large-1.tar")["download"] is None)


def test_why_tells_what_each_source_answered_last_and_which_one_is_asked_last(
    origin: Origin, another: Origin, start: Start
) -> None:
    origin.put("/a-1.xz", b"<html>", content_type="text/html")
    for name in ("/a-1.xz", "/b-1.xz"):
        another.put(name, b"\xfd7zXZ\0 and so on")
    proxy = start(origin.url, another.url)
    for name in ("/a-1.xz", "/b-1.xz"):
        assert proxy.get(name).status == 200
    source = ("--source", origin.url, "--source", another.url)
    until(lambda: stored(proxy.cache) == ["/a-1.xz", "/b-1.xz"])
    lines = [line for line in done(proxy.cache, "why", "/b-1.xz", *source).splitlines() if line.startswith("source")]
    assert lines[0].startswith(f"source    {another.url}b-1.xz: gave version 1 on ")
    assert " s ago it answered 200" in lines[0]
    assert lines[1].startswith(f"source    {origin.url}b-1.xz: no stored version is from there; ")
    assert f"it sent text in the place of a .xz file ({origin.url}a-1.xz), so it is asked last for another " in lines[1]
    sources = told(proxy.cache, "why", "/a-1.xz", *source)["sources"]
    assert isinstance(sources, list)
    assert [one["report"]["base"] for one in sources] == [another.url[:-1], origin.url[:-1]]


# What they change, under a server that runs


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_in_the_trash_is_fetched_anew_and_can_be_restored(origin: Origin, start: Start, host: str) -> None:
    origin.put("/a-1.tar", b"a" * 100)
    proxy = start(origin.url, host=host)
    for _ in range(4):
        assert proxy.get("/a-1.tar").body == b"a" * 100
    until(lambda: stored(proxy.cache))
    assert len(origin.requests("/a-1.tar")) == 1
    assert done(proxy.cache, "rm", "/a-1.tar") == "put into the trash: /a-1.tar version 1, 100\n"
    assert stored(proxy.cache) == []
    assert done(proxy.cache, "ls", "--trash").split()[-1] == "/a-1.tar"
    assert "/a-1.tar" in failed(1, run(proxy.cache, "rm", "/a-1.tar"))
    assert done(proxy.cache, "restore", "/a-1.tar") == "restored: /a-1.tar version 1, 100\n"
    assert proxy.get("/a-1.tar").cache_status == "package-cache; hit"
    done(proxy.cache, "rm", "/a-1.tar", "--version", "1")
    origin.put("/a-1.tar", b"b" * 100)
    assert proxy.get("/a-1.tar").body == b"b" * 100
    assert proxy.get("/a-1.tar").body == b"b" * 100
    assert len(origin.requests("/a-1.tar")) == 2
    until(lambda: told_versions(proxy, "/a-1.tar") == [100, 100])
    assert done(proxy.cache, "purge", "--older", "1h") == "purged: 0 versions, 0 freed\n"
    assert len(blobs(proxy.cache)) == 2
    assert done(proxy.cache, "purge", "/a-1.tar") == "purged: 1 version, 100 freed\n"
    assert len(blobs(proxy.cache)) == 1
    assert "is in the trash" in failed(1, run(proxy.cache, "restore", "/a-1.tar"))
    done(proxy.cache, "rm", "/a-1.tar")
    assert done(proxy.cache, "purge", "--all") == "purged: 1 version, 100 freed\n"
    assert blobs(proxy.cache) == []
    assert proxy.get("/a-1.tar").body == b"b" * 100
    until(lambda: told_versions(proxy, "/a-1.tar") == [100])
    assert "version 3: ready" in done(proxy.cache, "show", "/a-1.tar")


@pytest.mark.parametrize("words", [(), ("/a", "--all"), ("--all", "--older", "1d")])
def test_purge_wants_to_know_exactly_what(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert failed(2, run(tmp_path, "purge", *words)).startswith("purge what? ")


def test_a_wrong_version_or_time_is_told(tmp_path: Path) -> None:
    assert failed(2, run(tmp_path, "rm", "/a", "--version", "one")).startswith("--version: 'one' is not a number")
    assert failed(2, run(tmp_path, "purge", "--older", "yes")).startswith("--older: 'yes' is not a time")


def test_what_is_pinned_is_neither_removed_nor_culled(proxy: Proxy) -> None:
    assert done(proxy.cache, "pin", "/3.tar") == "pinned: /3.tar\n"
    assert done(proxy.cache, "pin", "/3.tar") == "pinned already: /3.tar\n"
    assert done(proxy.cache, "pin", "/none-1.tar") == "pinned: /none-1.tar (nothing is stored for it yet)\n"
    assert failed(1, run(proxy.cache, "rm", "/3.tar")) == "/3.tar is pinned; unpin it first"
    done(proxy.cache, "gc", "--max-age", "1h")
    assert stored(proxy.cache) == ["/3.tar"]
    assert "pinned" in done(proxy.cache, "ls")
    assert done(proxy.cache, "unpin", "/3.tar") == "unpinned: /3.tar\n"
    assert "not pinned" in failed(1, run(proxy.cache, "unpin", "/3.tar"))
    done(proxy.cache, "gc", "--max-age", "1h")
    assert stored(proxy.cache) == []


def test_gc_says_what_would_go_and_how_far_back_that_reaches(proxy: Proxy, origin: Origin) -> None:
    expected = told(proxy.cache, "gc", "--dry-run", "--max-size", "2000B")
    assert (expected["entries"], expected["files"], expected["bytes"]) == (2, 2, 5000)
    reach = expected["reach"]
    assert isinstance(reach, float)
    assert abs(time.time() - 2 * DAY - reach) < 600
    text = done(proxy.cache, "gc", "--dry-run", "--max-size", "2000B")
    assert text.startswith("would be removed:\n")
    assert "(2 d ago)" in text.splitlines()[-1]
    assert len(stored(proxy.cache)) == 3
    really = told(proxy.cache, "gc", "--max-size", "2000B")
    assert really == {**expected, "dry_run": False}
    assert stored(proxy.cache) == ["/1.tar"]
    assert done(proxy.cache, "gc", "--max-size", "2000B") == "nothing was removed\n"
    assert proxy.get("/3.tar").body == bytes([3]) * 3000
    assert len(origin.requests("/3.tar")) == 2
    assert "no bounds are given" in done(proxy.cache, "gc")


@pytest.mark.parametrize("host", HOSTS)
def test_a_server_keeps_its_cache_within_its_bounds_by_itself(origin: Origin, start: Start, host: str) -> None:
    for number in range(30):
        origin.put(f"/{number}.tar", bytes([number]) * 1000)
    variables = {"PACKAGE_CACHE_MAX_SIZE": "10K"}
    proxy = start(origin.url, host=host, environment=variables)
    for number in range(30):
        assert proxy.get(f"/{number}.tar").body == bytes([number]) * 1000
        until(lambda number=number: f"/{number}.tar" in stored(proxy.cache))  # type: ignore[misc]
        last_used(proxy.cache, f"/{number}.tar", DAY - number)
        if number == 0:
            done(proxy.cache, "pin", "/0.tar")
    until(lambda: sum(size_of(path) for path in blobs(proxy.cache)) <= 10240)
    kept = stored(proxy.cache)
    assert "/0.tar" in kept
    assert "/29.tar" in kept
    assert "/1.tar" not in kept
    assert proxy.get("/1.tar").body == bytes([1]) * 1000
    assert not [line for line in proxy.log if "Traceback" in line]
