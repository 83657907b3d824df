"""The command: its options, what it says when it cannot do what is asked, and how it ends."""

import importlib.metadata
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from forks import run as run_forked
from origin import Gate, Origin, Serve, until
from product import Proxy, parts, surroundings
from raw import Client

import package_cache
from package_cache.config import NAMES

SOURCE = ("--source", "http://127.0.0.1:9/")
MODULE = (sys.executable, "-m", "package_cache")
SCRIPT = (str(Path(sys.executable).with_name("package-cache")),)

Start = Callable[..., Proxy]
servers = pytest.mark.parametrize("server", ["wsgiref", "gunicorn"])


def environment(**more: str) -> dict[str, str]:
    return surroundings(PYTHONUNBUFFERED="1", **more)


pytestmark = pytest.mark.usefixtures("shell")


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The command, which is expected to end by itself, in a fork of a process that has imported it."""
    return run_forked(*arguments, PYTHONUNBUFFERED="1", **variables)


def run_anew(*arguments: str, program: Sequence[str] = MODULE, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The command in an interpreter of its own."""
    return subprocess.run(
        [*program, *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment(**variables)
    )


@contextmanager
def running(command: Sequence[str], variables: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=variables) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_the_command_tells_its_version_however_it_is_called(tmp_path: Path) -> None:
    expected = f"package-cache {importlib.metadata.version('package-cache')}\n"
    for program in (MODULE, SCRIPT):
        result = run_anew("--version", program=program)
        assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")


def test_help_names_every_setting() -> None:
    result = run("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for name in NAMES:
        option, variable = f"--{name.replace('_', '-')}", f"PACKAGE_CACHE_{name.upper()}"
        assert re.search(rf"(?<!\S)({option}|{variable})\b", result.stdout), name
    assert "--version" in result.stdout
    assert re.search(r"exit codes:.* 0 .* 1 .* 2 ", " ".join(result.stdout.split()))
    assert max(map(len, result.stdout.splitlines())) <= 80


def assert_fails(result: "subprocess.CompletedProcess[str]", code: int, *lines: str) -> None:
    """It said these things, each in a line of its own, and nothing else."""
    said = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert len(said) == len(lines), result.stderr
    for line, expected in zip(said, lines, strict=True):
        assert re.match(f"package-cache: {expected}", line), line


def test_without_a_source_it_says_what_is_missing() -> None:
    assert_fails(run(), 2, "no source given: .*--source http")
    assert_fails(run(PACKAGE_CACHE_SOURCE=" "), 2, "no source given")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--port", "http"), "--port: 'http' is not a port"),
        (("--port", "65536"), "--port: '65536'"),
        (("--port", "-1"), "--port: '-1'"),
        (("--listen", "4000"), "--listen: '4000' names no port; .* unix:/"),
        (("--listen", "unix:/x", "--listen", "unix:y"), "--listen: 'unix:y' is not the absolute path"),
        (("--listen", "unix:/x", "--port", "80"), "--listen: takes the place of --port"),
        (("--threads", "0"), "--threads: '0'"),
        (("--workers", "3"), "--workers: .*--server gunicorn"),
        (("--workers", "3", "--server", "wsgiref"), "--workers: .*--server gunicorn"),
        (("--server", "apache"), "--server: 'apache' .*wsgiref and gunicorn"),
        (("--source", "ftp://mirror.example/"), "--source: .*ftp://mirror.example/"),
        (("--source", "mirror.example"), "--source: .*http://mirror.example"),
        (("--cache", ""), "--cache: .*empty"),
        (("--sauce", "x"), "--sauce: .*nearest is --source"),
        (("--prot=80",), "--prot: .*nearest is --port"),
        (("--verb",), "--verb: .*nearest is --verbose"),
        (("stray",), "'stray' is not an option"),
    ],
)
def test_a_wrong_option_is_named_in_a_line(arguments: tuple[str, ...], line: str) -> None:
    assert_fails(run(*SOURCE, *arguments), 2, line)


def test_an_option_without_its_value_is_named() -> None:
    result = run(*SOURCE, "--port")
    assert result.returncode == 2
    assert "--port" in result.stderr.splitlines()[-1]


def test_a_wrong_variable_is_named_in_a_line() -> None:
    assert_fails(run(*SOURCE, PACKAGE_CACHE_PORT="x"), 2, "PACKAGE_CACHE_PORT: 'x'")
    assert_fails(run(*SOURCE, PACKAGE_CACHE_SEND_TIMEOUT="-1"), 2, "PACKAGE_CACHE_SEND_TIMEOUT: '-1'")
    assert_fails(run(*SOURCE, PACKAGE_CACHE_PROT="80"), 2, "PACKAGE_CACHE_PROT: .*nearest is PACKAGE_CACHE_PORT")


