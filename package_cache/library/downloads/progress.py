"""How far a download is, for somebody who waits: a bar on a terminal, or whatever a caller makes of it."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from package_cache.errors import ArgumentError

Told = Callable[[int, int | None], object]
"""Is told how many bytes are here, and how many there will be, None while nobody knows."""
Wish = bool | Told | None

_DELAY = 0.5
"""Seconds that a download takes before a bar is shown."""


class Progress:
    """Shows how far a download named `label` is, as `wish` says; used as a context manager.

    None and True show a bar if standard error is a terminal, False nothing; a function is called.
    """

    def __init__(self, wish: Wish, label: str) -> None:
        if wish is not None and not isinstance(wish, bool) and not callable(wish):
            raise ArgumentError(f"progress={wish!r} is neither True, nor False, nor a function of two numbers")
        self._bar: _Bar | None = None
        self._tell: Told | None = None
        self._last: tuple[int, int | None] | None = None
        if callable(wish):
            self._tell = wish
        elif wish is not False and sys.stderr is not None and sys.stderr.isatty():
            self._bar = _Bar(label)
            self._tell = self._bar.show

    def at(self, have: int, size: int | None) -> None:
        """So many bytes are here, of so many."""
        if self._tell is not None and (have, size) != self._last:
            self._last = (have, size)
            self._tell(have, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


class _Bar:
    """A bar of tqdm, which is imported only for it."""

    def __init__(self, label: str) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - see above

        self._tqdm = tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024, delay=_DELAY, leave=False)

    def show(self, have: int, size: int | None) -> None:
        """Redraw it, unless that was done a moment ago."""
        self._tqdm.total = size
        self._tqdm.update(have - self._tqdm.n)

    def close(self) -> None:
        """Take it off the terminal."""
        self._tqdm.close()
