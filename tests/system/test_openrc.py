"""The OpenRC service, run by OpenRC itself on a machine of its own."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from documentation import blocks, section
from machines import kept
from mirror import require
from origin import until
from private import Done, PrivateMachine, why_not, with_command

CONTRIB = Path(__file__).parents[2] / "contrib"
PACKAGES = ("openrc", "libeinfo1", "librc1")
STARTED, STOPPED, UNSUPERVISED = 0, 3, 64
BODY = "the file\n" * 1000


@pytest.fixture(scope="session")
def openrc() -> Path:
    """OpenRC as Debian has it, unpacked once and kept among the temporary files: nothing is installed."""
    if said := why_not():
        pytest.skip(said)
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("OpenRC cannot be had: this is no Debian")
    return kept("openrc", unpack)


def unpack(folder: Path) -> None:
    (folder / "packages").mkdir(parents=True)
    try:
        done = subprocess.run(
            ["apt-get", "download", *PACKAGES],
            cwd=folder / "packages",
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("OpenRC cannot be had: the download took too long")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["apt-get failed"]
        pytest.skip(f"OpenRC cannot be had: {said[0]}")
    for package in (folder / "packages").iterdir():
        subprocess.run(["dpkg", "-x", str(package), str(folder / "tree")], check=True)
    for name in ("bin", "lib", "sbin"):  # where the one of this machine is a link, a directory would hide what it leads to
        if (folder / "tree" / name).is_dir() and Path("/", name).is_symlink():
            shutil.copytree(folder / "tree" / name, folder / "tree/usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(folder / "tree" / name)


class Service:
    """The service, on a machine that OpenRC has booted."""

    def __init__(self, machine: PrivateMachine) -> None:
        self.machine = machine
        self.log = "/var/log/package-cache/package-cache.log"
        assert machine.run("rm", "-rf", "/etc/init.d", "/etc/conf.d", "/etc/package-cache").code == 0
        for state in ("starting", "started", "stopping", "inactive", "failed", "daemons", "options", "exclusive"):
            assert machine.run("mkdir", "-p", f"/run/openrc/{state}").code == 0
        machine.write("/run/openrc/softlevel", "default\n")
        machine.write("/etc/insserv.conf", "")
        assert machine.run("mkdir", "-p", "/etc/insserv.conf.d").code == 0
        machine.write("/etc/init.d/localmount", "#!/sbin/openrc-run\nstart() { return 0; }\n", 0o755)
        machine.write("/etc/init.d/package-cache", (CONTRIB / "openrc/init.d/package-cache").read_text(), 0o755)
        self.configure()
        assert machine.run("mkdir", "-p", "/etc/runlevels/default").code == 0
        machine.run("sh", "-c", "echo package-cache:x:4711: >>/etc/group")
        self.add_user("package-cache", 4711)
        self.put("a-1.tar", BODY)
        self.put("-/health", "ready")

    def add_user(self, name: str, number: int) -> None:
        """Make another user of the group package-cache."""
        self.machine.run("sh", "-c", f"echo {name}:x:{number}:4711::/nowhere:/bin/false >>/etc/passwd")
        self.machine.run("sh", "-c", f"echo '{name}:*:20000::::::' >>/etc/shadow")

    def configure(self, *lines: str) -> None:
        """Write the service's conf.d file: the one that is installed, and these lines."""
        text = (CONTRIB / "openrc/conf.d/package-cache").read_text()
        mirror = 'SOURCES="file:///srv/mirror"\n' if not any(line.startswith("SOURCES") for line in lines) else ""
        self.machine.write("/etc/conf.d/package-cache", text + mirror + "\n".join((*lines, "")))

    def put(self, name: str, body: str) -> None:
        """Put a file on the mirror."""
        self.machine.write(f"/srv/mirror/{name}", body)

    def do(self, *words: str) -> Done:
        return self.machine.run("rc-service", "package-cache", *words)

    def start(self) -> None:
        done = self.do("start")
        assert done.code == 0, done.text + self.said()

    def status(self) -> int:
        return self.do("status").code

    def said(self) -> str:
        """The service's log."""
        return self.machine.run("cat", self.log).text

    def get(self, path: str = "/a-1.tar", port: int = 4000, host: str = "127.0.0.1") -> Done:
        """A client on the machine; the code is the status of the answer, 0 without one."""
        program = "import sys, http.client as h; c = h.HTTPConnection(*sys.argv[1:3], timeout=20);"
        program += "c.request('GET', sys.argv[3]); r = c.getresponse(); print(r.status, r.read().decode(), end='')"
        done = self.machine.run(sys.executable, "-c", program, host, str(port), path)
        if done.code:
            return Done(0, done.text)
        status, _, body = done.text.partition(" ")
        return Done(int(status), body)

    def pid(self) -> int:
        """The process of the service, which is the supervisor's child."""
        done = self.machine.run(
            "ps", "-o", "pid=", "--ppid", self.machine.run("cat", "/run/package-cache.pid").text.strip()
        )
        return int(done.text) if done.text.strip().isdigit() else 0

    def argument(self, name: str) -> list[str]:
        """The values of an option in the command line of the process."""
        words = self.machine.run("sh", "-c", f"tr '\\0' '\\n' </proc/{self.pid()}/cmdline").text.splitlines()
        return [after for word, after in pairwise(words) if word == name]


