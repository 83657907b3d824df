"""Where each source keeps its distfiles: by its `layout.conf`, asked for once a day (GLEP 75)."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from package_cache.errors import UpstreamError
from package_cache.model import Target
from package_cache.rules.repositories.layouts import DISTFILES, FLAT, HASHED, Structure, decoded, parse_layout
from package_cache.rules.transfers.steps import Ask
from package_cache.upstream.answers import Answer

logger = logging.getLogger(__name__)

DAY = 86400.0
"""Seconds for which a layout is taken for granted; Portage does it for as long."""
_AGAIN = 300.0
"""Seconds after which a source is asked again that did not tell its layout."""
_SILENT = 30.0
"""Seconds after which a source is asked again that could not be asked: not each file is to wait for that."""
_ABSENT = frozenset({403, 404, 410})
_LONGEST = 65536
_GUESSES = (FLAT, HASHED)
_LAYOUT = "layout.conf"


@dataclass(frozen=True, slots=True)
class _Told:
    structures: tuple[Structure, ...]
    until: float


class Layouts:
    """What the sources said. `open_url` asks one; `clock` gives seconds. Safe for any number of threads."""

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
        if self._is_known(folder):
            return True
        with self._guard:
            turn = self._turns.setdefault(folder, threading.Lock())
        with turn:  # whoever comes meanwhile has the answer that the first one gets
            if self._is_known(folder):
                return True
            try:
                structures = self._ask(f"{folder}{_LAYOUT}")
            except UpstreamError as error:
                logger.info("%s%s %s", folder, _LAYOUT, error)
                self._told[folder] = _Told(self._structures(folder), self._clock() + _SILENT)
                return False
            self._told[folder] = _Told(structures or _GUESSES, self._clock() + (DAY if structures else _AGAIN))
            return True

    def _is_known(self, folder: str) -> bool:
        told = self._told.get(folder)
        return told is not None and self._clock() < told.until

    def _structures(self, folder: str) -> tuple[Structure, ...]:
        """What a source said last, though that may be long ago."""
        told = self._told.get(folder)
        return told.structures if told else _GUESSES

    def urls(self, folder: str, name: str) -> tuple[str, ...]:
        """Where a source may have a file of that name, percent-encoded, the likeliest place first."""
        paths = (one.path(decoded(name)) for one in self._structures(folder))
        folders = dict.fromkeys(path[: path.rfind("/") + 1] for path in paths)
        return tuple(f"{folder}{digits}{name}" for digits in folders)

    def _ask(self, url: str) -> tuple[Structure, ...]:
        """The structures that a `layout.conf` names; none, if there is no such file or it is something else."""
        answer = self._open(Ask(url))
        try:
            if answer.head.status in _ABSENT:
                return ()
            if answer.head.status != 200:
                raise UpstreamError(f"answered {answer.head.status}")
            body = b""
            while len(body) < _LONGEST and (block := answer.read()):
                body += block
        finally:
            answer.close()
        try:
            return tuple(one for one in parse_layout(body.decode()) if one.by_name)
        except ValueError as error:
            logger.warning("%s: %s", url, error)
            return ()


@dataclass(frozen=True, slots=True)
class Distfile:
    """A distfile: the path of the folder of all, and its name, percent-encoded."""

    folder: str
    name: str


def split(target: Target) -> Distfile | None:
    """The distfile that a target is; None if it is something else."""
    folder, found, name = target.path.partition(DISTFILES)
    if not found or not name or "/" in name or name == _LAYOUT or target.query is not None:
        return None
    return Distfile(folder + found, name)
