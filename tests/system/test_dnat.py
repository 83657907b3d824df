"""The guide's recipe for a router, run as it is: iptables in network namespaces, real clients, mirrors by their own names.

A network of machines, each a namespace: `client` and `cache` are in the inner network of `router`, which has two mirrors
outside. Nobody has a name server. What is run on the router is what the guide has its reader paste.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from documentation import blocks, section
from mirror import archive, clean_environment, poll

MIRRORS = {"one.mirror.example": 2, "two.mirror.example": 3}
INSIDE = {4: "192.168.77.{}", 6: "fd77::{}"}
HOSTS = {"router": 1, "cache": 2, "client": 10}
DATA = archive(3_000_000, 6)
PATH = "/distfiles/thing-1.0.tar"
NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
    log_format one '$host $request_uri $status';
    access_log {folder}/log one;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{ listen 80; listen [::]:80; root {folder}/files; }}
}}
"""
DIG = """\
#!/bin/sh
for word; do name=$word; done
case "$*" in *AAAA*) kind=ahostsv6 ;; *) kind=ahostsv4 ;; esac
getent $kind "$name" | cut -d ' ' -f 1 | sort -u
"""


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


class Network:
    """The machines. Everything is made with names of this process's own, and goes with `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tag = f"pc{os.getpid()}"
        self._made: list[str] = []
        self._running: list[subprocess.Popen[bytes]] = []
        self._configuration = Path("/etc/netns")
        self._had_configuration = self._configuration.exists()

    def begin(self) -> str | None:
        """Make the router; why that cannot be."""
        try:
            self._make("router")
            self._ip("router", "link add try type veth")
            for program in ("iptables", "ip6tables"):
                self.run("router", [program, "--table", "nat", "--list"], check=True)
        except (subprocess.CalledProcessError, OSError) as error:
            return f"{error}: {getattr(error, 'stderr', '')}"
        return None

    def build(self) -> None:
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        for name, number in MIRRORS.items():
            lines += [f"198.18.{number}.2 {name}", f"fd78:{number}::2 {name}"]
        for machine in ("switch", "cache", "client", *MIRRORS):
            self._make(machine)
        for machine in (*HOSTS, *MIRRORS):
            (self._configuration / self.name(machine) / "hosts").write_text("".join(f"{line}\n" for line in lines))
        self._ip("switch", "link add ports type bridge")
        self._ip("switch", "link set ports up")
        for machine, number in HOSTS.items():
            device = "eth1" if machine == "router" else "eth0"
            self._cable(machine, device, "switch", f"to-{machine}")
            self._ip("switch", f"link set to-{machine} master ports")
            self._addresses(machine, device, INSIDE, number)
        for name, number in MIRRORS.items():
            self._cable(name, "eth0", "router", f"up{number}")
            outside = {4: f"198.18.{number}.{{}}", 6: f"fd78:{number}::{{}}"}
            self._addresses("router", f"up{number}", outside, 1)
            self._addresses(name, "eth0", outside, 2)
            self._gateway(name, outside)
        for machine in ("cache", "client"):
            self._gateway(machine, INSIDE)
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.run("router", ["sh", "-c", f"echo 1 > /proc/sys/net/{switch}"])
        for name in MIRRORS:
            self._serve(name)

    def _make(self, machine: str) -> None:
        name = self.name(machine)
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        self._made.append(name)
        folder = self._configuration / name
        folder.mkdir(parents=True)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        self._ip(machine, "link set lo up")

    def name(self, machine: str) -> str:
        return f"{self._tag}-{machine.partition('.')[0]}"

    def _ip(self, machine: str, words: str) -> None:
        subprocess.run(["ip", "-n", self.name(machine), *words.split()], check=True, capture_output=True)

    def _cable(self, machine: str, end: str, other: str, other_end: str) -> None:
        self._ip(other, f"link add {other_end} type veth peer name {end} netns {self.name(machine)}")
        self._ip(other, f"link set {other_end} up")

    def _addresses(self, machine: str, device: str, network: dict[int, str], number: int) -> None:
        self._ip(machine, f"link set {device} up")
        self._ip(machine, f"addr add {network[4].format(number)}/24 dev {device}")
        self._ip(machine, f"addr add {network[6].format(number)}/64 dev {device} nodad")

    def _gateway(self, machine: str, network: dict[int, str]) -> None:
        for family in (4, 6):
            self._ip(machine, f"-{family} route add default via {network[family].format(1)}")

    def _serve(self, name: str) -> None:
        folder = self.folder / name
        (folder / "files" / "distfiles").mkdir(parents=True)
        (folder / "files" / "distfiles" / "layout.conf").write_text("[structure]\n0=flat\n")
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
        nginx = find("nginx")
        assert nginx
        self.start(name, [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error")])
        poll(lambda: (folder / "pid").exists() and (folder / "pid").read_text())

    def put(self, name: str, path: str, data: bytes) -> None:
        """Have a mirror offer a file."""
        (self.folder / name / "files" / path.lstrip("/")).write_bytes(data)

    def seen(self, name: str, path: str) -> list[str]:
        """What a mirror answered for a path, as it calls itself: hosts and statuses."""
        log = self.folder / name / "log"
        return [line for line in log.read_text().splitlines() if f" {path} " in line] if log.exists() else []

    def command(self, machine: str, words: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name(machine), *words]

    def run(self, machine: str, words: Sequence[str], **more: object) -> subprocess.CompletedProcess[str]:
        """Run a program on a machine."""
        options = {"capture_output": True, "text": True, "timeout": 60, "check": False} | more
        return subprocess.run(self.command(machine, words), **options)  # type: ignore[call-overload,no-any-return]

    def start(self, machine: str, words: Sequence[str], **more: object) -> subprocess.Popen[bytes]:
        """Run a program on a machine until the end; or until it is ended."""
        one = subprocess.Popen(self.command(machine, words), **more)  # type: ignore[call-overload]
        self._running.append(one)
        return one  # type: ignore[no-any-return]

    def forget_rules(self) -> None:
        for program in ("iptables", "ip6tables"):
            self.run("router", [program, "--table", "nat", "--flush"])

    def close(self) -> None:
        for one in self._running:
            one.terminate()
        for one in self._running:
            with suppress(subprocess.TimeoutExpired):
                one.wait(20)
            one.kill()
            one.wait()
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            shutil.rmtree(self._configuration / name, ignore_errors=True)
        if not self._had_configuration:
            with suppress(OSError):
                self._configuration.rmdir()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.skip("namespaces of the network take root")
    for program in ("ip", "iptables", "ip6tables", "nginx", "wget"):
        if find(program) is None:
            pytest.skip(f"{program} is not installed")
    one = Network(tmp_path_factory.mktemp("network"))
    try:
        if (problem := one.begin()) is not None:
            pytest.skip(f"no network can be made here: {problem}")
        one.build()
        yield one
    finally:
        one.close()


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["router", "cache"], ids=["on the router", "on a machine of its own"])
def place(request: pytest.FixtureRequest) -> str:
    """Where the product runs."""
    return str(request.param)


def recipe(number: int) -> str:
    """A block of the guide that sets rules, the first or a later one."""
    found = [one for one in blocks(section("clients", "Without touching the clients")) if "tables --table nat" in one]
    return found[number]


Route = Callable[..., None]


@pytest.fixture
def route(network: Network, tmp_path: Path) -> Iterator[Route]:
    """Has the router send requests for the mirrors to a machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "dig").write_text(DIG)
    (folder / "dig").chmod(0o755)

    def _route(machine: str, change: Callable[[str], str] = str) -> None:
        for text in (recipe(0), recipe(1)):
            for name in MIRRORS:
                here = text.replace("distfiles.gentoo.org", name)
                for family, pattern in ((4, r"192\.168\.0\.2\b"), (6, r"fd00::2\b")):
                    here = re.sub(pattern, INSIDE[family].format(HOSTS[machine]), here)
                path = f"{folder}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
                done = network.run("router", ["sh", "-euc", change(here)], env={"PATH": path})
                assert done.returncode == 0, done.stderr
        if machine != "router":
            text = recipe(2).replace("192.168.0.2", INSIDE[4].format(HOSTS[machine]))
            done = network.run("router", ["sh", "-euc", text.replace("fd00::2", INSIDE[6].format(HOSTS[machine]))])
            assert done.returncode == 0, done.stderr

    yield _route
    network.forget_rules()


