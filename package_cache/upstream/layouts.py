"""Where each source keeps its distfiles: by its `layout.conf`, asked for once a day (GLEP 75)."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from package_cache.errors import UpstreamError
from package_cache.model import Target
from package_cache.rules.repositories.layouts import DISTFILES_PATH, FLAT, HASHED, Structure, decoded, parse_layout
from package_cache.rules.transfers.steps import Ask
from package_cache.upstream.answers import Answer

logger = logging.getLogger(__name__)

DAY = 86400.0
"""Seconds for which a layout counts; Portage keeps it for as long."""
_AGAIN = 300.0
"""Seconds after which a source that told no layout is asked again."""
_SILENT = 30.0
"""Seconds after which a source that could not be asked is asked again: not every file is to wait for it."""
ABSENT = frozenset({403, 404, 410})
"""What a source says that tells no layout."""
_LONGEST = 65536
_GUESSES = (FLAT, HASHED)
LAYOUT = "layout.conf"
"""The file in the folder of all distfiles that tells."""


@dataclass(frozen=True, slots=True)
class _Told:
    structures: tuple[Structure, ...]
    until: float


class Layouts:
    """The layouts that the sources told. `open_url` asks one; `clock` gives seconds. Safe for any number of threads."""

    def __init__(self, open_url: Callable[[Ask], Answer], clock: Callable[[], float]) -> None:
        self._open = open_url
        self._clock = clock
        self._guard = threading.Lock()
        self._told: dict[str, _Told] = {}
        self._turns: dict[str, threading.Lock] = {}

    def learn(self, folder: str) -> bool:
        """Ask a source for its layout, by the URL of its folder of distfiles, unless it told not long ago.

        Whether it is known then.
        """
        if self.is_known(folder):
            return True
        with self._guard:
            turn = self._turns.setdefault(folder, threading.Lock())
        with turn:  # those that come meanwhile use the answer that the first one gets
            if self.is_known(folder):
                return True
            try:
                self.note(folder, self._ask(f"{folder}{LAYOUT}"))
            except UpstreamError as error:
                logger.info("%s%s %s", folder, LAYOUT, error)
                self.note(folder, None)
                return False
            return True

    def note(self, folder: str, said: bytes | None) -> None:
        """Note the layout file of a source: empty where it has none, None where it could not be asked."""
        if said is None:
            self._told[folder] = _Told(self._structures(folder), self._clock() + _SILENT)
            return
        structures = _parsed(folder, said)
        self._told[folder] = _Told(structures or _GUESSES, self._clock() + (DAY if structures else _AGAIN))

    def is_known(self, folder: str) -> bool:
        """Whether a source told its layout not long ago, or could not be asked a moment ago."""
        told = self._told.get(folder)
        return told is not None and self._clock() < told.until

    def _structures(self, folder: str) -> tuple[Structure, ...]:
        """What a source told last, however long ago."""
        told = self._told.get(folder)
        return told.structures if told else _GUESSES

    def urls(self, folder: str, name: str) -> tuple[str, ...]:
        """The URLs where a source may have a file of that name, percent-encoded, the likeliest first."""
        paths = (one.path(decoded(name)) for one in self._structures(folder))
        folders = dict.fromkeys(path[: path.rfind("/") + 1] for path in paths)
        return tuple(f"{folder}{digits}{name}" for digits in folders)

    def _ask(self, url: str) -> bytes:
        """A `layout.conf`; nothing, if there is no such file."""
        answer = self._open(Ask(url))
        try:
            if answer.head.status in ABSENT:
                return b""
            if answer.head.status != 200:
                raise UpstreamError(f"answered {answer.head.status}")
            body = b""
            while len(body) < _LONGEST and (block := answer.read()):
                body += block
            return body
        finally:
            answer.close()


def _parsed(folder: str, said: bytes) -> tuple[Structure, ...]:
    """The structures that a `layout.conf` names; none, if it is something else."""
    try:
        return tuple(one for one in parse_layout(said.decode()) if one.by_name) if said else ()
    except ValueError as error:
        logger.warning("%s%s: %s", folder, LAYOUT, error)
        return ()


@dataclass(frozen=True, slots=True)
class Distfile:
    """A distfile: the path of the folder of all, and its name, percent-encoded."""

    folder: str
    name: str


def split(target: Target) -> Distfile | None:
    """The distfile that a target names; None if it is something else."""
    folder, found, name = target.path.partition(DISTFILES_PATH)
    if not found or not name or "/" in name or name == LAYOUT or target.query is not None:
        return None
    return Distfile(folder + found, name)
