"""What this cache says of itself, under `/-/`: the only paths that are never asked of a source and never stored.

`/-/health` answers 200 when the service can serve and 503 with the reason when it cannot. A look at the store is a thread's
business and may take as long as the disk does; who asks waits for a bounded time, and a look that hangs is not begun again.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from package_cache.engine.answers import Answer
from package_cache.engine.fills.line import Run
from package_cache.errors import StoreError
from package_cache.model import Target
from package_cache.rules.http.answer import Serving, problem
from package_cache.rules.repositories.routes import RESERVED
from package_cache.storage.registry import Registry

PATIENCE = 2.0
"""Seconds that a look at the store may take before the store counts as one that does not answer."""
_FRESH = ("Cache-Control", "no-store")


@dataclass(slots=True)
class _Look:
    """One look at the store, for all who ask while it lasts."""

    begun: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    trouble: str | None = None


class Health:
    """Answers for `/-/`. `look` raises StoreError where the store is unusable; `run` gives it a thread."""

    def __init__(self, look: Callable[[], None], run: Run) -> None:
        self._look = look
        self._run = run
        self._guard = threading.Lock()
        self._last: _Look | None = None

    def answer(self, target: Target, serving: Serving) -> Answer:
        """The answer to a request for a path of this cache itself. Waits for at most `PATIENCE` seconds."""
        if target.path != "/health":
            text = f"nothing is here: paths under {RESERVED} are this cache's own, and {RESERVED}health is the only one"
            return _answer(404, text, serving)
        trouble = self.trouble()
        if trouble is not None:
            return _answer(503, trouble, serving)
        return _answer(200, "ok", serving)

    def trouble(self) -> str | None:
        """Why the service cannot serve; None if it can."""
        try:
            look = self._join()
        except RuntimeError:
            return "the system gives no thread to look at the store"
        if not look.over.wait(max(0.0, look.begun + PATIENCE - time.monotonic())):
            return f"the store has not answered for {time.monotonic() - look.begun:.0f} seconds"
        return look.trouble

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
            self._look()
        except StoreError as error:
            look.trouble = str(error)
        except BaseException:
            look.trouble = "the look at the store ended in a bug"
            raise
        finally:
            look.over.set()


def look_at(registry: Registry, folders: Iterable[Path]) -> None:
    """Read from the registry, and make a file in each folder for a moment. Raises StoreError."""
    registry.totals()
    for folder in folders:
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise StoreError(f"cannot write to {folder}: {error.strerror}") from error


def _answer(status: int, text: str, serving: Serving) -> Answer:
    reply, body = problem(status, text, serving)
    return Answer(replace(reply, fields=(*reply.fields, _FRESH)), "own", body)