@pytest.fixture
def serve(network: Network, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Runs the product on a machine; its log."""
    running = []

    def _serve(machine: str) -> Path:
        log = tmp_path / "log"
        sources = [word for name in MIRRORS for word in ("--source", f"http://{name}/")]
        command = [sys.executable, "-m", "package_cache", "--listen", ":4000", "--cache", str(tmp_path / "cache"), "-v"]
        with log.open("wb") as file:
            running.append(network.start(machine, [*command, *sources], stderr=file))
        poll(lambda: "(cache in " in log.read_text() or running[-1].poll() is not None)
        assert running[-1].poll() is None, log.read_text()
        return log

    yield _serve
    for one in running:
        one.terminate()
        assert one.wait(30) == 0


def wget(network: Network, family: int, url: str, file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["wget", f"-{family}", "-nv", "-t", "1", "-T", "20", "--no-proxy", *words, "-O", str(file), url]
    return network.run("client", command, env=clean_environment(file.parent / "home"))


def put(network: Network, data: bytes = DATA) -> str:
    """A file that both mirrors have, by a name that no test had before; its path."""
    path = PATH.replace("thing", f"thing-{time.monotonic_ns()}")
    for name in MIRRORS:
        network.put(name, path, data)
    return path


def requests(network: Network, path: str) -> list[str]:
    return [line for name in MIRRORS for line in network.seen(name, path)]


def test_without_the_rules_clients_reach_the_mirrors_themselves(network: Network, family: int, tmp_path: Path) -> None:
    path = put(network)
    for name in MIRRORS:
        done = wget(network, family, f"http://{name}{path}", tmp_path / "file")
        assert done.returncode == 0, done.stderr
    assert sorted(requests(network, path)) == [f"{name} {path} 200" for name in MIRRORS]


def test_whatever_mirror_a_client_names_there_is_one_file_and_one_request(
    network: Network, serve: Callable[[str], Path], route: Route, place: str, family: int, tmp_path: Path
) -> None:
    log = serve(place)
    route(place)
    path = put(network)
    for number, name in enumerate((*MIRRORS, *MIRRORS)):
        file = tmp_path / f"file-{number}"
        done = wget(network, family, f"http://{name}{path}", file)
        assert done.returncode == 0, (done.stderr, log.read_text())
        assert file.read_bytes() == DATA
    assert requests(network, path) == [f"one.mirror.example {path} 200"]
    poll(lambda: log.read_text().count(f'"GET {path} HTTP/1.1" 200') == 4)


def test_half_a_file_is_completed_by_a_client_that_knows_of_nothing(
    network: Network, serve: Callable[[str], Path], route: Route, place: str, family: int, tmp_path: Path
) -> None:
    log = serve(place)
    route(place)
    path = put(network)
    for number, name in enumerate(MIRRORS):
        file = tmp_path / f"file-{number}"
        file.write_bytes(DATA[:1_000_000])
        done = wget(network, family, f"http://{name}{path}", file, "-c")
        assert done.returncode == 0, (done.stderr, log.read_text())
        assert file.read_bytes() == DATA
    assert len([line for line in requests(network, path) if line.endswith(" 200")]) == 1
    poll(lambda: log.read_text().count(f'"GET {path} HTTP/1.1" 206') == 2)


def test_a_bare_address_is_as_good_as_a_name(
    network: Network, serve: Callable[[str], Path], route: Route, place: str, family: int, tmp_path: Path
) -> None:
    serve(place)
    route(place)
    path = put(network)
    address = {4: "198.18.3.2", 6: "[fd78:3::2]"}[family]
    assert wget(network, family, f"http://{address}{path}", tmp_path / "file").returncode == 0
    assert wget(network, family, f"http://one.mirror.example{path}", tmp_path / "other").returncode == 0
    assert requests(network, path) == [f"one.mirror.example {path} 200"]


def test_a_rule_that_catches_the_cache_itself_is_told_and_nothing_hangs(
    network: Network, serve: Callable[[str], Path], route: Route, family: int, tmp_path: Path
) -> None:
    log = serve("cache")
    route("cache", lambda text: re.sub(r'! --source "[^"]+" ', "", text))
    path = put(network)
    done = wget(network, family, f"http://one.mirror.example{path}", tmp_path / "file", "--content-on-error")
    assert done.returncode == 8, (done.stderr, log.read_text())
    assert "ERROR 508" in done.stderr
    assert "every source leads back to this cache" in (tmp_path / "file").read_text()
    assert requests(network, path) == []


def test_the_rules_can_be_taken_out_again(
    network: Network, serve: Callable[[str], Path], route: Route, family: int, tmp_path: Path
) -> None:
    serve("router")
    route("router")
    route("router", lambda text: text.replace("--append", "--delete"))
    path = put(network)
    assert wget(network, family, f"http://two.mirror.example{path}", tmp_path / "file").returncode == 0
    assert requests(network, path) == [f"two.mirror.example {path} 200"]
