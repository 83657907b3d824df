"""Runs the bare command under Python's profiler, until it is told to stop: profiled.py FILE [OPTION ...]

FILE is for `python -m pstats`. It is what the thread of the event loop does that is measured. The server ends without the
interpreter's own end, so `python -m cProfile` would write nothing.
"""

import cProfile
import os
import sys
from typing import NoReturn

from package_cache.cli.main import main


def run(path: str, words: list[str]) -> NoReturn:
    """Serve with these options; the profile is written at the end."""
    profile, leave = cProfile.Profile(), os._exit

    def end(code: int) -> NoReturn:
        profile.disable()
        profile.dump_stats(path)
        leave(code)

    os._exit = end
    profile.enable()
    end(main(words))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
