"""Which source is asked first: the order given, but for those that failed a moment ago."""

import threading
from collections.abc import Callable

from package_cache.model import Source, Target
from package_cache.rules.targets import candidates

ASIDE_SECONDS = 30.0
"""How long a source that could not be reached is asked last."""


class Mirrors:
    """The health of the sources. Safe for any number of threads."""

    def __init__(self, sources: tuple[Source, ...], clock: Callable[[], float]) -> None:
        self._sources = sources
        self._clock = clock
        self._guard = threading.Lock()
        self._failed: dict[str, float] = {}

    def urls(self, target: Target) -> tuple[str, ...]:
        """The URLs to ask for a target, best first."""
        since = self._clock() - ASIDE_SECONDS
        with self._guard:
            aside = {base for base, moment in self._failed.items() if moment > since}
        ordered = sorted(self._sources, key=lambda source: source.base in aside)
        return candidates(target, tuple(ordered))

    def report(self, url: str, *, well: bool) -> None:
        """Note whether a source answered at all."""
        with self._guard:
            for source in self._sources:
                if url.startswith(source.base + "/"):
                    if well:
                        self._failed.pop(source.base, None)
                    else:
                        self._failed[source.base] = self._clock()
