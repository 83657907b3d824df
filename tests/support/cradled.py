"""What `cradle.Cradle` starts: imports the programs once, and is one of them in each process that it forks."""

import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from gunicorn.app import wsgiapp

from package_cache.cli.main import main as command
from package_cache.upstream.reach import version_text

LATE = (
    *("encodings.idna", "gunicorn.workers.gthread", "importlib.metadata"),
    *("package_cache.cli.serving", "package_cache.server.gunicorn"),
)
"""What the programs import when they need it, which would be in each fork."""


def be(order: dict[str, Any], log: int) -> NoReturn:
    """The program, in a process of its own, which ends with it."""
    words, code = order["words"], 70
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(3, 1000)
        os.environ.clear()
        os.environ.update(order["environment"])
        time.tzset()
        os.chdir(order["folder"])
        sys.argv = words
        code = wsgiapp.run() if words[0] == "gunicorn" else command(words[1:])
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    """Fork a program for each order that comes in on standard input, a socket, until that ends; then end them all."""
    control = socket.socket(fileno=0)
    running: dict[int, int] = {}

    def reap(*_: object) -> None:
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            telling = running.pop(pid)
            os.write(telling, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(telling)

    signal.signal(signal.SIGCHLD, reap)
    for name in LATE:
        importlib.import_module(name)
    version_text()  # which reads it from a file
    gc.collect()
    gc.freeze()  # or each fork would copy what its collector looks at
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 2)
        if not message:
            break
        log, telling = descriptors
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # until it is known where its end is to be told
        pid = os.fork()
        if not pid:
            be(json.loads(message), log)
        running[pid] = telling
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.close(log)
        control.send(str(pid).encode())
    for pid in list(running):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
