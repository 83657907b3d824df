"""The units for systemd: what its own tools say of them, and systemd running them on a machine of its own."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from documentation import README, blocks, section
from mirror import require
from origin import until
from private import Done, PrivateMachine, why_not, with_command

CONTRIB = Path(__file__).parents[2] / "contrib/systemd"
UNITS = ("package-cache.service", "package-cache.socket")
BODY = "the file\n"
MOST = 2.5
"""Exposure, of 10, that systemd may find at most."""


def output(*command: str) -> str:
    """What a program that must succeed writes."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    require("systemd-analyze")
    command = tmp_path / "package-cache"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for name in UNITS:
        text = (CONTRIB / name).read_text().replace("/usr/bin/package-cache", str(command))
        (tmp_path / name).write_text(text)
    assert output("systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)) == ""


def test_the_service_is_exposed_to_little() -> None:
    require("systemd-analyze")
    threshold = str(int(MOST * 10))
    output(
        "systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", str(CONTRIB / "package-cache.service")
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories to another user")
def test_the_user_and_the_directories_are_made(tmp_path: Path) -> None:
    require("systemd-sysusers", "systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    users = str(CONTRIB / "sysusers.d/package-cache.conf")
    assert "package-cache" in output("systemd-sysusers", "--dry-run", root, users)
    output("systemd-sysusers", root, users)
    assert "package-cache:" in (tmp_path / "etc/passwd").read_text()
    output("systemd-tmpfiles", "--create", root, str(CONTRIB / "tmpfiles.d/package-cache.conf"))
    for name in ("cache", "log"):
        assert (tmp_path / "var" / name / "package-cache").stat().st_mode & 0o777 == 0o755


def test_logrotate_reads_its_file(tmp_path: Path) -> None:
    require("logrotate")
    text = (CONTRIB.parent / "logrotate/package-cache").read_text().replace("package-cache package-cache", "root root")
    (tmp_path / "file").write_text(text)
    (tmp_path / "file").chmod(0o644)
    said = output("logrotate", "--debug", str(tmp_path / "file"))
    assert "error" not in said
    assert "Handling 2 logs" in said


class Booted:
    """A machine that systemd has booted, with the units, a mirror in a directory, and a client."""

    def __init__(self, machine: PrivateMachine) -> None:
        self.machine = machine
        for name in UNITS:
            machine.write(f"/etc/systemd/system/{name}", (CONTRIB / name).read_text())
        machine.write("/etc/sysusers.d/package-cache.conf", (CONTRIB / "sysusers.d/package-cache.conf").read_text())
        assert machine.run("systemd-sysusers").code == 0
        machine.write("/srv/mirror/a-1.tar", BODY)
        self.set_up()

    def set_up(self, *lines: str) -> None:
        """Make the settings, and these lines of the unit."""
        text = "\n".join(("[Service]", "Environment=PACKAGE_CACHE_SOURCE=file:///srv/mirror", *lines, ""))
        self.machine.write("/etc/systemd/system/package-cache.service.d/test.conf", text)
        self.do("daemon-reload")

    def do(self, *words: str) -> str:
        """A systemctl command that must succeed."""
        done = self.machine.run("timeout", "60", "systemctl", *words)
        assert done.code == 0, done.text + self.journal()
        return done.text.strip()

    def journal(self) -> str:
        return self.machine.run("journalctl", "--no-pager", "--unit=package-cache").text

    def state(self) -> str:
        return self.machine.run("systemctl", "is-active", "package-cache.service").text.strip()

    def pid(self) -> str:
        return self.do("show", "--property=MainPID", "--value", "package-cache.service")

    def get(self, host: str = "127.0.0.1") -> Done:
        """What a client gets; the code is 0 if that is the file."""
        return self.machine.run("curl", "--silent", "--fail", "--max-time", "30", f"http://{host}:4000/a-1.tar")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMachine]:
    """A machine that systemd has booted: that takes longer than each of the tests."""
    require("curl", "systemctl")
    if said := why_not():
        pytest.skip(said)
    if not Path("/lib/systemd/systemd").exists():
        pytest.skip("systemd is not installed")
    machine = with_command(tmp_path_factory.mktemp("systemd") / "machine", booted=True)
    try:
        until(lambda: machine.run("test", "-S", "/run/systemd/private").code == 0)
        state = machine.run("timeout", "120", "systemctl", "is-system-running", "--wait").text.strip()
        if state not in ("running", "degraded"):
            pytest.skip(f"systemd does not boot in a namespace here: {state or 'no answer'}")
        yield machine
    finally:
        machine.close()


@pytest.fixture
def booted(machine: PrivateMachine) -> Iterator[Booted]:
    """The machine as it was in the beginning."""
    yield Booted(machine)
    machine.run("systemctl", "stop", *reversed(UNITS))
    machine.run("systemctl", "reset-failed")
    machine.run("pkill", "-f", "time.sleep")
    machine.run("rm", "-rf", "/var/cache/package-cache", "/etc/package-cache", "/srv")


def test_the_service_is_ready_when_its_start_ends(booted: Booted) -> None:
    booted.do("start", "package-cache.service")
    assert booted.get() == Done(0, BODY)
    owner = booted.machine.run("stat", "-c", "%U", "/var/cache/package-cache/registry-v1.db", f"/proc/{booted.pid()}")
    assert owner.text == "package-cache\npackage-cache\n"
    assert "(cache in /var/cache/package-cache)" in booted.journal()
    booted.machine.run("rm", "/srv/mirror/a-1.tar")
    booted.do("restart", "package-cache.service")
    assert booted.get() == Done(0, BODY)
    booted.do("stop", "package-cache.service")
    assert booted.state() == "inactive"
    assert booted.get().code != 0


def test_it_does_not_start_where_the_port_is_taken(booted: Booted) -> None:
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 4000)); time.sleep(1000)"
    booted.machine.run("/opt/python/bin/python3", "-c", program, background=True)
    until(lambda: booted.machine.run("grep", "-q", "0100007F:0FA0 .* 0A ", "/proc/net/tcp").code == 0)
    assert booted.machine.run("timeout", "60", "systemctl", "start", "package-cache.service").code != 0
    assert "in use" in booted.journal()


