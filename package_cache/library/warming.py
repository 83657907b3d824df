"""Has files in the cache of the proxy before a client asks for them: asks the service as a client would.

The download is the service's own, with its leases: what a running server downloads is waited for, and the other way round.
"""

from dataclasses import dataclass
from enum import Enum

from package_cache.engine.answers import Answer
from package_cache.engine.fills.fill import Fill, FillReader
from package_cache.engine.pending import Pending
from package_cache.engine.service import Service
from package_cache.errors import ArgumentError, FillError, NoRepository, PackageCacheError
from package_cache.model import Request, Target
from package_cache.rules.repositories.routes import is_own

_CLIENT = "warm"
_STALE, _PASSED = "stale", "passed"
_NEW = frozenset({"miss", "refetched", "joined"})


class Fate(Enum):
    """What became of a file: it was fetched, it was here and good, or it could not be had."""

    FETCHED = "fetched"
    HERE = "here"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file, and why; `size` is in bytes, of what was fetched."""

    name: str
    fate: Fate
    size: int = 0
    reason: str = ""


class Warmer:
    """Asks for files, each once at a time. Safe for any number of threads."""

    def __init__(self, service: Service, accept: str | None = None) -> None:
        self._service = service
        self._fields = {} if accept is None else {"accept": accept}
        self._arrived: dict[str, int] = {}

    @property
    def arrived(self) -> int:
        """Bytes of the files that are under way."""
        return sum(tuple(self._arrived.values()))

    def warm(self, name: str) -> Outcome:
        """Have a file here and good, by the path or the URL that a client would ask for."""
        try:
            return self._ask(name, self._target(name))
        except PackageCacheError as error:
            return Outcome(name, Fate.FAILED, reason=str(error))

    def _target(self, name: str) -> Target:
        """What is meant. Raises RequestError, ArgumentError."""
        routes = self._service.routes
        if "://" in name:
            target = routes.find(name, None)
            if is_own(target):
                raise NoRepository("it is this cache's own business, and no file")
            return target
        if not name.startswith("/"):
            raise ArgumentError("it is neither a path, which begins with a slash, nor a URL")
        target = routes.named(name)
        if not routes.repository(target).sources:
            raise NoRepository("no repository that is configured has it")
        return target

    def _ask(self, name: str, target: Target) -> Outcome:
        step = self._service.begin(Request("GET", target, self._fields, client=_CLIENT))
        while isinstance(step, Pending):
            step.wait()
            step = step.advance()
        try:
            return self._judged(name, step)
        finally:
            self._arrived.pop(name, None)
            if not isinstance(step.body, bytes | None):
                step.body.close()

    def _judged(self, name: str, answer: Answer) -> Outcome:
        if answer.kind == _STALE:
            return Outcome(name, Fate.FAILED, reason="no source could be asked; it is here as it was")
        if answer.kind == _PASSED:
            return Outcome(name, Fate.FAILED, reason="it can be had, but is not stored; -v says why")
        size = self._stored(name, answer.body.fill) if isinstance(answer.body, FillReader) else 0
        return Outcome(name, Fate.FETCHED if answer.kind in _NEW else Fate.HERE, size)

    def _stored(self, name: str, fill: Fill) -> int:
        """Wait until all of it is stored; its size in bytes. Raises FillError."""
        progress = fill.progress()
        while not progress.journal.done:
            self._arrived[name] = progress.size
            progress = fill.wait(progress)
        if progress.journal.failed is not None:
            failed = progress.journal.failed
            raise FillError(failed.reason, failed.status, failed.retry_after)
        return progress.journal.size or 0