@pytest.fixture
def service(openrc: Path, tmp_path: Path) -> Iterator[Service]:
    machine = with_command(tmp_path / "machine", [openrc / "tree"])
    try:
        yield Service(machine)
    finally:
        machine.close()


def test_it_starts_serves_and_stops(service: Service) -> None:
    assert service.status() == STOPPED
    service.start()
    assert service.status() == STARTED
    assert service.get() == Done(200, BODY)
    user = service.machine.run("stat", "-c", "%U:%G", f"/proc/{service.pid()}", "/var/cache/package-cache", service.log)
    assert user.text == "package-cache:package-cache\n" * 3
    assert service.do("stop").code == 0
    assert service.status() == STOPPED
    assert service.get().code == 0
    assert service.machine.run("ls", "/run/package-cache.pid").code != 0
    assert service.machine.run("pgrep", "-u", "package-cache").text == ""


def test_without_any_setting_it_listens_for_the_network_and_has_a_mirror_of_gentoo(service: Service) -> None:
    service.machine.write("/etc/conf.d/package-cache", (CONTRIB / "openrc/conf.d/package-cache").read_text())
    service.start()
    assert service.argument("--source") == ["http://distfiles.gentoo.org/"]
    assert (service.argument("--host"), service.argument("--port")) == (["0.0.0.0"], ["4000"])
    assert "(cache in /var/cache/package-cache)" in service.said()


def test_a_restart_keeps_the_cache(service: Service) -> None:
    service.start()
    assert service.get().code == 200
    before = service.pid()
    assert service.do("restart").code == 0
    assert service.pid() not in (before, 0)
    assert service.machine.run("rm", "-r", "/srv/mirror/a-1.tar").code == 0
    assert service.get() == Done(200, BODY)


def test_the_variables_mean_what_they_did(service: Service) -> None:
    service.add_user("another", 4712)
    service.machine.write("/srv/other/b-1.tar", "b")
    service.configure(
        'PC_USER="another"',
        'CACHE_DIR="/srv/my cache"',
        'HOST="127.0.0.2"',
        'PORT="4001"',
        'SOURCES="file:///srv/mirror   file:///srv/other"',
        "PC_OPTS=\"--verbose --allow 127.0.0.0/8 --access-log '/srv/my cache/log'\"",
    )
    service.start()
    assert service.get("/b-1.tar", 4001, "127.0.0.2") == Done(200, "b")
    assert service.get(port=4000).code == 0
    assert service.machine.run("stat", "-c", "%U:%G", "/srv/my cache/registry-v1.db").text == "another:package-cache\n"
    assert service.argument("--source") == ["file:///srv/mirror", "file:///srv/other"]
    until(lambda: '"GET /b-1.tar HTTP/1.1" 200' in service.machine.run("cat", "/srv/my cache/log").text)
    assert service.do("healthcheck").code == 0


def test_it_listens_where_the_options_say(service: Service) -> None:
    service.configure('PC_OPTS="--listen 127.0.0.1:4005 --listen unix:/run/package-cache/http.sock"')
    service.start()
    assert service.get(port=4005) == Done(200, BODY)
    assert service.machine.run("package-cache", "health", "--listen", "unix:/run/package-cache/http.sock").code == 0
    assert service.do("healthcheck").code == 0


def test_changed_settings_hold_from_the_next_start(service: Service) -> None:
    service.start()
    service.configure('PORT="4002"')
    assert service.do("restart").code == 0
    assert service.get(port=4000).code == 0
    assert service.get(port=4002).code == 200


def test_it_does_not_start_where_the_port_is_taken(service: Service) -> None:
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 4000)); print(flush=True); time.sleep(1000)"
    other = service.machine.run(sys.executable, "-c", program, background=True)
    until(lambda: service.machine.run("grep", "-q", "0100007F:0FA0 .* 0A ", "/proc/net/tcp").code == 0)
    done = service.do("start")
    assert done.code != 0
    assert "package-cache ended as soon as it was started:" in done.text
    assert re.search(r"4000.*in use", done.text)
    assert service.status() == STOPPED
    assert service.machine.run("pgrep", "-u", "package-cache").text == ""
    service.machine.run("kill", str(other.code))
    service.start()
    assert service.get().code == 200