def test_all_that_is_wrong_is_told_at_once() -> None:
    result = run("--sauce", "x", "--port", "x", "--workers", "2", PACKAGE_CACHE_THREADS="x", PACKAGE_CACHE_BOGUS="x")
    assert result.returncode == 2
    for fragment in (
        "--sauce:",
        "--port:",
        "--workers:",
        "PACKAGE_CACHE_THREADS:",
        "PACKAGE_CACHE_BOGUS:",
        "no source given",
    ):
        assert fragment in result.stderr
    assert len(result.stderr.splitlines()) == 6


@servers
def test_a_taken_port_is_told_in_a_line(tmp_path: Path, server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--server", server, "--host", "127.0.0.1", "--port", port, "--cache", str(tmp_path))
        assert_fails(run(*SOURCE, *options), 1, f"cannot listen on 127.0.0.1 port {port}: Address already in use.*--port")


@servers
def test_an_address_of_another_machine_is_told_in_a_line(tmp_path: Path, server: str) -> None:
    options = ("--server", server, "--host", "203.0.113.77", "--port", "0", "--cache", str(tmp_path))
    assert_fails(run(*SOURCE, *options), 1, "cannot listen on 203.0.113.77 port 0: .*--host")


@servers
@pytest.mark.parametrize("place", ["a file", "below a file", "below /proc"])
def test_a_cache_that_cannot_be_written_is_told_in_a_line(tmp_path: Path, server: str, place: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    cache = {"a file": file, "below a file": file / "cache", "below /proc": Path("/proc/package-cache")}[place]
    result = run(*SOURCE, "--server", server, "--port", "0", "--cache", str(cache))
    assert_fails(result, 1, f"cannot use {cache} as the cache: .*--cache")
    assert file.read_text() == "mine"


def test_a_worker_that_finds_no_cache_ends_it_with_a_line(start_program: Start, tmp_path: Path) -> None:
    proxy = start_program("http://127.0.0.1:9/", host="gunicorn", arguments=["--workers", "1"])
    assert proxy.get("/", method="PUT").status == 405  # the worker is up
    proxy.cache.rename(tmp_path / "elsewhere")
    proxy.cache.write_text("")
    os.kill(proxy.workers()[0], signal.SIGKILL)
    assert proxy.process.wait(30) == 1
    proxy.stop()
    assert f"ERROR cannot use {proxy.cache} as the cache: " in "".join(proxy.log)
    assert "Traceback" not in "".join(proxy.log)


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("version_info = (20, 0, 4)", "Gunicorn 20.0.4 is too old"),
        ("raise ModuleNotFoundError(name='gunicorn')", "Gunicorn is not installed"),
    ],
)
def test_gunicorn_is_needed_only_to_serve_under_it(tmp_path: Path, module: str, what: str) -> None:
    (tmp_path / "gunicorn.py").write_text(module)
    variables = {"PYTHONPATH": f"{tmp_path}:{Path(package_cache.__file__).parents[1]}"}
    line = f"package-cache: --server gunicorn: {what}; it takes 20.1 or later\n"
    for words in ((), ("config", "check")):
        ended = run_anew(*words, *SOURCE, "--server", "gunicorn", "--cache", str(tmp_path / "cache"), **variables)
        assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", line)
    assert not (tmp_path / "cache").exists()
    assert run_anew("config", "check", *SOURCE, **variables).returncode == 0


@servers
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("everyone", [False, True], ids=["to the process", "to its children too"])
def test_a_signal_ends_it_in_good_order_with_transfers_running(
    origin: Origin, start: Start, server: str, number: signal.Signals, everyone: bool
) -> None:
    origin.put("/small-1.tar", b"small")
    gates = [Gate(), Gate()]
    origin.put("/large-1.tar", bytes(1_000_000), Serve(gate=gates[0], gate_at=300_000))
    origin.put("/waiting-1.tar", bytes(1000), Serve(gate=gates[1]))
    proxy = start(origin.url, host=server, environment={"PACKAGE_CACHE_GRACEFUL_TIMEOUT": "1"})
    with ExitStack() as stack:
        large, waiting, silent, idle = (stack.enter_context(Client(proxy.address)) for _ in range(4))
        large.ask("/large-1.tar")
        waiting.ask("/waiting-1.tar")
        assert idle.get("/small-1.tar").body == b"small"
        silent.socket.sendall(b"G")  # who has said nothing at all is no connection yet
        head = large.head()
        assert all(gate.reached.wait(30) for gate in gates)
        until(lambda: any(path.stat().st_size == 300_000 for path in parts(proxy.cache)))
        processes = [proxy.process.pid, *(proxy.workers() if everyone else [])]
        for pid in processes:
            with suppress(ProcessLookupError):  # a worker that its parent has ended by now
                os.kill(pid, number)
        assert proxy.process.wait(15) == 0
        assert not large.rest(head).whole
        assert waiting.ended()
        assert silent.ended()
        assert idle.ended()
    assert proxy.stop() == 0  # which reads the log to its end
    log = [line for line in proxy.log if "the event loop was held up" not in line]  # which is so on a busy machine
    assert len(log) == 1, log
    assert log[0].startswith("package-cache: serving ")
    assert parts(proxy.cache), "the download can go on from what is there"


