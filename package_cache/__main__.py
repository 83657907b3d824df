"""The command: `package-cache`, and `python -m package_cache`."""

import os
import signal
import sys
from typing import NoReturn

_CODE = 128 + signal.SIGINT


def run() -> int:
    """Run the command; the exit code. An interrupt while its modules are being imported shows no traceback, either."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: in the background
            signal.signal(signal.SIGINT, _interrupt)
        from package_cache.cli.main import main  # noqa: PLC0415 - importing it takes time

        code = main()
    except KeyboardInterrupt:
        print("package-cache: interrupted", file=sys.stderr)  # noqa: T201 - the person at the keyboard
        code = _CODE
    if code == _CODE:  # a second interrupt would make the interpreter, which is shutting down, print a traceback
        os._exit(_CODE)
    return code


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """End the command at Ctrl-C, with its clean-up. A second Ctrl-C ends it at once: a crash does no harm."""
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(_number: int, _frame: object) -> NoReturn:
    os._exit(_CODE)


if __name__ == "__main__":
    sys.exit(run())