def test_it_does_not_take_another_one_on_its_port_for_itself(service: Service) -> None:
    service.start()
    service.machine.run("ln", "-s", "package-cache", "/etc/init.d/package-cache.two")
    service.machine.write("/etc/conf.d/package-cache.two", 'CACHE_DIR="/var/cache/two"\n')
    done = service.machine.run("rc-service", "package-cache.two", "start")
    assert done.code != 0
    assert "Another package-cache serves there already." in done.text
    service.machine.write("/etc/conf.d/package-cache.two", 'CACHE_DIR="/var/cache/two"\nPORT="4001"\n')
    assert service.machine.run("rc-service", "package-cache.two", "start").code == 0
    assert service.get(port=4001) == Done(200, BODY)
    assert service.machine.run("rc-service", "package-cache.two", "stop").code == 0
    assert service.get().code == 200


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('PC_OPTS="--wrokers 2"', "--wrokers: there is no such option; the nearest is --workers"),
        ('PORT="four"', "--port: 'four' is not a port"),
        ('SOURCES=""', "--source"),
        ('PC_COMMAND="/usr/bin/nothing"', "/usr/bin/nothing is not a program"),
    ],
)
def test_a_wrong_setting_is_told_at_the_start(service: Service, line: str, text: str) -> None:
    service.configure(line)
    done = service.do("start")
    assert done.code != 0
    assert text in done.text
    assert service.status() == STOPPED


def test_another_user_gets_the_log_and_is_told_whose_the_cache_is(service: Service) -> None:
    service.start()
    assert service.get().code == 200
    assert service.do("stop").code == 0
    service.add_user("other", 4712)
    service.configure("PC_USER=other")
    done = service.do("start")
    assert done.code != 0
    assert " belongs to package-cache, and the service runs as other." in done.text
    assert "chown -R other:package-cache /var/cache/package-cache" in done.text
    assert service.machine.run("chown", "-R", "other:package-cache", "/var/cache/package-cache").code == 0
    service.start()
    assert service.get().code == 200
    assert service.machine.run("stat", "-c", "%U", service.log).text.strip() == "other"


def test_a_directory_in_place_of_the_log_is_told(service: Service) -> None:
    assert service.machine.run("mkdir", "-p", service.log).code == 0
    done = service.do("start")
    assert done.code != 0
    assert service.log in done.text
    assert service.status() == STOPPED


def test_a_program_that_ends_without_a_word_is_told(service: Service) -> None:
    service.machine.write("/usr/bin/package-cache", "#!/bin/sh\nexit 1\n", 0o755)
    done = service.do("start")
    assert done.code != 0
    assert f"ended as soon as it was started:\n * it wrote nothing to {service.log}" in re.sub(" +", " ", done.text)


def test_a_start_that_comes_to_nothing_ends_in_time(service: Service) -> None:
    service.machine.write("/usr/bin/package-cache", '#!/bin/sh\n[ "$1" = health ] && exit 1\nexec sleep 1000\n', 0o755)
    service.configure("PC_START_TIMEOUT=1")
    done = service.do("start")
    assert done.code != 0
    assert "package-cache cannot serve after 1 seconds:" in done.text
    assert service.status() == STOPPED
    assert service.machine.run("pgrep", "sleep").text == ""


def test_a_stop_does_not_wait_for_a_client(service: Service) -> None:
    service.configure("PC_STOP_TIMEOUT=1")
    service.machine.run("truncate", "-s", "500M", "/srv/mirror/large-1.tar")
    service.start()
    program = "import socket, time; s = socket.create_connection(('127.0.0.1', 4000));"
    program += "s.sendall(b'GET /large-1.tar HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); s.recv(100);"
    program += "open('/tmp/begun', 'w').close(); time.sleep(1000)"
    service.machine.run(sys.executable, "-c", program, background=True)
    until(lambda: service.machine.run("ls", "/tmp/begun").code == 0)
    assert service.do("stop").code == 0
    assert service.machine.run("pgrep", "-u", "package-cache").text == ""


def test_one_that_crashes_is_started_again(service: Service) -> None:
    service.start()
    before = service.pid()
    assert service.machine.run("kill", "-KILL", str(before)).code == 0
    until(lambda: service.pid() not in (before, 0) and service.get().code == 200)
    assert service.status() == STARTED


def test_one_that_crashes_again_and_again_is_given_up(service: Service) -> None:
    service.start()
    service.machine.write("/usr/bin/package-cache", "#!/bin/sh\nexit 1\n", 0o755)
    service.machine.run("kill", "-KILL", str(service.pid()))
    until(lambda: service.machine.run("pgrep", "supervise").text == "", 60)
    assert service.status() == STOPPED
    assert service.machine.run("pgrep", "-u", "package-cache").text == ""


