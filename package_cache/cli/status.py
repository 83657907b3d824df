"""A line on the terminal that says how far a command is; nothing where nobody looks."""

import os
import sys
import time
from collections.abc import Callable

_SHOW_SECONDS = 0.2


class StatusLine:
    """The line; `text` gives it when it is about to be drawn anew."""

    def __init__(self, text: Callable[[], str]) -> None:
        self.visible = sys.stderr.isatty()
        self._text = text
        self._drawn = 0.0

    def step(self) -> None:
        """Something was done."""
        now = time.monotonic()
        if self.visible and now - self._drawn > _SHOW_SECONDS:
            self._drawn = now
            self._write(self._text())

    def clear(self) -> None:
        """Leave the terminal as it was."""
        if self.visible:
            self._write("")

    def through(self, work: Callable[[], None]) -> bool:
        """Do work that takes steps, which Ctrl-C may end; whether it came to its own end. The line is gone then."""
        try:
            work()
        except KeyboardInterrupt:
            return False
        finally:
            self.clear()
        return True

    @staticmethod
    def _write(text: str) -> None:
        # What went over the end of the line would stay there.
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
        sys.stderr.write(f"\r\x1b[K{text[: columns - 1] if columns else text}")
        sys.stderr.flush()


def percentage(done: int, total: int) -> str:
    """How much of the whole is done; all of it, where there is nothing to do."""
    return f"{min(100, 100 * done // total) if total else 100:3d} %"
