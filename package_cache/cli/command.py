"""What a command beside serving is: `package-cache ls`, and so on."""

import signal
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

from package_cache.config import Config

DONE = 0
FAILED = 1
WRONG_OPTIONS = 2
INTERRUPTED = 128 + signal.SIGINT


@dataclass(frozen=True, slots=True)
class Command:
    """A command. `detail` is what its own --help says behind its summary.

    `add` adds its arguments and options to a parser. Those named like a setting are read as settings and reach `run` in the
    Config; the others reach it in the namespace. `run` gives the exit code and raises `PackageCacheError`. One that is
    `like_serving` takes the options of the server, too; one with `own_settings` reads them itself, and is given the
    defaults; one that `asks_sources` needs what only the user of the service may know, the credentials for them.
    """

    detail: str
    add: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Config], int]
    like_serving: bool = False
    own_settings: bool = False
    asks_sources: bool = False
