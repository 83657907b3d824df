"""What this cache says of itself, under `/-/`: the only paths that are never asked of a source and never stored.

`/-/health` answers 200 when the service can serve, also where it is not quite well, and 503 with the reason when it cannot
do what it is for: nothing can be stored, or no source answers. No source is asked for that, it counts what they said last.
A look at the store is a thread's business and may take as long as the disk does; who asks waits for a bounded time, and a
look that hangs is not begun again.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from package_cache.engine.answers import Answer
from package_cache.engine.threads import Run
from package_cache.errors import StoreError
from package_cache.model import Repository, Target
from package_cache.rules.http.answer import Serving, problem
from package_cache.rules.repositories.routes import RESERVED
from package_cache.storage.cache_directory import CacheDirectory, try_commit
from package_cache.storage.notes import Reports, SourceReport
from package_cache.storage.system import file_system_of

PATIENCE = 2.0
"""Seconds that a look at the store may take before the store counts as one that does not answer."""
_FRESH = ("Cache-Control", "no-store")


@dataclass(frozen=True, slots=True)
class Condition:
    """How the service is: why it cannot serve, and what it lacks though it can; None if nothing. And what room there is."""

    trouble: str | None = None
    lack: str | None = None
    free_bytes: int | None = None
    free_inodes: int | None = None

    @property
    def text(self) -> str:
        """In a line."""
        return self.trouble or (f"degraded: {self.lack}" if self.lack else "ok")

    @property
    def as_json(self) -> str:
        """As an object."""
        status = "failed" if self.trouble else "degraded" if self.lack else "ok"
        room = {"free_bytes": self.free_bytes, "free_inodes": self.free_inodes}
        return json.dumps({"status": status, "reason": self.trouble or self.lack, **room})


@dataclass(slots=True)
class _Look:
    """One look at the store, for all who ask while it lasts."""

    begun: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    found: Condition = Condition()


class Health:
    """Answers for `/-/`. `look` may take long; `run` gives it a thread."""

    def __init__(self, look: Callable[[], Condition], run: Run) -> None:
        self._look = look
        self._run = run
        self._guard = threading.Lock()
        self._last: _Look | None = None

    def answer(self, target: Target, serving: Serving, *, as_json: bool) -> Answer:
        """The answer to a request for a path of this cache itself. Waits for at most `PATIENCE` seconds."""
        if target.path != "/health":
            text = f"nothing is here: paths under {RESERVED} are this cache's own, and {RESERVED}health is the only one"
            return _answer(404, text, serving)
        found = self.condition()
        status = 503 if found.trouble is not None else 200
        if as_json:
            answer = _answer(status, found.as_json, serving)
            return replace(answer, reply=replace(answer.reply, fields=tuple(map(_typed, answer.reply.fields))))
        return _answer(status, found.text, serving)

    def condition(self) -> Condition:
        """How the service is now."""
        try:
            look = self._join()
        except RuntimeError:
            return Condition("the system gives no thread to look at the store")
        if not look.over.wait(max(0.0, look.begun + PATIENCE - time.monotonic())):
            return Condition(f"the store has not answered for {time.monotonic() - look.begun:.0f} seconds")
        return look.found

    def _join(self) -> _Look:
        """The look that is under way, or a new one."""
        with self._guard:
            look = self._last
            if look is None or look.over.is_set():
                look = self._last = _Look()
                try:
                    self._run(lambda: self._do(look))
                except RuntimeError:
                    self._last = None
                    raise
            return look

    def _do(self, look: _Look) -> None:
        """Runs in the thread."""
        try:
            look.found = self._look()
        except StoreError as error:
            look.found = Condition(str(error))
        except BaseException:
            look.found = Condition("the look at the store ended in a bug")
            raise
        finally:
            look.over.set()


def look_at(stores: CacheDirectory, repositories: Sequence[Repository]) -> Condition:
    """Read from the registry, store a file for a moment, and see what the sources said last. Raises StoreError."""
    stores.registry.totals()
    status = file_system_of(stores.root)
    # A file system that makes inodes as they are needed has none to count.
    room = status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None
    try:
        try_commit(stores.root / "parts-v1", stores.root / "blobs-v1", stores.blobs.locks)
    except StoreError as error:
        return Condition(str(error), None, *room)
    return Condition(*_of_sources(stores.reports, repositories, time.time()), *room)


def _of_sources(reports: Reports, repositories: Sequence[Repository], now: float) -> tuple[str | None, str | None]:
    """Why no file can be had, if it is so; and what cannot. A source that was not asked of late may be well."""
    down: dict[str, SourceReport] = {}
    for source in {source for one in repositories for source in one.sources}:
        report = reports.last(source.base)
        if report is not None and report.aside_until > now:
            down[source.base] = report
    if not down:
        return None, None
    said = "; ".join(f"{base} {report.said}" for base, report in sorted(down.items()))
    without = [one.name for one in repositories if one.sources and all(source.base in down for source in one.sources)]
    if len(without) == sum(bool(one.sources) for one in repositories):
        return f"no source answers: {said}", None
    named = ", ".join(name or "the one without a name" for name in without)
    return (
        None,
        f"no source of these repositories answers: {named}; {said}" if without else f"not every source answers: {said}",
    )


def _typed(field: tuple[str, str]) -> tuple[str, str]:
    return ("Content-Type", "application/json") if field[0] == "Content-Type" else field


def _answer(status: int, text: str, serving: Serving) -> Answer:
    reply, body = problem(status, text, serving)
    return Answer(replace(reply, fields=(*reply.fields, _FRESH)), "own", body)