def test_a_wrong_setting_is_told_once(booted: Booted) -> None:
    booted.set_up("Environment=PACKAGE_CACHE_PORT=four")
    assert booted.machine.run("timeout", "60", "systemctl", "start", "package-cache.service").code != 0
    assert booted.state() == "failed"
    assert booted.journal().count("'four' is not a port") == 1


def test_the_socket_starts_the_service_and_keeps_clients_while_it_restarts(booted: Booted) -> None:
    booted.do("start", "package-cache.socket")
    assert booted.state() == "inactive"
    assert booted.get() == Done(0, BODY)
    assert booted.get("[::1]") == Done(0, BODY)
    assert booted.state() == "active"
    booted.do("restart", "package-cache.service")
    assert booted.get() == Done(0, BODY)
    booted.do("stop", "package-cache.service")
    assert booted.get() == Done(0, BODY)


def test_one_that_crashes_is_started_again(booted: Booted) -> None:
    booted.do("start", "package-cache.service")
    before = booted.pid()
    booted.machine.run("kill", "-KILL", before)
    until(lambda: booted.pid() not in ("0", before) and booted.state() == "active")
    assert booted.get() == Done(0, BODY)


@pytest.mark.parametrize("server", ["wsgiref", "gunicorn"])
def test_a_reload_keeps_the_process(booted: Booted, server: str) -> None:
    booted.set_up(f"Environment=PACKAGE_CACHE_SERVER={server}")
    booted.do("start", "package-cache.service")
    before = booted.pid()
    booted.do("reload", "package-cache.service")
    until(lambda: booted.state() == "active" and booted.get() == Done(0, BODY))
    assert booted.pid() == before


def test_the_service_sees_no_more_of_the_machine_than_it_needs(booted: Booted) -> None:
    booted.do("start", "package-cache.service")
    status = booted.machine.run("cat", f"/proc/{booted.pid()}/status").text
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_the_lines_of_the_documents_make_a_service(booted: Booted) -> None:
    [lines] = blocks(section(README, "The service"))
    install, _, rest = lines.partition("\n")
    assert install.endswith("/bin/package-cache /usr/bin")  # which is there already
    [told] = blocks(section("operations", "systemd"))
    assert told in rest
    booted.machine.run("rm", "-r", "/etc/systemd/system", "/etc/sysusers.d", "/etc/package-cache")
    booted.machine.run("mkdir", "/etc/systemd/system")
    booted.machine.write("/bin/edit", '#!/bin/sh\necho \'source = ["file:///srv/mirror"]\' >"$1"\n', 0o755)
    done = booted.machine.run("bash", "-e", "-c", f"cd /opt/tree; EDITOR=edit\n{rest}")
    assert done.code == 0, done.text
    assert booted.state() == "active"
    assert booted.get("[::1]") == Done(0, BODY)
    booted.machine.write("/etc/package-cache/config.toml", 'source = ["file:///srv/another"]\n')
    booted.machine.write("/srv/another/b-1.tar", BODY)
    booted.do("reload", "package-cache")
    until(lambda: booted.machine.run("curl", "-sf", "http://127.0.0.1:4000/b-1.tar") == Done(0, BODY))
