"""The command, and programs, in forks of one process that has imported everything: without the time that a start takes."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from product import surroundings

_PROGRAM = """
import contextlib, encodings.ascii, gc, importlib, json, os, pkgutil, sys
import package_cache
for module in pkgutil.walk_packages(package_cache.__path__, "package_cache."):
    if not module.name.endswith("__main__"):
        with contextlib.suppress(ImportError):  # of what is optional
            importlib.import_module(module.name)
from package_cache.cli.main import main
from package_cache.upstream.reach import version_text

version_text()  # which reads it from a file
gc.collect()
gc.freeze()  # or each fork would copy what its collector looks at
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
os.chdir(order["folder"])
os.environ.clear()
os.environ.update(order["environment"])
for number, name in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
if order["user"]:
    os.setgid(order["user"])
    os.setuid(order["user"])
code = 0
if order["program"]:
    sys.argv = ["-c", *order["words"]]
    try:
        exec(order["program"], {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code
else:
    code = main(order["words"])
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # to take an interpreter apart costs ten times what a command does
"""


class Shell:
    """Runs commands, one after the other. `room` is a directory of its own."""

    def __init__(self, room: Path) -> None:
        self._out, self._err = room / "out", room / "err"
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], user: int = 0, program: str = ""
    ) -> "subprocess.CompletedProcess[bytes]":
        """A command, or a program with these words, which is expected to end by itself."""
        order = {"words": words, "environment": environment, "user": user, "out": str(self._out), "err": str(self._err)}
        order |= {"program": program, "folder": str(Path.cwd())}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(["package-cache", *words], code, self._out.read_bytes(), self._err.read_bytes())

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


_open: list[Shell] = []


@contextlib.contextmanager
def opened(room: Path) -> Iterator[Shell]:
    """The one that `run` uses meanwhile."""
    shell = Shell(room)
    _open.append(shell)
    try:
        yield shell
    finally:
        _open.remove(shell)
        shell.close()


def run_program(program: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """What `python -c` would do with a program and these words, in the shell of the fixture `shell`."""
    ended = _open[-1].run([str(word) for word in words], surroundings(), program=program)
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def run(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command in the shell of the fixture `shell`, without the settings of whoever runs the tests."""
    ended = _open[-1].run(words, surroundings(**variables))
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())
