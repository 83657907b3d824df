"""A machine of its own: this one's files under an overlay, with its own processes, mounts, host name and loopback network.

What is written in there is gone with it. It needs root and the kernel's namespaces. As a script, this is the first process
in there: it runs what it is told to, one thing at a time, and reaps what others leave behind.
"""

import base64
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import package_cache

_UNSHARE = ("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--propagation", "private")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_SIOCSIFFLAGS = 0x8914
_UP = 0x1 | 0x40


@dataclass(frozen=True)
class Done:
    """What a program that has ended wrote to both its outputs, and its exit code."""

    code: int
    text: str


class PrivateMachine:
    """`layers` are directories whose files come on top of this machine's; `room` is a directory for its mounts.

    `shown` are directories of this machine under other names there, whoever may read their parents. With `booted`,
    systemd is the first process.
    """

    def __init__(
        self,
        room: Path,
        layers: Sequence[Path] = (),
        shown: Mapping[str, Path] = MappingProxyType({}),
        booted: bool = False,
    ) -> None:
        room.mkdir(parents=True, exist_ok=True)
        places = {"layers": [str(one) for one in layers], "shown": {to: str(one) for to, one in shown.items()}}
        command = [*_UNSHARE, "--kill-child", sys.executable, __file__, str(room), json.dumps({**places, "booted": booted})]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.run("true")
        except BaseException:
            self.close()
            raise

    def run(self, *words: str, text: str = "", background: bool = False) -> Done:
        """Run a program to its end, with `text` as its input; or in the background, and say only its pid as code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        encoded = base64.b64encode(text.encode()).decode()
        self._process.stdin.write(json.dumps({"words": words, "text": encoded, "background": background}) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said, "the private machine is gone"
        answer = json.loads(said)
        return Done(answer["code"], base64.b64decode(answer["text"]).decode("utf-8", "replace"))

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file there."""
        assert self.run("mkdir", "-p", str(Path(path).parent)).code == 0
        assert self.run("tee", path, text=text).code == 0
        assert self.run("chmod", f"{mode:o}", path).code == 0

    def close(self) -> None:
        """End everything in there."""
        self._process.kill()  # and with it, by --kill-child, the first process, and with that all of them
        self._process.communicate()


def with_command(room: Path, layers: Sequence[Path] = (), booted: bool = False) -> PrivateMachine:
    """A machine where /usr/bin/package-cache is this package, for every user there."""
    shown = {"/opt/python": Path(sys.base_prefix), "/opt/tree": Path(package_cache.__file__).parent.parent}
    shown["/opt/packages"] = Path(sysconfig.get_path("purelib"))
    interpreter = Path("/opt/python", Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve()))
    machine = PrivateMachine(room, layers, shown, booted)
    variables = "LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/tree:/opt/packages PYTHONPYCACHEPREFIX=/opt/compiled"
    line = f'{variables} exec {interpreter} -m package_cache "$@"'
    machine.write("/usr/bin/package-cache", f"#!/bin/sh\n{line}\n", 0o755)
    assert machine.run("install", "-d", "-m", "1777", "/opt/compiled").code == 0
    return machine


def why_not() -> str:
    """What this machine lacks for one; empty if nothing."""
    if os.geteuid() != 0:
        return "a private machine needs root"
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    line = "mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w && mount -t proc none /proc &&"
    line += " mount -t overlay none /mnt/u -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w"
    done = subprocess.run([*_UNSHARE, "sh", "-c", line], capture_output=True, text=True, check=False)
    return f"no namespaces or no overlay here: {done.stderr.strip()}" if done.returncode else ""


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _enter(room: str, layers: Sequence[str], shown: Mapping[str, str]) -> None:
    """Make the files of the machine, and make them the only ones."""
    _mount("-t", "tmpfs", "private", room)
    upper, work, root = (f"{room}/{name}" for name in ("upper", "work", "root"))
    for directory in (upper, work, root):
        os.mkdir(directory)
    for layer in layers:
        shutil.copytree(layer, upper, symlinks=True, dirs_exist_ok=True)
    _mount("-t", "overlay", "private", root, "-o", f"lowerdir=/,upperdir={upper},workdir={work}")
    _mount("-t", "proc", "proc", f"{root}/proc")
    _make_devices(f"{root}/dev")
    _mount("-t", "tmpfs", "run", f"{root}/run")
    temporary = tempfile.gettempdir()
    if os.stat(temporary).st_dev != os.stat("/").st_dev:  # what is mounted below / is not in a layer of it
        os.makedirs(root + temporary, exist_ok=True)
        _mount("--bind", temporary, root + temporary)
    for name, directory in shown.items():
        os.makedirs(root + name)
        _mount("--bind", "-o", "ro", directory, root + name)
    # Not chroot: within one, no program could make a user namespace.
    os.mkdir(f"{root}/outside")
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "outside"], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/outside"], check=True)


def _make_devices(place: str) -> None:
    _mount("-t", "tmpfs", "dev", place)
    for name in _DEVICES:
        Path(place, name).touch()
        _mount("--bind", f"/dev/{name}", f"{place}/{name}")
    for name in ("shm", "pts"):
        os.mkdir(f"{place}/{name}")
    _mount("-t", "tmpfs", "-o", "mode=1777", "shm", f"{place}/shm")
    _mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "pts", f"{place}/pts")
    os.symlink("pts/ptmx", f"{place}/ptmx")
    os.symlink("/proc/self/fd", f"{place}/fd")


def _boot() -> None:
    """Go on in a child, and let systemd be the first process; the kernel's settings are not for it to change."""
    _mount("--bind", "-o", "ro", "/proc/sys", "/proc/sys")
    _mount("-t", "sysfs", "-o", "ro", "sys", "/sys")
    _mount("-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    shutil.rmtree("/etc/systemd/system")
    Path("/etc/fstab").write_text("")
    if os.fork():
        for number in (0, 1):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        os.execve("/lib/systemd/systemd", ["systemd", "--system", "--unit=basic.target"], {"container": "private"})
    os.setsid()


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP))


def _perform(order: dict[str, object]) -> dict[str, object]:
    output = os.memfd_create("output")
    given = os.memfd_create("input")
    os.write(given, base64.b64decode(str(order["text"])))
    os.lseek(given, 0, os.SEEK_SET)
    words = order["words"]
    assert isinstance(words, list)
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            for number, descriptor in ((0, given), (1, output), (2, output)):
                os.dup2(descriptor, number)
            os.execvp(words[0], words)
        except OSError as error:
            os.write(2, f"{words[0]}: {error}\n".encode())
        finally:
            os._exit(127)
    os.close(given)
    code = child if order["background"] else _wait(child)
    text = b"" if order["background"] else os.pread(output, 1 << 20, 0)
    os.close(output)
    return {"code": code, "text": base64.b64encode(text).decode()}


def _wait(child: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _reap(_number: int, _frame: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main(room: str, settings: str) -> None:
    """The first process: orders come in as lines, and what came of them goes out."""
    given = json.loads(settings)
    _enter(room, given["layers"], given["shown"])
    _raise_loopback()
    if given["booted"]:
        _boot()
    while True:
        signal.signal(signal.SIGCHLD, _reap)
        _reap(0, None)
        line = sys.stdin.readline()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not line:
            return
        print(json.dumps(_perform(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
