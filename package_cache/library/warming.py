"""Fetches files into the cache of the proxy before a client asks for them: it asks the service as a client would.

The service takes its leases for that: it waits for what a running server downloads already, and the server for this.
"""

from dataclasses import dataclass
from enum import Enum

from package_cache.engine.answers import Answer
from package_cache.engine.fills.reader import FillReader, Growing
from package_cache.engine.service import Service
from package_cache.errors import ArgumentError, FillError, NoRepository, PackageCacheError
from package_cache.model import Request, Target
from package_cache.rules.repositories.routes import is_own

_CLIENT = "warm"
_STALE, _PASSED = "stale", "passed"
_NEW = frozenset({"miss", "refetched", "joined"})


class WarmStatus(Enum):
    """Whether a file was fetched, was in the cache and fresh, or could not be fetched."""

    FETCHED = "fetched"
    HERE = "here"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WarmedFile:
    """A file that was asked for; `size` is in bytes, of what was fetched, and `reason` is why it failed."""

    name: str
    status: WarmStatus
    size: int = 0
    reason: str = ""


class Warmer:
    """Asks for files. Safe for any number of threads, as long as no two ask for the same file."""

    def __init__(self, service: Service, accept: str | None = None) -> None:
        self._service = service
        self._fields = {} if accept is None else {"accept": accept}
        self._arrived: dict[str, int] = {}

    @property
    def arrived(self) -> int:
        """Bytes so far of the files that are being downloaded."""
        return sum(tuple(self._arrived.values()))

    def warm(self, name: str) -> WarmedFile:
        """Have a file in the cache and fresh, by the path or the URL that a client would ask for."""
        try:
            return self._ask(name, self._target(name))
        except PackageCacheError as error:
            return WarmedFile(name, WarmStatus.FAILED, reason=str(error))

    def _target(self, name: str) -> Target:
        """The target of a path or URL. Raises RequestError, ArgumentError."""
        routes = self._service.routes
        if "://" in name:
            target = routes.find(name, None)
            if is_own(target):
                raise NoRepository("it is a page of this cache itself, and not a file")
            return target
        if not name.startswith("/"):
            raise ArgumentError("it is neither a path, which begins with a slash, nor a URL")
        target = routes.named(name)
        if not routes.repository(target).sources:
            raise NoRepository("no repository that is configured has it")
        return target

    def _ask(self, name: str, target: Target) -> WarmedFile:
        request = Request("GET", target, self._fields, client=_CLIENT)
        answer = self._service.answer(request)
        try:
            return self._judged(name, request, answer)
        finally:
            self._arrived.pop(name, None)
            answer.close()

    def _judged(self, name: str, request: Request, answer: Answer) -> WarmedFile:
        if answer.error is not None:
            return WarmedFile(name, WarmStatus.FAILED, reason=str(answer.error))
        if answer.kind == _STALE:
            return WarmedFile(name, WarmStatus.FAILED, reason="no source could be asked; the stored version is stale")
        if answer.kind == _PASSED:
            return WarmedFile(name, WarmStatus.FAILED, reason="it could be fetched, but is not stored; -v says why")
        size = 0
        if isinstance(answer.body, FillReader):
            size = self._stored(name, answer.body.fill)
        elif answer.kind in _NEW:
            size = len(answer.body) if isinstance(answer.body, bytes) else 0
            if not self._service.is_stored(request):
                return WarmedFile(name, WarmStatus.FAILED, reason="it was fetched, but could not be stored; -v says why")
        if answer.kind not in _NEW:
            return WarmedFile(name, WarmStatus.HERE)
        return WarmedFile(name, WarmStatus.FETCHED, size)

    def _stored(self, name: str, fill: Growing) -> int:
        """Wait until all of it is stored; its size in bytes. Raises FillError."""
        progress = fill.progress()
        while not progress.journal.done:
            self._arrived[name] = progress.size
            progress = fill.wait(progress)
        if progress.journal.failed is not None:
            failed = progress.journal.failed
            raise FillError(failed.reason, failed.status, failed.retry_after, failed.response)
        return progress.journal.size or 0
