"""The command: `package-cache`, and `python -m package_cache`."""

import signal
import sys


def run() -> int:
    """Run the command; the exit code. Who interrupts it while it is still being loaded sees no traceback either."""
    try:
        from package_cache.cli.main import main  # noqa: PLC0415 - this is what takes its time

        return main()
    except KeyboardInterrupt:
        print("package-cache: interrupted", file=sys.stderr)  # noqa: T201 - the person at the keyboard
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(run())