def test_one_whose_supervisor_died_is_told_by_the_status(service: Service) -> None:
    service.start()
    service.machine.run("pkill", "-KILL", "supervise")
    assert service.status() == UNSUPERVISED


def test_one_that_does_not_answer_any_more_is_started_again(service: Service) -> None:
    service.configure("healthcheck_delay=10", "healthcheck_timer=1", "PC_STOP_TIMEOUT=1")
    service.start()
    before = service.pid()
    assert before
    assert service.machine.run("kill", "-STOP", str(before)).code == 0
    until(lambda: service.pid() not in (before, 0) and service.get().code == 200, 90)


def test_the_file_of_configuration_says_what_the_variables_do_not(service: Service) -> None:
    service.machine.write("/etc/conf.d/package-cache", 'PORT="4001"\n')
    text = 'host = "127.0.0.3"\nport = 4009\n[[repository]]\nname = "x"\nprefix = "/x/"\nsources = ["file:///srv/mirror"]\n'
    service.machine.write("/etc/package-cache/config.toml", text)
    service.start()
    assert service.get("/x/a-1.tar", 4001, "127.0.0.3") == Done(200, BODY)
    assert service.do("healthcheck").code == 0
    assert service.do("stop").code == 0
    service.machine.run("mv", "/etc/package-cache", "/etc/other")
    service.machine.write("/etc/conf.d/package-cache", 'CONFIG="/etc/other/config.toml"\n')
    service.start()
    assert service.get("/x/a-1.tar", 4009, "127.0.0.3") == Done(200, BODY)


def test_a_bad_file_of_configuration_is_told_before_a_reload(service: Service) -> None:
    service.machine.write("/etc/package-cache/config.toml", 'source = ["file:///srv/mirror"]\n')
    service.start()
    before = service.pid()
    service.machine.write("/etc/package-cache/config.toml", 'sauce = ["file:///srv/mirror"]\nport = "x"\n')
    for words in (("checkconfig",), ("reload",)):
        done = service.do(*words)
        assert done.code != 0
        assert "sauce: there is no such setting; the nearest is source" in done.text
        assert "'x' is not a port" in done.text
    assert service.pid() == before
    assert service.get().code == 200


def test_a_reload_keeps_the_process(service: Service) -> None:
    assert service.do("reload").code != 0
    service.start()
    before = service.pid()
    assert service.do("reload").code == 0
    until(lambda: service.get().code == 200)
    assert service.pid() == before


def test_what_it_can_do_is_described(service: Service) -> None:
    text = service.do("describe").text
    for name in ("reload", "healthcheck", "checkconfig"):
        assert re.search(rf"{name}: (?!no description)\w+", text), text


def test_the_lines_of_the_guide_make_a_service(service: Service) -> None:
    install, lines = blocks(section("operations", "OpenRC"))
    for name in ("init.d", "conf.d"):
        assert service.machine.run("rm", f"/etc/{name}/package-cache").code == 0
    done = service.machine.run("sh", "-e", "-c", f"cd /opt/tree\n{install}")
    assert done.code == 0, done.text
    assert service.status() == STARTED
    assert service.argument("--source") == ["http://distfiles.gentoo.org/"]
    assert service.machine.run("rc-update", "show", "default").text.split() == ["package-cache", "|", "default"]
    service.machine.write("/etc/conf.d/package-cache", lines)
    assert service.do("restart").code == 0
    assert service.argument("--source") == ["http://mirror.example/gentoo/", "http://distfiles.gentoo.org/"]
    assert (service.argument("--workers"), service.argument("--max-size")) == (["2"], ["200G"])


def test_its_logs_are_rotated(service: Service) -> None:
    require("logrotate")
    service.machine.write("/etc/logrotate.d/package-cache", (CONTRIB / "logrotate/package-cache").read_text())
    service.configure('PC_OPTS="--verbose --access-log /var/log/package-cache/access"')
    service.start()

    def has(text: str, *names: str) -> list[bool]:
        return [text in service.machine.run("cat", f"/var/log/package-cache/{name}").text for name in names]

    both, rotated = ("access", "package-cache.log"), ("access.1", "package-cache.log.1")
    service.get()
    until(lambda: has("/a-1.tar", *both) == [True, True])
    done = service.machine.run("logrotate", "--force", "/etc/logrotate.d/package-cache")
    assert (done.code, done.text.count("error")) == (0, 0), done.text
    assert has("/a-1.tar", *both, *rotated) == [False, False, True, True]
    service.put("b-1.tar", BODY)
    assert service.get("/b-1.tar").code == 200
    until(lambda: has("/b-1.tar", *both) == [True, True])
    assert has("/b-1.tar", *rotated) == [False, False]
