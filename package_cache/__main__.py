"""The command: `package-cache`, and `python -m package_cache`."""

import os
import signal
import sys
from typing import NoReturn

_CODE = 128 + signal.SIGINT


def run() -> int:
    """Run the command; the exit code. Who interrupts it while it is still being loaded sees no traceback either."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored: in the background
            signal.signal(signal.SIGINT, _interrupt)
        from package_cache.cli.main import main  # noqa: PLC0415 - this is what takes its time

        code = main()
    except KeyboardInterrupt:
        print("package-cache: interrupted", file=sys.stderr)  # noqa: T201 - the person at the keyboard
        code = _CODE
    if code == _CODE:  # a second one would have the interpreter, which comes to its end, print what it interrupts there
        os._exit(_CODE)
    return code


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """Ctrl-C ends the command, which cleans up. A second one, while it does, ends it as it is: crashes do no harm."""
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(_number: int, _frame: object) -> NoReturn:
    os._exit(_CODE)


if __name__ == "__main__":
    sys.exit(run())