@servers
def test_a_signal_right_after_the_start_ends_it_too(tmp_path: Path, server: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [*MODULE, *SOURCE, "--server", server, "--port", "0", "--cache", str(tmp_path)]
        with running(command, environment()) as process:
            assert process.stderr is not None
            assert "serving" in process.stderr.readline()
            process.send_signal(number)
            out, rest = process.communicate(timeout=15)
            assert (process.returncode, out) == (0, "")
            assert "Traceback" not in rest


@servers
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_more_signals_change_nothing_for_the_worse(start: Start, server: str, number: signal.Signals) -> None:
    proxy = start("http://127.0.0.1:9/", host=server)
    until(lambda: proxy.process.send_signal(number) or proxy.process.poll() is not None)
    assert proxy.stop() == 0
    assert "Traceback" not in "".join(proxy.log)


_QUIT_UNDER_LOCK = """\
import os, signal, threading
start = threading.Thread.start
def quit_once(self):
    if self.name == "culling" and not os.path.exists({done!r}):
        open({done!r}, "w").close()
        os.kill(os.getpid(), signal.SIGQUIT)
    start(self)
threading.Thread.start = quit_once
"""


def test_a_worker_that_is_to_end_at_once_while_it_holds_a_lock_does(
    start_program: Start, origin: Origin, tmp_path: Path
) -> None:
    """As when the first signal comes right after the start, while the threads beside the requests are begun."""
    body, done = origin.put("/a-1.tar", b"body"), tmp_path / "done"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_QUIT_UNDER_LOCK.format(done=str(done)))
    site = {"PYTHONPATH": str(tmp_path / "site")}
    words = ["--max-size", "1G", "--workers", "1", "-vv"]
    proxy = start_program(origin.url, host="gunicorn", arguments=words, environment=site)
    until(done.exists)
    until(lambda: "".join(proxy.log).count("Booting worker") == 2)  # the one in its place
    assert proxy.get("/a-1.tar").body == body
    assert proxy.stop() == 0


@servers
def test_nothing_is_written_to_standard_output(origin: Origin, tmp_path: Path, server: str) -> None:
    origin.put("/file-1.tar", b"body")
    command = [*MODULE, "--source", origin.url, "--server", server, "--port", "0", "--cache", str(tmp_path), "-vv"]
    with running(command, environment()) as process:
        url = ready(process)
        with Client(url) as client:
            assert client.get("/file-1.tar").body == b"body"
            assert client.get("/none-1.tar").status == 404
        assert '"GET /file-1.tar HTTP/1.1" 200' in line_of(process, '"GET /file-1.tar ')
        assert '"GET /none-1.tar HTTP/1.1" 404' in line_of(process, '"GET /none-1.tar ')
        process.terminate()
        out, _ = process.communicate(timeout=15)
    assert out == ""


