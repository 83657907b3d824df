"""Fixtures: origins and products that end with their test."""

import gc
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from faulty import Nursery
from forks import Forks, opened
from hypothesis import HealthCheck, settings
from origin import Origin
from product import HOSTS, Proxy, Spawn, launch

pytest.register_assert_rewrite("stage")
# That a machine is slow is no fault of what is tested.
settings.register_profile("default", deadline=None, suppress_health_check=(HealthCheck.too_slow,))
settings.register_profile("long", deadline=None, max_examples=2000, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("model", "the model test")
    group.addoption("--model-seed", type=int, help="the number of its first schedule (default: another one each time)")
    group.addoption("--model-runs", type=int, default=24, help="how many schedules it plays (default: %(default)s)")
    group = parser.getgroup("lanes", "which tests run, and how much of them")
    group.addoption("--quick", action="store_true", help="only those that start no program")
    group.addoption("--every-step", action="store_true", help="the crash table dies at each repetition of a step, too")
    group = parser.getgroup("skipped", "tests that are skipped")
    group.addoption("--skipped-to", metavar="FILE", help="write their names to FILE: pytest @FILE runs them alone")


def pytest_configure(config: pytest.Config) -> None:
    """Make the products start as they would elsewhere, and quickly."""
    file = config.getoption("--skipped-to")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Skipped(Path(file)))
    # Whoever is started in the background by a shell ignores it, and so would all products.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Keep what is compiled, even where nothing is to be written beside the sources: hundreds of products start.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", "") and "PYTHONPYCACHEPREFIX" not in os.environ:
        folder = os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="package-cache-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_finish() -> None:
    """Spare the collector of garbage thousands of tests, each time that it runs."""
    gc.collect()
    gc.freeze()


PROGRAMS = {"start", "start_program", "forks", "shell", "nursery", "mirror", "private"}
"""Fixtures of tests that start programs."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--quick"):
        return
    quick = [one for one in items if isinstance(one, pytest.Function) and not PROGRAMS & set(one.fixturenames)]
    config.hook.pytest_deselected(items=[one for one in items if one not in set(quick)])
    items[:] = quick


class _Skipped:
    """Notes which tests are skipped. Of a module that is skipped as a whole, its name."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._names: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self._names[report.nodeid] = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._names[report.nodeid] = None

    def pytest_sessionfinish(self) -> None:
        self._file.write_text("".join(f"{name}\n" for name in self._names))


@pytest.fixture
def origin() -> Iterator[Origin]:
    one = Origin()
    yield one
    one.stop()


@pytest.fixture
def another() -> Iterator[Origin]:
    """A second mirror."""
    one = Origin()
    yield one
    one.stop()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What forks products and programs of one process that has imported them."""
    one = Forks()
    yield one
    one.close()


@pytest.fixture(scope="session")
def shell(forks: Forks) -> Iterator[Forks]:
    """What `forks.run` runs commands in."""
    with opened(forks) as one:
        yield one


@pytest.fixture(scope="session")
def nursery(forks: Forks) -> Nursery:
    """What starts products that die, or whose disk refuses, at a step that a test chooses."""
    return Nursery(forks)


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    """Each way to run the product."""
    return str(request.param)


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Starts products: `start_program(*sources, host=..., cache=..., arguments=..., environment=...)`."""
    with started(tmp_path) as start:
        yield start


@pytest.fixture
def start(forks: Forks, tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """As `start_program`; but each is a fork of one process that has imported it, which takes a tenth of the time."""
    with started(tmp_path, forks.spawn) as start:
        yield start


@contextmanager
def started(tmp_path: Path, spawn: Spawn = launch) -> Iterator[Callable[..., Proxy]]:
    """Starts products that end with the test."""
    running: list[Proxy] = []

    def _start(*sources: str, cache: Path | None = None, **options: Any) -> Proxy:
        told = options.get("environment") or {}
        # An interpreter that is told something has to be a new one.
        how = launch if any(name.startswith("PYTHON") for name in told) else spawn
        proxy = Proxy(cache or tmp_path / "cache", sources, spawn=how, **options)
        running.append(proxy)
        return proxy

    yield _start
    for proxy in running:
        if proxy.process.poll() is None:
            proxy.kill()


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Path]:
    """A file system on which files can share their bytes."""
    image, place = tmp_path / "image", tmp_path / "xfs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    for command in (["mkfs.xfs", "-q", "-m", "reflink=1", image], ["mount", "-o", "loop", image, place]):
        if shutil.which(str(command[0])) is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"{command[0]} does not work here: as root, with xfsprogs, it makes a file system with reflinks")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than `tmp_path`."""
    for place in ("/dev/shm", "/var/tmp"):
        if os.access(place, os.W_OK) and os.stat(place).st_dev != tmp_path.stat().st_dev:
            with tempfile.TemporaryDirectory(dir=place) as other:
                yield Path(other)
            return
    pytest.skip("there is no second file system here")


@pytest.fixture
def silence() -> Iterator[Callable[[str, int], None]]:
    """Makes addresses of this machine that answer nothing, as a host behind a firewall does: `silence(host, port)`."""
    with ExitStack() as stack:

        def make(host: str, port: int) -> None:
            # What comes once the queue of those that nobody accepts is full is not answered at all.
            stack.enter_context(socket.create_server((host, port), backlog=0))
            for _ in range(8):
                one = stack.enter_context(socket.socket())
                one.settimeout(0.1)
                try:
                    one.connect((host, port))
                except TimeoutError:
                    return
            pytest.skip("the queue of a listener is never full here")

        yield make


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key, and a certificate of its own for 127.0.0.1 and mirror.example, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "-"]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:mirror.example"]
    made = subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *key, *subject], capture_output=True, check=True, text=True
    )
    path.write_text(made.stdout)
    return path
