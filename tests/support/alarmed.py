"""Makes calls that may wait fail in the thread of the event loop, while that takes a turn: the text of a sitecustomize.

What was called is written to the file named by ALARMED, so that whoever swallows the exception hides nothing. The product
knows nothing of it.
"""

import os
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

REPORT = os.open(os.environ["ALARMED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
SOCKET_CALLS = (
    *("accept", "connect", "connect_ex", "recv", "recv_into", "recvfrom", "recvmsg"),
    *("send", "sendall", "sendfile", "sendmsg", "sendto"),
)
write = os.write


def in_a_turn() -> bool:
    """Whether this is the loop's thread, and it does what a turn of the loop is about."""
    frame = sys._getframe(1) if threading.current_thread() is threading.main_thread() else None
    while frame is not None:
        name = frame.f_code.co_filename
        if name.endswith("threading.py") and frame.f_code.co_name == "start":
            return False  # a thread that begins is waited for, by everybody
        if name.endswith("server/reactor.py") and frame.f_code.co_name in ("turn", "drain"):
            return True
        frame = frame.f_back
    return False


def alarm(what: str) -> None:
    """Say it, and fail."""
    write(REPORT, f"{what}\n{''.join(traceback.format_stack()[:-2])}\n".encode())
    raise AssertionError(f"a call in the event loop that may wait: {what}")


def watch(owner: Any, name: str, waits: Callable[..., bool]) -> None:
    """Have a call fail in a turn where it `waits`, by its arguments."""
    original = getattr(owner, name)

    def watched(*arguments: Any, **named: Any) -> Any:
        if waits(*arguments, **named) and in_a_turn():
            alarm(f"{getattr(owner, '__name__', owner)}.{name}")
        return original(*arguments, **named)

    setattr(owner, name, watched)


def may_wait(descriptor: int, *_: Any, **__: Any) -> bool:
    """Whether a call on a descriptor waits for somebody else: files are waited for, too, but only for the disk."""
    return os.get_blocking(descriptor) and not stat.S_ISREG(os.fstat(descriptor).st_mode)


def always(*_: Any, **__: Any) -> bool:
    return True


def unlimited_or_long(_: Any, timeout: float | None = None) -> bool:
    return timeout is None or timeout > 0


for call in SOCKET_CALLS:
    watch(socket.socket, call, lambda one, *_, **__: one.gettimeout() != 0)
for call in ("read", "write", "readv", "writev", "sendfile"):
    watch(os, call, may_wait)
for call in ("getaddrinfo", "gethostbyname", "gethostbyaddr", "create_connection"):
    watch(socket, call, always)
for call in ("waitpid", "wait", "system"):
    watch(os, call, lambda *arguments: os.WNOHANG not in arguments)
watch(time, "sleep", always)
watch(threading.Condition, "wait", unlimited_or_long)
watch(threading.Thread, "join", unlimited_or_long)