def line_of(process: "subprocess.Popen[str]", pattern: str) -> str:
    """The next line on standard error that has this in it."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if re.search(pattern, line):
            return line
    raise AssertionError("".join(said))


def ready(process: "subprocess.Popen[str]") -> tuple[str, int]:
    """The address that the command says it serves at."""
    match = re.search(r"at (http://\S+/)", line_of(process, "serving .* at http"))
    assert match
    return address(match[1])


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@servers
def test_every_option_can_be_set_in_the_environment(origin: Origin, tmp_path: Path, server: str) -> None:
    origin.put("/file-1.tar", b"body")
    variables = {
        "SOURCE": f"http://127.0.0.1:9/ {origin.url}",
        "CACHE": str(tmp_path / "cache"),
        "HOST": "127.0.0.1",
        "PORT": "0",
        "SERVER": server,
        "WORKERS": "3",
        "THREADS": "5",
        "VERBOSE": "1",
        "SYSLOG": "no",
    }
    named = {f"PACKAGE_CACHE_{name}": value for name, value in variables.items()}
    with running(SCRIPT, environment(**named, GUNICORN_CMD_ARGS="--bind 127.0.0.1:1")) as process:
        with Client(ready(process)) as client:
            assert client.get("/file-1.tar").body == b"body"
        assert '"GET /file-1.tar HTTP/1.1" 200' in line_of(process, "GET")
    assert (tmp_path / "cache" / "CACHEDIR.TAG").exists()


def test_the_command_line_wins_over_the_environment(origin: Origin, tmp_path: Path) -> None:
    origin.put("/file-1.tar", b"body")
    variables = {
        "PACKAGE_CACHE_SOURCE": "http://127.0.0.1:9/",
        "PACKAGE_CACHE_SERVER": "gunicorn",
        "PACKAGE_CACHE_PORT": "1",
    }
    command = [*MODULE, "--source", origin.url, "--server", "wsgiref", "--port", "0", "--cache", str(tmp_path)]
    with running(command, environment(**variables)) as process, Client(ready(process)) as client:
        answer = client.get("/file-1.tar")
        assert (answer.body, str(answer.get("server")).partition("/")[0]) == (b"body", "package-cache")


def test_the_cache_is_where_caches_of_the_user_are(tmp_path: Path) -> None:
    with running([*MODULE, *SOURCE, "--port", "0"], environment(XDG_CACHE_HOME=str(tmp_path))) as process:
        host, _ = ready(process)
    assert host == "127.0.0.1"
    assert (tmp_path / "package-cache" / "CACHEDIR.TAG").exists()


@servers
def test_it_listens_on_an_ipv6_address(origin: Origin, start: Start, server: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no ::1: {error}")
    origin.put("/file-1.tar", b"body")
    proxy = start(origin.url, host=server, arguments=["--host", "::1"])
    assert proxy.url.startswith("http://[::1]:")
    with Client(proxy.address) as client:
        assert client.get("/file-1.tar").body == b"body"
        assert client.get(f"{proxy.url}file-1.tar").body == b"body"


# The path of the system's own log is the one thing a test must not use.
WITH_ANOTHER_LOG = """\
import sys
from package_cache.cli import logs
from package_cache.cli.main import main
logs._SOCKET = sys.argv.pop(1)
sys.exit(main())
"""


@servers
def test_syslog_gets_what_standard_error_would(origin: Origin, tmp_path: Path, server: str) -> None:
    origin.put("/file-1.tar", b"body")
    path = str(tmp_path / "log")
    command = [sys.executable, "-c", WITH_ANOTHER_LOG, path, "--source", origin.url, "--server", server, "--port", "0"]
    command += ["--cache", str(tmp_path / "cache"), "-v", "--syslog"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(path)
        log.settimeout(30)

        def wait_for(pattern: str) -> re.Match[str]:
            while True:
                text = log.recv(65536).rstrip(b"\0").decode()
                form = re.fullmatch(r"<(\d+)>package-cache\[(\d+)\]: (.+)", text)
                assert form, text
                match = re.fullmatch(rf"<\d+>package-cache\[(\d+)\]: {pattern}", text)
                if match:
                    return match

        with running(command, environment()) as process:
            serving = wait_for(r"serving \S+ at (http://\S+/) .*")
            assert int(serving[1]) == process.pid
            with Client(address(serving[2])) as client:
                assert client.get("/file-1.tar", "User-Agent: \x9b").body == b"body"
            request = wait_for(r'127\.0\.0\.1 - - \[[^]]+\] "GET /file-1.tar HTTP/1.1" 200 4 .* miss .*')
            assert (int(request[1]) == process.pid) == (server == "wsgiref")
            process.terminate()
            assert process.communicate(timeout=15) == ("", "")


def test_what_syslog_does_not_take_goes_to_standard_error_until_it_is_back(origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody:
        nobody.bind(str(path))
    command = [sys.executable, "-c", WITH_ANOTHER_LOG, str(path), *SOURCE, "--port", "0"]
    with running([*command, "--cache", str(tmp_path / "cache"), "-v", "--syslog"], environment()) as process:
        with Client(ready(process)) as client:
            path.unlink()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
                log.bind(str(path))
                log.settimeout(30)
                assert client.get("/", method="PUT").status == 405
                assert b'"PUT / HTTP/1.1" 405' in log.recv(65536)
        process.terminate()
        assert process.communicate(timeout=15) == ("", "")


@pytest.mark.parametrize(
    ("words", "code"), [(["nonsense"], 2), (["config", "check"], 2), (["ls", "--cache", "/nowhere"], 1)]
)
def test_a_command_whose_errors_cannot_be_written_has_its_exit_code_all_the_same(words: list[str], code: int) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "package_cache", *words]
        assert subprocess.run(command, stderr=full, env=surroundings(), check=False).returncode == code
